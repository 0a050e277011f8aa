//! The threads of the guard: one watches and never runs SQL, one responds and may wait for DuckDB.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::guardian::Guardian;
use super::wake::SIGINT;
use crate::error::{Error, ErrorKind, Result};

thread_local! {
    static GUARD_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is one of the guard's, which must not wait for anybody.
pub fn on_guard_thread() -> bool {
    GUARD_THREAD.get()
}

struct OfProcess {
    process: u32,
    guardian: Arc<Guardian>,
    threads: Vec<JoinHandle<()>>,
}

static OF_PROCESS: Mutex<Option<OfProcess>> = Mutex::new(None);

/// The guardian of this process, with its threads; made when it is first asked for.
///
/// # Errors
/// [`ErrorKind::Internal`] when the system gives no thread or no descriptor.
pub fn of_process() -> Result<Arc<Guardian>> {
    let mut slot = OF_PROCESS.lock();
    let process = std::process::id();
    if let Some(known) = slot.as_ref().filter(|known| known.process == process) {
        return Ok(Arc::clone(&known.guardian));
    }
    // After a fork the parent's guardian has no threads here; it must not be dropped either, they hold its locks.
    std::mem::forget(slot.take());
    let guardian = Guardian::of_system()?;
    let threads = start(&guardian)?;
    *slot = Some(OfProcess {
        process,
        guardian: Arc::clone(&guardian),
        threads,
    });
    Ok(guardian)
}

/// Ends the threads of this process's guardian and waits for them.
pub fn shutdown_process() {
    let known = {
        let mut slot = OF_PROCESS.lock();
        if slot
            .as_ref()
            .is_none_or(|known| known.process != std::process::id())
        {
            return;
        }
        slot.take()
    };
    if let Some(OfProcess {
        guardian, threads, ..
    }) = known
    {
        guardian.stop();
        for thread in threads {
            // A thread that panicked has been logged.
            let _ = thread.join();
        }
    }
}

/// Starts the two threads of `guardian`.
///
/// # Errors
/// [`ErrorKind::Internal`] when the system gives no thread.
pub fn start(guardian: &Arc<Guardian>) -> Result<Vec<JoinHandle<()>>> {
    let spawn = |name: &str, body: fn(&Guardian)| {
        let guardian = Arc::clone(guardian);
        std::thread::Builder::new()
            .name(name.to_owned())
            // Neither recurses; a small stack keeps the guard's own memory small.
            .stack_size(256 << 10)
            .spawn(move || {
                GUARD_THREAD.set(true);
                while !guardian.is_stopped() {
                    // A defect in one round must not end the guard.
                    if catch_unwind(AssertUnwindSafe(|| body(&guardian))).is_err() {
                        tracing::error!(target: "duckward", "a round of the guard panicked; it goes on");
                    }
                }
            })
            .map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    format!("no thread for the guard: {error}; raise the limit of threads"),
                )
            })
    };
    let watcher = spawn("duckward-watch", |guardian| {
        let next = guardian.tick();
        if guardian.wait(next).contains(&SIGINT) {
            guardian.signal();
        }
    })?;
    let responder = spawn("duckward-respond", |guardian| {
        guardian.wait_for_task();
        guardian.respond();
    })?;
    Ok(vec![watcher, responder])
}
