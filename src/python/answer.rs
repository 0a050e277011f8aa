//! [`Answer`]: what a statement gave, read once, in whichever shape the caller asks for.
//!
//! A SELECT is bound when `sql()` is called (so its errors, and the data frames it names, belong to that line) and runs
//! when it is first read, because only then the shape is known: each shape is DuckDB's own way to it, guarded.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use parking_lot::Mutex;
use pyo3::exceptions::{PyKeyboardInterrupt, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};

use super::convert::{export_stream, import_stream, interrupt_main, pyarrow_batch, pyarrow_schema, with_gil};
use super::error::{exception, query_exception};
use super::host::open_reader;
use super::report::PyReport;
use super::signals::CtrlC;
use super::slot::Seat;
use super::ward::{PyWard, Statement, run};
use crate::engine::{EngineError, Stream};
use crate::error::{Error, ErrorKind};
use crate::fallback::classify::class_of_text;
use crate::fallback::ladder::Rung;
use crate::fallback::spool::{Spool, Spooled, free_space, read};
use crate::guard::Level;
use crate::guard::ceiling::Armed;
use crate::units::Bytes;
use crate::ward::{AttemptError, Failed, Outcome, Report, Ticket, Ward};

/// How an answer was read whose rows were fetched some at a time.
const ROWS: &str = "fetchone() or fetchmany()";

/// Where the rows of an answer are.
enum State {
    /// Bound, not run.
    Lazy(Py<PyAny>),
    /// A few rows, made when the statement ran.
    Rows { rows: Py<PyList>, next: usize },
    /// Rows kept by the engine, read some at a time.
    Cursor(Py<PyAny>),
    /// Batches.
    Stream(Box<Reading>),
    /// Read, by this method.
    Read(&'static str),
    /// Lost, and why.
    Failed(Error),
    /// Closed.
    Closed,
}

/// A shape that the engine makes of the whole answer.
struct Shape {
    /// The method, for messages.
    how: &'static str,
    /// Runs a relation and converts its rows.
    read: for<'py> fn(&Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>,
    /// The library that the conversion needs: imported first, because an import may not survive the ceiling (OpenBLAS
    /// ends the process when its buffers are refused).
    library: Option<&'static str>,
    /// How many rows there are in it.
    count: fn(&Bound<'_, PyAny>) -> Option<u64>,
    /// The first so many of them.
    cut: for<'py> fn(&Bound<'py, PyAny>, u64) -> PyResult<Bound<'py, PyAny>>,
}

/// The relation with at most one row more than the cap: enough to know whether there was more.
fn capped<'py>(relation: &Bound<'py, PyAny>, cap: Option<u64>) -> PyResult<Bound<'py, PyAny>> {
    match cap {
        Some(cap) => relation.call_method1(intern!(relation.py(), "limit"), (cap + 1,)),
        None => Ok(relation.clone()),
    }
}

/// A stream of batches that is being read.
struct Reading {
    schema: SchemaRef,
    source: Source,
    ticket: Option<Ticket>,
    rows: u64,
    cap: Option<u64>,
}

enum Source {
    /// From the engine; the connection is busy until its end. The first batch came with the attempt.
    Live {
        stream: Stream,
        first: Option<RecordBatch>,
    },
    /// From memory or from disk; the connection is free.
    Spooled(Box<dyn Iterator<Item = crate::error::Result<RecordBatch>> + Send>),
}

/// What the answer and the connection's slot share.
pub(super) struct Inner {
    core: Arc<Ward>,
    seat: Seat,
    statement: Statement,
    names: Vec<String>,
    state: Mutex<State>,
    report: Mutex<Report>,
    // Last: the ward must outlive the answer, or `guard(con).sql(..)` would close it while it is read.
    ward: Py<PyWard>,
}

/// An answer. Iterate it for `pyarrow.RecordBatch`es, or take the whole with `to_arrow()`, `df()`, `pl()`, `fetchall()`.
/// It can be read once.
#[pyclass(frozen, module = "duckward", weakref)]
pub(super) struct Answer {
    inner: Arc<Inner>,
}

fn fault(error: PyErr, py: Python<'_>, original: &mut Option<PyErr>) -> AttemptError {
    let engine = super::error::engine_error(py, &error);
    *original = Some(error);
    AttemptError::Engine(engine)
}

fn stream_error(error: &ArrowError) -> EngineError {
    let message = error.to_string();
    EngineError {
        class: class_of_text(&message),
        message: own_message(&message).to_owned(),
    }
}

/// DuckDB's own message inside one that an interface put around it.
fn own_message(message: &str) -> &str {
    match message.find(" Error: ") {
        Some(at) => {
            let start = message[..at].rfind(": ").map_or(0, |colon| colon + 2);
            &message[start..]
        }
        None => message,
    }
}

