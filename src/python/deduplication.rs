//! `Deduplication` as Python sees it.

use pyo3::prelude::*;

use super::ask::{Asking, Stopped};
use super::guard::to_python;
use super::partitioning::PyPartitioning;
use super::ward::PyWard;
use crate::partition::deduplicate::{self, Removal};
use crate::validate::{self, Deduplication};
use crate::ward::report::html_table;

/// Where rows were removed.
pub(super) enum Removed {
    /// In tables.
    Tables(Deduplication),
    /// In a partitioning.
    Partitioning(Box<Removal>),
}

/// Rows that were removed, and where they are. Made by `ward.deduplicate(...)`.
#[pyclass(frozen, module = "duckward", name = "Deduplication")]
pub(super) struct PyDeduplication {
    removed: Removed,
    ward: Py<PyWard>,
    connection: Option<Py<PyAny>>,
}

impl PyDeduplication {
    pub(super) fn new(
        removed: Removed,
        ward: &Bound<'_, PyWard>,
        connection: Option<&Bound<'_, PyAny>>,
    ) -> Self {
        PyDeduplication {
            removed,
            ward: ward.clone().unbind(),
            connection: connection.map(|connection| connection.clone().unbind()),
        }
    }

    fn done(&self) -> &Deduplication {
        match &self.removed {
            Removed::Tables(done) => done,
            Removed::Partitioning(removal) => &removal.done,
        }
    }

    fn asking<T>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut Asking<'_>, &Removed) -> Result<T, Stopped>,
    ) -> PyResult<T> {
        let connection = self.connection.as_ref().map(|connection| connection.bind(py));
        let mut asking = Asking::new(self.ward.bind(py), connection);
        act(&mut asking, &self.removed).map_err(|stopped| stopped.into_py(py))
    }
}

#[pymethods]
impl PyDeduplication {
    /// Rows that were removed.
    #[getter]
    fn removed(&self) -> u64 {
        self.done().removed
    }

    /// The tables, in order, as dictionaries.
    #[getter]
    fn tables<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.done().tables)
    }

    /// The partitioning without the rows, if they were removed from one.
    #[getter]
    fn partitioning(&self, py: Python<'_>) -> Option<PyPartitioning> {
        let Removed::Partitioning(removal) = &self.removed else {
            return None;
        };
        let connection = self.connection.as_ref().map(|connection| connection.bind(py));
        let asking = Asking::new(self.ward.bind(py), connection);
        Some(PyPartitioning::of(removal.after.clone(), &asking))
    }

    /// Puts the removed rows back, in one step; how many.
    fn undo(&self, py: Python<'_>) -> PyResult<u64> {
        self.asking(py, |asking, removed| match removed {
            Removed::Tables(done) => validate::restore(asking, done),
            Removed::Partitioning(removal) => deduplicate::restore(asking, removal),
        })
    }

    /// Drops what was kept of the removed rows.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        self.asking(py, |asking, removed| match removed {
            Removed::Tables(done) => validate::forget(asking, done),
            Removed::Partitioning(removal) => deduplicate::forget(asking, removal),
        })
    }

    /// It as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, self.done())
    }

    fn __str__(&self) -> String {
        self.done().to_string()
    }

    fn __repr__(&self) -> String {
        format!("<duckward.Deduplication: {} rows removed>", self.done().removed)
    }

    fn _repr_html_(&self) -> String {
        html_table("duckward deduplication", self.done().lines())
    }
}
