//! `Validation` as Python sees it.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::arguments::{columns, source};
use super::error::exception;
use super::guard::to_python;
use super::partitioning::PyPartitioning;
use crate::engine::source::Source;
use crate::error::Error;
use crate::validate::{PieceSet, Reference, Validation};
use crate::ward::report::html_table;

/// What an argument that stands for rows names: one source, a partitioning, or pieces by name or in a list.
pub(super) fn pieces(name: &str, given: &Bound<'_, PyAny>) -> PyResult<PieceSet> {
    let py = given.py();
    if let Ok(done) = given.cast::<PyPartitioning>() {
        return Ok(done.get().done.pieces());
    }
    let several: Vec<(String, Source)> = if let Ok(named) = given.cast::<PyDict>() {
        named
            .iter()
            .map(|(key, value)| Ok((key.extract()?, source(name, &value)?)))
            .collect::<PyResult<_>>()?
    } else if given.is_instance_of::<PyList>() || given.is_instance_of::<PyTuple>() {
        given
            .try_iter()?
            .map(|value| {
                let source = source(name, &value?)?;
                Ok((source.name.clone(), source))
            })
            .collect::<PyResult<_>>()?
    } else {
        return source(name, given).map(PieceSet::whole);
    };
    PieceSet::named(several).map_err(|error| exception(py, &error))
}

/// What `references=` says: `{"user_id": "users.id"}`, `{("a", "b"): ("parents.parquet", ["x", "y"])}`.
pub(super) fn references(given: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<Reference>> {
    let Some(given) = given else {
        return Ok(Vec::new());
    };
    given
        .iter()
        .map(|(key, value)| {
            let py = key.py();
            let ours = if let Ok(several) = key.cast::<PyTuple>() {
                columns("references", Some(several.to_list().as_any()))?
            } else {
                columns("references", Some(&key))?
            };
            let read = if let Ok(text) = value.extract::<String>() {
                Reference::parse(ours, &text)
            } else if let Ok((parent, theirs)) = value.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>() {
                Reference::new(
                    ours,
                    source("references", &parent)?,
                    columns("references", Some(&theirs))?,
                )
            } else {
                let accepted = "give \"table.column\", or a source and its columns as a pair";
                Err(Error::invalid("references", value.repr()?, accepted))
            };
            read.map_err(|error| exception(py, &error))
        })
        .collect()
}

/// What a comparison of two sources found. Made by `ward.validate(...)`.
#[pyclass(frozen, module = "duckward", name = "Validation")]
pub(super) struct PyValidation {
    validation: Validation,
}

impl PyValidation {
    pub(super) fn new(validation: Validation) -> Self {
        PyValidation { validation }
    }
}

#[pymethods]
impl PyValidation {
    /// Whether nothing is wrong.
    #[getter]
    fn ok(&self) -> bool {
        self.validation.ok
    }

    /// Everything that was found, as dictionaries.
    #[getter]
    fn findings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.validation.findings)
    }

    /// Rows on the left and on the right.
    #[getter]
    fn rows(&self) -> (u64, u64) {
        (self.validation.left_rows, self.validation.right_rows)
    }

    /// The columns that both have, as dictionaries.
    #[getter]
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.validation.columns)
    }

    /// The digests of the left and of the right side, as hexadecimal digits.
    #[getter]
    fn digests(&self) -> (&str, &str) {
        (&self.validation.left_digest, &self.validation.right_digest)
    }

    /// The pieces of the right side, as dictionaries.
    #[getter]
    fn pieces<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.validation.pieces)
    }

    /// Pieces that have keys in common, as dictionaries.
    #[getter]
    fn overlaps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.validation.overlaps)
    }

    /// The validation as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.validation)
    }

    fn __bool__(&self) -> bool {
        self.validation.ok
    }

    fn __str__(&self) -> String {
        self.validation.to_string()
    }

    fn __repr__(&self) -> String {
        let findings = self.validation.findings.len();
        match findings {
            0 => format!("<duckward.Validation: {}>", self.validation.verdict()),
            1 => "<duckward.Validation: 1 finding>".to_owned(),
            _ => format!("<duckward.Validation: {findings} findings>"),
        }
    }

    fn _repr_html_(&self) -> String {
        html_table("duckward validation", self.validation.lines())
    }
}
