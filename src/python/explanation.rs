//! `Explanation` as Python sees it.

use pyo3::prelude::*;

use crate::ward::Explanation;

/// What would happen to a statement, and why. Made by `ward.explain(...)`.
#[pyclass(frozen, module = "duckward", name = "Explanation")]
pub(super) struct PyExplanation {
    explanation: Explanation,
}

impl PyExplanation {
    pub(super) fn new(explanation: Explanation) -> Self {
        PyExplanation { explanation }
    }
}

#[pymethods]
impl PyExplanation {
    /// The rung it would start on: "as is", "degraded" or "in pieces".
    #[getter]
    fn rung(&self) -> &'static str {
        self.explanation.rung.name()
    }

    /// Why on that one.
    #[getter]
    fn why(&self) -> &str {
        &self.explanation.why
    }

    /// What was learnt when this shape of query was last answered, as a dictionary; None if it was not.
    #[getter]
    fn learned<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.to_dict(py)?.get_item("learned")
    }

    /// Whether it can be computed in pieces, at once or once it has failed.
    #[getter]
    fn can_be_cut(&self) -> bool {
        self.explanation.can_be_cut
    }

    /// Why it cannot; None if it can.
    #[getter]
    fn why_not(&self) -> Option<&str> {
        self.explanation.why_not.as_deref()
    }

    /// What would be computed beforehand if it ran in pieces, in order, as dictionaries.
    #[getter]
    fn queries<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.to_dict(py)?.get_item("queries")
    }

    /// DuckDB's `memory_limit` now, in bytes.
    #[getter]
    fn memory_limit(&self) -> u64 {
        self.explanation.memory_limit.get()
    }

    /// The budget now, in bytes.
    #[getter]
    fn budget(&self) -> u64 {
        self.explanation.budget.get()
    }

    /// The explanation as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        super::guard::to_python(py, &self.explanation)
    }

    fn __str__(&self) -> String {
        self.explanation.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<duckward.Explanation: starts {}>", self.explanation.rung.name())
    }

    fn _repr_html_(&self) -> String {
        self.explanation.to_html()
    }
}
