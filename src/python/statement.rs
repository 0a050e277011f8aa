//! One statement: its kind by DuckDB's own parse, and how it is run to its end.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::error::exception;
use crate::engine::text::{query_of, words};
use crate::error::{Error, ErrorKind};
use crate::guard::Priority;
use crate::ward::{Cutting, Verify};

/// One statement of a text.
#[derive(Clone)]
pub(super) struct Statement {
    /// Its text.
    pub(super) sql: String,
    /// False for COMMIT, CHECKPOINT and the like.
    pub(super) interruptible: bool,
    pub(super) priority: Priority,
    /// Whether it may run in pieces.
    pub(super) cutting: Cutting,
    /// What is proved of its pieces.
    pub(super) verify: Verify,
    /// The values of its parameters.
    pub(super) params: Option<Arc<Py<PyAny>>>,
}

/// How a statement is run and what it gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A SELECT: runs when it is read.
    Select,
    /// Runs at once, gives rows that are described (PRAGMA, CALL, EXPLAIN, ... RETURNING).
    Described,
    /// Runs at once, gives a count or nothing.
    Counted,
    /// COMMIT.
    Commit,
}

/// Whether `text` is certainly one SELECT, so that DuckDB need not be asked: it begins with the word and nothing follows
/// a semicolon, because there is none.
pub(super) fn plain_select(text: &str) -> bool {
    let start = text.trim_start().as_bytes();
    start.len() > 6
        && start[..6].eq_ignore_ascii_case(b"select")
        && start[6].is_ascii_whitespace()
        && !text.contains(';')
}

/// What a statement gave that was run to its end.
pub(super) enum Given {
    /// The names of the columns, and rows.
    Rows(Vec<String>, Py<PyList>),
    /// A relation over the rows, which DuckDB keeps.
    Relation(Py<PyAny>),
}

/// An error of binding: DuckDB's own, but for exhausted memory, which is told as everywhere.
pub(super) fn bind_error(py: Python<'_>, error: PyErr) -> PyErr {
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

/// Whether an EXPLAIN of the statement finds its errors and does nothing else. One of CREATE SECRET installs extensions.
pub(super) fn is_planned(sql: &str) -> bool {
    query_of(sql).is_some()
        || words(sql).next().is_some_and(|first| {
            ["insert", "update", "delete", "merge", "copy", "with"]
                .iter()
                .any(|word| word.eq_ignore_ascii_case(first))
        })
}

/// The number of rows a statement changed or gave.
pub(super) fn changed(names: &[String], rows: &Bound<'_, PyList>, kind: Kind) -> Option<u64> {
    if kind == Kind::Counted && names.len() == 1 && rows.len() == 1 {
        return rows.get_item(0).ok()?.get_item(0).ok()?.extract().ok();
    }
    Some(rows.len() as u64)
}

/// Runs a statement to its end.
pub(super) fn execute(
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
pub(super) fn refuse_lost_commit(con: &Bound<'_, PyAny>) -> PyResult<()> {
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
pub(super) fn kind(name: &str, sql: &str) -> (Kind, bool) {
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
