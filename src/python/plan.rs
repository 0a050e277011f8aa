//! `Plan` and its picture, as Python sees them.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::error::exception;
use super::guard::to_python;
use crate::error::{Error, ErrorKind};
use crate::partition::plan::Plan;

/// How a table is cut. Made by `ward.plan(...)`.
#[pyclass(frozen, module = "duckward", name = "Plan", eq)]
#[derive(PartialEq)]
pub(super) struct PyPlan {
    pub(super) plan: Plan,
}

impl PyPlan {
    pub(super) fn new(plan: Plan) -> Self {
        PyPlan { plan }
    }
}

#[pymethods]
impl PyPlan {
    /// The table, files or query that it is for.
    #[getter]
    fn source(&self) -> &str {
        &self.plan.source
    }

    /// Its rows when the plan was made.
    #[getter]
    fn rows(&self) -> u64 {
        self.plan.rows
    }

    /// What they take in memory, by the width of the first rows.
    #[getter]
    fn bytes(&self) -> u64 {
        self.plan.bytes().get()
    }

    /// By what it is cut, one after the other, as dictionaries.
    #[getter]
    fn cuts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.plan.cuts)
    }

    /// The pieces, in order, as dictionaries: name, condition, rows, bytes.
    #[getter]
    fn pieces<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.plan.pieces)
    }

    /// How alike in size the pieces with rows are, as a dictionary.
    #[getter]
    fn balance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.plan.balance())
    }

    /// Values that are too frequent for pieces of like size, as dictionaries.
    #[getter]
    fn heavy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.plan.heavy)
    }

    /// The number of the piece that a row is in, as an SQL expression over the source's columns.
    #[getter]
    fn number(&self) -> String {
        self.plan.number()
    }

    /// A picture of the rows of each piece.
    fn plot(&self) -> PyPlot {
        PyPlot {
            svg: self.plan.to_svg(),
            bars: self.plan.bars(),
        }
    }

    /// The plan as JSON.
    fn to_json(&self) -> String {
        self.plan.to_json()
    }

    /// The plan that `to_json()` gave.
    #[staticmethod]
    fn from_json(py: Python<'_>, text: &str) -> PyResult<Self> {
        Plan::from_json(text)
            .map(PyPlan::new)
            .map_err(|error| exception(py, &error))
    }

    /// Writes the plan to a file, as JSON.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.plan.save(&path))
            .map_err(|error| exception(py, &error))
    }

    /// The plan that `save()` wrote.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Plan::load(&path))
            .map(PyPlan::new)
            .map_err(|error| exception(py, &error))
    }

    /// The plan as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.plan)
    }

    fn __len__(&self) -> usize {
        self.plan.pieces.len()
    }

    fn __str__(&self) -> String {
        self.plan.to_string()
    }

    fn __repr__(&self) -> String {
        let balance = self.plan.balance();
        format!(
            "<duckward.Plan: {} rows in {} pieces, variation {:.2}>",
            self.plan.rows, balance.pieces, balance.variation
        )
    }

    fn _repr_html_(&self) -> String {
        self.plan.to_html()
    }
}

/// A picture of a plan. Made by `plan.plot()`.
#[pyclass(frozen, module = "duckward", name = "Plot")]
pub(super) struct PyPlot {
    svg: String,
    bars: String,
}

#[pymethods]
impl PyPlot {
    /// The picture as SVG.
    #[getter]
    fn svg(&self) -> &str {
        &self.svg
    }

    /// Writes the picture to a file, as SVG.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| std::fs::write(&path, &self.svg)).map_err(|error| {
            let message = format!("writing the picture to {} failed: {error}", path.display());
            exception(py, &Error::new(ErrorKind::Disk, message))
        })
    }

    fn __str__(&self) -> &str {
        &self.bars
    }

    fn __repr__(&self) -> &str {
        &self.bars
    }

    fn _repr_svg_(&self) -> &str {
        &self.svg
    }
}
