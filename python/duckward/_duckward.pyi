"""Types of the compiled module. What is meant for users is re-exported by `duckward`.

Sizes are whole bytes and times are seconds, unless a name says otherwise. Where a setting is given as a text,
the text carries the unit: "512MB", "250ms".
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from os import PathLike
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypedDict, final, overload, type_check_only

import duckdb
import numpy
import pandas
import polars
import pyarrow as pa
from typing_extensions import NotRequired

__all__ = [
    "Answer",
    "Deduplication",
    "Explanation",
    "Ingested",
    "Partitioning",
    "Plan",
    "Plot",
    "Profile",
    "Report",
    "Subscription",
    "Validation",
    "Ward",
    "__version__",
    "guard",
    "settings_table",
    "shutdown",
]

__version__: str

_Level: TypeAlias = Literal["normal", "caution", "warning", "critical", "emergency"]
_Priority: TypeAlias = Literal["high", "normal", "low"]
_Profile: TypeAlias = Literal[
    "development", "testing", "production", "notebook", "container-small", "server-large"
]
# "512MB" (10**6), "512MiB" (2**20), or whole bytes.
_Size: TypeAlias = str | int
# 0.8 or "80%".
_Share: TypeAlias = str | float
# A table, view, data frame, files or a query; a partitioning; pieces in order, by name or as they are.
_Rows: TypeAlias = str | Partitioning | Sequence[str | Partitioning] | Mapping[str, str | Partitioning]
# "table.column", "table(column, column)", or a source and its columns.
_Parent: TypeAlias = str | tuple[str, str | Sequence[str]]
_References: TypeAlias = (
    Mapping[str, _Parent] | Mapping[tuple[str, ...], _Parent] | Mapping[str | tuple[str, ...], _Parent]
)
# Seconds, or "250ms", "30s", "5min", "2h".
_Time: TypeAlias = str | float
# The way a statement is run.
_Rung: TypeAlias = Literal["as is", "degraded", "in pieces"]
# Whether a statement may run in pieces: "auto" when it must, False never, a number from 1 to 1024 always.
_Pieces: TypeAlias = Literal["auto", False] | int
# What is proved of pieces: the number of rows that went in, or their values and keys, too.
_Proof: TypeAlias = Literal["counts", "full"]
# What a table can be cut by, and the steps of a cut by time.
_Kind: TypeAlias = Literal["time", "range", "hash", "value"]
_Step: TypeAlias = Literal["hour", "day", "week", "month", "quarter", "year"]
# True, False, or as text "on", "off", "yes", "no", "1", "0".
_Switch: TypeAlias = str | bool

@type_check_only
class _Attempt(TypedDict):
    """One attempt at a query."""

    rung: _Rung
    # Wall time.
    seconds: float
    # Largest memory that counted while it ran, in bytes.
    peak: int
    # What failed, in snake case ("memory", "disk_full", "interrupted_by_guard", ...); None for the one that
    # answered.
    failure: str | None
    # DuckDB's message, when it failed.
    message: str | None

@type_check_only
class _Piece(TypedDict):
    """One piece of a query."""

    # Rows that went in; None where they cannot be counted.
    rows: int | None
    # Wall time.
    seconds: float
    # How often it was cut in two because it did not fit.
    splits: int
    # Whether it read from what was written once for all pieces.
    spooled: bool

@type_check_only
class _ReportDict(TypedDict):
    """A `Report` as plain data."""

    # The query's number in this process; 0 before it has run.
    query: int
    # "not_run", "running", "answered", "closed", or {"failed": kind}.
    outcome: str | dict[str, str]
    attempts: list[_Attempt]
    why: str
    # Bytes.
    budget: int
    peak: int
    spill: int
    rows: int | None
    pieces: list[_Piece]
    verified: _Proof | None
    why_not: str | None
    truncated: bool
    # Bytes on disk.
    spooled: int | None
    # Seconds.
    seconds: float
    waited: float

@type_check_only
class _Learned(TypedDict):
    """What was learnt when a shape of query was last answered."""

    rung: _Rung
    # Wall time of the attempt that answered.
    seconds: float
    # Bytes: how much memory grew, what went to temporary storage, the budget then.
    growth: int
    spill: int
    budget: int

@type_check_only
class _Forecast(TypedDict):
    """A query of a statement that would be computed beforehand, as DuckDB's plan estimates it."""

    # Its text.
    sql: str
    # What it is cut by, as texts; empty when it is computed at once.
    keys: list[str]
    # Rows that go into it; that it gives, when it is computed at once. None where the plan does not say.
    rows: int | None
    # Groups it makes of them.
    groups: int | None
    # Bytes that it would keep in memory, if it ran as it is.
    bytes: int | None
    # Into how many pieces it would be cut at first; None when it is computed at once.
    pieces: int | None

@type_check_only
class _ExplanationDict(TypedDict):
    """An `Explanation` as plain data."""

    rung: _Rung
    why: str
    learned: _Learned | None
    can_be_cut: bool
    why_not: str | None
    queries: list[_Forecast]
    # Bytes.
    memory_limit: int
    budget: int

@type_check_only
class _Frequent(TypedDict):
    """The most frequent value of a column."""

    # As DuckDB prints it.
    value: str
    # Of all rows, from 0 to 1; at most that, if it is not exact.
    share: float
    # Whether both are exact, as they are where there are few values.
    exact: bool

@type_check_only
class _Conversion(TypedDict):
    """What becomes of a text's values in another type, by TRY_CAST."""

    to: str
    # Rows whose value converts.
    converts: int
    # Of these, rows whose value then says something else: a fraction, a leading zero, a time of the day, an
    # offset of a time zone, or a digit is lost.
    altered: int
    # Rows whose value does not convert.
    fails: int
    # Up to five values that do not, frequent ones first.
    examples: list[str]

@type_check_only
class _ProfileDict(TypedDict):
    """A `Profile` as plain data."""

    name: str
    type: str
    rows: int
    nulls: int
    minimum: str | None
    maximum: str | None
    nan: int
    infinite: int
    distinct: int
    distinct_exact: bool
    most_frequent: _Frequent | None
    conversions: list[_Conversion]
    kinds: list[_Kind]
    cut: _Kind | None
    step: _Step | None
    pieces: int | None
    advice: str

