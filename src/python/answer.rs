//! [`Answer`]: what a statement gave, read once, in whichever shape the caller asks for.
//!
//! A SELECT is bound when `sql()` is called (so its errors, and the data frames it names, belong to that line) and runs
//! when it is first read, because only then the shape is known: each shape is DuckDB's own way to it, guarded.

use std::sync::Arc;

use arrow::array::RecordBatchReader;
use arrow::datatypes::SchemaRef;
use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};

use super::convert::{export_stream, pyarrow_batch, pyarrow_schema};
use super::error::exception;
use super::reading::{Export, Inner, ROWS, Shape, State, capped, fault, prepared_or, size_on_disk};
use super::report::PyReport;
use super::run::{How, run};
use super::slot::Seat;
use super::statement::Statement;
use super::ward::PyWard;
use crate::fallback::spool::{Spool, Spooled, free_space};
use crate::guard::Level;
use crate::ward::{AttemptError, Outcome, Report, Ticket};

/// An answer. Iterate it for `pyarrow.RecordBatch`es, or take the whole with `to_arrow()`, `df()`, `pl()`, `fetchall()`.
/// It can be read once.
#[pyclass(frozen, module = "duckward", weakref)]
pub(super) struct Answer {
    pub(super) inner: Arc<Inner>,
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

    /// A SELECT of literals: not bound, not run.
    pub(super) fn of_literals(ward: &Bound<'_, PyWard>, seat: Seat, statement: Statement) -> Self {
        Inner::wrap(ward, seat, statement, None, State::Unbound, Report::default())
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
        Ok(Inner::wrap(ward, seat, statement, Some(names), state, report))
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
            Some(names),
            State::Rows {
                rows: rows.unbind(),
                next: 0,
            },
            report,
        )
    }

    /// The rest of the rows of a statement that was run to its end, and None for any other answer, which is bound then.
    fn remaining<'py>(&self, py: Python<'py>, how: &'static str) -> PyResult<Option<Bound<'py, PyList>>> {
        self.inner.bind(py)?;
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
        inner.run_unbound(py)?;
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
                let mut attempt = |py: Python<'_>, original: &mut Option<PyErr>, how: How<'_>| {
                    let rows = match how.prepared {
                        // All of them, because what was prepared goes with the attempt.
                        Some(_) => prepared_or(inner.seat.con(py), how.prepared, relation.bind(py))
                            .and_then(|relation| relation.call_method0(intern!(py, "fetchall")))
                            .and_then(|rows| Ok(rows.try_iter()?.into_any())),
                        None => row_cursor(relation.bind(py)),
                    };
                    rows.map(Bound::unbind)
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
    fn columns(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.inner.names(py)?.to_vec())
    }

    /// The `pyarrow.Schema`. Does not read the answer: of a query that has not run, DuckDB is asked for no rows of it.
    #[getter]
    fn schema<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.inner.bind(py)?;
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
                rows.call_method1("renamed", (schema, self.inner.names(py)?))
            }
            State::Rows { rows, .. } => {
                rows_as(py, "table", rows.bind(py), self.inner.names(py)?)?.getattr(intern!(py, "schema"))
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
            if !matches!(
                &*state,
                State::Unbound | State::Lazy(_) | State::Rows { .. } | State::Stream(_)
            ) {
                // An empty loop would look like an empty answer.
                return Err(inner.unreadable(slf.py(), &state));
            }
        }
        Ok(slf)
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(rows) = self.remaining(py, "iteration")? {
            return rows_as(py, "batch", &rows, self.inner.names(py)?);
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
            let table = rows_as(py, "table", &rows, self.inner.names(py)?)?;
            return table.call_method1(intern!(py, "__arrow_c_stream__"), (requested_schema,));
        }
        // The protocol lets a producer ignore a schema that it does not cast to.
        let _ = requested_schema;
        let mut state = self.inner.state()?;
        if !matches!(&*state, State::Lazy(_) | State::Stream(_)) {
            return Err(self.inner.unreadable(py, &state));
        }
        self.inner.start(py, &mut state, false)?;
        // Who reads it may hold the connection meanwhile.
        self.inner.detach_pieces(py, &mut state)?;
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
            return rows_as(py, "table", &rows, self.inner.names(py)?);
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
                           original: &mut Option<PyErr>,
                           how: How<'_>|
         -> Result<(SchemaRef, Spooled, u64), AttemptError> {
            let mut stream = prepared_or(inner.seat.con(py), how.prepared, relation.bind(py))
                .and_then(|relation| capped(&relation, cap))
                .and_then(|relation| inner.open(&relation, how.rung))
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
            return rows_as(py, "frame", &rows, self.inner.names(py)?);
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
            return rows_as(py, "polars", &rows, self.inner.names(py)?);
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
            return rows_as(py, "numpy", &rows, self.inner.names(py)?);
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
        if let Some(rows) = self.inner.run_unbound(py)? {
            *self.inner.state()? = State::Read("fetchall()");
            return Ok(rows.into_bound(py).into_any());
        }
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
            let mut ticket = reading.ticket.take();
            let mut report = ticket.as_ref().map(Ticket::report);
            self.inner.give_up(ticket.as_mut());
            py.detach(|| {
                // The stream first: the connection is free only after it.
                drop(reading);
                drop(ticket);
            });
            self.inner.seat.slot.sweep(self.inner.seat.con(py));
            if let Some(report) = &mut report {
                report.outcome = Outcome::Closed;
                *self.inner.report.lock() = report.clone();
            }
        } else if !matches!(
            old,
            State::Unbound | State::Lazy(_) | State::Rows { .. } | State::Cursor(_)
        ) {
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

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let report = self.inner.report();
        Ok(format!(
            "<duckward.Answer: {}; columns {}>",
            report.outcome,
            self.inner.names(py)?.join(", ")
        ))
    }

    fn _repr_html_(&self, py: Python<'_>) -> PyResult<String> {
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
        let columns: Vec<String> = self
            .inner
            .names(py)?
            .iter()
            .map(|name| format!("<code>{}</code>", escape(name)))
            .collect();
        Ok(format!(
            "<p>duckward.Answer with columns {}: iterate it, or call df(), pl(), to_arrow() or fetchall().</p>{}",
            columns.join(", "),
            self.inner.report().to_html()
        ))
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
