"""Statements that write, several at once: on threads here, or on the workers of an executor elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from . import errors

if TYPE_CHECKING:
    from ._duckward import Ward

Connection = duckdb.DuckDBPyConnection


@dataclass(frozen=True)
class Session:
    """By what a connection understands names and times."""

    database: str
    schema: str
    time_zone: str | None

    @classmethod
    def of(cls, con: Connection) -> Session:
        (names,) = con.execute("SELECT current_database(), current_schema()").fetchall()
        zones = con.execute(
            "SELECT value FROM duckdb_settings() WHERE name = 'TimeZone' AND value <> ''"
        ).fetchall()
        return cls(str(names[0]), str(names[1]), str(zones[0][0]) if zones else None)

    def enter(self, con: Connection) -> None:
        con.execute(f"USE {_quoted_name(self.database)}.{_quoted_name(self.schema)}")
        if self.time_zone is not None:
            con.execute(f"SET TimeZone = {_quoted(self.time_zone)}")


@dataclass(frozen=True)
class Site:
    """What a worker in another process needs to see the same files and tables as the connection here."""

    attached: tuple[tuple[str, str], ...]
    session: Session
    memory: str | int | float
    files: int


def run(
    ward: Ward,
    connection: Connection | None,
    executor: Executor | None,
    workers: int,
    memory: str | int | float | None,
    files: int,
    statements: list[str],
) -> Iterator[tuple[int, BaseException | None]]:
    """Runs each statement once; yields the place of each that has ended, and what it raised, if it did. When
    the iterator is closed none runs any more."""
    con = connection if connection is not None else ward.connection
    cursors: list[Connection] = []
    pool = executor if executor is not None else ThreadPoolExecutor(workers, "duckward-worker")
    is_here = isinstance(pool, ThreadPoolExecutor)
    futures: dict[Future[None], int] = {}
    try:
        if is_here:
            session = Session.of(con)
            for place, sql in enumerate(statements):
                futures[pool.submit(_here, ward, con, session, cursors, sql)] = place
        else:
            if memory is None:
                memory = _memory(ward, pool, workers)
            site = Site(_attached(con), Session.of(con), memory, files)
            for place, sql in enumerate(statements):
                futures[pool.submit(write, site, sql)] = place
        for future in as_completed(futures):
            error = future.exception()
            if isinstance(error, duckdb.CatalogException):
                sees = (
                    "a worker sees what is committed, and no temporary tables: commit, or leave out workers="
                    if is_here
                    else "a worker in another process sees files, and databases that are open here with "
                    "read_only=True: open the database so, or give workers= without executor="
                )
                message = f"a worker does not find the source; {sees} ({error})"
                raise errors.InvalidInputError(message) from error
            yield futures[future], error
    finally:
        for future in futures:
            future.cancel()
        for cursor in cursors:
            cursor.interrupt()
        wait(futures)
        if executor is None:
            pool.shutdown()


def _here(ward: Ward, con: Connection, session: Session, cursors: list[Connection], sql: str) -> None:
    cursor = con.cursor()
    cursors.append(cursor)
    session.enter(cursor)
    ward.sql(sql, connection=cursor).fetchall()


def write(site: Site, sql: str) -> None:
    """Runs a statement in a worker process, guarded by what that process has."""
    import duckward

    with duckdb.connect() as con:
        con.execute("SET enable_progress_bar = false")
        for name, path in site.attached:
            con.execute(f"ATTACH {_quoted(path)} AS {_quoted_name(name)} (READ_ONLY)")
        if site.session.database in [name for name, _ in site.attached]:
            site.session.enter(con)
        con.execute(f"SET partitioned_write_max_open_files = {site.files}")
        with duckward.guard(con, memory=site.memory) as ward:
            try:
                ward.sql(sql).fetchall()
            except errors.Error as error:
                # A report cannot be sent to another process.
                error.report = None
                raise


def _attached(con: Connection) -> tuple[tuple[str, str], ...]:
    """Name and file of each database that other processes may read meanwhile."""
    found: list[tuple[Any, ...]] = con.execute(
        "SELECT database_name, path FROM duckdb_databases() "
        "WHERE NOT internal AND readonly AND path IS NOT NULL AND type = 'duckdb'"
    ).fetchall()
    return tuple((str(name), str(path)) for name, path in found)


def _memory(ward: Ward, pool: Executor, workers: int) -> str | int:
    """Processes of this machine share what this one may take; others have memory of their own."""
    return (
        int(ward.status()["budget"]) // max(workers, 1) if isinstance(pool, ProcessPoolExecutor) else "auto"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