@type_check_only
class _Rule(TypedDict, total=False):
    """By what rule a cut goes. Values are as DuckDB prints them; moments with a zone in UTC."""

    kind: Literal["time", "range", "hash", "value"]
    # Of a cut by time.
    step: _Step
    zone: str | None
    names: list[str]
    # Of a cut by time or by range: where each piece but the first begins, ascending.
    bounds: list[str]
    # Of a cut by hash.
    pieces: int
    # Of a cut by value, ascending.
    values: list[str]

@type_check_only
class _Cut(TypedDict):
    """A cut of a plan."""

    column: str
    type: str
    rule: _Rule

@type_check_only
class _PlannedPiece(TypedDict):
    """A piece of a plan."""

    name: str
    # What its rows fulfil, as SQL over the source's columns.
    condition: str
    # Counted when the plan was made.
    rows: int
    # In memory, by the width of the first rows.
    bytes: int

@type_check_only
class _Balance(TypedDict):
    """How alike in size pieces are; those without rows do not count."""

    pieces: int
    least: int
    most: int
    mean: float
    # The standard deviation, and that by the mean: below 0.3 is good, above 0.5 is not.
    deviation: float
    variation: float

@type_check_only
class _Heavy(TypedDict):
    """A value that more rows have than a piece should."""

    column: str
    value: str
    # Of the rows, from 0 to 1, by a sample.
    share: float

@type_check_only
class _PieceFile(TypedDict):
    """A file of a piece."""

    # In the directory, parted by slashes.
    path: str
    bytes: int
    sha256: str

@type_check_only
class _WrittenPiece(TypedDict):
    """A piece that was written."""

    name: str
    condition: str
    rows: int
    # 128 bits over its rows, whatever their order; the same in the source when it was written.
    digest: str
    # Of a directory.
    files: NotRequired[list[_PieceFile]]
    # Of tables.
    table: NotRequired[str]

@type_check_only
class _IngestedDict(TypedDict):
    table: str
    rows: int
    rejected: int
    batches: int
    token: str
    resumed_from: int | None
    total_rows: int
    total_rejected: int
    rejects: str | None
    seconds: float

@type_check_only
class _ManifestDict(TypedDict):
    """What `_duckward.json` says of the directory it is in, or `duckward_partitionings` of tables."""

    version: int
    plan: _PlanDict
    columns: list[list[str]]
    # The version of DuckDB that wrote it, and whose hash the digests are made of.
    duckdb: str
    digest: str
    pieces: list[_WrittenPiece]
    # SHA-256 of all of this without it.
    checksum: str

@type_check_only
class _PlanDict(TypedDict):
    """A `Plan` as plain data."""

    version: int
    source: str
    columns: list[list[str]]
    rows: int
    cuts: list[_Cut]
    pieces: list[_PlannedPiece]
    heavy: list[_Heavy]
    # What was asked for when it was made; not there for one that was made of another plan.
    wish: NotRequired[_Wish]

@type_check_only
class _Wish(TypedDict):
    """What was asked for when a plan was made, as `Ward.plan()` takes it."""

    by: list[str]
    every: _Step | None
    zone: str | None
    pieces: int | None
    rows: int | None
    hash: int | None
    value: bool

@type_check_only
class _Status(TypedDict):
    """What `Ward.status()` gives. Sizes in bytes."""

    # The ward's number in this process.
    ward: int
    level: _Level
    # The budget in force: the strictest of all wards in this process.
    budget: int
    # Where this ward's own budget comes from, for people.
    budget_source: str
    # Memory that counts, what it counts against, and the one as a share of the other.
    used: int
    limit: int
    share: float
    # Whose limit that is: "process", "cgroup" or "machine".
    bound: str
    # DuckDB's memory_limit now.
    memory_limit: int
    # What DuckDB said of itself when it was last asked; None before that.
    tracked: int | None
    spilled: int | None
    # Queries that run and that wait, and open wards, in this process.
    running: int
    waiting: int
    wards: int
    # Settings of DuckDB that are changed now: [name, before, now].
    changed: list[list[str]]
    # Actions of the guard in force, by name.
    actions: list[str]
    # Every setting in force, and where it comes from, as texts by name.
    settings: dict[str, str]
    sources: dict[str, str]

def guard(
    connection: duckdb.DuckDBPyConnection,
    memory: _Size | float | None = None,
    *,
    profile: _Profile | str | None = None,
    settings_file: str | PathLike[str] | None = None,
    reserve: _Size | None = ...,
    caution: _Share = ...,
    warning: _Share = ...,
    critical: _Share = ...,
    emergency: _Share = ...,
    hysteresis: _Share = ...,
    dwell: _Time = ...,
    interval_min: _Time = ...,
    interval_max: _Time = ...,
    elastic: _Switch = ...,
    ceiling: _Switch = ...,
    clean_up: _Switch = ...,
    limit_concurrency: _Switch = ...,
    limit_memory: _Switch = ...,
    queue_new: _Switch = ...,
    refuse_new: _Switch = ...,
    spill_early: _Switch = ...,
    lower_checkpoint: _Switch = ...,
    interrupt: _Switch = ...,
    victim: Literal["largest", "longest"] | str = ...,
    row_cap: str | int | None = ...,
    max_concurrent: str | int = ...,
    wait: _Time = ...,
    query_timeout: _Time | None = ...,
    retries: str | int = ...,
    backoff: _Time = ...,
    keep_order: _Switch = ...,
    feed: Literal["auto", "scan", "spool"] | str = ...,
    history: Literal["none", "beside"] | str | PathLike[str] | None = ...,
    temp_directory: str | PathLike[str] | None = ...,
    answer_memory: _Size | None = ...,
    batch_rows: str | int = ...,
    log: str | None = ...,
) -> Ward:
    """Guards a DuckDB connection that you already have. The connection stays yours.

    Args:
        connection: what `duckdb.connect()` or `con.cursor()` returned.
        memory: the budget of the process: a size ("512MB", "2GiB", whole bytes), a share of what there is
            (0.5, "50%"; an int is bytes, so all of it is 1.0), or "auto". None leaves it to the environment,
            the file, the profile and the default, "auto", in this order.
        profile: a set of settings to start from.
        settings_file: a TOML file with settings; "none" reads none. Without it, `duckward.toml` of the
            working directory is read if it is there.
        reserve, caution, ...: the other settings. `duckward.settings()` says what each is for, what it
            accepts and what it is by default. None clears a setting that may be empty.

    Returns:
        The ward. Guarding a connection again with the same settings gives the same ward.

    Raises:
        InvalidInputError: not a connection, an unknown setting, a value that is not acceptable, settings that
            contradict each other, a budget that the machine or the process has no room for,
            `history="beside"` of a database in memory, or a connection that is guarded with other settings.
        DiskError: `temp_directory` or `history` cannot be written.
        ConnectionError: the connection is closed or does not answer.

    Nothing is changed when it raises.
    """

