//! Ctrl-C while the main thread is inside DuckDB. DuckDB itself notices it at the end of a pipeline (10 to 40 s with two
//! threads, measured); here Python's signal handler writes into the watcher's pipe, and the watcher interrupts.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict};

struct Calls {
    set_wakeup_fd: Py<PyAny>,
    keywords: Py<PyDict>,
    main_thread: u64,
    get_ident: Py<PyAny>,
}

fn calls(py: Python<'_>) -> PyResult<&'static Calls> {
    static CALLS: PyOnceLock<Calls> = PyOnceLock::new();
    CALLS.get_or_try_init(py, || {
        let threading = py.import("threading")?;
        Ok(Calls {
            set_wakeup_fd: py.import("signal")?.getattr("set_wakeup_fd")?.unbind(),
            keywords: [("warn_on_full_buffer", false)].into_py_dict(py)?.unbind(),
            main_thread: threading
                .call_method0("main_thread")?
                .getattr("ident")?
                .extract()?,
            get_ident: threading.getattr("get_ident")?.unbind(),
        })
    })
}

/// While it lives, a signal that reaches the main thread wakes the watcher. Nothing on other threads.
pub(super) struct CtrlC {
    previous: Option<i32>,
}

impl CtrlC {
    /// Sends signals to `descriptor`, if this is the main thread.
    pub(super) fn enter(py: Python<'_>, descriptor: i32) -> PyResult<Self> {
        let calls = calls(py)?;
        let here: u64 = calls.get_ident.call0(py)?.extract(py)?;
        if here != calls.main_thread || descriptor < 0 {
            return Ok(CtrlC { previous: None });
        }
        let previous = calls
            .set_wakeup_fd
            .call(py, (descriptor,), Some(calls.keywords.bind(py)))?;
        Ok(CtrlC {
            previous: Some(previous.extract(py)?),
        })
    }

    /// Whether a Ctrl-C is meant for this thread.
    pub(super) fn heeded(&self) -> bool {
        self.previous.is_some()
    }

    /// Puts back what was there; `signalled` tells its owner (an event loop) of a signal that came to us meanwhile.
    pub(super) fn leave(&mut self, py: Python<'_>, signalled: bool) -> PyResult<()> {
        let Some(previous) = self.previous.take() else {
            return Ok(());
        };
        calls(py)?
            .set_wakeup_fd
            .call(py, (previous,), Some(calls(py)?.keywords.bind(py)))?;
        if signalled && previous >= 0 {
            py.import("os")?.call_method1(
                intern!(py, "write"),
                (previous, [crate::guard::wake::SIGINT].as_slice()),
            )?;
        }
        Ok(())
    }
}

impl Drop for CtrlC {
    fn drop(&mut self) {
        if self.previous.is_some() {
            Python::attach(|py| {
                if let Err(error) = self.leave(py, false) {
                    error.write_unraisable(py, None);
                }
            });
        }
    }
}
