//! `ward.ingest(...)`: what a load asks of Python, and `Ingested` as Python sees it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::ask::{Asking, Stopped};
use super::convert::pyarrow_batch;
use super::error::{engine_error, exception, query_exception};
use super::guard::to_python;
use super::run::{cancelled, interrupted};
use super::signals::{CtrlC, pressed};
use super::slot::Seat;
use super::ward::PyWard;
use crate::engine::{Ask, Class, EngineError, Rows};
use crate::error::{Error, ErrorKind};
use crate::fallback::ladder::Rung;
use crate::guard::Priority;
use crate::partition::ingest::sql::{BATCH, Kind, Layout, ROW, column_name};
use crate::partition::ingest::{
    Column, Committed, Fault, Filled, Ingested, Limit, Load, Session, Shape, Steps, Wish, ingest, matched,
};
use crate::ward::{AttemptError, Cutting, Host, Job, Report, Verify};

/// How long a pause lasts before a Ctrl-C is looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// What became of a load. Made by `ward.ingest(...)`.
#[pyclass(frozen, module = "duckward", name = "Ingested")]
pub(super) struct PyIngested {
    done: Ingested,
}

#[pymethods]
impl PyIngested {
    /// The table, with its database and schema.
    #[getter]
    fn table(&self) -> &str {
        &self.done.table
    }

    /// Rows that this call inserted.
    #[getter]
    fn rows(&self) -> u64 {
        self.done.rows
    }

    /// Records that this call rejected.
    #[getter]
    fn rejected(&self) -> u64 {
        self.done.rejected
    }

    /// Batches that this call committed.
    #[getter]
    fn batches(&self) -> u64 {
        self.done.batches
    }

    /// What the load is known by.
    #[getter]
    fn token(&self) -> &str {
        &self.done.token
    }

    /// Records that earlier calls had committed, and that this one skipped; None where this call began the load.
    #[getter]
    fn resumed_from(&self) -> Option<u64> {
        self.done.resumed_from
    }

    /// Rows that all calls with this token inserted.
    #[getter]
    fn total_rows(&self) -> u64 {
        self.done.total_rows
    }

    /// Records that all of them rejected.
    #[getter]
    fn total_rejected(&self) -> u64 {
        self.done.total_rejected
    }

    /// The table of rejected records, if there is one.
    #[getter]
    fn rejects(&self) -> Option<&str> {
        self.done.rejects.as_deref()
    }

    /// Wall time of this call, in seconds.
    #[getter]
    fn seconds(&self) -> f64 {
        self.done.seconds
    }

    /// That as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.done)
    }

    fn __str__(&self) -> String {
        self.done.to_string()
    }

    fn __repr__(&self) -> String {
        format!(
            "<duckward.Ingested: {} rows into {}, {} rejected, token {}>",
            self.done.rows, self.done.table, self.done.rejected, self.done.token
        )
    }

    fn _repr_html_(&self) -> String {
        self.done.to_html()
    }
}

/// Loads what `reader` has. `seat` is a connection of the load's own.
pub(super) fn load<'py>(
    ward: &Bound<'py, PyWard>,
    user: &Seat,
    seat: Seat,
    reader: &Bound<'py, PyAny>,
    wish: &Wish,
) -> PyResult<PyIngested> {
    let py = ward.py();
    let clock = Arc::clone(ward.get().core().guardian().clock());
    let began = clock.now();
    let session = session(py, user, reader)?;
    let source = opened(reader, wish.limit.rows)?;
    let own = seat.con(py).clone();
    let mut loader = Loader {
        asking: Asking::new(ward, Some(&own)),
        seat,
        session,
        source,
        columns: Vec::new(),
        table: String::new(),
        rest: None,
        buffer: Vec::new(),
        schema: None,
        token: wish.token.clone().unwrap_or_default(),
    };
    let outcome = ingest(&mut loader, wish);
    // The load's own connection, and what it holds, goes in any case.
    let _ = own.call_method0(intern!(py, "close"));
    let mut done = outcome.map_err(|stopped| stopped.into_py(py))?;
    done.seconds = clock.now().since(began).as_secs_f64();
    Ok(PyIngested { done })
}