def settings_table() -> list[tuple[str, str, str, str]]:
    """Name, default as text, what it accepts, what it is for: of every setting. See `duckward.settings()`."""

def shutdown() -> None:
    """Closes every ward of this process and ends the guard's threads. Called when the interpreter exits."""

@final
class Ward:
    """A guarded connection, made by `duckward.guard(con)`. As a context manager it closes itself at the end.

    Every method but `close()` raises StateError once the ward is closed, and in a child process that was
    forked.
    """

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection it guards, the very object that was given."""

    def ingest(
        self,
        reader: object,
        table: str,
        *,
        batch_rows: int = 1_000_000,
        batch_bytes: int | str | None = None,
        token: str | None = None,
        rejects: str | None = None,
        create: bool = False,
    ) -> Ingested:
        """Loads records into a table, in bounded memory; a load that ended anywhere can go on.

        `reader` is an Arrow stream or table, a data frame, or an iterator of batches, of data frames or of
        dictionaries; also what PyAirbyte's `read()` gives, and its records. It is read once, as it is needed.
        Columns and keys are matched by name, whatever their case; what the source lacks is the column's
        default, or NULL. Values are cast as DuckDB casts them, each by its own type, so that batches make no
        difference.

        Batches are committed on a connection of the load's own, not as part of a transaction of yours: each
        by itself, or, while the source is quick, several at once, up to a million rows. The same transaction
        notes in the table `duckward_ingests` of that database how many records of the source are behind the
        load. The same `token` with the same source from its beginning, in the same order, skips so many:
        nothing is lost and nothing comes twice, also after a kill. A token that is finished is refused.
        Without one a new one is made up; the result and `duckward_ingests` say it.

        Args:
            reader: Where records come from.
            table: The table; with schema and database if needed. A temporary one will not do.
            batch_rows: Most rows of a batch: what is committed by itself where the source is slow, a record
                is bad or memory is short.
            batch_bytes: Most bytes of what is committed at once, in memory, such as "64MB"; None: a sixteenth
                of the budget, at most 128 MiB. One record that is larger is a batch of its own. Under memory
                pressure batches are smaller.
            token: What the load is known by.
            rejects: The table for bad records (token, source_row from 1, reason, record as JSON), made if it
                is not there. None: the first bad record ends the load, and nothing of its batch remains.
            create: Whether the table is made of the source's columns if it is not there. Of dictionaries, the
                first 1,024 say which columns there are.

        Raises:
            InvalidInputError: no such table, columns that it does not have, a database that is read-only.
            QueryError: a bad record. It says which, why, and what is committed.
            TransactionError: the source failed (its exception is the cause), or it is not the one that the
                load began with.
            StateError: the token is finished, or another load goes on with it.
            OutOfMemoryError: not even a small batch fits.
        """

    @property
    def level(self) -> _Level:
        """How close memory is to the budget now."""

    def sql(
        self,
        query: str | duckdb.Statement,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        connection: duckdb.DuckDBPyConnection | None = None,
        priority: _Priority | None = None,
        pieces: _Pieces | None = None,
        verify: _Proof | None = None,
    ) -> Answer:
        """Runs SQL under guard, on the calling thread.

        A SELECT is bound now, so its errors and the data frames that it names belong to this line; it runs
        when its answer is read. Any other statement runs now, to its end. An earlier answer of the same
        connection that is still being read is taken to its end first, into memory or onto disk.

        Args:
            query: one or more statements; of several, the answer is the last one's.
            params: values for `?`, `$1` (a sequence) or `$name` (a mapping) of the last statement.
            connection: another connection to the same database, such as one of `cursor()`; otherwise the
                ward's.
            priority: the place in the waiting line; "normal" unless given.
            pieces: whether it may run in pieces: "auto" (unless given) when it cannot run otherwise, False
                never, a number from 1 to 1024 always, in so many at first.
            verify: what is proved of pieces before their answer is given: "counts" (unless given) that as
                many rows went in as there were, "full" that they had the same values, too, and that no key is
                in two pieces. What could be proved is in the report.

        Raises:
            duckdb.Error: the statement is wrong (syntax, names, types, constraints): DuckDB's exception,
                unchanged.
            OutOfMemoryError, DiskError, TimeoutError, CancelledError, TransactionError, ConnectionError,
                CorruptionError: what the caller does next; `report` on the exception tells what was tried.
                    For a
                SELECT they come when the answer is read.
            InvalidInputError: no SQL, an unknown priority or proof, pieces that cannot be, or a connection to
                another database.
            InternalError: a proof of pieces failed, so the answer is withheld.
        """

    def explain(
        self,
        sql: str | duckdb.Statement,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        connection: duckdb.DuckDBPyConnection | None = None,
        pieces: _Pieces | None = None,
    ) -> Explanation:
        """What `sql()` would do with a statement, and why. DuckDB plans it; nothing of it is run.

        It does not wait for its turn. As with `sql()`, an earlier answer of the same connection that is still
        being read is taken to its end first, into memory or onto disk.

        Args:
            sql: one statement.
            params: values for `?`, `$1` (a sequence) or `$name` (a mapping).
            connection: another connection to the same database; otherwise the ward's.
            pieces: as for `sql()`.

        Raises:
            duckdb.Error: the statement is wrong: DuckDB's exception, unchanged.
            OutOfMemoryError, TimeoutError, CancelledError, ConnectionError: the planning was stopped.
            InvalidInputError: no SQL, more than one statement, pieces that cannot be, or a connection to
                another database.
        """

    def validate(
        self,
        left: _Rows,
        right: _Rows | None = None,
        *,
        on: str | Sequence[str] | None = None,
        references: _References | None = None,
        gaps: str | None = None,
        every: int | str | None = None,
        examples: int = 5,
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> Validation:
        """Whether two sources have the same rows, in whatever order, and every difference between them; of
        one source, or of pieces, whether keys are unique, references lead somewhere, sequences have no gaps.

        What is the same is known after one pass over each side, by counts and by digests that do not
        depend on order. Only a difference is looked for in others. Both sides are read in one statement,
        under guard. Keys are grouped in one pass over all pieces, never two pieces at a time. Of a
        partitioning in files the SHA-256 are compared first; where each file is what was written, its rows
        are known from then, by count and digest, and the other side alone is read.

        Args:
            left, right: each a table, view or data frame by its name ("events", "db.main.events"), files
                ("lake/*.parquet"), a query, or pieces: a partitioning, a list of up to 1,000 sources, or a
                mapping of names to sources. Without `right`, `left` is looked at by itself. Findings about
                pieces of the right side name the piece: of a partitioning all, of others those about rows
                that are there. Where pieces have other columns than the first one, or than `left`, that is a
                finding; so is a column that is NULL in all of one piece and not in others.
            on: the columns that identify a row. With them missing, extra, doubled and changed rows are told
                by key, and changed values by column; without them rows are compared as wholes. Of pieces,
                and of a source by itself, keys that several rows of a piece have ("duplicate_keys"), keys
                that two pieces have ("overlap") and rows with a NULL in the key ("null_keys", which as in a
                UNIQUE constraint are like no other row).
            references: foreign keys of the right side, or of the only one: the columns, and what they refer
                to, as "table.column", "table(column, column)" or a source and its columns. Rows whose key no
                row there has are a finding; a key with a NULL refers to nothing.
            gaps: a column of whole numbers, dates or timestamps. Steps of it without a row are a finding:
                with two sources steps in which the left one has rows, of one all from the first to the last.
            every: the length of a step, from a multiple of it to the next: a whole number (default: 1), or a
                time such as "hour", "15 minutes", "month" (default for dates: "day"; weeks begin on Monday,
                and steps of moments with a zone are those of UTC).
            examples: the most examples of a finding.
            connection: another connection to the same database; otherwise the ward's.

        Raises:
            duckdb.Error: a source is not there or cannot be read: DuckDB's exception, unchanged.
            InvalidInputError: no source, nothing to look for, two pieces of one name, or a column that is not
                there or has no steps.
            OutOfMemoryError, DiskError, TimeoutError, CancelledError, ConnectionError: as for `sql()`.
        """

    def deduplicate(
        self,
        source: str | Sequence[str] | Mapping[str, str] | Partitioning,
        *,
        on: str | Sequence[str],
        order_by: str | Sequence[str] | None = None,
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> Deduplication:
        """Removes all rows but the first of each key, in one table, over several, or over the pieces of a
        partitioning.

        The removed rows of tables move, in one transaction, into tables beside, whose names begin with
        `duckward_removed_`, until they are put back or forgotten. Of a partitioning in files only the pieces
        that lose rows are written anew, and compared with what they should have. They take their place in one
        rename; the directory of before stays beside, as `.duckward-removed-...`, and shares all other files.
        (A pattern such as `lake/**/*.parquet` of the directory above would read it, too.)

        Before anything is published it is counted that each table had as many rows as are left and removed,
        and that each key is still there, once. A partitioning's manifest is published with its rows; the
        result's `partitioning` has it. Its old one tells of what is not there any more.

        Args:
            source: a table, or several in order, as a list or a mapping of names to tables; or a
                partitioning, whose pieces are in the order of its plan.
            on: the columns of the key. A row with a NULL in one of them is like no other, and stays.
            order_by: the columns by which the first row is chosen: the least value, NULL last. Of equal
                ones, and without it, the row in the earlier table or piece, and there the one with the least
                `rowid`: the one that was inserted first. In a file it is the one that comes first.
            connection: another connection to the same database; otherwise the ward's. For tables it must not
                be in a transaction.

        Raises:
            duckdb.Error: a table is not there or must keep its rows: DuckDB's exception, unchanged.
            InvalidInputError: no table, a column that is not there, a transaction is open, or a partitioning
                is not what it was: `check()` tells why.
            TransactionError: rows would have been lost, as when one table was given twice.
            StateError: another partitioning is being written in that place.
            OutOfMemoryError, DiskError, TimeoutError, CancelledError, ConnectionError: as for `sql()`.
                After any of these nothing was changed.
        """

    @overload
    def profile(
        self, source: str, column: str, *, connection: duckdb.DuckDBPyConnection | None = None
    ) -> Profile: ...
    @overload
    def profile(
        self, source: str, column: None = None, *, connection: duckdb.DuckDBPyConnection | None = None
    ) -> list[Profile]:
        """What a column is like, and what its table can be cut by; or every column, as a list.

        The rows are read once, under guard, whether of one column or of all. Everything is exact but what
        says that it is not: the number of values and the most frequent one, where there are more than 100.

        Args:
            source: a table or view (with its schema, if wanted), the path or pattern of files, or a query.
            column: its name, without regard to case; every column without it.
            connection: another connection to the same database; otherwise the ward's.

        Raises:
            duckdb.Error: there is no such source, or it cannot be read: DuckDB's exception, unchanged.
            InvalidInputError: there is no such column, or the source is no query, table or file.
            OutOfMemoryError, DiskError, TimeoutError, CancelledError, TransactionError, ConnectionError,
                CorruptionError: as of `sql()`.
        """

    def plan(
        self,
        source: str,
        *,
        by: str | Sequence[str] | None = None,
        every: _Step | str | None = None,
        zone: str | None = None,
        pieces: int | None = None,
        rows: int | None = None,
        hash: int | None = None,
        value: bool = False,
        file: str | PathLike[str] | None = None,
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> Plan:
        """How to cut a table, files or a query: pieces in order, of which every row is in exactly one.

        Nothing is written but `file`. What is left open is advised from the data, as by `profile()`; the size
        of pieces, where it is left open, goes by the budget. NULL has a piece of its own, and so have, in a
        cut by value, all values that come later. A time before or after those there were is in the first or
        the last piece. The source is read a few times, a column or two at a time.

        Args:
            source: a table or view (with its schema, if wanted), the path or pattern of files, or a query.
            by: the column to cut by, or up to three, one after the other; without it, one is advised.
            every: by time: a piece for each "hour", "day", "week", "month", "quarter" or "year".
            zone: the zone whose calendar that is, for a TIMESTAMP WITH TIME ZONE; otherwise the session's.
            pieces: by range: so many pieces with about as many rows each, 1 to 10,000.
            rows: by range: about so many rows a piece; of a table without `by`, in the order of its rows.
            hash: by hash: so many pieces, 1 to 10,000; the same in every version of DuckDB.
            value: by value: a piece for each, up to 10,000, and one for values that come later.
            file: the path of a file, ending in `.json`, that the plan is kept in. Where it is there already,
                that plan is taken and the source is not read: what is said of how to cut must be what it was
                made with, what is left open is as it is there. So the same lines go on with a partitioning
                whose process was killed.
            connection: another connection to the same database; otherwise the ward's.

        Of several columns `every` goes with the first date or time; `hash`, then `value`, then `pieces` or
        `rows`, with the last that is left: `by=["ts", "id"], every="month", hash=16`.

        Raises:
            duckdb.Error: there is no such source or zone, or it cannot be read: DuckDB's exception,
                unchanged.
            InvalidInputError: there is no such column, it cannot be cut that way, there is nothing to cut, or
                that makes too many pieces: more than 10,000; `file` has a plan of another source, one
                that was made with something else, or none.
            DiskError: `file` cannot be read or written.
            OutOfMemoryError, DiskError, TimeoutError, CancelledError, TransactionError, ConnectionError,
                CorruptionError: as of `sql()`.
        """

    def partition(
        self,
        plan: Plan,
        into: str | PathLike[str],
        *,
        replace: bool = False,
        sort: str | Sequence[str] | None = None,
        batch_rows: int | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        worker_memory: str | int | float | None = None,
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> Partitioning:
        """Cuts the plan's source into a directory of Parquet files, or into tables, proved before they are
        put there.

        The files are written beside the directory, in one scan of the source; read back, and compared with
        it by rows and digests of each piece; then put in its place by one rename. So there is the old state
        or the new one, whole, also after a kill. A large table is written by shares of its rows: by the same
        plan (keep it with `plan.save()`) the next call goes on after the last share that was written, and
        anything else that a killed process has left is removed. A share that fails for want of memory or
        time is tried three times, smaller, after 2 and 4 seconds; `attempts` of what is returned says so.
        A piece is a directory such as `ts_month=2024-01`; `_duckward.json` says what is there. Files have
        version 2 of Parquet's encodings and zstd, which DuckDB, Arrow, polars, Spark 3.3 and Trino read, and
        tools of before 2022 may not. A transaction
        that is open sees one state of its tables; without one, a source that changes meanwhile is found out
        and nothing is published.

        A text with `{piece}` in it is for tables: `events_{piece}`, `archive.events_{piece}`,
        `other.main.events_{piece}`; a schema that is not there is made. All is done in one transaction: the
        source is scanned once into a temporary table, each piece with rows gets a table, those are compared
        with the source and committed. Who reads meanwhile sees the old state. Columns keep their names and
        types; constraints, defaults and indexes are not copied. In a table's name what is no letter, digit
        or underscore is an underscore; where two would have one name, without regard to case, or it would be
        long, it ends with a hash. The table `duckward_partitionings` in the same schema keeps what was made,
        for `partitioning()`.

        Args:
            plan: from `plan()`. Rows that came after it are in pieces, too.
            into: the directory; it must not be there, or be empty. Or the template of tables' names; none of
                them may be there.
            replace: also an earlier partitioning may be there, of that template if it is of tables. Nothing
                else is ever replaced; what was changed in its tables since is gone then. The source may be
                what is replaced.
            sort: columns to sort the rows of each piece by; it is written as one file then. That takes
                longer, and makes files smaller and quicker to search.
            batch_rows: rows of a share; otherwise what fits into 0.4 of the memory, 10 million at most, or
                more where there are many pieces, of each of which every share makes a file.
            workers: so many statements at once, each of which writes some of the pieces; on threads of this
                process, where they see what is committed.
            executor: a `concurrent.futures.Executor` that runs them instead: a pool of processes, or Dask's
                `Client.get_executor()`. Workers in other processes read the source themselves: files, or
                databases that are open here with `read_only=True`; and write to the same directory, so they
                need its file system. What they wrote is proved here.
            worker_memory: the budget of each worker in another process, as in `guard()`. Otherwise those of a
                `ProcessPoolExecutor` share the ward's, and each of another executor has all of its machine.
            connection: another connection to the same database; otherwise the ward's.

        Raises:
            duckdb.Error: the source is not there or cannot be read or written: DuckDB's exception, unchanged.
            InvalidInputError: the plan is for another form of the source, the directory or the template will
                not do, there are no rows for tables, the database is read-only, or Parquet would round a
                column.
            StateError: another process writes this directory; for tables, a transaction is open.
            DiskError: the file system refuses; or, before anything is written, less is free there than a
                hundredth of the plan's `bytes`, or than 16 MiB if that is more and the plan is larger; with
                4 KiB for each file. What a process that was killed had written is left then.
            TransactionError: what was written is not what the source has; it was removed.
            OutOfMemoryError, TimeoutError, CancelledError, ConnectionError, CorruptionError: as of `sql()`.
        """

    def rebalance(
        self,
        partitioning: Partitioning,
        *,
        target_rows: int,
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> Partitioning:
        """Cuts a partitioning anew, so that each piece has about `target_rows`.

        A piece of more than twice as many rows is split where its rows are; neighbours of which one has less
        than half are put together, to no more than one and a half. By hash there are more pieces, or fewer.
        By value small ones are put together, to no more than `target_rows`, and pieces of several values that
        became too large are taken apart. One value is never split (`plan.heavy` of the new one names those of
        a cut by value), and NULL and all other values stay pieces of their own. By row number pieces are put
        together and not split. Of several columns the first by time or range is cut anew, else the first by
        hash, else the last by value, so that pieces have `target_rows` on the average.

        It is what the tables or files have now that is cut, rows that were put into the tables since
        included, with all that `partition(replace=True)` promises. Pieces that need no change are taken over:
        files as they are, under another name if need be, after their SHA-256 was compared; tables after their
        digest was. `validation` of the new one is of what was written anew.

        Args:
            partitioning: files or tables.
            target_rows: rows of a piece.
            connection: another connection to the same database; otherwise the ward's.

        Returns:
            The new one; where nothing is to be changed, the one that was given.

        Raises:
            InvalidInputError: pieces by row number are too large, or are cut by another column, too; its
                tables are missing or have other columns, its files are missing, added or changed; another one
                took its place; that makes too many pieces.
            StateError: a transaction is open.
            OutOfMemoryError, DiskError, TimeoutError, CancelledError, TransactionError, ConnectionError,
                CorruptionError: as of `sql()`.
        """

    def partitioning(
        self, into: str | PathLike[str], *, connection: duckdb.DuckDBPyConnection | None = None
    ) -> Partitioning:
        """An earlier partitioning, by what it was cut into: the template of tables' names, or a directory.

        Args:
            into: as `partition()` takes it, or the `path` of what it gave.
            connection: another connection to the same database; otherwise the ward's.

        Raises:
            InvalidInputError: there is none, or what is kept of it was edited.
            DiskError: the directory cannot be read.
            OutOfMemoryError, TimeoutError, CancelledError, TransactionError, ConnectionError,
                CorruptionError: as of `sql()`.
        """

    def cursor(self, cursor: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyConnection:
        """A new cursor of the connection, watched; or the watching of `cursor`, a connection to the same
        database.

        Queries that are run on it directly are interrupted in an emergency; give it to `sql(connection=)` for
        more.

        Raises:
            InvalidInputError: `cursor` is no connection, or one to another database.
        """

    def cancel(self) -> int:
        """Cancels every query that runs through this ward, from any thread. How many it reached.

        A query that still waits for its turn, a COMMIT and a CHECKPOINT are not reached.
        """

    def progress(self) -> float | None:
        """How far the running query is, from 0 to 1.

        A query that runs in pieces: over all its pieces. A table that is being partitioned: over all that is
        done, the proof and the publication included. Any other: None unless DuckDB counts it, which
        `enable_progress_bar` makes it do.
        """

    def status(self) -> _Status:
        """What the ward sees and does now, as plain data. Sizes in bytes."""

    def on(self, callback: Callable[[dict[str, Any]], object]) -> Subscription:
        """Calls `callback(event)` for everything that happens in the guard of this process.

        Every event is a dictionary with `event`, its name, and `unix_ms`, milliseconds since 1970-01-01 UTC;
        the other fields depend on the name and are listed in the README. Sizes in bytes. What a query does is
        told on the thread that runs it; what the guard does by itself on a thread of its own.

        An exception in `callback` is shown by `sys.unraisablehook`, told to the other callbacks as
        `callback_failed`, and never reaches a query.

        Returns:
            The subscription; `cancel()` ends it, and so does `close()` of the ward.

        Raises:
            InvalidInputError: `callback` cannot be called.
        """

    def close(self) -> None:
        """Ends the guard and puts back what it changed. Running queries go on. A second call does nothing."""

    def __enter__(self) -> Ward: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

@final
class Answer:
    """What a statement gave. It is read once, in one way; a second reading raises StateError.

    Iterate it for `pyarrow.RecordBatch`es of at most `batch_rows` rows, or take the whole with `to_arrow()`,
    `df()`, `pl()`, `fetchnumpy()` or `fetchall()`. Reading raises what `Ward.sql` lists. Once batches have
    been handed out a query is not run again, so an error then ends the answer; the methods that take the
    whole hand out nothing before the end.
    """

    @property
    def columns(self) -> list[str]:
        """The names of the columns. Runs nothing."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of the batches. Starts the query, which is then read by batches."""

    @property
    def report(self) -> Report:
        """What happened to the query so far."""

    def to_arrow(self) -> pa.Table:
        """The whole answer, or the rest of one whose batches were read.

        What is larger than `answer_memory` is a table over a memory-mapped file without a name: its space on
        disk is free again when the table is dropped.
        """

    def df(self) -> pandas.DataFrame:
        """The whole answer as a pandas frame, by DuckDB's own conversion. It must fit into the budget."""

    def pl(self) -> polars.DataFrame:
        """The whole answer as a polars frame, by DuckDB's own conversion. It must fit into the budget."""

    def fetchnumpy(self) -> dict[str, numpy.ndarray[Any, Any]]:
        """The whole answer as one array a column, by DuckDB's own conversion. It must fit into the budget."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows, or those that `fetchone()` and `fetchmany()` left. They must fit into the budget."""

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        """The next `size` rows; fewer at the end."""

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row; None at the end."""

    def close(self) -> None:
        """Gives up the rest of the answer and frees the connection. A second call does nothing."""

    def __iter__(self) -> Answer: ...
    def __next__(self) -> pa.RecordBatch: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The answer as an Arrow C stream in a PyCapsule, by batches. `requested_schema` is not cast to."""

    def __enter__(self) -> Answer: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

