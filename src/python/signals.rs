//! Ctrl-C while the main thread is inside DuckDB. DuckDB itself notices it at the end of a pipeline (10 to 40 s with two
//! threads, measured), and before 2.0 leaves the query running. Here Python's C handler writes into the watcher's pipe,
//! the watcher interrupts, and the user's own handler is called when the query has ended.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PyTuple};

use crate::guard::wake::SIGINT;

/// Ctrl-C was pressed while a call of ours held the handler. The main thread's alone, as Python's handlers are.
static PRESSED: AtomicBool = AtomicBool::new(false);

/// Whether Ctrl-C was pressed during the call.
pub(super) fn pressed() -> bool {
    PRESSED.load(Ordering::Acquire)
}

/// Stands in for the user's handler during a call: takes note, and raises nothing inside DuckDB.
#[pyclass(frozen, module = "duckward")]
struct TakesNote;

#[pymethods]
impl TakesNote {
    #[pyo3(signature = (*_args))]
    fn __call__(&self, _args: &Bound<'_, PyTuple>) {
        PRESSED.store(true, Ordering::Release);
    }
}

struct Calls {
    set_wakeup_fd: Py<PyAny>,
    keywords: Py<PyDict>,
    signal: Py<PyAny>,
    handler: Py<TakesNote>,
    main_thread: u64,
    get_ident: Py<PyAny>,
}

fn calls(py: Python<'_>) -> PyResult<&'static Calls> {
    static CALLS: PyOnceLock<Calls> = PyOnceLock::new();
    CALLS.get_or_try_init(py, || {
        let threading = py.import("threading")?;
        // The C module: `signal.signal` looks every argument and result up in an enumeration.
        let signal = py.import("_signal")?;
        Ok(Calls {
            set_wakeup_fd: signal.getattr("set_wakeup_fd")?.unbind(),
            keywords: [("warn_on_full_buffer", false)].into_py_dict(py)?.unbind(),
            signal: signal.getattr("signal")?.unbind(),
            handler: Py::new(py, TakesNote)?,
            main_thread: threading
                .call_method0("main_thread")?
                .getattr("ident")?
                .extract()?,
            get_ident: threading.getattr("get_ident")?.unbind(),
        })
    })
}

thread_local! {
    static ON_MAIN: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Whether this is Python's main thread; a thread asks once.
fn on_main_thread(py: Python<'_>, calls: &Calls) -> PyResult<bool> {
    if let Some(known) = ON_MAIN.get() {
        return Ok(known);
    }
    let here: u64 = calls.get_ident.call0(py)?.extract(py)?;
    ON_MAIN.set(Some(here == calls.main_thread));
    Ok(here == calls.main_thread)
}

/// What was there before.
struct Before {
    descriptor: i32,
    handler: Py<PyAny>,
}

/// While it lives, Ctrl-C wakes the watcher. Nothing on other threads, inside another one, or where the user has no
/// handler.
pub(super) struct CtrlC {
    before: Option<Before>,
}

impl CtrlC {
    /// Takes signals, if this is the main thread; they go to `descriptor`.
    pub(super) fn enter(py: Python<'_>, descriptor: i32) -> PyResult<Self> {
        let calls = calls(py)?;
        if descriptor < 0 || !on_main_thread(py, calls)? {
            return Ok(CtrlC { before: None });
        }
        let handler = calls.signal.call1(py, (SIGINT, &calls.handler))?;
        if handler.is(&calls.handler) || !handler.bind(py).is_callable() {
            if handler.is_none(py) {
                // Set from C: not Python's to put back, so it was not replaced in Python's eyes either.
                return Ok(CtrlC { before: None });
            }
            calls.signal.call1(py, (SIGINT, handler))?;
            return Ok(CtrlC { before: None });
        }
        PRESSED.store(false, Ordering::Release);
        let before = calls
            .set_wakeup_fd
            .call(py, (descriptor,), Some(calls.keywords.bind(py)))?;
        Ok(CtrlC {
            before: Some(Before {
                descriptor: before.extract(py)?,
                handler,
            }),
        })
    }

    /// Whether a Ctrl-C is meant for this thread.
    pub(super) fn heeded(&self) -> bool {
        self.before.is_some()
    }

    /// Puts back what was there. If Ctrl-C was pressed meanwhile, calls the user's handler now, and tells an event loop.
    ///
    /// # Errors
    /// What the user's handler raises: `KeyboardInterrupt`, unless it is their own.
    pub(super) fn leave(&mut self, py: Python<'_>) -> PyResult<()> {
        let Some(Before { descriptor, handler }) = self.before.take() else {
            return Ok(());
        };
        let calls = calls(py)?;
        // What is pending belongs to this call.
        py.check_signals()?;
        calls
            .set_wakeup_fd
            .call(py, (descriptor,), Some(calls.keywords.bind(py)))?;
        calls.signal.call1(py, (SIGINT, &handler))?;
        if !PRESSED.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        if descriptor >= 0 {
            py.import("os")?
                .call_method1(intern!(py, "write"), (descriptor, [SIGINT].as_slice()))?;
        }
        handler.call1(py, (SIGINT, py.None())).map(drop)
    }
}

impl Drop for CtrlC {
    fn drop(&mut self) {
        if self.before.is_some() {
            Python::attach(|py| {
                if let Err(error) = self.leave(py) {
                    error.write_unraisable(py, None);
                }
            });
        }
    }
}