/// What names mean to the user's connection; none where asking it could cut a source short that reads from it. From 2.0 on DuckDB
/// refuses then, before that it does not.
fn session(py: Python<'_>, user: &Seat, reader: &Bound<'_, PyAny>) -> PyResult<Option<Session>> {
    user.free(py)?;
    let refuses = user.slot.streams_are_safe;
    if !refuses && !reader.hasattr(intern!(py, "__len__"))? {
        return Ok(None);
    }
    let con = user.con(py);
    let ask = |sql: &str| -> PyResult<Vec<Vec<String>>> {
        let method = if refuses {
            intern!(py, "sql")
        } else {
            intern!(py, "execute")
        };
        con.call_method1(method, (sql,))?
            .call_method0(intern!(py, "fetchall"))?
            .extract()
    };
    let asked = || -> PyResult<Session> {
        let here = ask("SELECT current_database(), current_schema()")?;
        let mut cells = here.into_iter().flatten();
        let temporary = ask("SELECT table_name FROM duckdb_tables() WHERE temporary")?;
        Ok(Session {
            database: cells.next().unwrap_or_default(),
            schema: cells.next().unwrap_or_default(),
            temporary: temporary.into_iter().flatten().collect(),
        })
    };
    Ok(asked().ok())
}

/// A source of what `reader` has.
fn opened<'py>(reader: &Bound<'py, PyAny>, batch_rows: u64) -> PyResult<Bound<'py, PyAny>> {
    let py = reader.py();
    let module = py.import(intern!(py, "duckward._records"))?;
    module.call_method1(intern!(py, "opened"), (reader, batch_rows)).map_err(|error| {
        let is_none = module
            .getattr(intern!(py, "SourceError"))
            .is_ok_and(|class| error.is_instance(py, &class));
        if is_none {
            let message = format!(
                "reader is {} has no records to load: give an Arrow stream or table, a data frame, or an iterator of batches or of \
                 dictionaries",
                error.value(py)
            );
            return exception(py, &Error::new(ErrorKind::Invalid, message.replace(" has no", ", which has no")));
        }
        if !error.is_instance_of::<PyException>(py) {
            return error;
        }
        let message = format!(
            "the source failed before its first record: {}. Nothing was done; mend the source",
            in_a_line(py, &error)
        );
        let told = exception(py, &Error::new(ErrorKind::Transaction, message));
        told.set_cause(py, Some(error));
        told
    })
}

/// An exception in a line: its class, unless DuckDB says it in the text, and the text.
fn in_a_line(py: Python<'_>, error: &PyErr) -> String {
    let text = error.value(py).to_string();
    let line = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    match line.split_once(" Error: ") {
        // "Conversion Error: Could not ...": what kind it is the rest says.
        Some((kind, rest)) if !kind.contains(' ') => rest.to_owned(),
        _ => match error.get_type(py).qualname() {
            Ok(class) => format!("{class}({line:?})"),
            Err(_) => line.to_owned(),
        },
    }
}

/// A schema, the columns of it that are taken, and what they are called in a batch.
type Matched<'py> = (Bound<'py, PyAny>, Vec<usize>, Vec<String>);

/// A source, the buffer of what was read of it, and the connection that it goes to.
struct Loader<'py> {
    asking: Asking<'py>,
    seat: Seat,
    session: Option<Session>,
    source: Bound<'py, PyAny>,
    /// The names of the table's columns.
    columns: Vec<String>,
    table: String,
    /// What is left of a chunk that was larger than the buffer, and its share of the chunk's bytes.
    rest: Option<(Bound<'py, PyAny>, u64)>,
    buffer: Vec<Bound<'py, PyAny>>,
    /// The last schema that was matched, and how its columns are called and which there are.
    schema: Option<Matched<'py>>,
    token: String,
}

impl<'py> Loader<'py> {
    fn py(&self) -> Python<'py> {
        self.source.py()
    }

    /// A chunk with columns in the layout of a batch.
    fn laid_out(&mut self, chunk: &Bound<'py, PyAny>) -> Result<Bound<'py, PyAny>, Stopped> {
        let py = self.py();
        let schema = chunk.getattr(intern!(py, "schema"))?;
        let known = match &self.schema {
            Some((known, ..)) => known.eq(&schema)?,
            None => false,
        };
        if !known {
            let names: Vec<String> = schema.getattr(intern!(py, "names"))?.extract()?;
            let is_ours = self.source.hasattr(intern!(py, "_convert"))?;
            let (mut taken, mut called) = (Vec::new(), Vec::new());
            if is_ours {
                taken.extend(0..names.len());
                called = names;
            } else {
                for (index, place) in matched(&names, &self.columns, &self.table)?
                    .into_iter()
                    .enumerate()
                {
                    if let Some(place) = place {
                        taken.push(index);
                        called.push(column_name(place, Kind::Arrow));
                    }
                }
            }
            self.schema = Some((schema, taken, called));
        }
        let Some((_, taken, called)) = &self.schema else {
            return Err(Error::new(ErrorKind::Internal, "a schema was lost").into());
        };
        let selected = chunk.call_method1(intern!(py, "select"), (taken.clone(),))?;
        Ok(selected.call_method1(intern!(py, "rename_columns"), (called.clone(),))?)
    }

    /// The next chunk, in the layout of a batch, and its bytes.
    fn chunk(&mut self) -> Result<Option<(Bound<'py, PyAny>, u64)>, Stopped> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        let py = self.py();
        let found = self.source.call_method0(intern!(py, "read"))?;
        if found.is_none() {
            return Ok(None);
        }
        let chunk = self.laid_out(&found)?;
        let module = py.import(intern!(py, "duckward._records"))?;
        let bytes = module.call_method1(intern!(py, "size"), (&chunk,))?.extract()?;
        Ok(Some((chunk, bytes)))
    }

    /// Whether a chunk can be put behind what is in the buffer: not where its values have other types.
    fn fits(&self, chunk: &Bound<'py, PyAny>) -> PyResult<bool> {
        let py = self.py();
        match self.buffer.last() {
            Some(last) if !self.source.hasattr(intern!(py, "_convert"))? => {
                let schema = intern!(py, "schema");
                last.getattr(schema)?.eq(chunk.getattr(schema)?)
            }
            _ => Ok(true),
        }
    }
}

