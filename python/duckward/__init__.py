"""Keeps DuckDB inside its memory budget, finishes the query anyway, and proves that nothing was lost.

    import duckdb, duckward
    con = duckdb.connect("analytics.duckdb")
    ward = duckward.guard(con, memory="512MB")
    for batch in ward.sql("select ..."):
        ...

`con` stays the caller's own connection. See `help(duckward.guard)` and `duckward.settings()`.
"""

import atexit as _atexit

from ._duckward import (
    Answer,
    Deduplication,
    Explanation,
    Ingested,
    Partitioning,
    Plan,
    Plot,
    Profile,
    Report,
    Subscription,
    Validation,
    Ward,
    __version__,
    guard,
)
from ._duckward import settings_table as _settings_table
from ._duckward import shutdown as _shutdown
from .errors import (
    CancelledError,
    ConnectionError,
    CorruptionError,
    DiskError,
    Error,
    InternalError,
    InvalidInputError,
    OutOfMemoryError,
    QueryError,
    StateError,
    TimeoutError,
    TransactionError,
)

__all__ = [
    "Answer",
    "CancelledError",
    "ConnectionError",
    "CorruptionError",
    "Deduplication",
    "DiskError",
    "Error",
    "Explanation",
    "Ingested",
    "InternalError",
    "InvalidInputError",
    "OutOfMemoryError",
    "Partitioning",
    "Plan",
    "Plot",
    "Profile",
    "QueryError",
    "Report",
    "StateError",
    "Subscription",
    "TimeoutError",
    "TransactionError",
    "Validation",
    "Ward",
    "__version__",
    "guard",
    "load_ipython_extension",
    "settings",
]


def settings() -> dict[str, dict[str, str]]:
    """Every setting of `guard()`: its default, what it accepts, and what it is for, as texts."""
    return {
        name: {"default": default, "accepts": accepts, "about": about}
        for name, default, accepts, about in _settings_table()
    }


def load_ipython_extension(ipython: object) -> None:
    """Adds the magics `%duckward` and `%%duckward` to a notebook: `%load_ext duckward`."""
    from .notebook import load_ipython_extension as load

    load(ipython)


# Threads of ours must not meet an interpreter that is being taken down.
_atexit.register(_shutdown)