@final
class Explanation:
    """What would happen to a statement, and why. `str()` gives lines for people; a notebook shows a table."""

    @property
    def rung(self) -> _Rung:
        """The rung it would start on."""

    @property
    def why(self) -> str:
        """Why on that one."""

    @property
    def learned(self) -> _Learned | None:
        """What was learnt when this shape of query was last answered; None if it was not."""

    @property
    def can_be_cut(self) -> bool:
        """Whether it can be computed in pieces, at once or once it has failed."""

    @property
    def why_not(self) -> str | None:
        """Why it cannot; None if it can."""

    @property
    def queries(self) -> list[_Forecast]:
        """What would be computed beforehand if it ran in pieces, in order."""

    @property
    def memory_limit(self) -> int:
        """DuckDB's `memory_limit` now, in bytes."""

    @property
    def budget(self) -> int:
        """The budget now, in bytes."""

    def to_dict(self) -> _ExplanationDict:
        """The explanation as plain data, ready for JSON."""

    def _repr_html_(self) -> str: ...

@type_check_only
class _Finding(TypedDict):
    kind: Literal[
        "missing_column",
        "extra_column",
        "column_type",
        "row_count",
        "missing_rows",
        "extra_rows",
        "doubled_rows",
        "changed_values",
        "nulls",
        "distribution",
        "duplicate_keys",
        "null_keys",
        "overlap",
        "gap",
        "missing_parents",
        "piece_rows",
        "missing_file",
        "extra_file",
        "changed_file",
        "missing_table",
        "extra_table",
        "changed_table",
    ]
    column: str | None
    piece: str | None
    rows: int | None
    message: str
    examples: list[dict[str, str | None]]

