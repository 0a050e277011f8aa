//! How an answer is read: its state from "bound, not run" to "read", whichever shape is asked for.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use parking_lot::Mutex;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use super::answer::Answer;
use super::convert::{import_stream, interrupt_main, with_gil};
use super::error::{exception, query_exception};
use super::host::open_reader;
use super::run::{How, go_on, run, run_by};
use super::signals::CtrlC;
use super::slot::Seat;
use super::statement::Statement;
use super::ward::PyWard;
use crate::engine::{Class, EngineError, Stream};
use crate::error::{Error, ErrorKind};
use crate::fallback::ladder::Rung;
use crate::fallback::spool::{Spool, Spooled, free_space, read};
use crate::guard::Level;
use crate::guard::ceiling::Armed;
use crate::units::Bytes;
use crate::ward::{AttemptError, Failed, Outcome, Report, Ticket, Ward};

/// Rows that DuckDB works on at once; it makes no smaller batches.
const VECTOR: usize = 2048;
/// How an answer was read whose rows were fetched some at a time.
pub(super) const ROWS: &str = "fetchone() or fetchmany()";

/// Where the rows of an answer are.
pub(super) enum State {
    /// A SELECT of literals: not run, and bound only for a shape that needs their types.
    Unbound,
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
pub(super) struct Shape {
    /// The method, for messages.
    pub(super) how: &'static str,
    /// Runs a relation and converts its rows.
    pub(super) read: for<'py> fn(&Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>,
    /// The library that the conversion needs: imported first, because an import may not survive the ceiling (OpenBLAS
    /// ends the process when its buffers are refused).
    pub(super) library: Option<&'static str>,
    /// How many rows there are in it.
    pub(super) count: fn(&Bound<'_, PyAny>) -> Option<u64>,
    /// The first so many of them.
    pub(super) cut: for<'py> fn(&Bound<'py, PyAny>, u64) -> PyResult<Bound<'py, PyAny>>,
}

/// What was prepared in place of the statement, as a relation; or the relation itself.
pub(super) fn prepared_or<'py>(
    con: &Bound<'py, PyAny>,
    prepared: Option<&str>,
    relation: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    match prepared {
        Some(sql) => con.call_method1(intern!(con.py(), "sql"), (sql,)),
        None => Ok(relation.clone()),
    }
}

/// The relation with at most one row more than the cap: enough to know whether there was more.
pub(super) fn capped<'py>(relation: &Bound<'py, PyAny>, cap: Option<u64>) -> PyResult<Bound<'py, PyAny>> {
    match cap {
        Some(cap) => relation.call_method1(intern!(relation.py(), "limit"), (cap + 1,)),
        None => Ok(relation.clone()),
    }
}

/// A stream of batches that is being read.
pub(super) struct Reading {
    pub(super) schema: SchemaRef,
    pub(super) source: Source,
    pub(super) ticket: Option<Ticket>,
    pub(super) rows: u64,
    pub(super) cap: Option<u64>,
}

impl Reading {
    /// Whether there may be more than what its source gives.
    fn has_more(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::has_more)
    }
}

pub(super) enum Source {
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
    pub(super) core: Arc<Ward>,
    pub(super) seat: Seat,
    pub(super) statement: Statement,
    names: PyOnceLock<Vec<String>>,
    pub(super) state: Mutex<State>,
    pub(super) report: Mutex<Report>,
    // Last: the ward must outlive the answer, or `guard(con).sql(..)` would close it while it is read.
    pub(super) ward: Py<PyWard>,
}

pub(super) fn fault(error: PyErr, py: Python<'_>, original: &mut Option<PyErr>) -> AttemptError {
    let engine = super::error::engine_error(py, &error);
    *original = Some(error);
    AttemptError::Engine(engine)
}

