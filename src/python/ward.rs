//! `duckward.guard` and the `Ward` it returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::PyWeakrefMethods;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyWeakrefReference};
use serde::Serialize;

use super::answer::Answer;
use super::error::{exception, query_exception};
use super::events::{Subscription, subscribe};
use super::host::PyEngine;
use super::signals::{CtrlC, pressed};
use super::slot::{Seat, Slot};
use crate::engine::host::Stop;
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::history::words;
use crate::fallback::ladder::Rung;
use crate::guard::Priority;
use crate::guard::watch;
use crate::settings::Settings;
use crate::settings::layers::Loaded;
use crate::settings::table::{TABLE, Value};
use crate::ward::{AttemptError, Failed, Host, Job, Report, Ticket, Ward};

/// One statement of a text.
#[derive(Clone)]
pub(super) struct Statement {
    /// Its text.
    pub(super) sql: String,
    /// False for COMMIT, CHECKPOINT and the like.
    pub(super) interruptible: bool,
    pub(super) priority: Priority,
}

/// How a statement is run and what it gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A SELECT: runs when it is read.
    Select,
    /// Runs at once, gives rows that are described (PRAGMA, CALL, EXPLAIN, ... RETURNING).
    Described,
    /// Runs at once, gives a count or nothing.
    Counted,
    /// COMMIT.
    Commit,
}

/// A guarded connection. Made by `duckward.guard(con)`.
#[pyclass(frozen, module = "duckward", name = "Ward", weakref)]
pub(super) struct PyWard {
    core: Arc<Ward>,
    con: Py<PyAny>,
    main: Arc<Slot>,
    cursors: Mutex<Vec<Arc<Slot>>>,
    subscriptions: Mutex<Vec<Py<Subscription>>>,
    closed: AtomicBool,
}

struct Registered {
    ward: Py<PyAny>,
    loaded: Loaded,
}

/// The open wards of this process, weakly: guarding a connection twice gives the same ward.
static REGISTERED: Mutex<Vec<Registered>> = Mutex::new(Vec::new());

fn live(py: Python<'_>) -> Vec<(Bound<'_, PyWard>, Loaded)> {
    let mut registered = REGISTERED.lock();
    let mut found = Vec::new();
    registered.retain(|entry| {
        let Ok(reference) = entry.ward.bind(py).cast::<PyWeakrefReference>() else {
            return false;
        };
        let Some(ward) = reference.upgrade() else {
            return false;
        };
        let Ok(ward) = ward.cast_into::<PyWard>() else {
            return false;
        };
        if ward.get().closed.load(Ordering::Acquire) {
            return false;
        }
        found.push((ward, entry.loaded.clone()));
        true
    });
    found
}

/// Any serde value as plain Python data.
pub(super) fn to_python<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(value).map_err(|error| {
        exception(
            py,
            &Error::new(ErrorKind::Internal, format!("cannot be shown: {error}")),
        )
    })?;
    py.import(intern!(py, "json"))?
        .call_method1(intern!(py, "loads"), (text,))
}

/// A Python argument as a setting's value.
fn value(name: &str, object: &Bound<'_, PyAny>) -> Result<Value> {
    let refuse = || {
        let kind = object
            .get_type()
            .name()
            .map_or_else(|_| "object".to_owned(), |name| name.to_string());
        Error::invalid(
            name,
            format_args!("<{kind}>"),
            "give a number, a text, True, False or None",
        )
    };
    if object.is_none() {
        return Ok(Value::None);
    }
    if let Ok(flag) = object.cast::<PyBool>() {
        return Ok(Value::Bool(flag.is_true()));
    }
    if object.is_instance_of::<PyInt>() {
        let shown = || {
            object
                .str()
                .map_or_else(|_| "?".to_owned(), |text| text.to_string())
        };
        return object
            .extract()
            .map(Value::Int)
            .map_err(|_| Error::invalid(name, shown(), "a number of at most 63 bits"));
    }
    if object.is_instance_of::<PyFloat>() {
        return object.extract().map(Value::Float).map_err(|_| refuse());
    }
    if let Ok(text) = object.cast::<PyString>() {
        return Ok(Value::Text(text.to_string()));
    }
    // pathlib.Path
    match object
        .call_method0("__fspath__")
        .and_then(|path| path.extract::<String>())
    {
        Ok(path) => Ok(Value::Text(path)),
        Err(_) => Err(refuse()),
    }
}

