//! `Ward`: the guarded connection, as Python sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use super::answer::Answer;
use super::arguments;
use super::ask::{Asking, Pool, Stopped};
use super::deduplication::{PyDeduplication, Removed};
use super::error::{engine_error, exception, query_exception};
use super::events::{Subscription, subscribe};
use super::explanation::PyExplanation;
use super::guard::{check_connection, to_python};
use super::host::PyEngine;
use super::ingest::{PyIngested, load};
use super::partitioning::PyPartitioning;
use super::plan::PyPlan;
use super::profile::PyProfile;
use super::run::{How, explain, run};
use super::signals::CtrlC;
use super::slot::{Seat, Slot};
use super::statement::{
    Given, Kind, Statement, bind_error, changed, execute, is_planned, kind, plain_select, refuse_lost_commit,
};
use super::validation::{self, PyValidation, pieces};
use crate::engine::text::selects_literals;
use crate::error::{Error, ErrorKind};
use crate::guard::Priority;
use crate::partition::calendar::Step;
use crate::partition::deduplicate::deduplicate;
use crate::partition::done::{Place, Target};
use crate::partition::ingest::{Limit, Wish as LoadWish, default_bytes};
use crate::partition::lake::{self, Options, partition};
use crate::partition::plan::{Wish, kept_plan, plan};
use crate::partition::profile::profile;
use crate::partition::tables;
use crate::validate;
use crate::ward::writing::{Work, free_space};
use crate::ward::{AttemptError, Cutting, Report, Verify, Ward};

/// The most examples of a finding.
const MOST_EXAMPLES: usize = 1000;

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

impl PyWard {
    pub(super) fn new(core: Arc<Ward>, con: &Bound<'_, PyAny>, main: Arc<Slot>) -> Self {
        PyWard {
            core,
            con: con.clone().unbind(),
            main,
            cursors: Mutex::new(Vec::new()),
            subscriptions: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether `connection` is the one it was made for.
    pub(super) fn guards(&self, connection: &Bound<'_, PyAny>) -> bool {
        self.main.is(connection)
    }

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

    /// A new connection of our own to the same database, watched.
    fn own(&self, py: Python<'_>) -> PyResult<Seat> {
        let cursor = self.con.bind(py).call_method0(intern!(py, "cursor"))?;
        let slot = Slot::new(&cursor)?;
        self.core.add(&slot.connection);
        let mut cursors = self.cursors.lock();
        cursors.retain(|slot| slot.con(py).is_some());
        cursors.push(Arc::clone(&slot));
        Ok(Seat {
            slot,
            con: cursor.unbind(),
        })
    }

    fn seat(&self, py: Python<'_>, connection: Option<&Bound<'_, PyAny>>) -> PyResult<Seat> {
        Ok(Seat {
            slot: self.slot(connection)?,
            con: connection.map_or_else(
                || self.con.clone_ref(py),
                |connection| connection.clone().unbind(),
            ),
        })
    }

    /// The connection that is meant: that one, or its own.
    pub(super) fn chosen<'py>(
        &self,
        py: Python<'py>,
        connection: Option<&Bound<'py, PyAny>>,
    ) -> Bound<'py, PyAny> {
        connection.map_or_else(|| self.con.bind(py).clone(), Bound::clone)
    }