fn length(chunk: &Bound<'_, PyAny>) -> PyResult<u64> {
    chunk.getattr(intern!(chunk.py(), "num_rows"))?.extract()
}

impl Loader<'_> {
    /// Gives the batch its name, or takes it away. DuckDB runs a statement for that; before 2.0 it asks for signals in it, and what
    /// their handler raises is lost. Here it is not.
    fn named(&self, call: &str, batch: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let py = self.py();
        let descriptor = self.asking.ward.get().core().guardian().signal_descriptor();
        let mut signals = CtrlC::enter(py, descriptor)?;
        let con = self.seat.con(py);
        let called = match batch {
            Some(batch) => con.call_method1(call, (BATCH, batch)),
            None => con.call_method1(call, (BATCH,)),
        };
        signals.leave(py)?;
        called.map(drop)
    }
}

impl Ask<Stopped> for Loader<'_> {
    fn ask(&mut self, sql: &str) -> Result<Rows, Stopped> {
        self.asking.ask(sql)
    }

    fn pause(&mut self, time: Duration) -> Result<(), Stopped> {
        self.asking.pause(time)
    }
}

impl Load<Stopped> for Loader<'_> {
    fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    fn shape(&mut self) -> Result<Option<Shape>, Stopped> {
        let py = self.py();
        let shape = self.source.call_method0(intern!(py, "shape"))?;
        if !shape.is_instance_of::<PyList>() {
            self.named("register", Some(shape))?;
            return Ok(None);
        }
        let found: Vec<(String, Vec<String>)> = shape.extract()?;
        let kind = |name: &String| Kind::ALL.into_iter().find(|kind| kind.name() == name);
        Ok(Some(
            found
                .into_iter()
                .map(|(name, kinds)| (name, kinds.iter().filter_map(kind).collect()))
                .collect(),
        ))
    }

    fn bind(&mut self, columns: &[Column], table: &str) -> Result<(), Stopped> {
        let py = self.py();
        self.columns = columns.iter().map(|column| column.name.clone()).collect();
        table.clone_into(&mut self.table);
        let defaults: Vec<bool> = columns.iter().map(|column| column.default.is_some()).collect();
        self.source
            .call_method1(intern!(py, "bind"), (self.columns.clone(), defaults))?;
        // A stream has columns before it has rows.
        if let Some(schema) = self.source.getattr_opt(intern!(py, "schema"))? {
            let names: Vec<String> = schema.getattr(intern!(py, "names"))?.extract()?;
            matched(&names, &self.columns, table)?;
        }
        Ok(())
    }

    fn skip(&mut self, records: u64) -> Result<u64, Stopped> {
        let skipped = self.source.call_method1(intern!(self.py(), "skip"), (records,))?;
        Ok(skipped.extract::<u64>()?)
    }

    fn fill(&mut self, limit: Limit, behind: bool) -> Result<Filled, Stopped> {
        let py = self.py();
        if !behind {
            self.buffer.clear();
            // Nothing of the batch before is held while the next one comes.
            self.named("unregister", None)?;
        }
        let clock = Arc::clone(self.asking.ward.get().core().guardian().clock());
        let began = clock.now();
        let filled = |rows, bytes, ended| Filled {
            rows,
            bytes,
            time: clock.now().since(began),
            ended,
        };
        let (mut rows, mut bytes) = (0, 0);
        loop {
            let Some((chunk, chunk_bytes)) = self.chunk()? else {
                return Ok(filled(rows, bytes, true));
            };
            let chunk_rows = length(&chunk)?;
            let room = if self.fits(&chunk)? {
                limit.room((rows, bytes), (chunk_rows, chunk_bytes))
            } else {
                0
            };
            if room == chunk_rows {
                rows += chunk_rows;
                bytes += chunk_bytes;
                self.buffer.push(chunk);
                continue;
            }
            let slice = intern!(py, "slice");
            if room > 0 {
                self.buffer.push(chunk.call_method1(slice, (0, room))?);
                rows += room;
            }
            // Not measured again: of views Arrow counts the whole buffers.
            let share =
                u128::from(chunk_bytes) * u128::from(chunk_rows - room) / u128::from(chunk_rows.max(1));
            let share = u64::try_from(share).unwrap_or(chunk_bytes);
            self.rest = Some((chunk.call_method1(slice, (room,))?, share));
            return Ok(filled(rows, bytes + (chunk_bytes - share), false));
        }
    }

    fn offer(&mut self, records: Range<u64>, first: Option<u64>) -> Result<Layout, Stopped> {
        let py = self.py();
        let joined = py
            .import(intern!(py, "duckward._records"))?
            .call_method1(intern!(py, "in_row_groups"), (PyList::new(py, &self.buffer)?,))?;
        // What was joined is not held twice, and not joined again for a part of it.
        self.buffer = vec![joined.clone()];
        let mut table =
            joined.call_method1(intern!(py, "slice"), (records.start, records.end - records.start))?;
        if let Some(first) = first {
            let first = i64::try_from(first).unwrap_or(i64::MAX);
            let count = i64::try_from(records.end - records.start).unwrap_or(i64::MAX);
            let numbers: ArrayRef =
                Arc::new(Int64Array::from_iter_values(first..first.saturating_add(count)));
            let batch = RecordBatch::try_from_iter([(ROW, numbers)])
                .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
            let column = pyarrow_batch(py, &batch)?.call_method1(intern!(py, "column"), (0,))?;
            table = table.call_method1(intern!(py, "append_column"), (ROW, column))?;
        }
        let names: Vec<String> = table.getattr(intern!(py, "column_names"))?.extract()?;
        self.named("register", Some(table))?;
        Ok(Layout::read(names.iter().map(String::as_str)))
    }

    fn transact(&mut self, steps: Steps<'_>, commit: bool, persist: bool) -> Result<(), Stopped> {
        let py = self.py();
        let core = Arc::clone(self.asking.ward.get().core());
        let mut signals = CtrlC::enter(py, core.guardian().signal_descriptor())?;
        let first = steps(&[])?.unwrap_or_default();
        let job = Job {
            sql: &first,
            interruptible: true,
            priority: Priority::Normal,
            heeds_signals: signals.heeded(),
            cutting: Cutting::Never,
            verify: Verify::default(),
            by_piece: false,
        };
        let seat = &self.seat;
        let (outcome, original) = py.detach(|| {
            let mut host = Transaction {
                seat,
                steps,
                commit,
                persist,
                original: None,
            };
            let outcome = core.run(&seat.slot.connection, &job, &mut host);
            (outcome, host.original)
        });
        let failed = match (outcome, signals.leave(py)) {
            (Ok((changed, ticket)), left) => {
                let _: Report = py.detach(|| ticket.finish(Some(changed)));
                // What is committed is committed, also where Ctrl-C was pressed meanwhile: the next statement ends.
                if let Err(interrupt) = left {
                    if !commit {
                        return Err(interrupt.into());
                    }
                    super::convert::interrupt_main(py);
                }
                return Ok(());
            }
            (Err(failed), Ok(())) => interrupted(failed, Ok(()), original),
            (Err(failed), Err(interrupt)) => (cancelled(failed.report), Some(interrupt)),
        };
        Err(query_exception(py, &failed.0, failed.1).into())
    }

    fn fault(&self, error: &Stopped) -> Fault {
        let Stopped::Python(error) = error else {
            return Fault::Other;
        };
        let py = self.py();
        match engine_error(py, error).class {
            Class::OutOfMemory => Fault::Memory,
            Class::Transaction => Fault::Conflict,
            Class::Constraint => Fault::Data,
            Class::Statement => {
                // Casts raise these; a statement that is wrong itself raises others.
                let is = |name: &str| {
                    py.import(intern!(py, "duckdb"))
                        .and_then(|duckdb| duckdb.getattr(name))
                        .is_ok_and(|class| error.is_instance(py, &class))
                };
                if is("DataError") || is("InvalidInputException") {
                    Fault::Data
                } else {
                    Fault::Other
                }
            }
            _ => Fault::Other,
        }
    }

    fn is_the_sources(&self, error: &Stopped) -> bool {
        matches!(error, Stopped::Python(error) if error.is_instance_of::<PyException>(self.py()))
    }

    fn text(&self, error: &Stopped) -> String {
        match error {
            Stopped::Own(error) => error.message().to_owned(),
            Stopped::Python(error) => in_a_line(self.py(), error),
        }
    }

    fn because(&self, error: Error, cause: Stopped) -> Stopped {
        let py = self.py();
        let told = exception(py, &error);
        told.set_cause(py, Some(cause.into_py(py)));
        Stopped::Python(told)
    }

    fn is_pressed(&self) -> bool {
        self.asking.ward.get().core().is_pressed()
    }

    fn rest(&mut self, time: Duration) -> Result<(), Stopped> {
        let py = self.py();
        let clock = Arc::clone(self.asking.ward.get().core().guardian().clock());
        let began = clock.now();
        loop {
            py.check_signals()?;
            let left = time.saturating_sub(clock.now().since(began));
            if left.is_zero() {
                return Ok(());
            }
            py.detach(|| clock.sleep(left.min(GLANCE)));
        }
    }

    fn started(&mut self, token: &str) {
        token.clone_into(&mut self.token);
    }

    fn committed(&mut self, batch: Committed) {
        let core = Arc::clone(self.asking.ward.get().core());
        let token = &self.token;
        self.py().detach(|| core.publish_batch(token, batch));
    }
}