impl Inner {
    fn wrap(
        ward: &Bound<'_, PyWard>,
        seat: Seat,
        statement: Statement,
        names: Vec<String>,
        state: State,
        report: Report,
    ) -> Answer {
        let inner = Arc::new(Inner {
            core: Arc::clone(ward.get().core()),
            seat,
            statement,
            names,
            state: Mutex::new(state),
            report: Mutex::new(report),
            ward: ward.clone().unbind(),
        });
        Answer { inner }
    }

    /// The state, for this thread alone. Never waits: another thread may hold it for long, and wait for the GIL.
    fn state(&self) -> PyResult<parking_lot::MutexGuard<'_, State>> {
        self.state.try_lock().ok_or_else(|| {
            let message = "this answer is being read by another thread; read it from one thread";
            Python::attach(|py| exception(py, &Error::new(ErrorKind::State, message)))
        })
    }

    fn failed(&self, py: Python<'_>, state: &mut State, failed: &Failed, original: Option<PyErr>) -> PyErr {
        *state = State::Failed(failed.error.clone());
        *self.report.lock() = failed.report.clone();
        query_exception(py, failed, original)
    }

    /// Why an answer in this state cannot be read (again).
    fn unreadable(&self, py: Python<'_>, state: &State) -> PyErr {
        let message = match state {
            State::Failed(error) => return exception(py, error),
            State::Closed => "this answer is closed; run the query again".to_owned(),
            State::Read(how) => {
                format!("this answer was already read by {how}; keep what that gave, or run the query again")
            }
            State::Stream(_) | State::Cursor(_) => {
                "some of this answer was already read; go on in the same way, or run the query again"
                    .to_owned()
            }
            State::Lazy(_) | State::Rows { .. } => "this answer is not read".to_owned(),
        };
        exception(py, &Error::new(ErrorKind::State, message))
    }

    /// Reads the whole answer by one of the engine's own methods.
    fn whole<'py>(self: &Arc<Self>, py: Python<'py>, shape: &Shape) -> PyResult<Bound<'py, PyAny>> {
        let mut state = self.state()?;
        let State::Lazy(relation) = &*state else {
            return Err(self.unreadable(py, &state));
        };
        self.claim(py)?;
        let relation = relation.clone_ref(py);
        if let Some(library) = shape.library {
            // Where it is missing, DuckDB says so.
            let _ = py.import(library);
        }
        let cap = self.core.guardian().row_cap();
        let mut attempt = |py: Python<'_>, original: &mut Option<PyErr>| -> Result<Py<PyAny>, AttemptError> {
            match capped(relation.bind(py), cap).and_then(|relation| (shape.read)(&relation)) {
                Ok(value) => Ok(value.unbind()),
                Err(error) => Err(fault(error, py, original)),
            }
        };
        let (value, mut ticket) = match run(py, &self.core, &self.seat, &self.statement, &mut attempt) {
            Ok(done) => done,
            Err((failed, original)) => return Err(self.failed(py, &mut state, &failed, original)),
        };
        let mut value = value.into_bound(py);
        let mut rows = (shape.count)(&value);
        if let (Some(cap), Some(counted)) = (cap, rows)
            && counted > cap
        {
            value = (shape.cut)(&value, cap)?;
            rows = Some(cap);
            ticket.truncated();
        }
        *self.report.lock() = py.detach(|| ticket.finish(rows));
        *state = State::Read(shape.how);
        Ok(value)
    }

    /// Starts the stream: runs the query up to its first batch. Before DuckDB 2.0 the whole answer is taken at once,
    /// because another statement on the connection would end a stream early without an error.
    fn start(self: &Arc<Self>, py: Python<'_>, state: &mut State) -> PyResult<()> {
        let State::Lazy(relation) = &*state else {
            return Ok(());
        };
        self.claim(py)?;
        let relation = relation.clone_ref(py);
        py.import(intern!(py, "pyarrow"))?;
        let live = self.seat.slot.streams_are_safe;
        let mut attempt = |py: Python<'_>,
                           original: &mut Option<PyErr>|
         -> Result<(SchemaRef, Source, Option<Bytes>), AttemptError> {
            let mut stream = self
                .open(relation.bind(py))
                .map_err(|error| fault(error, py, original))?;
            let schema = stream.schema();
            if live {
                let first = py
                    .detach(|| stream.next())
                    .transpose()
                    .map_err(|error| stream_error(&error))?;
                return Ok((schema, Source::Live { stream, first }, None));
            }
            let (spooled, _) = py.detach(|| self.spool(&mut stream, &schema, None))?;
            let bytes = size_on_disk(&spooled);
            Ok((schema, Source::Spooled(read(spooled)?), bytes))
        };
        let ((schema, source, on_disk), mut ticket) =
            match run(py, &self.core, &self.seat, &self.statement, &mut attempt) {
                Ok(done) => done,
                Err((failed, original)) => return Err(self.failed(py, state, &failed, original)),
            };
        if let Some(bytes) = on_disk {
            ticket.spooled(bytes);
        }
        let cap = self.core.guardian().row_cap();
        let mut reading = Reading {
            schema,
            source,
            ticket: Some(ticket),
            rows: 0,
            cap,
        };
        let alone = reading
            .ticket
            .as_ref()
            .is_some_and(|ticket| ticket.rung() > Rung::AsIs);
        if !live {
            self.finish(py, &mut reading);
        }
        *state = State::Stream(Box::new(reading));
        if live {
            self.seat.slot.opened(self);
        }
        if live && alone {
            // The rest at once: nothing else may run before its end.
            return self.detach_stream(py, state);
        }
        Ok(())
    }

    /// Makes the connection free for this answer: another one that holds it moves to memory or disk.
    fn claim(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        if let Some(open) = self.seat.slot.open().filter(|open| !Arc::ptr_eq(open, self)) {
            open.detach(py)?;
        }
        self.refuse_own_query(py)
    }

    /// A query that names an answer of its own connection would wait for itself.
    fn refuse_own_query(&self, py: Python<'_>) -> PyResult<()> {
        if !self.seat.slot.is_busy() {
            return Ok(());
        }
        let message = "this answer has not been read, and its connection is busy with the query that reads it: \
                       take to_arrow() of it first and query that, or run one of the two on ward.cursor()";
        Err(exception(py, &Error::new(ErrorKind::State, message)))
    }

    /// The relation's stream. pyarrow is imported before the ceiling is there.
    fn open(&self, relation: &Bound<'_, PyAny>) -> PyResult<Stream> {
        let reader = open_reader(relation, self.core.settings().batch_rows)?;
        Ok(Box::new(import_stream(&reader)?))
    }

    /// Takes the rest of a stream into memory or onto disk.
    fn spool(
        &self,
        stream: &mut Stream,
        schema: &SchemaRef,
        first: Option<RecordBatch>,
    ) -> Result<(Spooled, u64), AttemptError> {
        let _ceiling = self.ceiling();
        let directory = self.core.spool_directory();
        let mut spool = Spool::new(
            Arc::clone(schema),
            &directory,
            self.core.answer_memory(),
            free_space,
        );
        if let Some(first) = first {
            spool.push(first, false)?;
        }
        for batch in stream {
            let batch = batch.map_err(|error| stream_error(&error))?;
            spool.push(batch, self.core.level() >= Level::Warning)?;
        }
        let rows = spool.rows();
        Ok((spool.finish()?, rows))
    }

    /// Holds the process to the limit during a call into the engine.
    fn ceiling(&self) -> Option<Armed> {
        let wanted = self.core.settings().ceiling;
        self.core.guardian().arm_ceiling(wanted)
    }

    /// The query has ended, the connection is free.
    fn finish(&self, py: Python<'_>, reading: &mut Reading) {
        if let Some(ticket) = reading.ticket.take() {
            let rows = reading.rows;
            *self.report.lock() = py.detach(|| ticket.finish(Some(rows)));
        }
    }

    /// The next batch; none at the end.
    fn next(self: &Arc<Self>, py: Python<'_>) -> PyResult<Option<RecordBatch>> {
        self.core.not_forked().map_err(|error| exception(py, &error))?;
        let mut state = self.state()?;
        match &*state {
            State::Rows { .. } => return Err(self.unreadable(py, &state)),
            // An iterator at its end stays there.
            State::Read("iteration") => return Ok(None),
            _ => self.start(py, &mut state)?,
        }
        let State::Stream(reading) = &mut *state else {
            return Err(self.unreadable(py, &state));
        };
        if reading.cap.is_some_and(|cap| reading.rows >= cap) {
            return self.cut(py, &mut state);
        }
        let mut signals = CtrlC::enter(py, self.core.guardian().signal_descriptor())?;
        let item = match &mut reading.source {
            Source::Live { stream, first } => match first.take() {
                Some(batch) => Ok(Some(batch)),
                None => py
                    .detach(|| {
                        let _ceiling = self.ceiling();
                        stream.next()
                    })
                    .transpose()
                    .map_err(|error| AttemptError::Engine(stream_error(&error))),
            },
            Source::Spooled(batches) => py
                .detach(|| batches.next())
                .transpose()
                .map_err(AttemptError::Own),
        };
        if let Err(interrupt) = signals.leave(py) {
            return Err(self.interrupted(py, &mut state, interrupt));
        }
        match item {
            Ok(Some(batch)) => {
                let room = reading.cap.map_or(u64::MAX, |cap| cap - reading.rows);
                let batch = match usize::try_from(room) {
                    Ok(room) if room < batch.num_rows() => batch.slice(0, room),
                    _ => batch,
                };
                reading.rows += batch.num_rows() as u64;
                self.report.lock().rows = Some(reading.rows);
                Ok(Some(batch))
            }
            Ok(None) => {
                self.finish(py, reading);
                self.report.lock().rows = Some(reading.rows);
                *state = State::Read("iteration");
                Ok(None)
            }
            Err(error) => {
                let (ticket, rows) = (reading.ticket.take(), reading.rows);
                let failed = py.detach(|| match (ticket, error) {
                    (Some(ticket), AttemptError::Engine(error)) => ticket.fail(&error, rows),
                    (Some(ticket), AttemptError::Own(error)) => ticket.fail_with(error, rows),
                    (None, AttemptError::Engine(error)) => {
                        self.late_failure(Error::new(ErrorKind::Query, error.message))
                    }
                    (None, AttemptError::Own(error)) => self.late_failure(error),
                });
                Err(self.failed(py, &mut state, &failed, None))
            }
        }
    }

    /// Ctrl-C while the answer was read: the rest of it is given up.
    fn interrupted(&self, py: Python<'_>, state: &mut State, interrupt: PyErr) -> PyErr {
        let old = std::mem::replace(
            state,
            State::Failed(Error::new(ErrorKind::Cancelled, "cancelled by Ctrl-C")),
        );
        if let State::Stream(reading) = old {
            let Reading {
                source, ticket, rows, ..
            } = *reading;
            let report = py.detach(|| {
                drop(source);
                ticket.map(|ticket| {
                    ticket
                        .fail_with(Error::new(ErrorKind::Cancelled, "cancelled by Ctrl-C"), rows)
                        .report
                })
            });
            if let Some(report) = report {
                *self.report.lock() = report;
            }
        }
        interrupt
    }

    /// A failure after the query itself had ended (its spool does not read back).
    fn late_failure(&self, error: Error) -> Box<Failed> {
        let mut report = self.report.lock().clone();
        report.outcome = Outcome::Failed(error.kind());
        Box::new(Failed {
            error,
            failure: None,
            stop: None,
            report,
        })
    }

    /// The answer ends at the row cap: marked, and whether there was more is found out first.
    fn cut(self: &Arc<Self>, py: Python<'_>, state: &mut State) -> PyResult<Option<RecordBatch>> {
        if let State::Stream(reading) = state {
            let more = match &mut reading.source {
                Source::Live { stream, .. } => py.detach(|| stream.next()).is_some(),
                Source::Spooled(batches) => py.detach(|| batches.next()).is_some(),
            };
            if let Some(ticket) = reading.ticket.as_mut().filter(|_| more) {
                ticket.truncated();
            }
            self.finish(py, reading);
            self.report.lock().truncated = more;
        }
        *state = State::Read("iteration");
        Ok(None)
    }

    /// Frees the connection for another statement: what is left of a live stream moves to memory or disk.
    pub(super) fn detach(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state()?;
        self.detach_stream(py, &mut state)
    }

    fn detach_stream(self: &Arc<Self>, py: Python<'_>, state: &mut State) -> PyResult<()> {
        let State::Stream(reading) = &mut *state else {
            return Ok(());
        };
        let Source::Live { stream, first } = &mut reading.source else {
            return Ok(());
        };
        let schema = Arc::clone(&reading.schema);
        let first = first.take();
        let mut signals = CtrlC::enter(py, self.core.guardian().signal_descriptor())?;
        let spooled = py.detach(|| self.spool(stream, &schema, first));
        if let Err(interrupt) = signals.leave(py) {
            return Err(self.interrupted(py, state, interrupt));
        }
        let error = match spooled.and_then(|(spooled, _)| Ok((size_on_disk(&spooled), read(spooled)?))) {
            Ok((on_disk, batches)) => {
                let old = std::mem::replace(&mut reading.source, Source::Spooled(batches));
                py.detach(|| drop(old));
                if let (Some(bytes), Some(ticket)) = (on_disk, reading.ticket.as_mut()) {
                    ticket.spooled(bytes);
                }
                self.finish(py, reading);
                return Ok(());
            }
            Err(error) => error,
        };
        // The other statement may go on; whoever reads this answer is told.
        let (ticket, rows) = (reading.ticket.take(), reading.rows);
        let failed = py.detach(|| match (ticket, error) {
            (Some(ticket), AttemptError::Engine(error)) => ticket.fail(&error, rows),
            (Some(ticket), AttemptError::Own(error)) => ticket.fail_with(error, rows),
            (None, AttemptError::Engine(error)) => {
                self.late_failure(Error::new(ErrorKind::Query, error.message))
            }
            (None, AttemptError::Own(error)) => self.late_failure(error),
        });
        let old = std::mem::replace(&mut *state, State::Closed);
        py.detach(|| drop(old));
        self.failed(py, state, &failed, None);
        Ok(())
    }

    fn report(&self) -> Report {
        if let Some(state) = self.state.try_lock()
            && let State::Stream(reading) = &*state
            && let Some(ticket) = &reading.ticket
        {
            return Report {
                rows: Some(reading.rows),
                ..ticket.report()
            };
        }
        self.report.lock().clone()
    }
}

