//! `duckward.guard`: from a connection and arguments to a ward, one for each connection.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyWeakrefMethods, PyWeakrefReference};
use serde::Serialize;

use super::error::exception;
use super::host::PyEngine;
use super::slot::Slot;
use super::ward::PyWard;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::watch;
use crate::settings::Settings;
use crate::settings::layers::Loaded;
use crate::settings::table::{TABLE, Value};
use crate::ward::Ward;

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
        if ward.get().is_closed() {
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

pub(super) fn check_connection(name: &str, object: &Bound<'_, PyAny>) -> PyResult<()> {
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
        if ward.get().guards(connection) {
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
    let ward = Bound::new(py, PyWard::new(core, connection, slot))?;
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