fn check_connection(name: &str, object: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = object.py();
    if object.is_instance(
        &py.import(intern!(py, "duckdb"))?
            .getattr(intern!(py, "DuckDBPyConnection"))?,
    )? {
        return Ok(());
    }
    let kind = object.get_type().qualname()?;
    let message = format!(
        "{name} is a {kind}, not a DuckDB connection: give what duckdb.connect() or con.cursor() returned"
    );
    Err(exception(py, &Error::new(ErrorKind::Invalid, message)))
}

/// Guards a DuckDB connection that the caller already has.
///
/// The connection stays the caller's own. `memory` is the budget: "512MB", bytes, a share such as 0.5, or "auto".
/// Other settings by name; see `duckward.settings()`.
///
/// Raises InvalidInputError, DiskError or ConnectionError; nothing is changed then.
#[pyfunction]
#[pyo3(signature = (connection, memory=None, *, profile=None, settings_file=None, **settings))]
pub(super) fn guard<'py>(
    py: Python<'py>,
    connection: &Bound<'py, PyAny>,
    memory: Option<&Bound<'py, PyAny>>,
    profile: Option<&Bound<'py, PyAny>>,
    settings_file: Option<&Bound<'py, PyAny>>,
    settings: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyWard>> {
    check_connection("the first argument", connection)?;
    let mut arguments = std::collections::BTreeMap::new();
    for (name, object) in [
        ("memory", memory),
        ("profile", profile),
        ("settings_file", settings_file),
    ] {
        if let Some(object) = object {
            arguments.insert(
                name.to_owned(),
                value(name, object).map_err(|error| exception(py, &error))?,
            );
        }
    }
    for (name, object) in settings.into_iter().flatten() {
        let name: String = name.extract()?;
        let read = value(&name, &object).map_err(|error| exception(py, &error))?;
        arguments.insert(name, read);
    }
    let loaded = py
        .detach(|| Settings::load(arguments))
        .map_err(|error| exception(py, &error))?;
    for (ward, other) in live(py) {
        if ward.get().main.is(connection) {
            return same_ward(py, ward, &loaded, &other);
        }
    }
    let slot = Slot::new(connection)?;
    let engine = Arc::new(PyEngine::new(connection));
    let settings = loaded.clone();
    let core = py
        .detach(|| {
            Ward::guard(
                &watch::of_process()?,
                engine,
                Arc::clone(&slot.connection),
                settings,
            )
        })
        .map_err(|error| exception(py, &error))?;
    let ward = Bound::new(
        py,
        PyWard {
            core,
            con: connection.clone().unbind(),
            main: slot,
            cursors: Mutex::new(Vec::new()),
            subscriptions: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
        },
    )?;
    let reference = PyWeakrefReference::new(&ward)?.into_any().unbind();
    REGISTERED.lock().push(Registered {
        ward: reference,
        loaded,
    });
    Ok(ward)
}

fn same_ward<'py>(
    py: Python<'py>,
    ward: Bound<'py, PyWard>,
    wanted: &Loaded,
    present: &Loaded,
) -> PyResult<Bound<'py, PyWard>> {
    if wanted.settings == present.settings {
        return Ok(ward);
    }
    let (wanted, present) = (wanted.print(), present.print());
    let differ: Vec<String> = wanted
        .iter()
        .filter(|(name, value)| present.get(*name) != Some(value))
        .map(|(name, value)| {
            format!(
                "{name}={value} (it has {})",
                present.get(name).map_or("", String::as_str)
            )
        })
        .collect();
    let message = format!(
        "this connection is already guarded with other settings: {}; close() that ward first, or give the same settings",
        differ.join(", ")
    );
    Err(exception(py, &Error::new(ErrorKind::Invalid, message)))
}

/// Every setting: name, value by default, what is accepted, what it is for.
#[pyfunction]
pub(super) fn settings_table(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let defaults = Settings::default();
    let rows = TABLE
        .iter()
        .map(|row| (row.name, row.print(&defaults), row.accepted, row.about));
    PyList::new(py, rows)
}