fn size_on_disk(spooled: &Spooled) -> Option<Bytes> {
    match spooled {
        Spooled::Memory { .. } => None,
        Spooled::File { bytes, .. } => Some(*bytes),
    }
}

impl Answer {
    /// A SELECT: bound, not run.
    pub(super) fn lazy(
        ward: &Bound<'_, PyWard>,
        seat: Seat,
        statement: Statement,
        relation: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        Answer::of_relation(ward, seat, statement, relation, Report::default())
    }

    /// What `relation` gives when it is read.
    pub(super) fn of_relation(
        ward: &Bound<'_, PyWard>,
        seat: Seat,
        statement: Statement,
        relation: &Bound<'_, PyAny>,
        report: Report,
    ) -> PyResult<Self> {
        let names = relation.getattr(intern!(relation.py(), "columns"))?.extract()?;
        let state = State::Lazy(relation.clone().unbind());
        Ok(Inner::wrap(ward, seat, statement, names, state, report))
    }

    /// Another statement, run to its end; `rows` is what it said.
    pub(super) fn rows(
        ward: &Bound<'_, PyWard>,
        seat: &Seat,
        statement: Statement,
        names: Vec<String>,
        rows: Bound<'_, PyList>,
        report: Report,
    ) -> Self {
        Inner::wrap(
            ward,
            seat.held(ward.py()),
            statement,
            names,
            State::Rows {
                rows: rows.unbind(),
                next: 0,
            },
            report,
        )
    }

