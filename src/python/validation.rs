//! `Validation` as Python sees it.

use pyo3::prelude::*;

use super::guard::to_python;
use crate::validate::Validation;
use crate::ward::report::html_table;

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
            0 => "<duckward.Validation: the same>".to_owned(),
            1 => "<duckward.Validation: 1 finding>".to_owned(),
            _ => format!("<duckward.Validation: {findings} findings>"),
        }
    }

    fn _repr_html_(&self) -> String {
        html_table("duckward validation", self.validation.lines())
    }
}
