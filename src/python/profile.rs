//! `Profile` as Python sees it.

use pyo3::prelude::*;

use super::guard::to_python;
use crate::partition::profile::Profile;

/// What a column is like, and what it can be cut by. Made by `ward.profile(...)`.
#[pyclass(frozen, module = "duckward", name = "Profile")]
pub(super) struct PyProfile {
    profile: Profile,
}

impl PyProfile {
    pub(super) fn new(profile: Profile) -> Self {
        PyProfile { profile }
    }
}

#[pymethods]
impl PyProfile {
    /// The column, as the table spells it.
    #[getter]
    fn name(&self) -> &str {
        &self.profile.name
    }

    /// Its type, as DuckDB prints it.
    #[getter]
    fn r#type(&self) -> &str {
        &self.profile.type_name
    }

    /// Rows of the table.
    #[getter]
    fn rows(&self) -> u64 {
        self.profile.rows
    }

    /// Rows in which it is NULL.
    #[getter]
    fn nulls(&self) -> u64 {
        self.profile.nulls
    }

    /// The smallest value that is no NaN and not infinite, as DuckDB prints it; None where there is none.
    #[getter]
    fn minimum(&self) -> Option<&str> {
        self.profile.minimum.as_deref()
    }

    /// The largest such value.
    #[getter]
    fn maximum(&self) -> Option<&str> {
        self.profile.maximum.as_deref()
    }

    /// Rows in which it is NaN.
    #[getter]
    fn nan(&self) -> u64 {
        self.profile.nan
    }

    /// Rows in which it is infinite: a number, a date or a time.
    #[getter]
    fn infinite(&self) -> u64 {
        self.profile.infinite
    }

    /// How many values there are, NULL not counted.
    #[getter]
    fn distinct(&self) -> u64 {
        self.profile.distinct
    }

    /// Whether that is exact; otherwise it is DuckDB's `approx_count_distinct`, which may be off by a fifth.
    #[getter]
    fn distinct_exact(&self) -> bool {
        self.profile.distinct_exact
    }

    /// The most frequent value, its share of the rows, and whether they are exact, as a dictionary; None where all is NULL.
    #[getter]
    fn most_frequent<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.profile.most_frequent)
    }

    /// Of a text: what its values convert to, and what does not, as dictionaries.
    #[getter]
    fn conversions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.profile.conversions)
    }

    /// The type that every value of a text converts to without loss; None if there is none.
    #[getter]
    fn converts_to(&self) -> Option<&str> {
        self.profile.converts_to()
    }

    /// What it can be cut by at all: "time", "range", "hash", "value".
    #[getter]
    fn kinds(&self) -> Vec<&'static str> {
        self.profile.kinds.iter().map(|kind| kind.name()).collect()
    }

    /// What to cut it by; None where another column is better.
    #[getter]
    fn cut(&self) -> Option<&'static str> {
        self.profile.cut.map(|kind| kind.name())
    }

    /// The step of a cut by time: "hour", "day", "week", "month", "quarter" or "year".
    #[getter]
    fn step(&self) -> Option<&'static str> {
        self.profile.step.map(|step| step.name())
    }

    /// How many pieces a cut by time or by value makes, that of NULL not counted.
    #[getter]
    fn pieces(&self) -> Option<u64> {
        self.profile.pieces
    }

    /// What to cut by, and why, in a sentence.
    #[getter]
    fn advice(&self) -> &str {
        &self.profile.advice
    }

    /// The profile as plain Python data.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.profile)
    }

    fn __str__(&self) -> String {
        self.profile.to_string()
    }

    fn __repr__(&self) -> String {
        let Profile {
            name,
            type_name,
            advice,
            ..
        } = &self.profile;
        format!("<duckward.Profile: {name} {type_name}, {advice}>")
    }

    fn _repr_html_(&self) -> String {
        self.profile.to_html()
    }
}
