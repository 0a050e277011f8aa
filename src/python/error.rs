//! Errors in both directions: an exception of DuckDB to its class, an [`Error`] to an exception.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyMemoryError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::engine::host::Stop;
use crate::engine::{Class, EngineError};
use crate::error::{Error, ErrorKind};
use crate::ward::{Failed, Report};

use super::report::PyReport;

/// DuckDB's exception classes, most particular first, and what they mean to the ladder.
const CLASSES: [(&str, Class); 11] = [
    ("OutOfMemoryException", Class::OutOfMemory),
    ("InterruptException", Class::Interrupt),
    ("IOException", Class::Io),
    ("TransactionException", Class::Transaction),
    ("ConnectionException", Class::Connection),
    ("ResourceInUseException", Class::Busy),
    ("ConstraintException", Class::Constraint),
    ("FatalException", Class::Fatal),
    ("InternalException", Class::Fatal),
    ("ProgrammingError", Class::Statement),
    ("DataError", Class::Statement),
];

struct Types {
    classes: Vec<(Py<PyType>, Class)>,
    base: Py<PyType>,
}

/// DuckDB's classes, kept from the first error to the exit: DuckDB counts what is still held when the interpreter goes.
static TYPES: Mutex<Option<Arc<Types>>> = Mutex::new(None);

/// Lets go of DuckDB's classes.
pub(super) fn forget_types() {
    *TYPES.lock() = None;
}

fn types(py: Python<'_>) -> PyResult<Arc<Types>> {
    if let Some(types) = TYPES.lock().as_ref() {
        return Ok(Arc::clone(types));
    }
    let duckdb = py.import("duckdb")?;
    let class =
        |name: &str| -> PyResult<Py<PyType>> { Ok(duckdb.getattr(name)?.cast_into::<PyType>()?.unbind()) };
    // A class that this version of DuckDB does not have is never raised by it.
    let classes = CLASSES
        .iter()
        .filter_map(|(name, kind)| Some((class(name).ok()?, *kind)))
        .collect();
    let types = Arc::new(Types {
        classes,
        base: class("Error")?,
    });
    *TYPES.lock() = Some(Arc::clone(&types));
    Ok(types)
}

/// What an exception raised by a call into DuckDB means.
pub(super) fn engine_error(py: Python<'_>, error: &PyErr) -> EngineError {
    let message = error
        .value(py)
        .str()
        .map_or_else(|_| error.to_string(), |text| text.to_string());
    EngineError {
        class: class_of(py, error, &message),
        message,
    }
}

fn class_of(py: Python<'_>, error: &PyErr, message: &str) -> Class {
    if error.is_instance_of::<PyKeyboardInterrupt>(py) {
        return Class::Interrupt;
    }
    // DuckDB's own reaction to a signal.
    if error.is_instance_of::<PyRuntimeError>(py) && message.contains("Query interrupted") {
        return Class::Interrupt;
    }
    if error.is_instance_of::<PyMemoryError>(py) {
        return Class::OutOfMemory;
    }
    let Ok(types) = types(py) else { return Class::Host };
    for (class, kind) in &types.classes {
        if error.is_instance(py, class.bind(py)) {
            return *kind;
        }
    }
    // DuckDB has no class for corruption, and pyarrow wraps an error of a stream: the text is all there is.
    match Class::of_text(message) {
        Class::Statement if !error.is_instance(py, types.base.bind(py)) => Class::Host,
        class => class,
    }
}

/// DuckDB's exception for a message that came through Arrow, by the fixed prefix of the message.
fn exception_of_text(py: Python<'_>, message: &str) -> Option<PyErr> {
    let duckdb = py.import("duckdb").ok()?;
    let at = message.find(" Error: ")?;
    let start = message[..at].rfind(": ").map_or(0, |colon| colon + 2);
    let name: String = message[start..at].split_whitespace().collect();
    let class = duckdb
        .getattr(format!("{name}Exception"))
        .ok()?
        .cast_into::<PyType>()
        .ok()?;
    Some(PyErr::from_type(class, message[start..].to_owned()))
}

fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "InvalidInputError",
        ErrorKind::Memory => "OutOfMemoryError",
        ErrorKind::Disk => "DiskError",
        ErrorKind::Timeout => "TimeoutError",
        ErrorKind::Cancelled => "CancelledError",
        ErrorKind::Query => "QueryError",
        ErrorKind::Transaction => "TransactionError",
        ErrorKind::Connection => "ConnectionError",
        ErrorKind::Corruption => "CorruptionError",
        ErrorKind::State => "StateError",
        ErrorKind::Internal => "InternalError",
    }
}

/// The kind of an exception: of ours, or of DuckDB's.
pub(super) fn kind_of(py: Python<'_>, error: &PyErr) -> Option<ErrorKind> {
    let errors = py.import("duckward.errors").ok()?;
    let own = ErrorKind::ALL.into_iter().find(|kind| {
        let class = errors.getattr(class_name(*kind));
        class.is_ok_and(|class| error.is_instance(py, &class))
    });
    own.or_else(|| match engine_error(py, error).class {
        Class::OutOfMemory => Some(ErrorKind::Memory),
        Class::Interrupt => Some(ErrorKind::Cancelled),
        Class::Io => Some(ErrorKind::Disk),
        Class::Transaction => Some(ErrorKind::Transaction),
        Class::Connection | Class::Busy => Some(ErrorKind::Connection),
        Class::Corruption | Class::Fatal => Some(ErrorKind::Corruption),
        Class::Constraint | Class::Statement => Some(ErrorKind::Query),
        Class::Host => None,
    })
}

/// The exception for an error of ours.
pub(super) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    if error.kind() == ErrorKind::Query
        && let Some(exception) = exception_of_text(py, error.message())
    {
        return exception;
    }
    let class = py
        .import("duckward.errors")
        .and_then(|errors| errors.getattr(class_name(error.kind())))
        .and_then(|class| Ok(class.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, error.message().to_owned()),
        Err(_) => PyException::new_err(error.message().to_owned()),
    }
}

/// The exception for a query that was not answered. DuckDB's own, unchanged, for an error of the statement itself;
/// Ctrl-C stays a `KeyboardInterrupt`; everything else is ours, with DuckDB's as its cause, and the report on it.
pub(super) fn query_exception(py: Python<'_>, failed: &Failed, original: Option<PyErr>) -> PyErr {
    if failed.stop == Some(Stop::Signal) {
        // What the user's handler raised; without that, what it raises by default.
        return match original {
            Some(original) => original,
            None => PyKeyboardInterrupt::new_err(()),
        };
    }
    if let Some(original) = &original
        && (failed.error.kind() == ErrorKind::Query || original.is_instance_of::<PyKeyboardInterrupt>(py))
    {
        return original.clone_ref(py);
    }
    let error = exception(py, &failed.error);
    error.set_cause(py, original);
    attach_report(py, &error, &failed.report);
    error
}

fn attach_report(py: Python<'_>, error: &PyErr, report: &Report) {
    // An exception class that refuses attributes (DuckDB's own may) goes without.
    if let Ok(report) = Bound::new(py, PyReport::new(report.clone())) {
        let _ = error.value(py).setattr("report", report);
    }
}