@type_check_only
class _ComparedColumn(TypedDict):
    name: str
    left_type: str
    right_type: str
    left_nulls: int
    right_nulls: int
    same: bool

@type_check_only
class _PieceRows(TypedDict):
    name: str
    rows: int
    nulls: dict[str, int]

@type_check_only
class _Overlap(TypedDict):
    piece: str
    other: str
    keys: int
    rows: int
    other_rows: int

@type_check_only
class _ValidationDict(TypedDict):
    ok: bool
    left: str
    right: str
    left_rows: int
    right_rows: int
    on: list[str]
    columns: list[_ComparedColumn]
    left_digest: str
    right_digest: str
    pieces: list[_PieceRows]
    overlaps: list[_Overlap]
    findings: list[_Finding]

@final
class Validation:
    """What a comparison of two sources, or a look at one, found; true if nothing is wrong. `str()` gives
    lines for people; a notebook shows a table."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""

    @property
    def findings(self) -> list[_Finding]:
        """Everything that was found: what is wrong, the column, the piece, how many rows where that is known,
        a text for people, and some of the rows with their values as text (of changed values the key, `left`,
        `right`; of keys and references the key and its `rows`; of gaps `from`, `to` and the number of
        `steps`, the longest first)."""

    @property
    def rows(self) -> tuple[int, int]:
        """Rows on the left and on the right; of one source twice its own."""

    @property
    def columns(self) -> list[_ComparedColumn]:
        """The columns that both have: their types, their NULLs, and whether they have the same values."""

    @property
    def digests(self) -> tuple[str, str]:
        """128 bits over all rows of each side in these columns, as hexadecimal digits, whatever the order of
        rows. Made of DuckDB's own hash, which another version of DuckDB may compute otherwise."""

    @property
    def pieces(self) -> list[_PieceRows]:
        """The pieces of the right side, or of the only one, in order: name, rows, and NULLs by column. Empty
        if it is not in pieces."""

    @property
    def overlaps(self) -> list[_Overlap]:
        """Each two pieces that have keys in common: the earlier and the later one, how many keys, and the
        rows of either with these keys."""

    def to_dict(self) -> _ValidationDict:
        """The validation as plain data, ready for JSON."""

    def __bool__(self) -> bool: ...
    def _repr_html_(self) -> str: ...