/// One transaction of a load as the ward runs it: all of it is one attempt, under one permit.
struct Transaction<'a> {
    seat: &'a Seat,
    steps: Steps<'a>,
    commit: bool,
    persist: bool,
    original: Option<PyErr>,
}

impl Transaction<'_> {
    fn changed(&mut self, py: Python<'_>, sql: &str) -> Result<u64, AttemptError> {
        let con = self.seat.con(py);
        let run = || -> PyResult<u64> {
            con.call_method1(intern!(py, "execute"), (PyString::new(py, sql),))?;
            let rows = con.call_method0(intern!(py, "fetchall"))?;
            Ok(rows
                .get_item(0)
                .and_then(|row| row.get_item(0))
                .and_then(|count| count.extract())
                .unwrap_or(0))
        };
        run().map_err(|error| {
            let engine = engine_error(py, &error);
            self.original = Some(error);
            AttemptError::Engine(engine)
        })
    }

    /// From BEGIN to the last statement before COMMIT; the rows that its first statement changed.
    fn body(&mut self, py: Python<'_>) -> Result<u64, AttemptError> {
        self.changed(py, "BEGIN TRANSACTION")?;
        let mut done = Vec::new();
        while let Some(sql) = (self.steps)(&done)? {
            done.push(self.changed(py, &sql)?);
        }
        Ok(done.first().copied().unwrap_or(0))
    }
}

