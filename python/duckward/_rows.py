"""Small conversions that Python libraries do best."""

import os
from collections.abc import Iterator
from itertools import chain
from typing import Any

Rows = list[tuple[Any, ...]]


def started(rows: Iterator[Any]) -> Iterator[Any]:
    """The same rows from a generator that has run up to its first one."""
    for first in rows:
        return chain([first], rows)
    return iter(())


def table(rows: Rows, names: list[str]) -> Any:
    """Rows as a `pyarrow.Table`; the types are inferred from the values."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.Table.from_arrays([pa.array(column) for column in columns], names=names)


def batch(rows: Rows, names: list[str]) -> Any:
    """Rows as one `pyarrow.RecordBatch`."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], names=names)


def frame(rows: Rows, names: list[str]) -> Any:
    """Rows as a `pandas.DataFrame`."""
    import pandas as pd

    return pd.DataFrame.from_records(rows, columns=names)


def polars(rows: Rows, names: list[str]) -> Any:
    """Rows as a `polars.DataFrame`."""
    import polars as pl

    return pl.DataFrame(rows, schema=names, orient="row")


def numpy(rows: Rows, names: list[str]) -> dict[str, Any]:
    """Rows as a dictionary of numpy arrays."""
    import numpy as np

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return {name: np.array(column) for name, column in zip(names, columns, strict=True)}


def renamed(schema: Any, names: list[str]) -> Any:
    """A `pyarrow.Schema` with other names."""
    import pyarrow as pa

    fields = [field.with_name(name) for field, name in zip(schema, names, strict=True)]
    return pa.schema(fields, metadata=schema.metadata)


def cut_arrays(columns: dict[str, Any], cap: int) -> dict[str, Any]:
    """The first `cap` values of every array."""
    return {name: values[:cap] for name, values in columns.items()}


def mapped_table(path: str) -> Any:
    """A `pyarrow.Table` over the memory-mapped Arrow IPC file `path`, which loses its name here.

    The space on disk is free again when the table is dropped, or the process ends, however it ends.
    """
    import pyarrow as pa

    source = pa.memory_map(os.fspath(path), "r")
    try:
        return pa.ipc.open_file(source).read_all()
    finally:
        # Where an open file cannot be removed (Windows), whoever made it removes it later.
        if os.name == "posix":
            os.unlink(path)