@type_check_only
class _Deduplicated(TypedDict):
    name: str
    removed: int
    kept_in: str | None

@type_check_only
class _DeduplicationDict(TypedDict):
    on: list[str]
    order_by: list[str]
    removed: int
    tables: list[_Deduplicated]

@final
class Deduplication:
    """Rows that `ward.deduplicate(...)` removed, and where they are. `str()` gives lines for people; a
    notebook shows a table."""

    @property
    def removed(self) -> int:
        """Rows that were removed."""

    @property
    def tables(self) -> list[_Deduplicated]:
        """The tables or pieces, in order: the name, how many rows were removed, and what has them now, as
        SQL: a table; of files those of before, with all rows that the piece had."""

    @property
    def partitioning(self) -> Partitioning | None:
        """The partitioning as it is without the rows; None where they were removed from tables by name."""

    def undo(self) -> int:
        """Puts the removed rows back, in one transaction or one rename, and drops what was kept of them; how
        many. In tables they come at the end; files and manifest are those of before.

        Raises:
            StateError: they were put back or forgotten before, or what was kept or the partitioning has been
                changed.
            duckdb.Error: they do not fit any more: DuckDB's exception. Nothing was changed.
        """

    def forget(self) -> None:
        """Drops what was kept of the removed rows. There is no undo after that.

        Raises:
            StateError: as of `undo()`.
        """

    def to_dict(self) -> _DeduplicationDict:
        """It as plain data, ready for JSON."""

    def _repr_html_(self) -> str: ...