impl Host<u64> for Transaction<'_> {
    fn attempt(&mut self, _: Rung, _: Option<&str>) -> Result<u64, AttemptError> {
        Python::attach(|py| {
            let changed = self.body(py);
            let end = if changed.is_ok() && self.commit {
                "COMMIT"
            } else {
                "ROLLBACK"
            };
            if end == "COMMIT" {
                let connection = &self.seat.slot.connection;
                py.detach(|| {
                    if let Some(active) = connection.active() {
                        connection.finishes(active.query);
                    }
                });
                self.changed(py, end)?;
            } else {
                // Where there is no transaction any more there is nothing to take back.
                let _ = self.seat.con(py).call_method1(intern!(py, "execute"), (end,));
            }
            changed
        })
    }

    fn ask(&mut self, sql: &str) -> Result<Rows, EngineError> {
        Python::attach(|py| {
            let con = self.seat.con(py);
            let asked = || -> PyResult<Rows> {
                con.call_method1(intern!(py, "execute"), (sql,))?;
                let rows: Vec<Bound<'_, PyAny>> = con.call_method0(intern!(py, "fetchall"))?.extract()?;
                rows.iter().map(super::host::text_row).collect()
            };
            asked().map_err(|error| engine_error(py, &error))
        })
    }

    fn in_transaction(&mut self) -> bool {
        // As if it were: a batch that does not fit is made smaller before it is run another way.
        !self.persist
    }

    fn gave_up(&self) -> bool {
        Python::attach(|py| py.check_signals().is_err()) || pressed()
    }

    fn plan(&mut self) -> Option<String> {
        None
    }
}
