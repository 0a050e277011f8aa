//! One DuckDB connection of the user's under guard, and the answer that is open on it.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;

use super::answer::Inner;
use super::host::PyInterrupt;
use crate::engine::host::Connection;

/// One connection object and what the core knows of it.
pub(super) struct Slot {
    pub(super) con: Py<PyAny>,
    pub(super) connection: Arc<Connection>,
    /// DuckDB 2.0 refuses other work while an answer is open; before 2.0 other work cuts the answer short in silence.
    pub(super) streams_are_safe: bool,
    open: Mutex<Weak<Inner>>,
}

impl Slot {
    pub(super) fn new(con: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        let py = con.py();
        let interrupt = PyInterrupt::new(con);
        Ok(Arc::new(Slot {
            con: con.clone().unbind(),
            connection: Connection::new(Arc::new(interrupt)),
            streams_are_safe: con.hasattr(intern!(py, "complete"))?,
            open: Mutex::new(Weak::new()),
        }))
    }

    /// From now on `answer` is the one that holds the connection.
    pub(super) fn opened(&self, answer: &Arc<Inner>) {
        *self.open.lock() = Arc::downgrade(answer);
    }

    /// The answer that holds the connection, if it is still there.
    pub(super) fn open(&self) -> Option<Arc<Inner>> {
        self.open.lock().upgrade()
    }
}