    /// DuckDB's own parse: the statements and their kinds.
    fn parse<'py>(
        &self,
        seat: &Seat,
        query: &Bound<'py, PyAny>,
        priority: Priority,
        cutting: Cutting,
        verify: Verify,
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
                cutting,
                verify,
                params: None,
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
                        cutting,
                        verify,
                        params: None,
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
        let mut statement = statement;
        if kind == Kind::Described {
            // Its rows are read later, when the tables of its pieces would be gone.
            statement.cutting = Cutting::Never;
        }
        let py = slf.py();
        let core = Arc::clone(&slf.get().core);
        if kind == Kind::Commit {
            refuse_lost_commit(seat.con(py))?;
        }
        let object = object.clone().unbind();
        let params = params.map(|params| params.clone().unbind());
        let mut attempt = |py: Python<'_>, original: &mut Option<PyErr>, how: How<'_>| {
            let con = seat.con(py);
            let params = params.as_ref().map(|params| params.bind(py).clone());
            // What was prepared has the values of the parameters in it.
            let (object, params) = match how.prepared {
                Some(sql) => (PyString::new(py, sql).into_any(), None),
                None => (object.bind(py).clone(), params),
            };
            execute(con, &object, params.as_ref(), kind).map_err(|error| {
                let engine = engine_error(py, &error);
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

#[pymethods]
impl PyWard {
    /// Runs SQL under guard. A SELECT is bound now and runs when its answer is read; other statements run now.
    ///
    /// `params` are bound as `con.execute` binds them; of several statements the last one takes them. `connection` is
    /// another connection to the same database (from `ward.cursor()`); `priority` is "high", "normal" or "low". `pieces` says
    /// whether it may run in pieces ("auto", False, or how many), `verify` what is proved of them ("counts" or "full").
    ///
    /// Errors of the statement itself are DuckDB's own exceptions, unchanged.
    #[pyo3(signature = (query, params=None, *, connection=None, priority=None, pieces=None, verify=None))]
    pub(super) fn sql<'py>(
        slf: &Bound<'py, Self>,
        query: &Bound<'py, PyAny>,
        params: Option<&Bound<'py, PyAny>>,
        connection: Option<&Bound<'py, PyAny>>,
        priority: Option<&str>,
        pieces: Option<&Bound<'py, PyAny>>,
        verify: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Answer> {
        let py = slf.py();
        let this = slf.get();
        this.usable(py)?;
        let priority = arguments::priority(py, priority)?;
        let cutting = arguments::cutting(py, pieces)?;
        let verify = arguments::verify(py, verify)?;
        let seat = this.seat(py, connection)?;
        seat.free(py)?;
        let mut statements = this.parse(&seat, query, priority, cutting, verify)?;
        let Some((object, mut statement, kind)) = statements.pop() else {
            return Err(exception(
                py,
                &Error::new(ErrorKind::Invalid, "the query has no statement in it: give SQL"),
            ));
        };
        statement.params = params.map(|params| Arc::new(params.clone().unbind()));
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
        if params.is_none() && selects_literals(&statement.sql) {
            // What DuckDB asks of a connection before it binds: whether it is open.
            seat.con(py).call_method0(intern!(py, "query_progress"))?;
            return Ok(Answer::of_literals(slf, seat, statement));
        }
        let relation = this.bind(py, &seat, &object, &statement, params)?;
        Answer::lazy(slf, seat, statement, &relation)
    }

    /// What `sql()` would do with a statement, and why; nothing of it is run.
    ///
    /// Errors of the statement itself are DuckDB's own exceptions, unchanged.
    #[pyo3(signature = (sql, params=None, *, connection=None, pieces=None))]
    fn explain<'py>(
        slf: &Bound<'py, Self>,
        sql: &Bound<'py, PyAny>,
        params: Option<&Bound<'py, PyAny>>,
        connection: Option<&Bound<'py, PyAny>>,
        pieces: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<PyExplanation> {
        let py = slf.py();
        let this = slf.get();
        this.usable(py)?;
        let cutting = arguments::cutting(py, pieces)?;
        let seat = this.seat(py, connection)?;
        seat.free(py)?;
        let mut statements = this.parse(&seat, sql, Priority::Normal, cutting, Verify::default())?;
        let [(object, statement, kind)] = statements.as_mut_slice() else {
            let count = statements.len();
            let message =
                format!("the text has {count} statements, and one is explained at a time: give one of them");
            return Err(exception(py, &Error::new(ErrorKind::Invalid, message)));
        };
        statement.params = params.map(|params| Arc::new(params.clone().unbind()));
        this.check(py, &seat, object, statement, *kind, params)?;
        match explain(py, &this.core, &seat, statement) {
            Ok(explanation) => Ok(PyExplanation::new(explanation)),
            Err((failed, original)) => Err(query_exception(py, &failed, original)),
        }
    }

    /// Whether two tables, files or queries have the same rows, and every difference; of one, or of pieces, whether keys are
    /// unique, references lead somewhere, and sequences have no gaps.
    ///
    /// `on` names the columns that identify a row; without it rows are compared as wholes. Everything is read under guard.
    #[pyo3(signature = (left, right=None, *, on=None, references=None, gaps=None, every=None, examples=5, connection=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn validate(
        slf: &Bound<'_, Self>,
        left: &Bound<'_, PyAny>,
        right: Option<&Bound<'_, PyAny>>,
        on: Option<&Bound<'_, PyAny>>,
        references: Option<&Bound<'_, PyDict>>,
        gaps: Option<String>,
        every: Option<&Bound<'_, PyAny>>,
        examples: usize,
        connection: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyValidation> {
        let py = slf.py();
        slf.get().usable(py)?;
        let own = |error: Error| exception(py, &error);
        let given = [Some(left), right];
        let (left, right) = match right {
            Some(right) => (Some(pieces("left", left)?.union()), pieces("right", right)?),
            None => (None, pieces("left", left)?),
        };
        let every = every
            .map(|every| every.str().map(|text| text.to_string()))
            .transpose()?;
        if every.is_some() && gaps.is_none() {
            let accepted = "it is the length of a step between gaps; give gaps= with the column, too";
            return Err(own(Error::invalid("every", every.unwrap_or_default(), accepted)));
        }
        if examples > MOST_EXAMPLES {
            let accepted = format!("give a number up to {MOST_EXAMPLES}");
            return Err(own(Error::invalid("examples", examples, &accepted)));
        }
        let checks = validate::Checks {
            options: validate::Options {
                on: arguments::columns("on", on)?,
                examples,
            },
            references: validation::references(references)?,
            gaps: gaps.map(|column| validate::Gaps { column, every }),
        };
        let mut asking = Asking::new(slf, connection);
        // Pieces that are not what they were cannot be read, or say something else: that comes first.
        let mut changed = Vec::new();
        for side in given.into_iter().flatten() {
            if let Ok(done) = side.cast::<PyPartitioning>() {
                changed.extend(done.get().unreadable(&mut asking)?);
            }
        }
        if !changed.is_empty() {
            let name = left.as_ref().map_or(right.name(), |left| left.name.as_str());
            let found = validate::Validation::not_compared(name, right.name(), changed);
            return Ok(PyValidation::new(found));
        }
        let right = match given[1].map(|side| side.cast::<PyPartitioning>()) {
            Some(Ok(done)) => done.get().unchanged(),
            _ => right,
        };
        match validate::check(&mut asking, left.as_ref(), &right, &checks) {
            Ok(validation) => Ok(PyValidation::new(validation)),
            Err(stopped) => Err(stopped.into_py(py)),
        }
    }

    /// Removes all rows but the first of each key, in one transaction, or in one step in a directory; they are kept, and can be
    /// put back.
    #[pyo3(signature = (source, *, on, order_by=None, connection=None))]
    fn deduplicate(
        slf: &Bound<'_, Self>,
        source: &Bound<'_, PyAny>,
        on: &Bound<'_, PyAny>,
        order_by: Option<&Bound<'_, PyAny>>,
        connection: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyDeduplication> {
        let py = slf.py();
        slf.get().usable(py)?;
        let (on, order_by) = (
            arguments::columns("on", Some(on))?,
            arguments::columns("order_by", order_by)?,
        );
        let mut asking = Asking::new(slf, connection);
        let removed = if let Ok(partitioning) = source.cast::<PyPartitioning>() {
            deduplicate(&mut asking, &partitioning.get().done, &on, &order_by)
                .map(|removal| Removed::Partitioning(Box::new(removal)))
        } else {
            let set = pieces("source", source)?;
            validate::deduplicate(&mut asking, &set, &on, &order_by).map(Removed::Tables)
        };
        match removed {
            Ok(removed) => Ok(PyDeduplication::new(removed, slf, connection)),
            Err(stopped) => Err(stopped.into_py(py)),
        }
    }

    /// What a column is like and what it can be cut by, or every column, as a list; in one pass over the rows.
    ///
    /// Errors of the source itself are DuckDB's own exceptions, unchanged.
    #[pyo3(signature = (source, column=None, *, connection=None))]
    fn profile<'py>(
        slf: &Bound<'py, Self>,
        source: &Bound<'py, PyAny>,
        column: Option<&str>,
        connection: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        slf.get().usable(py)?;
        let source = arguments::source("source", source)?;
        let mut asking = Asking::new(slf, connection);
        let found = profile(&mut asking, &source, column)
            .map_err(|stopped| stopped.into_py(py))?
            .into_iter()
            .map(|one| Bound::new(py, PyProfile::new(one)))
            .collect::<PyResult<Vec<_>>>()?;
        match found.as_slice() {
            [one] if column.is_some() => Ok(one.clone().into_any()),
            _ => Ok(PyList::new(py, found)?.into_any()),
        }
    }

    /// How to cut a table, files or a query: pieces in order, of which every row is in exactly one.
    #[pyo3(signature = (source, *, by=None, every=None, zone=None, pieces=None, rows=None, hash=None, value=false, file=None, connection=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn plan(
        slf: &Bound<'_, Self>,
        source: &Bound<'_, PyAny>,
        by: Option<&Bound<'_, PyAny>>,
        every: Option<&str>,
        zone: Option<String>,
        pieces: Option<usize>,
        rows: Option<u64>,
        hash: Option<usize>,
        value: bool,
        file: Option<PathBuf>,
        connection: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyPlan> {
        let py = slf.py();
        slf.get().usable(py)?;
        let source = arguments::source("source", source)?;
        let every = every
            .map(|name| {
                Step::parse(name).ok_or_else(|| {
                    let names = Step::ALL.map(Step::name).join(", ");
                    let error =
                        Error::invalid("every", format_args!("{name:?}"), &format!("give one of {names}"));
                    exception(py, &error)
                })
            })
            .transpose()?;
        let core = &slf.get().core;
        let room = py.detach(|| core.status()).budget;
        let wish = Wish {
            by: arguments::columns("by", by)?,
            every,
            zone,
            pieces,
            rows,
            hash,
            value,
        };
        let mut asking = Asking::new(slf, connection);
        let made = match file {
            Some(file) => kept_plan(&mut asking, &source, &wish, room, &file),
            None => plan(&mut asking, &source, &wish, room),
        };
        match made {
            Ok(plan) => Ok(PyPlan::new(plan)),
            Err(stopped) => Err(stopped.into_py(py)),
        }
    }

    /// Cuts the plan's source into a directory of Parquet files or into tables, proves them, and puts them in their place.
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of the Python function"
    )]
    #[pyo3(signature = (plan, into, *, replace=false, sort=None, batch_rows=None, workers=None, executor=None, worker_memory=None, connection=None))]
    fn partition(
        slf: &Bound<'_, Self>,
        plan: &Bound<'_, PyPlan>,
        into: &Bound<'_, PyAny>,
        replace: bool,
        sort: Option<&Bound<'_, PyAny>>,
        batch_rows: Option<u64>,
        workers: Option<usize>,
        executor: Option<&Bound<'_, PyAny>>,
        worker_memory: Option<&Bound<'_, PyAny>>,
        connection: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyPartitioning> {
        let py = slf.py();
        slf.get().usable(py)?;
        let plan = &plan.get().plan;
        let mut asking = Asking::new(slf, connection);
        let core = &slf.get().core;
        let work = Work::new(&slf.get().slot(connection)?.connection);
        let options = Options {
            replace,
            batch_rows,
            sort: arguments::columns("sort", sort)?,
        };
        let done = match arguments::target(into)? {
            Target::Tables(template) => {
                let only = [
                    ("sort", sort.is_some()),
                    ("batch_rows", batch_rows.is_some()),
                    ("workers", workers.is_some()),
                    ("executor", executor.is_some()),
                    ("worker_memory", worker_memory.is_some()),
                ];
                if let Some((name, _)) = only.into_iter().find(|(_, given)| *given) {
                    let message = format!(
                        "{name}= is for directories, and tables are written in one transaction: leave it out, or give the \
                         path of a directory as into="
                    );
                    return Err(exception(py, &Error::new(ErrorKind::Invalid, message)));
                }
                let name = into.to_string();
                let mut watch = |progress| py.detach(|| core.reached(&work, &name, progress));
                tables::partition(&mut asking, &mut watch, plan, &template, replace, free_space)
            }
            Target::Directory(path) => {
                let pooled = executor.is_some() || workers.is_some();
                let workers = pooled
                    .then(|| arguments::workers(py, workers, executor))
                    .transpose()?;
                let (room, held) = py.detach(|| core.writing(&path));
                if let Some(workers) = workers {
                    asking.pool = Some(Pool {
                        ward: slf.clone(),
                        connection: connection.cloned(),
                        workers,
                        executor: executor.cloned(),
                        memory: worker_memory.cloned(),
                        files: room.files,
                    });
                }
                let name = path.display().to_string();
                let mut watch = |progress| py.detach(|| core.reached(&work, &name, progress));
                let done = partition(&mut asking, &mut watch, plan, &path, &options, room);
                py.detach(|| drop(held));
                done
            }
        };
        match done {
            Ok(done) => {
                py.detach(|| core.published(&done));
                Ok(PyPartitioning::of(done, &asking))
            }
            Err(stopped) => Err(stopped.into_py(py)),
        }
    }

    /// An earlier partitioning, by what it was cut into.
    #[pyo3(signature = (into, *, connection=None))]
    fn partitioning(
        slf: &Bound<'_, Self>,
        into: &Bound<'_, PyAny>,
        connection: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyPartitioning> {
        let py = slf.py();
        slf.get().usable(py)?;
        let mut asking = Asking::new(slf, connection);
        let found = match arguments::target(into)? {
            Target::Tables(template) => tables::load(&mut asking, &template),
            Target::Directory(path) => py.detach(|| lake::load(&path)).map_err(Stopped::from),
        };
        match found {
            Ok(done) => Ok(PyPartitioning::of(done, &asking)),
            Err(stopped) => Err(stopped.into_py(py)),
        }
    }

    /// Cuts a partitioning anew, so that each piece has about `target_rows`.
    #[pyo3(signature = (partitioning, *, target_rows, connection=None))]
    fn rebalance<'py>(
        slf: &Bound<'py, Self>,
        partitioning: &Bound<'py, PyPartitioning>,
        target_rows: u64,
        connection: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyPartitioning>> {
        let py = slf.py();
        slf.get().usable(py)?;
        let done = &partitioning.get().done;
        let mut asking = Asking::new(slf, connection);
        let core = &slf.get().core;
        let work = Work::new(&slf.get().slot(connection)?.connection);
        let name = done.place.to_string();
        let mut watch = |progress| py.detach(|| core.reached(&work, &name, progress));
        let changed = match &done.place {
            Place::Tables(home) => tables::rebalance(
                &mut asking,
                &mut watch,
                home,
                &done.manifest,
                target_rows,
                free_space,
            ),
            Place::Directory(path) => {
                let (room, held) = py.detach(|| core.writing(path));
                let changed =
                    lake::rebalance(&mut asking, &mut watch, path, &done.manifest, target_rows, room);
                py.detach(|| drop(held));
                changed
            }
        };
        match changed {
            Ok(Some(done)) => {
                py.detach(|| core.published(&done));
                Bound::new(py, PyPartitioning::of(done, &asking))
            }
            Ok(None) => Ok(partitioning.clone()),
            Err(stopped) => Err(stopped.into_py(py)),
        }
    }

    /// Loads records into a table, in batches that are each committed whole with the load's position, so that it can go on after
    /// any end.
    #[pyo3(signature = (reader, table, *, batch_rows=1_000_000, batch_bytes=None, token=None, rejects=None, create=false))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn ingest(
        slf: &Bound<'_, Self>,
        reader: &Bound<'_, PyAny>,
        table: String,
        batch_rows: u64,
        batch_bytes: Option<&Bound<'_, PyAny>>,
        token: Option<String>,
        rejects: Option<String>,
        create: bool,
    ) -> PyResult<PyIngested> {
        let py = slf.py();
        let this = slf.get();
        this.usable(py)?;
        let core = &this.core;
        let bytes = match batch_bytes {
            Some(given) => arguments::size("batch_bytes", given)?,
            None => default_bytes(py.detach(|| core.status()).budget),
        };
        let wish = LoadWish {
            table,
            limit: Limit {
                rows: batch_rows,
                bytes: bytes.get(),
            },
            token,
            rejects,
            create,
            retries: core.settings().retries,
            backoff: core.settings().backoff,
        };
        let user = this.seat(py, None)?;
        load(slf, &user, this.own(py)?, reader, &wish)
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
        let subscription = Py::new(py, subscribe(self.core.guardian(), &callback))?;
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

    /// How far the running query is, from 0 to 1, over all its pieces if it runs in pieces, and over all its statements if a
    /// table is being partitioned; None when DuckDB does not say (`SET enable_progress_bar = true`).
    fn progress(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        self.usable(py)?;
        let connection = self.core.connection();
        let active = py.detach(|| connection.active());
        let mut share = active.and_then(|active| active.share);
        if share.is_none() {
            let percent: f64 = self
                .con
                .bind(py)
                .call_method0(intern!(py, "query_progress"))?
                .extract()?;
            share = (percent >= 0.0).then_some(percent / 100.0);
        }
        let share = share.map(|share| share.min(1.0));
        // Between two statements of a work DuckDB tells of the one before.
        let of_statement = share.filter(|_| active.is_some());
        Ok(py.detach(|| connection.share_of_work(of_statement)).or(share))
    }

    /// Ends the guard and puts back everything it changed. A second call does nothing.
    pub(super) fn close(&self, py: Python<'_>) {
        let slots: Vec<Arc<Slot>> = self.cursors.lock().iter().chain([&self.main]).cloned().collect();
        for slot in slots {
            if let Some(con) = slot.con(py) {
                slot.sweep(&con);
            }
        }
        self.end(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
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

/// Whether DuckDB only binds a SELECT that it is given for a relation: before 2.0 it runs one with parameters.
fn binds_only(seat: &Seat, params: Option<&Bound<'_, PyAny>>) -> bool {
    params.is_none() || seat.slot.streams_are_safe
}

impl PyWard {
    /// Raises what DuckDB has against a statement before it runs.
    fn check<'py>(
        &self,
        py: Python<'py>,
        seat: &Seat,
        object: &Bound<'py, PyAny>,
        statement: &Statement,
        kind: Kind,
        params: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        if kind == Kind::Select && binds_only(seat, params) {
            return self.bind(py, seat, object, statement, params).map(drop);
        }
        if kind != Kind::Select && !is_planned(&statement.sql) {
            return Ok(());
        }
        let sql = PyString::new(py, &format!("EXPLAIN {}", statement.sql)).into_any();
        let planned = self.guarded(py, seat, || execute(seat.con(py), &sql, params, Kind::Counted));
        match planned {
            Ok(_) => Ok(()),
            // It was parsed before: what DuckDB's grammar does not have is an EXPLAIN of it.
            Err(error) if kind != Kind::Select && error.get_type(py).name()? == "ParserException" => Ok(()),
            Err(error) => Err(bind_error(py, error)),
        }
    }

    /// Has DuckDB plan something under the ceiling: it evaluates constant expressions, however large.
    fn guarded<T>(&self, py: Python<'_>, seat: &Seat, plan: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        let wanted = self.core.settings().ceiling;
        let mut signals = CtrlC::enter(py, self.core.guardian().signal_descriptor())?;
        let (ceiling, _) = py.detach(|| self.core.guardian().arm_ceiling(wanted));
        seat.slot.binds(true);
        let planned = plan();
        seat.slot.binds(false);
        py.detach(|| drop(ceiling));
        signals.leave(py)?;
        planned
    }

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
        if binds_only(seat, params) {
            return self
                .guarded(py, seat, || {
                    con.call_method(intern!(py, "sql"), (object,), Some(&keywords))
                })
                .map_err(|error| bind_error(py, error));
        }
        let (object, keywords) = (object.clone().unbind(), keywords.unbind());
        let mut attempt = |py: Python<'_>, original: &mut Option<PyErr>, _: How<'_>| {
            let relation =
                seat.con(py)
                    .call_method(intern!(py, "sql"), (object.bind(py),), Some(keywords.bind(py)));
            relation.map(Bound::unbind).map_err(|error| {
                let engine = engine_error(py, &error);
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

    /// The same where no statement may be run: it may be DuckDB that lets go of the last reference.
    fn end(&self, py: Python<'_>) {
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
}

impl Drop for PyWard {
    fn drop(&mut self) {
        // Putting settings back may wait for a thread of the guard that waits for the GIL.
        let _ = Python::try_attach(|py| self.end(py));
    }
}