    /// The rest of the rows of a statement that was run to its end, and None for any other answer.
    fn remaining<'py>(&self, py: Python<'py>, how: &'static str) -> PyResult<Option<Bound<'py, PyList>>> {
        let mut state = self.inner.state()?;
        let State::Rows { rows, next } = &*state else {
            return Ok(None);
        };
        let rows = rows.bind(py);
        let rest = rows.get_slice(*next, rows.len());
        *state = State::Read(how);
        Ok(Some(rest))
    }

    fn fetch<'py>(&self, py: Python<'py>, size: usize) -> PyResult<Bound<'py, PyList>> {
        let inner = &self.inner;
        {
            let mut state = inner.state()?;
            if let State::Rows { rows, next } = &mut *state {
                let rows = rows.bind(py);
                let end = next.saturating_add(size).min(rows.len());
                let part = rows.get_slice(*next, end);
                *next = end;
                return Ok(part);
            }
            if let State::Read(ROWS) = &*state {
                return Ok(PyList::empty(py));
            }
            if let State::Lazy(relation) = &*state {
                inner.claim(py)?;
                let relation = relation.clone_ref(py);
                let mut attempt = |py: Python<'_>, original: &mut Option<PyErr>| {
                    row_cursor(relation.bind(py))
                        .map(Bound::unbind)
                        .map_err(|error| fault(error, py, original))
                };
                match run(py, &inner.core, &inner.seat, &inner.statement, &mut attempt) {
                    Ok((cursor, ticket)) => {
                        // The engine keeps the rows; the connection is free.
                        *inner.report.lock() = py.detach(|| ticket.finish(None));
                        *state = State::Cursor(cursor);
                    }
                    Err((failed, original)) => return Err(inner.failed(py, &mut state, &failed, original)),
                }
            }
            let State::Cursor(cursor) = &*state else {
                return Err(inner.unreadable(py, &state));
            };
            let part = next_rows(cursor.bind(py), size)?;
            if part.len() < size {
                *state = State::Read(ROWS);
            }
            Ok(part)
        }
    }
}

