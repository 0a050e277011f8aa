//! `Report` as Python sees it.

use pyo3::prelude::*;

use crate::fallback::ladder::Rung;
use crate::units::Bytes;
use crate::ward::{Report, Verify};

/// What happened to a query: attempts, rung, why, memory, spill, rows, time.
#[pyclass(frozen, module = "duckward", name = "Report")]
pub(super) struct PyReport {
    report: Report,
}

impl PyReport {
    pub(super) fn new(report: Report) -> Self {
        PyReport { report }
    }
}

#[pymethods]
impl PyReport {
    /// How it ended: "answered", "not run yet", "running", "closed before its end" or "failed: <kind>".
    #[getter]
    fn outcome(&self) -> String {
        self.report.outcome.to_string()
    }

    /// The rung of the last attempt ("as is", "degraded", "in pieces"); None before the first.
    #[getter]
    fn rung(&self) -> Option<&'static str> {
        self.report.rung().map(Rung::name)
    }

    /// Why it left the first rung, or why it failed; empty when nothing happened.
    #[getter]
    fn why(&self) -> &str {
        &self.report.why
    }

    /// Every attempt in order, as dictionaries.
    #[getter]
    fn attempts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.to_dict(py)?.get_item("attempts")
    }

    /// Largest memory that counted while it ran, in bytes; of the process, not of the query alone.
    #[getter]
    fn peak(&self) -> u64 {
        self.report.peak.get()
    }

    /// The budget in force, in bytes.
    #[getter]
    fn budget(&self) -> u64 {
        self.report.budget.get()
    }

    /// Largest temporary storage seen, in bytes.
    #[getter]
    fn spill(&self) -> u64 {
        self.report.spill.get()
    }

    /// Rows handed out or changed; None where they are not counted.
    #[getter]
    fn rows(&self) -> Option<u64> {
        self.report.rows
    }

    /// The pieces it was computed in, in order, as dictionaries; empty when it was computed at once.
    #[getter]
    fn pieces<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.to_dict(py)?.get_item("pieces")
    }

    /// What was proved of the pieces: "counts" or "full"; None where there are none, or where rows could not be counted.
    #[getter]
    fn verified(&self) -> Option<&'static str> {
        self.report.verified.map(Verify::name)
    }

    /// Why it was not computed in pieces; None when that was not asked.
    #[getter]
    fn why_not(&self) -> Option<&str> {
        self.report.why_not.as_deref()
    }

    /// Whether the answer was cut at `row_cap` rows under memory pressure.
    #[getter]
    fn truncated(&self) -> bool {
        self.report.truncated
    }

    /// Bytes of the answer on disk; None when it stayed in memory.
    #[getter]
    fn spooled(&self) -> Option<u64> {
        self.report.spooled.map(Bytes::get)
    }

    /// Wall time in seconds.
    #[getter]
    fn seconds(&self) -> f64 {
        self.report.seconds
    }

    /// Seconds spent waiting for admission.
    #[getter]
    fn waited(&self) -> f64 {
        self.report.waited
    }

    /// The report as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        super::guard::to_python(py, &self.report)
    }

    fn __str__(&self) -> String {
        self.report.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<duckward.Report: {}>", self.report.outcome)
    }

    fn _repr_html_(&self) -> String {
        self.report.to_html()
    }
}