pub(super) fn stream_error(error: &ArrowError) -> EngineError {
    let message = error.to_string();
    EngineError {
        class: Class::of_text(&message),
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
    pub(super) fn wrap(
        ward: &Bound<'_, PyWard>,
        seat: Seat,
        statement: Statement,
        names: Option<Vec<String>>,
        state: State,
        report: Report,
    ) -> Answer {
        let known = PyOnceLock::new();
        if let Some(names) = names {
            let _ = known.set(ward.py(), names);
        }
        let inner = Arc::new(Inner {
            core: Arc::clone(ward.get().core()),
            seat,
            statement,
            names: known,
            state: Mutex::new(state),
            report: Mutex::new(report),
            ward: ward.clone().unbind(),
        });
        Answer { inner }
    }

    /// The names of the columns.
    pub(super) fn names(&self, py: Python<'_>) -> PyResult<&[String]> {
        let names = self.names.get_or_try_init(py, || {
            self.relation(py)?
                .bind(py)
                .getattr(intern!(py, "columns"))?
                .extract::<Vec<String>>()
        })?;
        Ok(names)
    }

    /// The statement, bound.
    fn relation(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.seat.free(py)?;
        let con = self.seat.con(py);
        Ok(con
            .call_method1(intern!(py, "sql"), (&self.statement.sql,))?
            .unbind())
    }

    /// Binds what was not bound, for a shape that needs its types.
    pub(super) fn bind(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state()?;
        if matches!(&*state, State::Unbound) {
            *state = State::Lazy(self.relation(py)?);
        }
        Ok(())
    }

    /// Runs what was not bound, for its rows; None for any other answer. Leaves it to be read row by row.
    pub(super) fn run_unbound(self: &Arc<Self>, py: Python<'_>) -> PyResult<Option<Py<PyList>>> {
        let mut state = self.state()?;
        if !matches!(&*state, State::Unbound) {
            return Ok(None);
        }
        self.seat.free(py)?;
        let mut attempt = |py: Python<'_>, original: &mut Option<PyErr>, how: How<'_>| {
            let sql = how.prepared.unwrap_or(&self.statement.sql);
            self.seat
                .con(py)
                .call_method1(intern!(py, "execute"), (sql,))
                .and_then(|con| con.call_method0(intern!(py, "fetchall")))
                .and_then(|rows| Ok(rows.cast_into::<PyList>()?.unbind()))
                .map_err(|error| fault(error, py, original))
        };
        match run(py, &self.core, &self.seat, &self.statement, &mut attempt) {
            Ok((rows, ticket)) => {
                let count = rows.bind(py).len() as u64;
                *self.report.lock() = py.detach(|| ticket.finish(Some(count)));
                *state = State::Cursor(rows.bind(py).try_iter()?.into_any().unbind());
                Ok(Some(rows))
            }
            Err((failed, original)) => Err(self.failed(py, &mut state, &failed, original)),
        }
    }

    /// The state, for this thread alone. Never waits: another thread may hold it for long, and wait for the GIL.
    pub(super) fn state(&self) -> PyResult<parking_lot::MutexGuard<'_, State>> {
        self.state.try_lock().ok_or_else(|| {
            let message = "this answer is being read by another thread; read it from one thread";
            Python::attach(|py| exception(py, &Error::new(ErrorKind::State, message)))
        })
    }

    pub(super) fn failed(
        &self,
        py: Python<'_>,
        state: &mut State,
        failed: &Failed,
        original: Option<PyErr>,
    ) -> PyErr {
        *state = State::Failed(failed.error.clone());
        *self.report.lock() = failed.report.clone();
        query_exception(py, failed, original)
    }

    /// Why an answer in this state cannot be read (again).
    pub(super) fn unreadable(&self, py: Python<'_>, state: &State) -> PyErr {
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
            State::Unbound | State::Lazy(_) | State::Rows { .. } => "this answer is not read".to_owned(),
        };
        exception(py, &Error::new(ErrorKind::State, message))
    }

    /// Reads the whole answer by one of the engine's own methods.
    pub(super) fn whole<'py>(
        self: &Arc<Self>,
        py: Python<'py>,
        shape: &Shape,
    ) -> PyResult<Bound<'py, PyAny>> {
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
        let mut attempt =
            |py: Python<'_>, original: &mut Option<PyErr>, how: How<'_>| -> Result<Py<PyAny>, AttemptError> {
                let value = prepared_or(self.seat.con(py), how.prepared, relation.bind(py))
                    .and_then(|relation| capped(&relation, cap))
                    .and_then(|relation| (shape.read)(&relation));
                match value {
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
    /// because another statement on the connection would end a stream early without an error. Of one that runs in pieces it
    /// may be the first piece, where `by_piece` says so.
    pub(super) fn start(self: &Arc<Self>, py: Python<'_>, state: &mut State, by_piece: bool) -> PyResult<()> {
        let State::Lazy(relation) = &*state else {
            return Ok(());
        };
        self.claim(py)?;
        let relation = relation.clone_ref(py);
        py.import(intern!(py, "pyarrow"))?;
        let mut live = self.seat.slot.streams_are_safe;
        let mut attempt = |py: Python<'_>,
                           original: &mut Option<PyErr>,
                           how: How<'_>|
         -> Result<(SchemaRef, Source, Option<Bytes>), AttemptError> {
            // What was prepared goes with the attempt.
            live &= how.prepared.is_none();
            let mut stream = prepared_or(self.seat.con(py), how.prepared, relation.bind(py))
                .and_then(|relation| self.open(&relation, how.rung))
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
        let cap = self.core.guardian().row_cap();
        let by_piece = by_piece && cap.is_none();
        let started = run_by(
            py,
            &self.core,
            &self.seat,
            &self.statement,
            by_piece,
            &mut attempt,
        );
        let ((schema, source, on_disk), mut ticket) = match started {
            Ok(done) => done,
            Err((failed, original)) => return Err(self.failed(py, state, &failed, original)),
        };
        if let Some(bytes) = on_disk {
            ticket.spooled(bytes);
        }
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
        let more = reading.has_more();
        if !live && !more {
            self.finish(py, &mut reading);
        }
        *state = State::Stream(Box::new(reading));
        if live || more {
            self.seat.slot.opened(self);
        }
        if live && alone {
            // The rest at once: nothing else may run before its end.
            return self.detach_stream(py, state);
        }
        Ok(())
    }

    /// Makes the connection free for this answer: another one that holds it moves to memory or disk.
    pub(super) fn claim(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        self.seat.slot.sweep(self.seat.con(py));
        if let Some(open) = self.seat.slot.open().filter(|open| !Arc::ptr_eq(open, self)) {
            open.detach(py)?;
        }
        self.refuse_own_query(py)
    }

    /// A query that names an answer of its own connection would wait for itself.
    pub(super) fn refuse_own_query(&self, py: Python<'_>) -> PyResult<()> {
        if !self.seat.slot.is_busy() {
            return Ok(());
        }
        let message = "this answer has not been read, and its connection is busy with the query that reads it: \
                       take to_arrow() of it first and query that, or run one of the two on ward.cursor()";
        Err(exception(py, &Error::new(ErrorKind::State, message)))
    }

    /// The relation's stream. pyarrow is imported before the ceiling is there.
    pub(super) fn open(&self, relation: &Bound<'_, PyAny>, rung: Rung) -> PyResult<Stream> {
        let wanted = self.core.settings().batch_rows;
        let rows = if rung == Rung::AsIs {
            wanted
        } else {
            // Where memory was short, a batch of long values may not fit.
            wanted.min(VECTOR)
        };
        let reader = open_reader(relation, rows)?;
        Ok(Box::new(import_stream(&reader)?))
    }

    /// Takes the rest of a stream into memory or onto disk.
    pub(super) fn spool(
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
        self.core.guardian().arm_ceiling(wanted).0
    }

    /// The query has ended, the connection is free.
    pub(super) fn finish(&self, py: Python<'_>, reading: &mut Reading) {
        if let Some(ticket) = reading.ticket.take() {
            let rows = reading.rows;
            *self.report.lock() = py.detach(|| ticket.finish(Some(rows)));
        }
    }

    /// The next batch; none at the end.
    pub(super) fn next(self: &Arc<Self>, py: Python<'_>) -> PyResult<Option<RecordBatch>> {
        self.core.not_forked().map_err(|error| exception(py, &error))?;
        let mut state = self.state()?;
        match &*state {
            State::Rows { .. } => return Err(self.unreadable(py, &state)),
            // An iterator at its end stays there.
            State::Read("iteration") => return Ok(None),
            _ => self.start(py, &mut state, true)?,
        }
        loop {
            let batch = self.next_of(py, &mut state)?;
            if batch.is_some() {
                return Ok(batch);
            }
            let State::Stream(reading) = &mut *state else {
                return Ok(None);
            };
            if !reading.has_more() || !self.next_piece(py, &mut state)? {
                return self.ended(py, &mut state);
            }
        }
    }

    /// The answer was read to its end.
    fn ended(self: &Arc<Self>, py: Python<'_>, state: &mut State) -> PyResult<Option<RecordBatch>> {
        if let State::Stream(reading) = state {
            self.finish(py, reading);
            self.report.lock().rows = Some(reading.rows);
        }
        *state = State::Read("iteration");
        Ok(None)
    }

    /// Puts the next piece of an answer in the place of the one before; false at its end.
    fn next_piece(self: &Arc<Self>, py: Python<'_>, state: &mut State) -> PyResult<bool> {
        let State::Stream(reading) = state else {
            return Ok(false);
        };
        self.claim(py)?;
        let Some(mut ticket) = reading.ticket.take() else {
            return Ok(false);
        };
        let mut attempt =
            |py: Python<'_>, original: &mut Option<PyErr>, how: How<'_>| -> Result<Spooled, AttemptError> {
                let mut stream = self
                    .seat
                    .con(py)
                    .call_method1(intern!(py, "sql"), (how.prepared,))
                    .and_then(|relation| self.open(&relation, how.rung))
                    .map_err(|error| fault(error, py, original))?;
                let schema = stream.schema();
                let (spooled, _) = py.detach(|| self.spool(&mut stream, &schema, None))?;
                Ok(spooled)
            };
        let place = (&mut ticket, reading.rows);
        let next = go_on(py, &self.core, &self.seat, &self.statement, place, &mut attempt);
        let spooled = match next {
            Ok(spooled) => spooled,
            Err((failed, original)) => {
                // After Ctrl-C the piece itself may have been done.
                self.seat.slot.leave(ticket.give_up());
                self.seat.slot.sweep(self.seat.con(py));
                py.detach(|| drop(ticket));
                return Err(self.failed(py, state, &failed, original));
            }
        };
        let more = spooled.is_some();
        if let Some(spooled) = spooled {
            if let Some(bytes) = size_on_disk(&spooled) {
                ticket.spooled(bytes);
            }
            let batches = read(spooled).map_err(|error| exception(py, &error))?;
            reading.source = Source::Spooled(batches);
            self.seat.slot.opened(self);
        }
        reading.ticket = Some(ticket);
        Ok(more)
    }

    /// The next batch of what is there of the answer.
    fn next_of(self: &Arc<Self>, py: Python<'_>, state: &mut State) -> PyResult<Option<RecordBatch>> {
        let State::Stream(reading) = &mut *state else {
            return Err(self.unreadable(py, state));
        };
        if reading.cap.is_some_and(|cap| reading.rows >= cap) {
            return self.cut(py, state);
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
            return Err(self.interrupted(py, state, interrupt));
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
            Ok(None) => Ok(None),
            Err(error) => {
                let (mut ticket, rows) = (reading.ticket.take(), reading.rows);
                self.give_up(ticket.as_mut());
                let failed = py.detach(|| self.broke(ticket, error, rows));
                Err(self.failed(py, state, &failed, None))
            }
        }
    }

    /// What is left of an answer on the connection is removed by the next statement there.
    pub(super) fn give_up(&self, ticket: Option<&mut Ticket>) {
        if let Some(ticket) = ticket {
            self.seat.slot.leave(ticket.give_up());
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
                source,
                mut ticket,
                rows,
                ..
            } = *reading;
            self.give_up(ticket.as_mut());
            self.seat.slot.sweep(self.seat.con(py));
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

    /// What ended the reading of the answer: while the query ran, or after it.
    fn broke(&self, ticket: Option<Ticket>, error: AttemptError, rows: u64) -> Box<Failed> {
        match (ticket, error) {
            (Some(ticket), AttemptError::Engine(error)) => ticket.fail(&error, rows),
            (Some(ticket), AttemptError::Own(error)) => ticket.fail_with(error, rows),
            (None, AttemptError::Engine(error)) => {
                self.late_failure(Error::new(ErrorKind::Query, error.message))
            }
            (None, AttemptError::Own(error)) => self.late_failure(error),
        }
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
        if reading.has_more() {
            return self.gather(py, state);
        }
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
        let failed = py.detach(|| self.broke(ticket, error, rows));
        let old = std::mem::replace(&mut *state, State::Closed);
        py.detach(|| drop(old));
        self.failed(py, state, &failed, None);
        Ok(())
    }

    /// Takes the rest of an answer that is handed out piece by piece at once.
    pub(super) fn detach_pieces(self: &Arc<Self>, py: Python<'_>, state: &mut State) -> PyResult<()> {
        match &*state {
            State::Stream(reading) if reading.has_more() => self.gather(py, state),
            _ => Ok(()),
        }
    }

    /// Computes all that is left of an answer in pieces, into memory or onto disk.
    fn gather(self: &Arc<Self>, py: Python<'_>, state: &mut State) -> PyResult<()> {
        let State::Stream(reading) = &*state else {
            return Ok(());
        };
        let mut spool = Spool::new(
            Arc::clone(&reading.schema),
            &self.core.spool_directory(),
            self.core.answer_memory(),
            free_space,
        );
        loop {
            let State::Stream(reading) = &mut *state else {
                return Ok(());
            };
            let Source::Spooled(batches) = &mut reading.source else {
                return Ok(());
            };
            let pushed = py.detach(|| {
                batches.try_for_each(|batch| spool.push(batch?, self.core.level() >= Level::Warning))
            });
            if let Err(error) = pushed {
                return self.lost(py, state, error);
            }
            match self.next_piece(py, state) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => return Err(error),
                // The other statement may go on; whoever reads this answer is told.
                Err(_) => return Ok(()),
            }
        }
        let gathered = spool
            .finish()
            .and_then(|spooled| Ok((size_on_disk(&spooled), read(spooled)?)));
        match (gathered, &mut *state) {
            (Ok((on_disk, batches)), State::Stream(reading)) => {
                reading.source = Source::Spooled(batches);
                if let (Some(bytes), Some(ticket)) = (on_disk, reading.ticket.as_mut()) {
                    ticket.spooled(bytes);
                }
                self.finish(py, reading);
                Ok(())
            }
            (Err(error), _) => self.lost(py, state, error),
            (Ok(_), _) => Ok(()),
        }
    }

    /// What was left of the answer could not be kept: whoever reads it is told.
    fn lost(self: &Arc<Self>, py: Python<'_>, state: &mut State, error: Error) -> PyResult<()> {
        if let State::Stream(reading) = state {
            let (mut ticket, rows) = (reading.ticket.take(), reading.rows);
            self.give_up(ticket.as_mut());
            let failed = py.detach(|| self.broke(ticket, AttemptError::Own(error), rows));
            self.failed(py, state, &failed, None);
        }
        Ok(())
    }

    pub(super) fn report(&self) -> Report {
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

pub(super) fn size_on_disk(spooled: &Spooled) -> Option<Bytes> {
    match spooled {
        Spooled::Memory { .. } => None,
        Spooled::File { bytes, .. } => Some(*bytes),
    }
}

/// The answer as others read it, through the Arrow C stream. They call it with the GIL or without.
pub(super) struct Export {
    /// None only while it is dropped.
    pub(super) inner: Option<Arc<Inner>>,
    pub(super) schema: SchemaRef,
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
                let Reading {
                    source, mut ticket, ..
                } = *reading;
                self.give_up(ticket.as_mut());
                py.detach(|| {
                    drop(source);
                    drop(ticket);
                });
            }
        });
        let _ = &self.ward;
    }
}