/// Something that gives rows some at a time while the connection is free.
fn row_cursor<'py>(relation: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = relation.py();
    let modern = intern!(py, "iter_rows");
    if relation.hasattr(modern)? {
        let rows = relation.call_method0(modern)?.try_iter()?;
        // A generator runs nothing before its first row; the attempt must.
        return py
            .import(intern!(py, "duckward._rows"))?
            .call_method1("started", (rows,));
    }
    relation.call_method0(intern!(py, "execute"))
}

fn next_rows<'py>(cursor: &Bound<'py, PyAny>, size: usize) -> PyResult<Bound<'py, PyList>> {
    let py = cursor.py();
    let many = intern!(py, "fetchmany");
    if cursor.hasattr(many)? {
        return Ok(cursor.call_method1(many, (size,))?.cast_into()?);
    }
    let part = PyList::empty(py);
    for row in cursor.try_iter()?.take(size) {
        part.append(row?)?;
    }
    Ok(part)
}

fn length(value: &Bound<'_, PyAny>) -> Option<u64> {
    value.len().ok().map(|rows| rows as u64)
}

#[pymethods]
impl Answer {
    /// The names of the columns.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.inner.names.clone()
    }

    /// The `pyarrow.Schema`. Does not read the answer: of a query that has not run, DuckDB is asked for no rows of it.
    #[getter]
    fn schema<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let state = self.inner.state()?;
        match &*state {
            State::Lazy(relation) => {
                self.inner.refuse_own_query(py)?;
                let none = relation.bind(py).call_method1(intern!(py, "limit"), (0,))?;
                let schema = none
                    .call_method0(intern!(py, "to_arrow_table"))?
                    .getattr(intern!(py, "schema"))?;
                // As a subquery its columns got names of their own, where two had the same.
                let rows = py.import(intern!(py, "duckward._rows"))?;
                rows.call_method1("renamed", (schema, &self.inner.names))
            }
            State::Rows { rows, .. } => {
                rows_as(py, "table", rows.bind(py), &self.inner.names)?.getattr(intern!(py, "schema"))
            }
            State::Stream(reading) => pyarrow_schema(py, &reading.schema),
            other => Err(self.inner.unreadable(py, other)),
        }
    }

    /// What happened to the query, so far.
    #[getter]
    fn report(&self) -> PyReport {
        PyReport::new(self.inner.report())
    }

    fn __iter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let inner = &slf.get().inner;
        {
            let state = inner.state()?;
            if !matches!(&*state, State::Lazy(_) | State::Rows { .. } | State::Stream(_)) {
                // An empty loop would look like an empty answer.
                return Err(inner.unreadable(slf.py(), &state));
            }
        }
        Ok(slf)
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(rows) = self.remaining(py, "iteration")? {
            return rows_as(py, "batch", &rows, &self.inner.names);
        }
        match self.inner.next(py)? {
            Some(batch) => pyarrow_batch(py, &batch),
            None => Err(PyStopIteration::new_err(())),
        }
    }

    /// The answer as an Arrow C stream, batch by batch, for pyarrow, polars, DuckDB and every other Arrow library.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(rows) = self.remaining(py, "__arrow_c_stream__()")? {
            let table = rows_as(py, "table", &rows, &self.inner.names)?;
            return table.call_method1(intern!(py, "__arrow_c_stream__"), (requested_schema,));
        }
        // The protocol lets a producer ignore a schema that it does not cast to.
        let _ = requested_schema;
        let mut state = self.inner.state()?;
        if !matches!(&*state, State::Lazy(_) | State::Stream(_)) {
            return Err(self.inner.unreadable(py, &state));
        }
        self.inner.start(py, &mut state)?;
        let State::Stream(reading) = &*state else {
            return Err(self.inner.unreadable(py, &state));
        };
        let schema = Arc::clone(&reading.schema);
        drop(state);
        let export = Export {
            inner: Some(Arc::clone(&self.inner)),
            schema,
        };
        Ok(export_stream(py, Box::new(export))?.into_any())
    }

    /// The whole answer as a `pyarrow.Table`. One that does not fit into the room there is comes as a table over a
    /// memory-mapped file, which is removed when the table is dropped.
    fn to_arrow<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(rows) = self.remaining(py, "to_arrow()")? {
            return rows_as(py, "table", &rows, &self.inner.names);
        }
        let inner = &self.inner;
        let mut state = inner.state()?;
        if let State::Stream(reading) = &*state {
            let schema = Arc::clone(&reading.schema);
            drop(state);
            return self.rest_as_table(py, &schema);
        }
        let State::Lazy(relation) = &*state else {
            return Err(inner.unreadable(py, &state));
        };
        inner.claim(py)?;
        let relation = relation.clone_ref(py);
        py.import(intern!(py, "pyarrow"))?;
        let cap = inner.core.guardian().row_cap();
        let mut attempt = |py: Python<'_>,
                           original: &mut Option<PyErr>|
         -> Result<(SchemaRef, Spooled, u64), AttemptError> {
            let mut stream = capped(relation.bind(py), cap)
                .and_then(|relation| inner.open(&relation))
                .map_err(|error| fault(error, py, original))?;
            let schema = stream.schema();
            let (spooled, rows) = py.detach(|| {
                let spooled = inner.spool(&mut stream, &schema, None);
                drop(stream);
                spooled
            })?;
            Ok((schema, spooled, rows))
        };
        let ((schema, spooled, mut rows), mut ticket) =
            match run(py, &inner.core, &inner.seat, &inner.statement, &mut attempt) {
                Ok(done) => done,
                Err((failed, original)) => return Err(inner.failed(py, &mut state, &failed, original)),
            };
        if let Some(bytes) = size_on_disk(&spooled) {
            ticket.spooled(bytes);
        }
        let mut table = spooled_table(py, &schema, spooled)?;
        if let Some(cap) = cap.filter(|cap| rows > *cap) {
            table = table.call_method1(intern!(py, "slice"), (0, cap))?;
            rows = cap;
            ticket.truncated();
        }
        *inner.report.lock() = py.detach(|| ticket.finish(Some(rows)));
        *state = State::Read("to_arrow()");
        Ok(table)
    }

    /// The whole answer as a `pandas.DataFrame`, by DuckDB's own conversion.
    fn df<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(rows) = self.remaining(py, "df()")? {
            return rows_as(py, "frame", &rows, &self.inner.names);
        }
        self.inner.whole(
            py,
            &Shape {
                how: "df()",
                library: Some("pandas"),
                read: |relation| relation.call_method0(intern!(relation.py(), "df")),
                count: length,
                cut: |frame, cap| frame.call_method1("head", (cap,)),
            },
        )
    }

    /// The whole answer as a `polars.DataFrame`, by DuckDB's own conversion.
    fn pl<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(rows) = self.remaining(py, "pl()")? {
            return rows_as(py, "polars", &rows, &self.inner.names);
        }
        self.inner.whole(
            py,
            &Shape {
                how: "pl()",
                library: Some("polars"),
                read: |relation| relation.call_method0(intern!(relation.py(), "pl")),
                count: length,
                cut: |frame, cap| frame.call_method1("head", (cap,)),
            },
        )
    }

    /// The whole answer as a dictionary of numpy arrays, by DuckDB's own conversion.
    fn fetchnumpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(rows) = self.remaining(py, "fetchnumpy()")? {
            return rows_as(py, "numpy", &rows, &self.inner.names);
        }
        self.inner.whole(
            py,
            &Shape {
                how: "fetchnumpy()",
                library: Some("numpy"),
                read: |relation| relation.call_method0(intern!(relation.py(), "fetchnumpy")),
                count: |columns| {
                    columns
                        .call_method0("values")
                        .ok()?
                        .try_iter()
                        .ok()?
                        .next()?
                        .ok()
                        .as_ref()
                        .and_then(length)
                },
                cut: |columns, cap| {
                    columns
                        .py()
                        .import("duckward._rows")?
                        .call_method1("cut_arrays", (columns, cap))
                },
            },
        )
    }

    /// All rows, or all that `fetchone()` and `fetchmany()` left, as a list of tuples.
    fn fetchall<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(rows) = self.remaining(py, "fetchall()")? {
            return Ok(rows.into_any());
        }
        if matches!(&*self.inner.state()?, State::Read(ROWS)) {
            return Ok(PyList::empty(py).into_any());
        }
        if matches!(&*self.inner.state()?, State::Cursor(_)) {
            return Ok(self.fetch(py, isize::MAX.unsigned_abs())?.into_any());
        }
        self.inner.whole(
            py,
            &Shape {
                how: "fetchall()",
                library: None,
                read: |relation| relation.call_method0(intern!(relation.py(), "fetchall")),
                count: length,
                cut: |rows, cap| {
                    let cap = usize::try_from(cap).unwrap_or(usize::MAX);
                    Ok(rows.cast::<PyList>()?.get_slice(0, cap).into_any())
                },
            },
        )
    }

    /// The next row as a tuple; None at the end.
    fn fetchone<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let rows = self.fetch(py, 1)?;
        if rows.is_empty() {
            Ok(None)
        } else {
            rows.get_item(0).map(Some)
        }
    }

    /// The next `size` rows as a list of tuples; fewer at the end.
    #[pyo3(signature = (size=1))]
    fn fetchmany<'py>(&self, py: Python<'py>, size: usize) -> PyResult<Bound<'py, PyList>> {
        self.fetch(py, size)
    }

    /// Gives up the rest of the answer and frees the connection. A second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.inner.state()?;
        let old = std::mem::replace(&mut *state, State::Closed);
        if let State::Stream(mut reading) = old {
            let ticket = reading.ticket.take();
            let mut report = ticket.as_ref().map(Ticket::report);
            py.detach(|| {
                // The stream first: the connection is free only after it.
                drop(reading);
                drop(ticket);
            });
            if let Some(report) = &mut report {
                report.outcome = Outcome::Closed;
                *self.inner.report.lock() = report.clone();
            }
        } else if !matches!(old, State::Lazy(_) | State::Rows { .. } | State::Cursor(_)) {
            *state = old;
        }
        Ok(())
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let report = self.inner.report();
        format!(
            "<duckward.Answer: {}; columns {}>",
            report.outcome,
            self.inner.names.join(", ")
        )
    }

    fn _repr_html_(&self) -> String {
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
        let columns: Vec<String> = self
            .inner
            .names
            .iter()
            .map(|name| format!("<code>{}</code>", escape(name)))
            .collect();
        format!(
            "<p>duckward.Answer with columns {}: iterate it, or call df(), pl(), to_arrow() or fetchall().</p>{}",
            columns.join(", "),
            self.inner.report().to_html()
        )
    }
}

