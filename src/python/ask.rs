//! The ward, as folders with questions ask it: each statement runs guarded, and its rows come as text.

use std::fmt;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::error::{exception, kind_of};
use super::ward::PyWard;
use crate::clock::{Clock, SystemClock};
use crate::engine::{Ask, Reason, Rows};
use crate::error::{Error, ErrorKind};

/// How long a signal waits for a pause.
const SLICE: Duration = Duration::from_millis(50);

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

    fn pause(&mut self, time: Duration) -> Result<(), Stopped> {
        let py = self.ward.py();
        let clock = SystemClock::default();
        let end = clock.now() + time;
        while clock.now() < end {
            py.detach(|| clock.sleep(SLICE));
            py.check_signals()?;
        }
        Ok(())
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Own(error) => error.fmt(f),
            Stopped::Python(error) => error.fmt(f),
        }
    }
}

impl Reason for Stopped {
    fn reason(&self) -> Option<ErrorKind> {
        match self {
            Stopped::Own(error) => error.reason(),
            Stopped::Python(error) => Python::attach(|py| kind_of(py, error)),
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