@final
class Ingested:
    """What became of a load. `str()` gives lines for people; a notebook shows a table."""

    @property
    def table(self) -> str:
        """The table, quoted, with its database and schema."""

    @property
    def rows(self) -> int:
        """Rows that this call inserted."""

    @property
    def rejected(self) -> int:
        """Records that this call put into the table of rejected records."""

    @property
    def batches(self) -> int:
        """Batches that this call committed."""

    @property
    def token(self) -> str:
        """What the load is known by."""

    @property
    def resumed_from(self) -> int | None:
        """Records of the source that earlier calls had committed, and that this one skipped; None where this
        call began the load."""

    @property
    def total_rows(self) -> int:
        """Rows that all calls with this token inserted."""

    @property
    def total_rejected(self) -> int:
        """Records that all of them rejected."""

    @property
    def rejects(self) -> str | None:
        """The table of rejected records, quoted; None where a bad record would have ended the load."""

    @property
    def seconds(self) -> float:
        """Wall time of this call, in seconds."""

    def to_dict(self) -> _IngestedDict:
        """That as plain data, ready for JSON."""

    def _repr_html_(self) -> str: ...

@final
class Partitioning:
    """A table in pieces, as files or as tables. `str()` gives lines for people; a notebook shows a table.
    `len()` counts pieces. `ward.validate(source, partitioning)` compares it again, whenever that is
    wanted."""

    @property
    def path(self) -> str:
        """The directory; of tables their template, with database and schema."""

    @property
    def plan(self) -> Plan:
        """The plan it was cut by."""

    @property
    def rows(self) -> int:
        """Rows of all pieces."""

    @property
    def bytes(self) -> int:
        """Bytes of all files; 0 of tables."""

    @property
    def pieces(self) -> list[_WrittenPiece]:
        """The pieces that have rows, in order."""

    @property
    def balance(self) -> _Balance:
        """How alike in size they are."""

    @property
    def validation(self) -> Validation | None:
        """The pieces against the source, when they were written; None of one that was loaded."""

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Attempts to write a share of the source that failed: `share`, `attempt`, `error`, and `response`,
        what was tried next. Not kept in the directory."""

    @property
    def resumed(self) -> int:
        """Shares of the source that a process before this one had written, which was killed."""

    @staticmethod
    def load(path: str | PathLike[str]) -> Partitioning:
        """The partitioning that is in a directory.

        Raises:
            InvalidInputError: there is none, or its manifest was edited.
            DiskError: it cannot be read.
        """

    def check(self) -> list[_Finding]:
        """Whether the pieces are still those that were written: what is missing, added or changed, and in
        which piece. The source is not needed. Files by size and SHA-256, without DuckDB; tables by their
        columns, rows and digests, on the connection that they were made or found with. A table whose name
        the template could have made, and that is of no partitioning, is added.

        Raises:
            DiskError: the files cannot be read.
            StateError: the tables have the columns and as many rows as they should, but another version of
                DuckDB made the digests.
            OutOfMemoryError, TimeoutError, CancelledError, TransactionError, ConnectionError,
                CorruptionError: as of `sql()`, for tables.
        """

    @property
    def query(self) -> str:
        """The rows of all pieces, as a query."""

    def to_dict(self) -> _ManifestDict:
        """The manifest as plain data, ready for JSON."""

    def __len__(self) -> int: ...
    def _repr_html_(self) -> str: ...

@final
class Plan:
    """How a table is cut. `str()` gives lines for people; a notebook shows a table. `len()` counts pieces."""

    @property
    def source(self) -> str:
        """The table, files or query that it is for."""

    @property
    def rows(self) -> int:
        """Its rows when the plan was made."""

    @property
    def bytes(self) -> int:
        """What they take in memory, by the width of the first rows."""

    @property
    def cuts(self) -> list[_Cut]:
        """By what it is cut, one after the other."""

    @property
    def pieces(self) -> list[_PlannedPiece]:
        """The pieces, in order; also those without rows. Together they have every row, none is in two."""

    @property
    def balance(self) -> _Balance:
        """How alike in size the pieces with rows are."""

    @property
    def heavy(self) -> list[_Heavy]:
        """Values that are too frequent for pieces of like size: no cut splits one value."""

    @property
    def number(self) -> str:
        """The number of the piece that a row is in, from 0, as SQL over the source's columns."""

    def plot(self) -> Plot:
        """A picture of the rows of each piece."""

    def to_json(self) -> str:
        """The plan as JSON."""

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that `to_json()` gave.

        Raises:
            InvalidInputError: it is no plan, one of another version, or one that was edited.
        """

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the plan to a file, as JSON. Whoever looks finds the old one or the new one, whole.

        Raises:
            DiskError: the file cannot be written.
        """

    @staticmethod
    def load(path: str | PathLike[str]) -> Plan:
        """The plan that `save()` wrote.

        Raises:
            DiskError: the file cannot be read.
            InvalidInputError: it is no plan, one of another version, or one that was edited.
        """

    def to_dict(self) -> _PlanDict:
        """The plan as plain data, ready for JSON."""

    def __len__(self) -> int: ...
    def __eq__(self, value: object, /) -> bool: ...
    def _repr_html_(self) -> str: ...

