//! Runs a query up the ladder on the calling thread: the GIL is released but for the attempts themselves.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::engine_error;
use super::host::text_row;
use super::signals::{CtrlC, pressed};
use super::slot::Seat;
use super::statement::Statement;
use crate::engine::EngineError;
use crate::engine::host::Stop;
use crate::engine::text::quoted;
use crate::error::{Error, ErrorKind};
use crate::fallback::ladder::Rung;
use crate::ward::{AttemptError, Explanation, Failed, Host, Job, Report, Ticket, Ward};

/// How an attempt is to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct How<'a> {
    pub(super) rung: Rung,
    /// What was prepared in place of the statement.
    pub(super) prepared: Option<&'a str>,
}

/// The host of one call: attempts run with the GIL, on the calling thread.
struct PyHost<'a, F> {
    con: &'a Py<PyAny>,
    statement: &'a Statement,
    attempt: F,
    original: Option<PyErr>,
    /// Whether DuckDB notices that a stream is read twice.
    rereads: bool,
}

impl<T, F> Host<T> for PyHost<'_, F>
where
    F: FnMut(Python<'_>, &mut Option<PyErr>, How<'_>) -> std::result::Result<T, AttemptError>,
{
    fn attempt(&mut self, rung: Rung, prepared: Option<&str>) -> std::result::Result<T, AttemptError> {
        Python::attach(|py| (self.attempt)(py, &mut self.original, How { rung, prepared }))
    }

    fn ask(&mut self, sql: &str) -> std::result::Result<Vec<Vec<Option<String>>>, EngineError> {
        Python::attach(|py| {
            let asked = || -> PyResult<_> {
                let con = self.con.bind(py);
                con.call_method1(intern!(py, "execute"), (sql,))?;
                let rows: Vec<Bound<'_, PyAny>> = con.call_method0(intern!(py, "fetchall"))?.extract()?;
                rows.iter().map(text_row).collect()
            };
            asked().map_err(|error| {
                let engine = engine_error(py, &error);
                self.original = Some(error);
                engine
            })
        })
    }

    fn parameters(&mut self) -> std::result::Result<Option<Vec<(String, String)>>, EngineError> {
        Python::attach(|py| {
            let Some(params) = &self.statement.params else {
                return Ok(None);
            };
            literals(self.con.bind(py), params.bind(py)).map_err(|error| {
                let engine = engine_error(py, &error);
                self.original = Some(error);
                engine
            })
        })
    }

    fn reads_again(&mut self) -> bool {
        self.rereads || self.plan().is_none_or(|plan| !plan.contains("ARROW_SCAN"))
    }

    fn in_transaction(&mut self) -> bool {
        Python::attach(|py| {
            let con = self.con.bind(py);
            // Within a transaction it is the same each time, outside each statement has its own. One that is aborted says so.
            let number = || -> PyResult<String> {
                con.call_method1(intern!(py, "execute"), ("SELECT txid_current()::VARCHAR",))?;
                con.call_method0(intern!(py, "fetchall"))?
                    .get_item(0)?
                    .get_item(0)?
                    .extract()
            };
            match (number(), number()) {
                (Ok(one), Ok(other)) => one == other,
                _ => true,
            }
        })
    }

    fn gave_up(&self) -> bool {
        // Runs the handler that takes note, on the main thread.
        Python::attach(|py| py.check_signals().is_err()) || pressed()
    }

    fn plan(&mut self) -> Option<String> {
        Python::attach(|py| {
            let con = self.con.bind(py);
            let explain = format!("EXPLAIN (FORMAT JSON) {}", self.statement.sql);
            let rows = con
                .call_method1(intern!(py, "execute"), (explain,))
                .ok()?
                .call_method0(intern!(py, "fetchall"))
                .ok()?;
            rows.get_item(0).ok()?.get_item(1).ok()?.extract().ok()
        })
    }
}

