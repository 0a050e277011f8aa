//! Arguments of the ward's methods that mean more than their type says.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::error::exception;
use super::partitioning::PyPartitioning;
use crate::engine::source::Source;
use crate::error::Error;
use crate::guard::Priority;
use crate::partition::done::Target;
use crate::units::Bytes;
use crate::ward::{Cutting, Verify};

/// The most pieces that can be asked for.
const MOST_PIECES: usize = 1024;
/// Workers of an executor that does not say how many it has.
const WORKERS: usize = 3;

pub(super) fn priority(py: Python<'_>, name: Option<&str>) -> PyResult<Priority> {
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

/// What `pieces=` says.
pub(super) fn cutting(py: Python<'_>, pieces: Option<&Bound<'_, PyAny>>) -> PyResult<Cutting> {
    let Some(pieces) = pieces else {
        return Ok(Cutting::Auto);
    };
    // True and False are numbers in Python, so they come first.
    if let Ok(wanted) = pieces.cast::<PyBool>() {
        if !wanted.is_true() {
            return Ok(Cutting::Never);
        }
    } else if let Ok(count) = pieces.extract::<usize>()
        && (1..=MOST_PIECES).contains(&count)
    {
        return Ok(Cutting::Into(count));
    } else if let Ok(word) = pieces.extract::<String>()
        && word == "auto"
    {
        return Ok(Cutting::Auto);
    }
    let error = Error::invalid(
        "pieces",
        pieces.repr()?,
        &format!("give \"auto\", False, or a number from 1 to {MOST_PIECES}"),
    );
    Err(exception(py, &error))
}

/// What `verify=` says.
pub(super) fn verify(py: Python<'_>, verify: Option<&Bound<'_, PyAny>>) -> PyResult<Verify> {
    let Some(verify) = verify else {
        return Ok(Verify::default());
    };
    let read = verify.extract::<String>().ok();
    match read.as_deref().and_then(Verify::parse) {
        Some(read) => Ok(read),
        None => Err(exception(
            py,
            &Error::invalid("verify", verify.repr()?, Verify::ACCEPTED),
        )),
    }
}

/// What an argument that stands for rows names.
pub(super) fn source(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Source> {
    let py = given.py();
    if let Ok(done) = given.cast::<PyPartitioning>() {
        return Source::parse(&done.get().query()).map_err(|error| exception(py, &error));
    }
    match given.extract::<String>() {
        Ok(text) => Source::parse(&text).map_err(|error| exception(py, &error)),
        Err(_) => Err(exception(
            py,
            &Error::invalid(
                name,
                format_args!("<{}>", given.get_type().qualname()?),
                "give the name of a table, the path of files, or a query, as a text",
            ),
        )),
    }
}

/// How many workers an executor has, or are asked for.
pub(super) fn workers(
    py: Python<'_>,
    workers: Option<usize>,
    executor: Option<&Bound<'_, PyAny>>,
) -> PyResult<usize> {
    let refused = |name: &str, value: String, accepted: &str| {
        Err(exception(py, &Error::invalid(name, value, accepted)))
    };
    if let Some(executor) = executor
        && !executor.hasattr(intern!(py, "submit"))?
    {
        let kind = executor.get_type().qualname()?.to_string();
        return refused(
            "executor",
            kind,
            "give a concurrent.futures.Executor, such as a ProcessPoolExecutor or a Dask client's get_executor()",
        );
    }
    match workers {
        Some(0) => refused("workers", "0".to_owned(), "give 1 or more"),
        Some(count) => Ok(count),
        None => {
            let most = executor.and_then(|executor| executor.getattr(intern!(py, "_max_workers")).ok());
            Ok(most.and_then(|most| most.extract().ok()).unwrap_or(WORKERS))
        }
    }
}

/// The size that an argument gives: a number of bytes, or a text.
pub(super) fn size(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    let read = match given.extract::<u64>() {
        Ok(bytes) => Some(Bytes(bytes)),
        Err(_) => given.extract::<String>().ok().and_then(|text| text.parse().ok()),
    };
    match read {
        Some(bytes) => Ok(bytes),
        None => {
            let accepted = "give a size such as \"64MB\", or a number of bytes";
            Err(exception(
                given.py(),
                &Error::invalid(name, given.repr()?, accepted),
            ))
        }
    }
}

/// What `into=` names: tables by a template, which is a text, or a directory.
pub(super) fn target(given: &Bound<'_, PyAny>) -> PyResult<Target> {
    match given.extract::<String>() {
        Ok(text) => Target::parse(&text).map_err(|error| exception(given.py(), &error)),
        Err(_) => Ok(Target::Directory(given.extract()?)),
    }
}

/// The names of columns that an argument gives: one, or several.
pub(super) fn columns(name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
    let Some(given) = given else {
        return Ok(Vec::new());
    };
    if let Ok(one) = given.extract::<String>() {
        return Ok(vec![one]);
    }
    given.extract::<Vec<String>>().map_err(|_| {
        let accepted = "give the name of a column, or a list of names";
        match given.repr() {
            Ok(shown) => exception(given.py(), &Error::invalid(name, shown, accepted)),
            Err(error) => error,
        }
    })
}
