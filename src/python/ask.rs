//! The ward, as folders with questions ask it: each statement runs guarded, and its rows come as text.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::error::exception;
use super::ward::PyWard;
use crate::engine::{Ask, Rows};
use crate::error::Error;

/// Why no more is asked.
pub(super) enum Stopped {
    /// Our own error.
    Own(Error),
    /// The exception of a statement, unchanged.
    Python(PyErr),
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

impl Stopped {
    /// The exception it becomes.
    pub(super) fn into_py(self, py: Python<'_>) -> PyErr {
        match self {
            Stopped::Own(error) => exception(py, &error),
            Stopped::Python(error) => error,
        }
    }
}

/// A ward and the connection that it is asked on; its own where none is given.
pub(super) struct Asking<'py> {
    pub(super) ward: Bound<'py, PyWard>,
    pub(super) connection: Option<Bound<'py, PyAny>>,
}

impl Ask<Stopped> for Asking<'_> {
    fn ask(&mut self, sql: &str) -> Result<Rows, Stopped> {
        let py = self.ward.py();
        let query = PyString::new(py, sql);
        let answer = PyWard::sql(
            &self.ward,
            query.as_any(),
            None,
            self.connection.as_ref(),
            None,
            None,
            None,
        )?;
        let rows = Bound::new(py, answer)?.call_method0(intern!(py, "fetchall"))?;
        Ok(rows.extract()?)
    }
}