/// Closes every ward and ends the guard's threads; called when the interpreter exits.
#[pyfunction]
pub(super) fn shutdown(py: Python<'_>) {
    for (ward, _) in live(py) {
        ward.get().close(py);
    }
    super::error::forget_types();
    py.detach(watch::shutdown_process);
}

/// The host of one call: attempts run with the GIL, on the calling thread.
struct PyHost<'a, F> {
    con: &'a Py<PyAny>,
    statement: &'a Statement,
    attempt: F,
    original: Option<PyErr>,
}

impl<T, F> Host<T> for PyHost<'_, F>
where
    F: FnMut(Python<'_>, &mut Option<PyErr>) -> std::result::Result<T, AttemptError>,
{
    fn attempt(&mut self, _rung: Rung) -> std::result::Result<T, AttemptError> {
        Python::attach(|py| (self.attempt)(py, &mut self.original))
    }

    fn in_transaction(&mut self) -> bool {
        Python::attach(|py| {
            let con = self.con.bind(py);
            // A transaction cannot begin inside another; one that begins is given back.
            match con.call_method0(intern!(py, "begin")) {
                Ok(_) => con.call_method0(intern!(py, "rollback")).is_err(),
                Err(_) => true,
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

/// One attempt: with the GIL, on the calling thread. Leaves the exception that DuckDB raised.
pub(super) type Attempt<'a, T> =
    dyn FnMut(Python<'_>, &mut Option<PyErr>) -> std::result::Result<T, AttemptError> + Send + 'a;

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
) -> std::result::Result<(T, Ticket), (Box<Failed>, Option<PyErr>)> {
    let mut signals = match CtrlC::enter(py, core.guardian().signal_descriptor()) {
        Ok(signals) => signals,
        Err(error) => return Err((cancelled(Report::default()), Some(error))),
    };
    let job = Job {
        sql: &statement.sql,
        interruptible: statement.interruptible,
        priority: statement.priority,
        heeds_signals: signals.heeded(),
    };
    let (outcome, original) = py.detach(|| {
        let mut host = PyHost {
            con: &seat.con,
            statement,
            attempt,
            original: None,
        };
        let outcome = core.run(&seat.slot.connection, &job, &mut host);
        (outcome, host.original)
    });
    match (outcome, signals.leave(py)) {
        (Ok(done), Ok(())) => Ok(done),
        (Ok((value, ticket)), Err(interrupt)) => {
            let report = ticket.report();
            py.detach(|| drop(ticket));
            drop(value);
            Err((cancelled(report), Some(interrupt)))
        }
        // A handler of the user's that raises nothing: the query was cancelled all the same.
        (Err(mut failed), Ok(())) => {
            failed.stop = failed.stop.filter(|stop| *stop != Stop::Signal);
            Err((failed, original))
        }
        (Err(failed), Err(interrupt)) => Err((cancelled(failed.report), Some(interrupt))),
    }
}

/// The failure of a query that Ctrl-C ended, whose exception the user's handler raised.
fn cancelled(report: Report) -> Box<Failed> {
    let error = Error::new(ErrorKind::Cancelled, "cancelled by Ctrl-C");
    Box::new(Failed {
        error,
        failure: None,
        stop: Some(Stop::Signal),
        report,
    })
}

fn priority(py: Python<'_>, name: Option<&str>) -> PyResult<Priority> {
    match name {
        None | Some("normal") => Ok(Priority::Normal),
        Some("high") => Ok(Priority::High),
        Some("low") => Ok(Priority::Low),
        Some(other) => {
            let error = Error::invalid(
                "priority",
                format_args!("{other:?}"),
                "give \"high\", \"normal\" or \"low\"",
            );
            Err(exception(py, &error))
        }
    }
}

/// Whether `text` is certainly one SELECT, so that DuckDB need not be asked: it begins with the word and nothing follows
/// a semicolon, because there is none.
fn plain_select(text: &str) -> bool {
    let start = text.trim_start().as_bytes();
    start.len() > 6
        && start[..6].eq_ignore_ascii_case(b"select")
        && start[6].is_ascii_whitespace()
        && !text.contains(';')
}

impl PyWard {
    pub(super) fn core(&self) -> &Arc<Ward> {
        &self.core
    }

    fn usable(&self, py: Python<'_>) -> PyResult<()> {
        self.core.usable().map_err(|error| exception(py, &error))
    }

    /// The slot of a connection of this ward's.
    fn slot(&self, connection: Option<&Bound<'_, PyAny>>) -> PyResult<Arc<Slot>> {
        let Some(connection) = connection else {
            return Ok(Arc::clone(&self.main));
        };
        check_connection("connection", connection)?;
        if self.main.is(connection) {
            return Ok(Arc::clone(&self.main));
        }
        let known = self
            .cursors
            .lock()
            .iter()
            .find(|slot| slot.is(connection))
            .map(Arc::clone);
        match known {
            Some(slot) => Ok(slot),
            None => self.adopt(connection),
        }
    }

    fn adopt(&self, connection: &Bound<'_, PyAny>) -> PyResult<Arc<Slot>> {
        let py = connection.py();
        connection.call_method0(intern!(py, "cursor")).map_err(|error| {
            let told = exception(
                py,
                &Error::new(
                    ErrorKind::Connection,
                    "this connection is closed; open another one",
                ),
            );
            told.set_cause(py, Some(error));
            told
        })?;
        let engine = PyEngine::new(connection);
        if !py.detach(|| self.core.instance().is_same(&engine)) {
            let message =
                "this connection belongs to another database instance; guard it with duckward.guard()";
            return Err(exception(py, &Error::new(ErrorKind::Invalid, message)));
        }
        let slot = Slot::new(connection)?;
        self.core.add(&slot.connection);
        let mut cursors = self.cursors.lock();
        cursors.retain(|slot| slot.con(py).is_some());
        cursors.push(Arc::clone(&slot));
        Ok(slot)
    }

    /// DuckDB's own parse: the statements and their kinds.
    fn parse<'py>(
        &self,
        seat: &Seat,
        query: &Bound<'py, PyAny>,
        priority: Priority,
    ) -> PyResult<Vec<(Bound<'py, PyAny>, Statement, Kind)>> {
        let py = query.py();
        if let Ok(text) = query.cast::<PyString>()
            && let Ok(text) = text.to_str()
            && plain_select(text)
        {
            let statement = Statement {
                sql: text.to_owned(),
                interruptible: true,
                priority,
            };
            return Ok(vec![(query.clone(), statement, Kind::Select)]);
        }
        let statements: Vec<Bound<'py, PyAny>> = if query.hasattr(intern!(py, "expected_result_type"))? {
            vec![query.clone()]
        } else if query.is_instance_of::<PyString>() {
            seat.con(py)
                .call_method1(intern!(py, "extract_statements"), (query,))?
                .extract()?
        } else {
            let kind = query.get_type().qualname()?;
            let message =
                format!("the query is a {kind}, not a text or a statement of extract_statements(): give SQL");
            return Err(exception(py, &Error::new(ErrorKind::Invalid, message)));
        };
        if statements.is_empty() {
            let message = "the query has no statement in it: give SQL";
            return Err(exception(py, &Error::new(ErrorKind::Invalid, message)));
        }
        statements
            .into_iter()
            .map(|object| {
                let sql: String = object.getattr(intern!(py, "query"))?.extract()?;
                let name: String = object
                    .getattr(intern!(py, "type"))?
                    .getattr(intern!(py, "name"))?
                    .extract()?;
                let (kind, interruptible) = kind(&name, &sql);
                Ok((
                    object,
                    Statement {
                        sql,
                        interruptible,
                        priority,
                    },
                    kind,
                ))
            })
            .collect()
    }

    /// Runs a statement to its end, now.
    fn run_now<'py>(
        slf: &Bound<'py, Self>,
        seat: &Seat,
        object: &Bound<'py, PyAny>,
        statement: Statement,
        kind: Kind,
        params: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Answer> {
        let py = slf.py();
        let core = Arc::clone(&slf.get().core);
        if kind == Kind::Commit {
            refuse_lost_commit(seat.con(py))?;
        }
        let object = object.clone().unbind();
        let params = params.map(|params| params.clone().unbind());
        let mut attempt = |py: Python<'_>, original: &mut Option<PyErr>| {
            let con = seat.con(py);
            let params = params.as_ref().map(|params| params.bind(py).clone());
            execute(con, object.bind(py), params.as_ref(), kind).map_err(|error| {
                let engine = super::error::engine_error(py, &error);
                *original = Some(error);
                AttemptError::Engine(engine)
            })
        };
        match run(py, &core, seat, &statement, &mut attempt) {
            Ok((Given::Rows(names, rows), ticket)) => {
                let rows = rows.into_bound(py);
                let counted = changed(&names, &rows, kind);
                let report = py.detach(|| ticket.finish(counted));
                Ok(Answer::rows(slf, seat, statement, names, rows, report))
            }
            Ok((Given::Relation(relation), ticket)) => {
                let report = py.detach(|| ticket.finish(None));
                Answer::of_relation(slf, seat.held(py), statement, relation.bind(py), report)
            }
            Err((failed, original)) => Err(query_exception(py, &failed, original)),
        }
    }
}

/// What a statement gave that was run to its end.
enum Given {
    /// The names of the columns, and rows.
    Rows(Vec<String>, Py<PyList>),
    /// A relation over the rows, which DuckDB keeps.
    Relation(Py<PyAny>),
}

/// An error of binding: DuckDB's own, but for exhausted memory, which is told as everywhere.
fn bind_error(py: Python<'_>, error: PyErr) -> PyErr {
    let engine = super::error::engine_error(py, &error);
    if engine.class != crate::engine::Class::OutOfMemory {
        return error;
    }
    let message = format!(
        "a constant expression of the query does not fit into memory, so it was not started: raise memory=, or make the \
         constant smaller\nDuckDB said: {}",
        engine.message
    );
    let refused = exception(py, &Error::new(ErrorKind::Memory, message));
    refused.set_cause(py, Some(error));
    refused
}

/// The number of rows a statement changed or gave.
fn changed(names: &[String], rows: &Bound<'_, PyList>, kind: Kind) -> Option<u64> {
    if kind == Kind::Counted && names.len() == 1 && rows.len() == 1 {
        return rows.get_item(0).ok()?.get_item(0).ok()?.extract().ok();
    }
    Some(rows.len() as u64)
}

/// Runs a statement to its end.
fn execute(
    con: &Bound<'_, PyAny>,
    statement: &Bound<'_, PyAny>,
    params: Option<&Bound<'_, PyAny>>,
    kind: Kind,
) -> PyResult<Given> {
    let py = con.py();
    if kind == Kind::Described {
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "params"), params)?;
        let relation = con.call_method(intern!(py, "sql"), (statement,), Some(&keywords))?;
        if relation.is_none() {
            return Ok(Given::Rows(Vec::new(), PyList::empty(py).unbind()));
        }
        return Ok(Given::Relation(relation.unbind()));
    }
    con.call_method1(intern!(py, "execute"), (statement, params))?;
    let description = con.getattr(intern!(py, "description"))?;
    let names = if description.is_none() {
        Vec::new()
    } else {
        description
            .try_iter()?
            .map(|column| column?.get_item(0)?.extract())
            .collect::<PyResult<_>>()?
    };
    let rows = con
        .call_method0(intern!(py, "fetchall"))?
        .cast_into::<PyList>()?
        .unbind();
    Ok(Given::Rows(names, rows))
}

/// DuckDB answers COMMIT of an aborted transaction with success, and rolls back. That is said.
fn refuse_lost_commit(con: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = con.py();
    let Err(error) = con
        .call_method1(intern!(py, "execute"), ("SELECT 1",))
        .and_then(|con| con.call_method0("fetchall"))
    else {
        return Ok(());
    };
    let engine = super::error::engine_error(py, &error);
    if engine.class != crate::engine::Class::Transaction || !engine.message.contains("aborted") {
        return Err(error);
    }
    con.call_method0(intern!(py, "rollback"))?;
    let message = "COMMIT would keep nothing: an earlier statement of this transaction failed and aborted it; \
                   it was rolled back, run it again from its beginning";
    let lost = exception(py, &Error::new(ErrorKind::Transaction, message));
    lost.set_cause(py, Some(error));
    Err(lost)
}

/// The kind of a statement by DuckDB's name for its type, and whether it may be interrupted.
fn kind(name: &str, sql: &str) -> (Kind, bool) {
    let has = |word: &str| words(sql).any(|other| other.eq_ignore_ascii_case(word));
    let begins = |word: &str| {
        words(sql)
            .next()
            .is_some_and(|first| first.eq_ignore_ascii_case(word))
    };
    match name {
        "SELECT" => (Kind::Select, true),
        "TRANSACTION" if begins("commit") || begins("end") => (Kind::Commit, false),
        "TRANSACTION" => (Kind::Counted, false),
        // CHECKPOINT is a call to DuckDB's parser; it runs to its end whatever arrives, and then says it was interrupted.
        "CALL" | "PRAGMA" | "VACUUM" => (Kind::Described, !has("checkpoint") && !has("force_checkpoint")),
        "DETACH" => (Kind::Counted, false),
        "INSERT" | "UPDATE" | "DELETE" | "MERGE_INTO" if has("returning") => (Kind::Described, true),
        "EXPLAIN" | "MULTI" | "RELATION" | "LOGICAL_PLAN" => (Kind::Described, true),
        _ => (Kind::Counted, true),
    }
}

#[pymethods]
impl PyWard {
    /// Runs SQL under guard. A SELECT is bound now and runs when its answer is read; other statements run now.
    ///
    /// `params` are bound as `con.execute` binds them; of several statements the last one takes them. `connection` is
    /// another connection to the same database (from `ward.cursor()`); `priority` is "high", "normal" or "low".
    ///
    /// Errors of the statement itself are DuckDB's own exceptions, unchanged.
    #[pyo3(signature = (query, params=None, *, connection=None, priority=None))]
    fn sql<'py>(
        slf: &Bound<'py, Self>,
        query: &Bound<'py, PyAny>,
        params: Option<&Bound<'py, PyAny>>,
        connection: Option<&Bound<'py, PyAny>>,
        priority: Option<&str>,
    ) -> PyResult<Answer> {
        let py = slf.py();
        let this = slf.get();
        this.usable(py)?;
        let priority = self::priority(py, priority)?;
        let seat = Seat {
            slot: this.slot(connection)?,
            con: connection.map_or_else(
                || this.con.clone_ref(py),
                |connection| connection.clone().unbind(),
            ),
        };
        if let Some(open) = seat.slot.open() {
            open.detach(py)?;
        }
        let mut statements = this.parse(&seat, query, priority)?;
        let Some((object, statement, kind)) = statements.pop() else {
            return Err(exception(
                py,
                &Error::new(ErrorKind::Invalid, "the query has no statement in it: give SQL"),
            ));
        };
        for (object, statement, kind) in statements {
            // Earlier statements run to their end, as DuckDB runs them; a SELECT among them gives nothing to anyone.
            let kind = if kind == Kind::Select {
                Kind::Described
            } else {
                kind
            };
            Self::run_now(slf, &seat, &object, statement, kind, None)?;
        }
        if kind != Kind::Select {
            return Self::run_now(slf, &seat, &object, statement, kind, params);
        }
        let relation = this.bind(py, &seat, &object, &statement, params)?;
        Answer::lazy(slf, seat, statement, &relation)
    }

    /// The level now: "normal", "caution", "warning", "critical" or "emergency".
    #[getter]
    fn level(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.usable(py)?;
        Ok(self.core.level().name())
    }

    /// The connection it guards.
    #[getter]
    fn connection(&self, py: Python<'_>) -> Py<PyAny> {
        self.con.clone_ref(py)
    }

    /// What the ward sees and does now, as plain data; sizes in bytes.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.usable(py)?;
        let status = py.detach(|| self.core.status());
        to_python(py, &status)
    }

    /// Calls `callback(event)` for every event, a dictionary; `cancel()` of what it returns ends that.
    /// An exception in a callback is shown and published, and never reaches a query.
    fn on<'py>(&self, py: Python<'py>, callback: Bound<'py, PyAny>) -> PyResult<Py<Subscription>> {
        self.usable(py)?;
        if !callback.is_callable() {
            let kind = callback.get_type().qualname()?;
            let message =
                format!("the callback is a {kind}, which cannot be called: give a function of one argument");
            return Err(exception(py, &Error::new(ErrorKind::Invalid, message)));
        }
        let subscription = Py::new(py, subscribe(self.core.guardian(), callback.unbind()))?;
        self.subscriptions.lock().push(subscription.clone_ref(py));
        Ok(subscription)
    }

    /// Cancels every query that runs through this ward, from any thread; how many.
    fn cancel(&self, py: Python<'_>) -> PyResult<usize> {
        self.usable(py)?;
        Ok(py.detach(|| self.core.cancel()))
    }

    /// A new cursor of the connection, watched; or the watching of one that is handed in. For `sql(connection=)`.
    #[pyo3(signature = (cursor=None))]
    fn cursor<'py>(&self, py: Python<'py>, cursor: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        self.usable(py)?;
        let cursor = match cursor {
            Some(cursor) => cursor,
            None => self.con.bind(py).call_method0(intern!(py, "cursor"))?,
        };
        self.slot(Some(&cursor))?;
        Ok(cursor)
    }

    /// How far the running query is, from 0 to 1; None when DuckDB does not say (`SET enable_progress_bar = true`).
    fn progress(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        self.usable(py)?;
        let percent: f64 = self
            .con
            .bind(py)
            .call_method0(intern!(py, "query_progress"))?
            .extract()?;
        Ok((percent >= 0.0).then_some((percent / 100.0).min(1.0)))
    }

    /// Ends the guard and puts back everything it changed. A second call does nothing.
    fn close(&self, py: Python<'_>) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let subscriptions: Vec<Py<Subscription>> = std::mem::take(&mut *self.subscriptions.lock());
        py.detach(|| self.core.close());
        for subscription in subscriptions {
            // The last events (what was put back) are told before the end.
            let _ = subscription.call_method0(py, intern!(py, "cancel"));
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        if let Some(subscriptions) = self.subscriptions.try_lock() {
            for subscription in &*subscriptions {
                visit.call(subscription)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let subscriptions = std::mem::take(&mut *self.subscriptions.lock());
        drop(subscriptions);
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().usable(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        if self.closed.load(Ordering::Acquire) {
            return "<duckward.Ward: closed>".to_owned();
        }
        let usage = self.core.guardian().usage();
        format!(
            "<duckward.Ward: {}, {} of {}>",
            self.core.level(),
            usage.used,
            usage.limit
        )
    }
}

impl PyWard {
    /// The relation of a SELECT. DuckDB before 2.0 runs a SELECT with parameters here, so that is guarded too.
    fn bind<'py>(
        &self,
        py: Python<'py>,
        seat: &Seat,
        object: &Bound<'py, PyAny>,
        statement: &Statement,
        params: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let con = seat.con(py);
        let keywords = PyDict::new(py);
        if let Some(params) = params {
            keywords.set_item(intern!(py, "params"), params)?;
        }
        if params.is_none() || seat.slot.streams_are_safe {
            // Binding evaluates constant expressions, however large.
            let wanted = self.core.settings().ceiling;
            let ceiling = py.detach(|| self.core.guardian().arm_ceiling(wanted));
            seat.slot.binds(true);
            let bound = con.call_method(intern!(py, "sql"), (object,), Some(&keywords));
            seat.slot.binds(false);
            py.detach(|| drop(ceiling));
            return bound.map_err(|error| bind_error(py, error));
        }
        let (object, keywords) = (object.clone().unbind(), keywords.unbind());
        let mut attempt = |py: Python<'_>, original: &mut Option<PyErr>| {
            let relation =
                seat.con(py)
                    .call_method(intern!(py, "sql"), (object.bind(py),), Some(keywords.bind(py)));
            relation.map(Bound::unbind).map_err(|error| {
                let engine = super::error::engine_error(py, &error);
                *original = Some(error);
                AttemptError::Engine(engine)
            })
        };
        match run(py, &self.core, seat, statement, &mut attempt) {
            Ok((relation, ticket)) => {
                let _: Report = py.detach(|| ticket.finish(None));
                Ok(relation.into_bound(py))
            }
            Err((failed, original)) => Err(query_exception(py, &failed, original)),
        }
    }
}

impl Drop for PyWard {
    fn drop(&mut self) {
        // Putting settings back may wait for a thread of the guard that waits for the GIL.
        let _ = Python::try_attach(|py| self.close(py));
    }
}