@final
class Plot:
    """The rows of each piece of a plan: a picture in a notebook, bars of text elsewhere."""

    @property
    def svg(self) -> str:
        """The picture as SVG."""

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the picture to a file, as SVG.

        Raises:
            DiskError: the file cannot be written.
        """

    def _repr_svg_(self) -> str: ...

@final
class Profile:
    """What a column is like, and what it can be cut by.

    `str()` gives lines for people; a notebook shows a table.
    """

    @property
    def name(self) -> str:
        """The column, as the table spells it."""

    @property
    def type(self) -> str:
        """Its type, as DuckDB prints it."""

    @property
    def rows(self) -> int:
        """Rows of the table."""

    @property
    def nulls(self) -> int:
        """Rows in which it is NULL."""

    @property
    def minimum(self) -> str | None:
        """The smallest value that is no NaN and not infinite, as DuckDB prints it; None if there is none."""

    @property
    def maximum(self) -> str | None:
        """The largest such value."""

    @property
    def nan(self) -> int:
        """Rows in which it is NaN."""

    @property
    def infinite(self) -> int:
        """Rows in which it is infinite: a number, a date or a time."""

    @property
    def distinct(self) -> int:
        """How many values there are, NULL not counted."""

    @property
    def distinct_exact(self) -> bool:
        """Whether that is exact; otherwise it is `approx_count_distinct`, which may be off by a fifth."""

    @property
    def most_frequent(self) -> _Frequent | None:
        """The most frequent value, its share of the rows, whether they are exact; None where all is NULL."""

    @property
    def conversions(self) -> list[_Conversion]:
        """Of a text: what its values convert to, and what does not."""

    @property
    def converts_to(self) -> str | None:
        """The type that every value of a text converts to without loss; None if there is none."""

    @property
    def kinds(self) -> list[_Kind]:
        """What it can be cut by at all."""

    @property
    def cut(self) -> _Kind | None:
        """What to cut it by; None where another column is better."""

    @property
    def step(self) -> _Step | None:
        """The step of a cut by time."""

    @property
    def pieces(self) -> int | None:
        """How many pieces a cut by time or by value makes, that of NULL not counted."""

    @property
    def advice(self) -> str:
        """What to cut by, and why, in a sentence."""

    def to_dict(self) -> _ProfileDict:
        """The profile as plain data, ready for JSON."""

    def _repr_html_(self) -> str: ...

@final
class Report:
    """What happened to one query. `str()` gives lines for people; a notebook shows a table."""

    @property
    def outcome(self) -> str:
        """How it ended: "answered", "not run yet", "running", "closed before its end" or "failed: <kind>"."""

    @property
    def rung(self) -> _Rung | None:
        """The rung of the last attempt that has ended; None before that."""

    @property
    def why(self) -> str:
        """Why it left the first rung, or why it failed; empty when nothing happened."""

    @property
    def attempts(self) -> list[_Attempt]:
        """Every attempt that has ended, in order."""

    @property
    def peak(self) -> int:
        """Largest memory that counted while it ran, in bytes: of the process, not of the query alone."""

    @property
    def budget(self) -> int:
        """The budget in force when it began, in bytes."""

    @property
    def spill(self) -> int:
        """Largest temporary storage of DuckDB's that was seen, in bytes. A short spill may go unseen."""

    @property
    def rows(self) -> int | None:
        """Rows handed out or changed; None where they are not counted."""

    @property
    def pieces(self) -> list[_Piece]:
        """The pieces it was computed in, in order; empty when it was computed at once."""

    @property
    def verified(self) -> _Proof | None:
        """What was proved of the pieces before the answer was given, of every query that was cut.

        "counts" although "full" was asked for where not all that goes in has a name; None where there are no
        pieces, where rows cannot be counted, or where there is no answer.
        """

    @property
    def why_not(self) -> str | None:
        """Why it was not computed in pieces; None when that was not asked."""

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut at `row_cap` rows under memory pressure."""

    @property
    def spooled(self) -> int | None:
        """Size of the answer on disk, in bytes; None when it stayed in memory."""

    @property
    def seconds(self) -> float:
        """Wall time from the first attempt's wait for its turn to the end of the answer, in seconds."""

    @property
    def waited(self) -> float:
        """The part of it that was spent waiting for a turn, in seconds."""

    def to_dict(self) -> _ReportDict:
        """The report as plain data, ready for JSON."""

    def _repr_html_(self) -> str: ...

@final
class Subscription:
    """A callback that is being called; see `Ward.on`."""

    def cancel(self) -> None:
        """Ends it. A second call does nothing."""
