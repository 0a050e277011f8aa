//! `Deduplication` as Python sees it.

use pyo3::prelude::*;

use super::ask::{Asking, Stopped};
use super::guard::to_python;
use super::ward::PyWard;
use crate::validate::{Deduplication, forget, restore};
use crate::ward::report::html_table;

/// Rows that were removed, and where they are. Made by `ward.deduplicate(...)`.
#[pyclass(frozen, module = "duckward", name = "Deduplication")]
pub(super) struct PyDeduplication {
    done: Deduplication,
    ward: Py<PyWard>,
    connection: Option<Py<PyAny>>,
}

impl PyDeduplication {
    pub(super) fn new(
        done: Deduplication,
        ward: &Bound<'_, PyWard>,
        connection: Option<&Bound<'_, PyAny>>,
    ) -> Self {
        PyDeduplication {
            done,
            ward: ward.clone().unbind(),
            connection: connection.map(|connection| connection.clone().unbind()),
        }
    }

    fn asking<T>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut Asking<'_>, &Deduplication) -> Result<T, Stopped>,
    ) -> PyResult<T> {
        let connection = self.connection.as_ref().map(|connection| connection.bind(py));
        let mut asking = Asking::new(self.ward.bind(py), connection);
        act(&mut asking, &self.done).map_err(|stopped| stopped.into_py(py))
    }
}

#[pymethods]
impl PyDeduplication {
    /// Rows that were removed.
    #[getter]
    fn removed(&self) -> u64 {
        self.done.removed
    }

    /// The tables, in order, as dictionaries.
    #[getter]
    fn tables<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.done.tables)
    }

    /// Puts the removed rows back, in one transaction; how many.
    fn undo(&self, py: Python<'_>) -> PyResult<u64> {
        self.asking(py, |asking, done| restore(asking, done))
    }

    /// Drops the tables that have the removed rows.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        self.asking(py, |asking, done| forget(asking, done))
    }

    /// It as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.done)
    }

    fn __str__(&self) -> String {
        self.done.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<duckward.Deduplication: {} rows removed>", self.done.removed)
    }

    fn _repr_html_(&self) -> String {
        html_table("duckward deduplication", self.done.lines())
    }
}