impl Answer {
    /// What is left of a stream that was begun, as a table.
    fn rest_as_table<'py>(&self, py: Python<'py>, schema: &SchemaRef) -> PyResult<Bound<'py, PyAny>> {
        let core = &self.inner.core;
        let mut spool = Spool::new(
            Arc::clone(schema),
            &core.spool_directory(),
            core.answer_memory(),
            free_space,
        );
        let told = |error| exception(py, &error);
        while let Some(batch) = self.inner.next(py)? {
            py.detach(|| spool.push(batch, core.level() >= Level::Warning))
                .map_err(told)?;
        }
        let spooled = py.detach(|| spool.finish()).map_err(told)?;
        self.inner.report.lock().spooled = size_on_disk(&spooled);
        spooled_table(py, schema, spooled)
    }
}

/// A few Python rows in another shape; see `duckward/_rows.py`.
fn rows_as<'py>(
    py: Python<'py>,
    shape: &str,
    rows: &Bound<'py, PyList>,
    names: &[String],
) -> PyResult<Bound<'py, PyAny>> {
    py.import(intern!(py, "duckward._rows"))?
        .call_method1(shape, (rows, names.to_vec()))
}

/// A spooled answer as a `pyarrow.Table`.
fn spooled_table<'py>(py: Python<'py>, schema: &SchemaRef, spooled: Spooled) -> PyResult<Bound<'py, PyAny>> {
    let pyarrow = py.import(intern!(py, "pyarrow"))?;
    match spooled {
        Spooled::Memory { batches } => {
            let list = PyList::empty(py);
            for batch in &batches {
                list.append(pyarrow_batch(py, batch)?)?;
            }
            let table: Bound<'_, PyType> = pyarrow.getattr("Table")?.cast_into()?;
            table.call_method1("from_batches", (list, pyarrow_schema(py, schema)?))
        }
        // The file loses its name as soon as it is mapped: it goes with the table, even if the process is killed.
        Spooled::File { path, .. } => {
            let rows = py.import(intern!(py, "duckward._rows"))?;
            rows.call_method1("mapped_table", (path.as_os_str(),))
        }
    }
}