/// The values of parameters as DuckDB itself takes and prints them; none where one does not come back as it went.
fn literals(con: &Bound<'_, PyAny>, params: &Bound<'_, PyAny>) -> PyResult<Option<Vec<(String, String)>>> {
    let py = con.py();
    let mut named: Vec<(String, Bound<'_, PyAny>)> = Vec::new();
    if let Ok(values) = params.cast::<PyDict>() {
        for (name, value) in values {
            named.push((name.str()?.to_string(), value));
        }
    } else {
        for (index, value) in params.try_iter()?.enumerate() {
            named.push(((index + 1).to_string(), value?));
        }
    }
    let ask = |sql: &str, value: &Bound<'_, PyAny>| -> PyResult<Vec<Option<String>>> {
        con.call_method1(intern!(py, "execute"), (sql, [value]))?;
        let rows = con.call_method0(intern!(py, "fetchall"))?;
        text_row(&rows.get_item(0)?)
    };
    let mut literals = Vec::new();
    for (name, value) in named {
        let literal = match ask("SELECT typeof($1), $1::VARCHAR", &value)?.as_slice() {
            [Some(kind), Some(text)] => format!("CAST({} AS {kind})", quoted(text)),
            _ => "NULL".to_owned(),
        };
        let same = ask(
            &format!("SELECT ({literal} IS NOT DISTINCT FROM $1)::VARCHAR"),
            &value,
        )?;
        if same.first().and_then(Option::as_deref) != Some("true") {
            return Ok(None);
        }
        literals.push((name, literal));
    }
    Ok(Some(literals))
}

/// One attempt: with the GIL, on the calling thread. Leaves the exception that DuckDB raised.
pub(super) type Attempt<'a, T> =
    dyn FnMut(Python<'_>, &mut Option<PyErr>, How<'_>) -> std::result::Result<T, AttemptError> + Send + 'a;

/// What came of a call: what it gave, or what failed and the exception that DuckDB raised, if it did.
type Outcome<T> = std::result::Result<T, (Box<Failed>, Option<PyErr>)>;

/// Runs `attempt` up the ladder, without the GIL but for the attempts themselves.
///
/// # Errors
/// What failed, and the exception that DuckDB raised, if it did.
pub(super) fn run<T: Send>(
    py: Python<'_>,
    core: &Arc<Ward>,
    seat: &Seat,
    statement: &Statement,
    attempt: &mut Attempt<'_, T>,
) -> Outcome<(T, Ticket)> {
    run_by(py, core, seat, statement, false, attempt)
}

/// The same; where `by_piece` says so it may be the first piece of the answer, and [`go_on`] gives the others.
///
/// # Errors
/// As [`run`].
pub(super) fn run_by<T: Send>(
    py: Python<'_>,
    core: &Arc<Ward>,
    seat: &Seat,
    statement: &Statement,
    by_piece: bool,
    attempt: &mut Attempt<'_, T>,
) -> Outcome<(T, Ticket)> {
    let mut signals = match CtrlC::enter(py, core.guardian().signal_descriptor()) {
        Ok(signals) => signals,
        Err(error) => return Err((cancelled(Report::default()), Some(error))),
    };
    let job = job(statement, &signals, by_piece);
    let (outcome, original) = py.detach(|| {
        let mut host = host(seat, statement, attempt);
        let outcome = core.run(&seat.slot.connection, &job, &mut host);
        (outcome, host.original)
    });
    match (outcome, signals.leave(py)) {
        (Ok(done), Ok(())) => Ok(done),
        (Ok((value, mut ticket)), Err(interrupt)) => {
            let report = ticket.report();
            seat.slot.leave(ticket.give_up());
            py.detach(|| drop(ticket));
            drop(value);
            Err((cancelled(report), Some(interrupt)))
        }
        (Err(failed), left) => Err(interrupted(failed, left, original)),
    }
}

