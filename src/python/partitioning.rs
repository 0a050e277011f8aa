//! `Partitioning` as Python sees it.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};

use super::ask::Asking;
use super::error::exception;
use super::guard::to_python;
use super::plan::PyPlan;
use super::validation::PyValidation;
use super::ward::PyWard;
use crate::error::{Error, ErrorKind};
use crate::partition::done::{Partitioning, Place};
use crate::partition::lake;
use crate::partition::plan::Balance;
use crate::partition::tables;
use crate::validate::{Finding, PieceSet};

/// A table in pieces, as files or as tables. Made by `ward.partition(...)`.
#[pyclass(frozen, module = "duckward", name = "Partitioning")]
pub(super) struct PyPartitioning {
    pub(super) done: Partitioning,
    /// Who can be asked for tables, and on which connection.
    home: Option<(Py<PyWard>, Option<Py<PyAny>>)>,
}

impl PyPartitioning {
    /// Of a directory, which nobody need be asked for.
    fn new(done: Partitioning) -> Self {
        PyPartitioning { done, home: None }
    }

    pub(super) fn of(done: Partitioning, asking: &Asking<'_>) -> Self {
        let home = match &done.place {
            Place::Directory(_) => None,
            Place::Tables(_) => {
                let connection = asking
                    .connection
                    .as_ref()
                    .map(|connection| connection.clone().unbind());
                Some((asking.ward.clone().unbind(), connection))
            }
        };
        PyPartitioning { done, home }
    }

    /// What makes it impossible to read the pieces, or to read them rightly.
    pub(super) fn unreadable(&self, asking: &mut Asking<'_>) -> PyResult<Vec<Finding>> {
        let py = asking.ward.py();
        match &self.done.place {
            Place::Directory(_) => self.changed(py),
            Place::Tables(home) => {
                let found = tables::standing(asking, home, &self.done.manifest);
                let mut found = found.map_err(|stopped| stopped.into_py(py))?;
                found.retain(|finding| finding.piece.is_some());
                Ok(found)
            }
        }
    }

    /// The pieces, where [`unreadable`](Self::unreadable) has just found nothing.
    pub(super) fn unchanged(&self) -> PieceSet {
        self.done.unchanged()
    }

    /// What is missing, added or changed of the pieces.
    fn changed(&self, py: Python<'_>) -> PyResult<Vec<Finding>> {
        let manifest = &self.done.manifest;
        match (&self.done.place, &self.home) {
            (Place::Tables(home), Some((ward, connection))) => {
                let mut asking = Asking::new(
                    ward.bind(py),
                    connection.as_ref().map(|connection| connection.bind(py)),
                );
                tables::check(&mut asking, home, manifest).map_err(|stopped| stopped.into_py(py))
            }
            (Place::Directory(path), _) => py
                .detach(|| lake::check(path, manifest))
                .map_err(|error| exception(py, &error)),
            (Place::Tables(_), None) => {
                let error = Error::new(ErrorKind::Internal, "a partitioning into tables has no ward");
                Err(exception(py, &error))
            }
        }
    }

    fn balance_of(&self) -> Balance {
        Balance::of(self.done.manifest.pieces.iter().map(|piece| piece.rows))
    }

    fn file_bytes(&self) -> u64 {
        let pieces = self.done.manifest.pieces.iter();
        pieces.flat_map(|piece| &piece.files).map(|file| file.bytes).sum()
    }
}

#[pymethods]
impl PyPartitioning {
    /// The directory; of tables their template, with database and schema.
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

    /// Bytes of all files; tables have none.
    #[getter]
    fn bytes(&self) -> u64 {
        self.file_bytes()
    }

    /// The pieces that have rows, in order, as dictionaries: name, condition, rows, digest, and files or
    /// table.
    #[getter]
    fn pieces<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.done.manifest.pieces)
    }

    /// How alike in size they are, as a dictionary.
    #[getter]
    fn balance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.balance_of())
    }

    /// The pieces against the source, when they were written; None of one that was loaded.
    #[getter]
    fn validation(&self) -> Option<PyValidation> {
        self.done.validation.clone().map(PyValidation::new)
    }

    /// Attempts to write a share of the source that failed, as dictionaries: share, attempt, error, response.
    #[getter]
    fn attempts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.done.attempts)
    }

    /// Shares of the source that a process that was killed had written.
    #[getter]
    fn resumed(&self) -> usize {
        self.done.resumed
    }

    /// The partitioning that is in a directory.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| lake::load(&path))
            .map(PyPartitioning::new)
            .map_err(|error| exception(py, &error))
    }

    /// Whether the pieces are still those that were written: what is missing, added or changed, as dictionaries.
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

    /// A callback of the ward's may hold this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some((ward, connection)) = &self.home {
            visit.call(ward)?;
            visit.call(connection)?;
        }
        Ok(())
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
