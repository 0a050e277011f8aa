//! Arrow across the boundary, by the Arrow C data interface and PyCapsules: no copy, no second Arrow library.
#![allow(unsafe_code, reason = "the Arrow C interface passes raw pointers")]

use std::ffi::CStr;

use arrow::array::{Array, RecordBatch, RecordBatchReader, StructArray};
use arrow::datatypes::Schema;
use arrow::ffi::{FFI_ArrowSchema, to_ffi};
use arrow::ffi_stream::{FFI_ArrowArrayStream, RecordBatchStreamReader};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

const STREAM: &CStr = c"arrow_array_stream";
const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";

/// Takes over the stream of any object with `__arrow_c_stream__`.
pub(super) fn import_stream(object: &Bound<'_, PyAny>) -> PyResult<RecordBatchStreamReader> {
    let py = object.py();
    let capsule = object.call_method0(intern!(py, "__arrow_c_stream__"))?;
    let capsule = capsule.cast::<PyCapsule>()?;
    let pointer = capsule
        .pointer_checked(Some(STREAM))?
        .cast::<FFI_ArrowArrayStream>();
    // SAFETY: the capsule's name says what it points to; `from_raw` moves it out and leaves a released one behind.
    unsafe { RecordBatchStreamReader::from_raw(pointer.as_ptr()) }
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

/// A stream for others to take over.
pub(super) fn export_stream<'py>(
    py: Python<'py>,
    reader: Box<dyn RecordBatchReader + Send>,
) -> PyResult<Bound<'py, PyCapsule>> {
    PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(reader), STREAM)
}

fn schema_capsule<'py>(py: Python<'py>, schema: &Schema) -> PyResult<Bound<'py, PyCapsule>> {
    let schema =
        FFI_ArrowSchema::try_from(schema).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    PyCapsule::new_with_value(py, schema, SCHEMA)
}

/// The schema as a `pyarrow.Schema`.
pub(super) fn pyarrow_schema<'py>(py: Python<'py>, schema: &Schema) -> PyResult<Bound<'py, PyAny>> {
    let class = py
        .import(intern!(py, "pyarrow"))?
        .getattr(intern!(py, "Schema"))?;
    class.call_method1(
        intern!(py, "_import_from_c_capsule"),
        (schema_capsule(py, schema)?,),
    )
}

/// The batch as a `pyarrow.RecordBatch`, sharing its buffers.
pub(super) fn pyarrow_batch<'py>(py: Python<'py>, batch: &RecordBatch) -> PyResult<Bound<'py, PyAny>> {
    let class = py
        .import(intern!(py, "pyarrow"))?
        .getattr(intern!(py, "RecordBatch"))?;
    let data = StructArray::from(batch.clone()).to_data();
    let (array, _) = to_ffi(&data).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    let array: Bound<'_, PyCapsule> = PyCapsule::new_with_value(py, array, ARRAY)?;
    let capsules = PyTuple::new(py, [schema_capsule(py, &batch.schema())?, array])?;
    class.call_method1(intern!(py, "_import_from_c_capsule"), capsules)
}

/// Lets Python act as if Ctrl-C was pressed now, as soon as its main thread runs Python again.
pub(super) fn interrupt_main(_py: Python<'_>) {
    // SAFETY: only sets a flag; the token says that the GIL is held.
    unsafe { pyo3::ffi::PyErr_SetInterrupt() };
}

/// Runs `call` with the GIL, whatever pyo3 believes. A library that we called may have released the GIL and then call
/// us back on the same thread; pyo3 counts its own attachments only, and would take the GIL for held.
/// None when the interpreter is not there (any more).
pub(super) fn with_gil<T>(call: impl FnOnce(Python<'_>) -> T) -> Option<T> {
    // SAFETY: may be called at any time.
    if unsafe { pyo3::ffi::Py_IsInitialized() } == 0 {
        return None;
    }
    // SAFETY: the interpreter is initialized; the state is released below, on this thread.
    let state = unsafe { pyo3::ffi::PyGILState_Ensure() };
    // SAFETY: the GIL is held from here to the release.
    let result = call(unsafe { Python::assume_attached() });
    // SAFETY: `state` is what the call above returned.
    unsafe { pyo3::ffi::PyGILState_Release(state) };
    Some(result)
}
