//! The Python face: the extension module `duckward._duckward`. Thin: it converts, releases the GIL around all waiting,
//! and runs queries on the calling thread, so that replacement scans see the caller's frame.

// Not in tests: they check that an allocation fails under the ceiling.
#[cfg(not(test))]
mod alloc;
mod answer;
mod arguments;
mod ask;
mod convert;
mod deduplication;
mod error;
mod events;
mod explanation;
mod guard;
mod host;
mod ingest;
mod partitioning;
mod plan;
mod profile;
mod reading;
mod report;
mod run;
mod signals;
mod slot;
mod statement;
mod validation;
mod ward;

use pyo3::prelude::*;

#[pymodule]
fn _duckward(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<answer::Answer>()?;
    module.add_class::<explanation::PyExplanation>()?;
    module.add_class::<ingest::PyIngested>()?;
    module.add_class::<partitioning::PyPartitioning>()?;
    module.add_class::<plan::PyPlan>()?;
    module.add_class::<plan::PyPlot>()?;
    module.add_class::<profile::PyProfile>()?;
    module.add_class::<report::PyReport>()?;
    module.add_class::<events::Subscription>()?;
    module.add_class::<validation::PyValidation>()?;
    module.add_class::<deduplication::PyDeduplication>()?;
    module.add_class::<ward::PyWard>()?;
    module.add_function(wrap_pyfunction!(guard::guard, module)?)?;
    module.add_function(wrap_pyfunction!(guard::settings_table, module)?)?;
    module.add_function(wrap_pyfunction!(guard::shutdown, module)?)?;
    Ok(())
}
