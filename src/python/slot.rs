//! One DuckDB connection of the user's under guard, and the answer that is open on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::host::PyInterrupt;
use super::reading::Inner;
use crate::engine::host::Connection;

/// One connection object and what the core knows of it. The object itself is kept by whoever uses it: the ward keeps its
/// own connection, an answer the one it runs on; a cursor that nobody holds any more goes.
pub(super) struct Slot {
    con: Py<PyWeakrefReference>,
    pub(super) connection: Arc<Connection>,
    /// DuckDB 2.0 refuses other work while an answer is open; before 2.0 other work cuts the answer short in silence.
    pub(super) streams_are_safe: bool,
    /// A statement is being bound: DuckDB holds the connection, and may ask for the schema of an answer it names.
    binding: AtomicBool,
    open: Mutex<Weak<Inner>>,
    /// Statements that remove what answers left on the connection that were given up where none could be run.
    leftovers: Mutex<Vec<String>>,
}

impl Slot {
    pub(super) fn new(con: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        let py = con.py();
        let reference = PyWeakrefReference::new(con)?.unbind();
        let interrupt = PyInterrupt::new(reference.clone_ref(py));
        Ok(Arc::new(Slot {
            con: reference,
            connection: Connection::new(Arc::new(interrupt)),
            streams_are_safe: con.hasattr(intern!(py, "complete"))?,
            binding: AtomicBool::new(false),
            open: Mutex::new(Weak::new()),
            leftovers: Mutex::new(Vec::new()),
        }))
    }

    /// The connection object, if somebody still holds it.
    pub(super) fn con<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.con.bind(py).upgrade()
    }

    /// Whether `object` is this connection.
    pub(super) fn is(&self, object: &Bound<'_, PyAny>) -> bool {
        self.con(object.py()).is_some_and(|con| con.is(object))
    }

    /// Notes whether a statement is being bound.
    pub(super) fn binds(&self, binding: bool) {
        self.binding.store(binding, Ordering::Release);
    }

    /// Whether a statement is being bound or runs.
    pub(super) fn is_busy(&self) -> bool {
        self.binding.load(Ordering::Acquire) || self.connection.active().is_some()
    }

    /// From now on `answer` is the one that is open on the connection.
    pub(super) fn opened(&self, answer: &Arc<Inner>) {
        *self.open.lock() = Arc::downgrade(answer);
    }

    /// Leaves it to the next statement on the connection to run these first.
    pub(super) fn leave(&self, statements: Vec<String>) {
        self.leftovers.lock().extend(statements);
    }

    /// Removes what was left, if the connection is free.
    pub(super) fn sweep(&self, con: &Bound<'_, PyAny>) {
        if self.is_busy() {
            return;
        }
        let statements = std::mem::take(&mut *self.leftovers.lock());
        for statement in statements {
            // On a closed connection nothing is left.
            let _ = con.call_method1(intern!(con.py(), "execute"), (statement,));
        }
    }

    /// The answer that holds the connection, if it is still there.
    pub(super) fn open(&self) -> Option<Arc<Inner>> {
        self.open.lock().upgrade()
    }
}

/// A connection in use: the slot, and the object itself, held.
pub(super) struct Seat {
    pub(super) slot: Arc<Slot>,
    pub(super) con: Py<PyAny>,
}

impl Seat {
    /// The same, for another owner.
    pub(super) fn held(&self, py: Python<'_>) -> Seat {
        Seat {
            slot: Arc::clone(&self.slot),
            con: self.con.clone_ref(py),
        }
    }

    /// Frees the connection of an answer that holds it, which moves to memory or disk.
    pub(super) fn free(&self, py: Python<'_>) -> PyResult<()> {
        self.slot.sweep(self.con(py));
        match self.slot.open() {
            Some(open) => open.detach(py),
            None => Ok(()),
        }
    }

    /// The connection object.
    pub(super) fn con<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        self.con.bind(py)
    }
}