/// The answer as others read it, through the Arrow C stream. They call it with the GIL or without.
struct Export {
    /// None only while it is dropped.
    inner: Option<Arc<Inner>>,
    schema: SchemaRef,
}

impl Iterator for Export {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let inner = self.inner.as_ref()?;
        with_gil(|py| {
            let batch = inner.next(py).map_err(|error| {
                if error.is_instance_of::<PyKeyboardInterrupt>(py) {
                    // The text goes through the interface; the exception comes after it.
                    interrupt_main(py);
                }
                ArrowError::ExternalError(error.to_string().into())
            });
            batch.transpose()
        })
        .flatten()
    }
}

impl RecordBatchReader for Export {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let inner = self.inner.take();
        // The last owner of an answer lets go of Python objects.
        let mut inner = inner;
        if with_gil(|_| drop(inner.take())).is_none() {
            // Without an interpreter there is nobody to give them back to.
            std::mem::forget(inner);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = std::mem::replace(self.state.get_mut(), State::Closed);
        // Ending a query may wait for an interrupt that waits for the GIL.
        let _ = Python::try_attach(|py| {
            if let State::Stream(reading) = state {
                let Reading { source, ticket, .. } = *reading;
                py.detach(|| {
                    drop(source);
                    drop(ticket);
                });
            }
        });
        let _ = &self.ward;
    }
}