/// Runs `attempt` on the next piece of the answer of `ticket`; none at its end. `rows` of it were handed out.
///
/// # Errors
/// As [`run`].
pub(super) fn go_on<T: Send>(
    py: Python<'_>,
    core: &Arc<Ward>,
    seat: &Seat,
    statement: &Statement,
    (ticket, rows): (&mut Ticket, u64),
    attempt: &mut Attempt<'_, T>,
) -> Outcome<Option<T>> {
    let mut signals = match CtrlC::enter(py, core.guardian().signal_descriptor()) {
        Ok(signals) => signals,
        Err(error) => return Err((cancelled(ticket.report()), Some(error))),
    };
    let job = job(statement, &signals, true);
    let (outcome, original) = py.detach(|| {
        let mut host = host(seat, statement, attempt);
        let outcome = core.go_on(ticket, &job, &mut host, rows);
        (outcome, host.original)
    });
    match (outcome, signals.leave(py)) {
        (Ok(next), Ok(())) => Ok(next),
        (Ok(next), Err(interrupt)) => {
            drop(next);
            Err((cancelled(ticket.report()), Some(interrupt)))
        }
        (Err(failed), left) => Err(interrupted(failed, left, original)),
    }
}

fn job<'a>(statement: &'a Statement, signals: &CtrlC, by_piece: bool) -> Job<'a> {
    Job {
        sql: &statement.sql,
        interruptible: statement.interruptible,
        priority: statement.priority,
        heeds_signals: signals.heeded(),
        cutting: statement.cutting,
        verify: statement.verify,
        by_piece,
    }
}

fn host<'a, F>(seat: &'a Seat, statement: &'a Statement, attempt: F) -> PyHost<'a, F> {
    PyHost {
        con: &seat.con,
        statement,
        attempt,
        original: None,
        rereads: seat.slot.streams_are_safe,
    }
}

/// A failure, and the exception that goes with it after the handlers of signals had their turn.
pub(super) fn interrupted(
    mut failed: Box<Failed>,
    left: PyResult<()>,
    original: Option<PyErr>,
) -> (Box<Failed>, Option<PyErr>) {
    match left {
        // A handler of the user's that raises nothing: the query was cancelled all the same.
        Ok(()) => {
            failed.stop = failed.stop.filter(|stop| *stop != Stop::Signal);
            (failed, original)
        }
        Err(interrupt) => (cancelled(failed.report), Some(interrupt)),
    }
}

/// What would happen to `statement`, without the GIL but for what DuckDB is asked.
///
/// # Errors
/// What failed, and the exception that DuckDB raised, if it did.
pub(super) fn explain(
    py: Python<'_>,
    core: &Arc<Ward>,
    seat: &Seat,
    statement: &Statement,
) -> std::result::Result<Explanation, (Box<Failed>, Option<PyErr>)> {
    let mut signals = match CtrlC::enter(py, core.guardian().signal_descriptor()) {
        Ok(signals) => signals,
        Err(error) => return Err((cancelled(Report::default()), Some(error))),
    };
    let job = job(statement, &signals, false);
    let never = |_: Python<'_>, _: &mut Option<PyErr>, _: How<'_>| -> std::result::Result<(), _> {
        let message = "a statement that was only to be explained was about to run";
        Err(AttemptError::Own(Error::new(ErrorKind::Internal, message)))
    };
    let (outcome, original) = py.detach(|| {
        let mut host = host(seat, statement, never);
        let outcome = core.explain(&seat.slot.connection, &job, &mut host);
        (outcome, host.original)
    });
    match (outcome, signals.leave(py)) {
        (Ok(explanation), Ok(())) => Ok(explanation),
        (Ok(_), Err(interrupt)) => Err((cancelled(Report::default()), Some(interrupt))),
        (Err(failed), left) => Err(interrupted(failed, left, original)),
    }
}

/// The failure of a query that Ctrl-C ended, whose exception the user's handler raised.
pub(super) fn cancelled(report: Report) -> Box<Failed> {
    let error = Error::new(ErrorKind::Cancelled, "cancelled by Ctrl-C");
    Box::new(Failed {
        error,
        failure: None,
        stop: Some(Stop::Signal),
        report,
    })
}
