//! The user's connection as the core sees it: an engine that makes cursors of our own, and an interrupt.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::convert::import_stream;
use super::error::engine_error;
use crate::engine::{Class, Engine, EngineError, Interrupt, Session, Stream};

fn gone() -> EngineError {
    EngineError {
        class: Class::Connection,
        message: "the Python interpreter is shutting down".to_owned(),
    }
}

/// Runs `call` with the GIL; an error of the connection kind when the interpreter is going.
fn with_python<T>(call: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T, EngineError> {
    Python::try_attach(|py| call(py).map_err(|error| engine_error(py, &error))).unwrap_or_else(|| Err(gone()))
}

/// Interrupts what a connection runs.
pub(super) struct PyInterrupt {
    con: Py<PyWeakrefReference>,
}

impl PyInterrupt {
    pub(super) fn new(con: Py<PyWeakrefReference>) -> Self {
        PyInterrupt { con }
    }
}

impl Interrupt for PyInterrupt {
    fn interrupt(&self) {
        let _ = Python::try_attach(|py| {
            // A connection that is closed, or that nobody holds, runs nothing.
            self.con
                .bind(py)
                .upgrade()
                .map(|con| con.call_method0(intern!(py, "interrupt")).map(drop))
        });
    }
}

/// Makes cursors of our own from the user's connection.
pub(super) struct PyEngine {
    con: Py<PyAny>,
}

impl PyEngine {
    pub(super) fn new(con: &Bound<'_, PyAny>) -> Self {
        PyEngine {
            con: con.clone().unbind(),
        }
    }
}

impl Engine for PyEngine {
    fn session(&self) -> Result<Box<dyn Session>, EngineError> {
        with_python(|py| {
            let cursor = self.con.call_method0(py, intern!(py, "cursor"))?;
            Ok(Box::new(PySession {
                cursor: Arc::new(cursor),
            }) as Box<dyn Session>)
        })
    }
}

struct PySession {
    cursor: Arc<Py<PyAny>>,
}

/// Interrupts a cursor of our own.
struct CursorInterrupt(Arc<Py<PyAny>>);

impl Interrupt for CursorInterrupt {
    fn interrupt(&self) {
        // A closed cursor runs nothing.
        let _ = Python::try_attach(|py| self.0.call_method0(py, intern!(py, "interrupt")).map(drop));
    }
}

impl Session for PySession {
    fn query(&self, sql: &str) -> Result<Stream, EngineError> {
        with_python(|py| {
            let relation = self.cursor.bind(py).call_method1(intern!(py, "sql"), (sql,))?;
            Ok(Box::new(import_stream(&open_reader(&relation, 2048)?)?) as Stream)
        })
    }

    fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, EngineError> {
        with_python(|py| {
            let result = self
                .cursor
                .bind(py)
                .call_method1(intern!(py, "execute"), (sql,))?;
            let rows: Vec<Bound<'_, PyAny>> = result.call_method0(intern!(py, "fetchall"))?.extract()?;
            rows.iter().map(text_row).collect()
        })
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::new(CursorInterrupt(Arc::clone(&self.cursor)))
    }
}

pub(super) fn text_row(row: &Bound<'_, PyAny>) -> PyResult<Vec<Option<String>>> {
    row.try_iter()?
        .map(|value| {
            let value = value?;
            if value.is_none() {
                Ok(None)
            } else {
                Ok(Some(value.str()?.to_string()))
            }
        })
        .collect()
}

/// A relation's rows as a pyarrow reader; the method has another name before 1.5, and then the stream of a union in a union
/// ends early without an error, when several threads run it: DuckDB's table of it is whole.
pub(super) fn open_reader<'py>(
    relation: &Bound<'py, PyAny>,
    batch_rows: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let py = relation.py();
    let modern = intern!(py, "to_arrow_reader");
    if relation.hasattr(modern)? {
        return relation.call_method1(modern, (batch_rows,));
    }
    let plan: String = relation.call_method0(intern!(py, "explain"))?.extract()?;
    if plan.matches("UNION").count() < 2 {
        return relation.call_method1(intern!(py, "fetch_record_batch"), (batch_rows,));
    }
    relation
        .call_method0(intern!(py, "fetch_arrow_table"))?
        .call_method1(intern!(py, "to_reader"), (batch_rows,))
}
