"""The exceptions of duckward: one class a kind, named for what the caller does next.

Each also is the exception that existing handlers catch: DuckDB's of the same meaning, or Python's own. Errors
of a statement itself (syntax, names, types, constraints) are DuckDB's exceptions, unchanged.
"""

import builtins
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from ._duckward import Report


class Error(Exception):
    """Every exception of duckward. `report` says what happened to the query, if it was one."""

    report: "Report | None" = None


class InvalidInputError(Error, ValueError):
    """An argument or a setting is not acceptable. Nothing was changed; correct the call."""


class OutOfMemoryError(Error, duckdb.OutOfMemoryException):
    """The work does not fit into the memory budget. Raise `memory`, or do what the message names."""


class DiskError(Error, duckdb.OperationalError):
    """A disk is full or a directory cannot be written. Free space, or name another directory."""


class TimeoutError(Error, duckdb.OperationalError, builtins.TimeoutError):
    """A time limit passed. Try again when less is running, or raise the limit that the message names."""


class CancelledError(Error, duckdb.InterruptException):
    """The query was cancelled. Nothing is retried."""


class QueryError(Error, duckdb.ProgrammingError):
    """DuckDB refused the statement, and its own exception class could not be told. Correct the statement."""


class TransactionError(Error, duckdb.TransactionException):
    """The open transaction was lost, or what was read changed meanwhile. Start again."""


class ConnectionError(Error, duckdb.ConnectionException):
    """The connection is closed, busy or lost. Open or choose another one."""


class CorruptionError(Error, duckdb.DatabaseError):
    """Stored data does not read back. Stop writing and restore."""


class StateError(Error, RuntimeError):
    """The object cannot do this any more: closed, already read, or inherited through a fork."""


class InternalError(Error, duckdb.InternalError):
    """A defect of duckward. Report it with the message."""
