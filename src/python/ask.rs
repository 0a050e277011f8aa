//! The ward, as folders with questions ask it: each statement runs guarded, and its rows come as text.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::error::{engine_error, exception, kind_of};
use super::ward::PyWard;
use crate::engine::{Ask, Class, Reason, Rows, Workers};
use crate::error::{Error, ErrorKind};

/// How long a signal waits for a pause.
const SLICE: Duration = Duration::from_millis(50);

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
    /// Who runs statements that may run at once.
    pub pool: Option<Pool<'py>>,
}

/// Workers, of an executor or threads of this process.
pub(super) struct Pool<'py> {
    pub ward: Bound<'py, PyWard>,
    pub connection: Option<Bound<'py, PyAny>>,
    pub executor: Option<Bound<'py, PyAny>>,
    pub workers: usize,
    /// The budget of each worker in another process, as `guard()` takes it.
    pub memory: Option<Bound<'py, PyAny>>,
    /// Files that all workers together may have open.
    pub files: usize,
}

impl<'py> Asking<'py> {
    pub(super) fn new(ward: &Bound<'py, PyWard>, connection: Option<&Bound<'py, PyAny>>) -> Self {
        Asking {
            ward: ward.clone(),
            connection: connection.cloned(),
            pool: None,
        }
    }
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

    fn workers(&mut self) -> Option<&mut dyn Workers<Stopped>> {
        self.pool.as_mut().map(|pool| pool as &mut dyn Workers<Stopped>)
    }

    fn pause(&mut self, time: Duration) -> Result<(), Stopped> {
        let py = self.ward.py();
        let clock = Arc::clone(self.ward.get().core().guardian().clock());
        let end = clock.now() + time;
        while clock.now() < end {
            py.detach(|| clock.sleep(SLICE));
            py.check_signals()?;
        }
        Ok(())
    }

    fn apart(&mut self, work: &mut (dyn FnMut() + Send)) {
        self.ward.py().detach(work);
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

impl Workers<Stopped> for Pool<'_> {
    fn count(&self) -> usize {
        self.workers
    }

    fn each(
        &mut self,
        statements: &[String],
        ended: &mut dyn FnMut(usize, Result<(), Stopped>) -> Result<(), Stopped>,
    ) -> Result<(), Stopped> {
        let py = self.ward.py();
        let workers = py.import(intern!(py, "duckward._workers"))?;
        let ran = workers.call_method1(
            intern!(py, "run"),
            (
                &self.ward,
                self.connection.as_ref(),
                self.executor.as_ref(),
                self.workers,
                self.memory.as_ref(),
                self.files,
                statements.to_vec(),
            ),
        )?;
        let each = ran.try_iter()?.try_for_each(|one| {
            let (place, failed): (usize, Option<Bound<'_, PyAny>>) = one?.extract()?;
            let how = failed.map_or(Ok(()), |error| Err(Stopped::Python(PyErr::from_value(error))));
            ended(place, how)
        });
        // Where it was left early, none may go on writing.
        ran.call_method0(intern!(py, "close"))?;
        each
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
