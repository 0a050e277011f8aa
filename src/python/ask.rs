//! The ward, as folders with questions ask it: each statement runs guarded, and its rows come as text.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::error::{engine_error, exception};
use super::ward::PyWard;
use crate::engine::{Ask, Class, Rows};
use crate::error::Error;

/// How often a statement that takes something back is tried.
const TRIES: usize = 20;

/// Why a question was not answered.
pub(super) enum Stopped {
    /// An error of ours.
    Own(Error),
    /// An exception of the statement's: DuckDB's own, or that of the guard.
    Python(PyErr),
}

impl Stopped {
    /// The exception to raise; one of the statement's as it was.
    pub(super) fn into_py(self, py: Python<'_>) -> PyErr {
        match self {
            Stopped::Own(error) => exception(py, &error),
            Stopped::Python(error) => error,
        }
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Own(error)
    }
}

impl From<PyErr> for Stopped {
    fn from(error: PyErr) -> Self {
        Stopped::Python(error)
    }
}

/// A ward that answers, on its own connection or on another one of its database.
pub(super) struct Asking<'py> {
    pub ward: Bound<'py, PyWard>,
    pub connection: Option<Bound<'py, PyAny>>,
}

impl Ask<Stopped> for Asking<'_> {
    fn ask(&mut self, sql: &str) -> Result<Rows, Stopped> {
        let py = self.ward.py();
        let sql = PyString::new(py, sql).into_any();
        let answer = PyWard::sql(&self.ward, &sql, None, self.connection.as_ref(), None, None, None)?;
        let rows = Bound::new(py, answer)?.call_method0(intern!(py, "fetchall"))?;
        let mut read = Rows::new();
        for row in rows.try_iter()? {
            let row = row?;
            let row = row.cast::<PyTuple>().map_err(PyErr::from)?;
            read.push(row.iter().map(|value| text(&value)).collect::<PyResult<_>>()?);
        }
        Ok(read)
    }

    /// On the connection itself: it must not wait for its turn, and a ward that was closed meanwhile is no reason to leave a
    /// transaction open. An interrupt that is sent again may hit it.
    fn take_back(&mut self, sql: &str) {
        let py = self.ward.py();
        let con = self.ward.get().chosen(py, self.connection.as_ref());
        for _ in 0..TRIES {
            match con.call_method1(intern!(py, "execute"), (sql,)) {
                Err(error) if engine_error(py, &error).class == Class::Interrupt => {}
                _ => return,
            }
        }
    }
}

/// A value as text. Questions cast their columns to VARCHAR; a count of changed rows is a number.
fn text(value: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if value.is_none() {
        return Ok(None);
    }
    Ok(Some(value.str()?.to_str()?.to_owned()))
}
