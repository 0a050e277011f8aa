//! `Partitioning` as Python sees it.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::error::exception;
use super::guard::to_python;
use super::plan::PyPlan;
use super::validation::PyValidation;
use crate::partition::done::{Partitioning, Place};
use crate::partition::lake;
use crate::partition::plan::Balance;
use crate::validate::Finding;

/// A table in pieces, on disk. Made by `ward.partition(...)`.
#[pyclass(frozen, module = "duckward", name = "Partitioning")]
pub(super) struct PyPartitioning {
    pub(super) done: Partitioning,
}

impl PyPartitioning {
    pub(super) fn new(done: Partitioning) -> Self {
        PyPartitioning { done }
    }

    fn balance_of(&self) -> Balance {
        Balance::of(self.done.manifest.pieces.iter().map(|piece| piece.rows))
    }

    /// What is missing, added or changed of the pieces.
    pub(super) fn changed(&self, py: Python<'_>) -> PyResult<Vec<Finding>> {
        match &self.done.place {
            Place::Directory(path) => py
                .detach(|| lake::check(path, &self.done.manifest))
                .map_err(|error| exception(py, &error)),
        }
    }

    fn file_bytes(&self) -> u64 {
        let pieces = self.done.manifest.pieces.iter();
        pieces.flat_map(|piece| &piece.files).map(|file| file.bytes).sum()
    }
}

#[pymethods]
impl PyPartitioning {
    /// The directory.
    #[getter]
    fn path(&self) -> String {
        self.done.place.to_string()
    }

    /// The plan it was cut by.
    #[getter]
    fn plan(&self) -> PyPlan {
        PyPlan::new(self.done.manifest.plan.clone())
    }

    /// Rows of all pieces.
    #[getter]
    fn rows(&self) -> u64 {
        self.done.manifest.rows()
    }

    /// Bytes of all files.
    #[getter]
    fn bytes(&self) -> u64 {
        self.file_bytes()
    }

    /// The pieces that have rows, in order, as dictionaries: name, condition, rows, digest, files.
    #[getter]
    fn pieces<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.done.manifest.pieces)
    }

    /// How alike in size they are, as a dictionary.
    #[getter]
    fn balance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.balance_of())
    }

    /// The files against the source, when they were written; None of one that was loaded.
    #[getter]
    fn validation(&self) -> Option<PyValidation> {
        self.done.validation.clone().map(PyValidation::new)
    }

    /// The partitioning that is in a directory.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| lake::load(&path))
            .map(PyPartitioning::new)
            .map_err(|error| exception(py, &error))
    }

    /// Whether the files are still those that were written: what is missing, added or changed, as dictionaries.
    fn check<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.changed(py)?)
    }

    /// The rows of all pieces, as a query.
    #[getter]
    pub(super) fn query(&self) -> String {
        self.done.query()
    }

    /// The manifest as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.done.manifest)
    }

    fn __len__(&self) -> usize {
        self.done.manifest.pieces.len()
    }

    fn __str__(&self) -> String {
        self.done.to_string()
    }

    fn __repr__(&self) -> String {
        format!(
            "<duckward.Partitioning: {} rows in {} pieces in {}>",
            self.done.manifest.rows(),
            self.done.manifest.pieces.len(),
            self.done.place
        )
    }

    fn _repr_html_(&self) -> String {
        self.done.to_html()
    }
}
