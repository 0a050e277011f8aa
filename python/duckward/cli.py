"""The command `duckward`: `run` one statement under a memory guard, `explain` what would happen to it,
`profile` the columns of a table, `partition` it into files or tables, `validate` that two have the same
rows, `ingest` a file into a table, show the guard's `status`, or see the `demo`.

Answers go to standard output, everything else to standard error. Exit codes: 0 done, 1 the statement or the
connection failed, 2 wrong usage, 3 refused for lack of memory or disk, 4 two sources differ, 130 cancelled.
"""

from __future__ import annotations

import argparse
import contextlib
import decimal
import errno
import json
import math
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

import duckward

from . import demo as stage
from .demo import human

Result = TypeVar("Result")

OK, FAILED, USAGE, REFUSED, DIFFERENT, CANCELLED = 0, 1, 2, 3, 4, 130

# Rows of the table when standard output is no terminal.
ROWS_UNSEEN = 40
# Longest cell of the table, in columns of a terminal, where there is no more room; a longer one ends in an
# ellipsis. And the room where there is no terminal.
WIDEST_CELL, WIDEST_TABLE = 60, 240
# A row group of Parquet is written when so many bytes or rows have come together: large enough to be
# read fast, small enough not to count against the budget.
GROUP_BYTES, GROUP_ROWS = 32 << 20, 122_880

# What the system says when a disk or a quota is full.
NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

FORMATS = (".parquet", ".csv", ".arrow")
# What can be loaded; the last three are lines of JSON.
INPUTS = ("parquet", "csv", "arrow", "jsonl", "ndjson", "json")


class UsageError(Exception):
    """The command line is not acceptable; nothing was run."""


class OutputError(Exception):
    """The answer came, but cannot be written or shown in the form that was asked for."""


# ---------------------------------------------------------------- values as text


def blob(value: bytes) -> str:
    """Bytes as DuckDB prints a blob: ASCII as it is, the rest as \\xAA."""
    return "".join(chr(b) if 32 <= b < 127 and b not in b"\\\"'" else f"\\x{b:02X}" for b in value)


def values(column: pa.Array) -> list[Any]:
    """The Python values of an Arrow array; dates that Python cannot hold come as text.

    Raises:
        OutputError: a nested value that Python cannot hold.
    """
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):
        return [one(scalar) for scalar in column]


def one(scalar: pa.Scalar) -> Any:
    """The Python value of one scalar, or its text where Python has none (infinity, the year 290000)."""
    try:
        return scalar.as_py()
    except (OverflowError, ValueError) as error:
        if not (pa.types.is_date(scalar.type) or pa.types.is_timestamp(scalar.type)):
            raise OutputError(
                f"a value of type {scalar.type} cannot be shown ({error}): cast it to varchar in the query"
            ) from None
        # The widest value of the type is how DuckDB exports infinity; nanoseconds end up here without pandas.
        bits = 32 if pa.types.is_date32(scalar.type) else 64
        number = scalar.cast(pa.int32() if bits == 32 else pa.int64()).as_py()
        if abs(number) == 2 ** (bits - 1) - 1:
            return "infinity" if number > 0 else "-infinity"
        text = scalar.cast(pa.string()).as_py()
        if text.startswith("<"):
            raise OutputError(
                f"a {scalar.type} lies outside the years that can be shown: cast it to varchar in the query"
            ) from None
        return text


def plain(value: Any) -> Any:
    """`value` as JSON can say it, nested values too. What JSON cannot say becomes text, never null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        special = {math.inf: "Infinity", -math.inf: "-Infinity"}
        return value if math.isfinite(value) else special.get(value, "NaN")
    if isinstance(value, decimal.Decimal):
        # A double keeps 15 decimal digits; beyond that a number would be another number.
        return float(value) if len(value.as_tuple().digits) <= 15 else str(value)
    if isinstance(value, bytes):
        return blob(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, pa.MonthDayNano):
        return cell(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def interval(months: int, days: int, nanoseconds: int) -> str:
    """An interval as DuckDB prints it: "1 year 2 months 3 days 04:05:06.5"."""
    sign = -1 if months < 0 else 1
    parts = [(sign * (abs(months) // 12), "year"), (sign * (abs(months) % 12), "month"), (days, "day")]
    texts = [f"{n} {word}{'' if abs(n) == 1 else 's'}" for n, word in parts if n]
    if nanoseconds or not texts:
        # DuckDB's intervals hold whole microseconds.
        seconds, micros = divmod(abs(nanoseconds) // 1000, 1_000_000)
        fraction = f".{micros:06}".rstrip("0") if micros else ""
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"
        texts.append(("-" if nanoseconds < 0 else "") + clock)
    return " ".join(texts)


def cell(value: Any) -> str:
    """`value` as one line of the table, control characters spelled out: data must not drive the terminal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return blob(value)
    if isinstance(value, pa.MonthDayNano):
        return interval(*value)
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return "{" + ", ".join(f"{cell(key)}={cell(item)}" for key, item in value) + "}"
        return "[" + ", ".join(map(cell, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{key}': {cell(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(number: int, word: str) -> str:
    """ "1 row", "1,000 rows"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def width(text: str) -> int:
    """Columns of a terminal that `text` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def fit(text: str, room: int) -> str:
    """`text`, or as much of it as fits into `room` columns with an ellipsis."""
    if width(text) <= room:
        return text
    while width(text) > room - 1:
        text = text[: min(len(text) - 1, room - 1)]
    return text + "…"


def type_name(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type, or Arrow's where it has no short one."""
    names = {
        "bool": "boolean", "int8": "tinyint", "int16": "smallint", "int32": "integer", "int64": "bigint",
        "uint8": "utinyint", "uint16": "usmallint", "uint32": "uinteger", "uint64": "ubigint",
        "string": "varchar", "large_string": "varchar", "string_view": "varchar",
        "binary": "blob", "large_binary": "blob", "binary_view": "blob",
        "date32[day]": "date", "time64[us]": "time", "month_day_nano_interval": "interval",
        "timestamp[us]": "timestamp", "timestamp[ns]": "timestamp_ns", "decimal128(38, 0)": "hugeint",
    }  # fmt: skip
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{type_name(kind.value_type)}[]"
    if pa.types.is_dictionary(kind):
        return "enum"
    if pa.types.is_timestamp(kind) and kind.tz:
        return "timestamptz"
    if pa.types.is_decimal(kind) and kind.scale:
        return f"decimal({kind.precision},{kind.scale})"
    return names.get(str(kind), str(kind))


def box(
    names: list[str],
    types: list[str],
    rows: list[list[str]],
    numeric: list[bool],
    total: int,
    room: int | None = None,
    utf8: bool = True,
    hint: str = "--rows N shows more, --output FILE keeps them all",
) -> str:
    """A table in the manner of DuckDB, with a last line that says how much of the answer it shows.

    Args:
        names, types, numeric: of each column; numbers stand to the right.
        rows: cells as text, the first rows of the answer.
        total: how many rows the answer has.
        room: columns of the terminal, or none. Table columns that do not fit are left out, and it says so.
        utf8: whether lines may be drawn with other than ASCII characters.
        hint: how to get at the rows that are not shown.
    """
    widest = max(WIDEST_CELL, (room or WIDEST_TABLE) // len(names) - 4)
    table = [[fit(cell(name), widest) for name in names], [fit(kind, widest) for kind in types]]
    table += [[fit(text, widest) for text in row] for row in rows]
    cut = any(text != full for row, shown in zip(rows, table[2:], strict=True)
              for text, full in zip(shown, row, strict=True))  # fmt: skip
    widths = [max(width(row[i]) for row in table) for i in range(len(names))]
    shown = len(names)
    while room is not None and shown > 1 and sum(widths[:shown]) + 3 * shown + 1 > room:
        shown -= 1
    line, bar, corners = ("─", "│", ("┌┬┐", "├┼┤", "└┴┘")) if utf8 else ("-", "|", ("+++", "+++", "+++"))

    def rule(corner: str) -> str:
        return corner[0] + corner[1].join(line * (w + 2) for w in widths[:shown]) + corner[2]

    def row_text(row: list[str], head: bool) -> str:
        texts = []
        for i, text in enumerate(row[:shown]):
            gap = widths[i] - width(text)
            left = gap // 2 if head else gap if numeric[i] else 0
            texts.append(f" {' ' * left}{text}{' ' * (gap - left)} ")
        return bar + bar.join(texts) + bar

    lines = [rule(corners[0]), row_text(table[0], True), row_text(table[1], True)]
    if rows:
        lines += [rule(corners[1]), *(row_text(row, False) for row in table[2:])]
    lines.append(rule(corners[2]))
    if len(rows) < total:
        note = f"the first {len(rows):,} of {total:,} rows; {total - len(rows):,} more are not shown ({hint})"
    else:
        note = plural(total, "row")
    if shown < len(names):
        note += f"; {shown} of {len(names)} columns, the others do not fit into the terminal"
    if cut:
        note += "; values that end in … are longer"
    text = "\n".join([*lines, note])
    return text if utf8 else text.replace("…", "~")


# ---------------------------------------------------------------- where the answer goes


def unsuitable(schema: pa.Schema) -> list[str]:
    """The columns, with their types, that a CSV file cannot hold."""
    return [
        f"{field.name} ({field.type})"
        for field in schema
        if pa.types.is_nested(field.type) or pa.types.is_interval(field.type)
    ]


def csv_ready(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` with every column in a form that pyarrow writes to CSV without loss.

    By itself it prints dates out of its range as a remark, and refuses enums and bytes that are no UTF-8.
    """
    kinds = pa.types
    columns = []
    for column in batch.columns:
        kind = column.type
        if kinds.is_dictionary(kind):
            column = column.dictionary_decode()
        elif kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind):
            column = pa.array([None if v is None else blob(v) for v in column.to_pylist()], pa.string())
        elif kinds.is_date(kind) or kinds.is_timestamp(kind):
            text = column.cast(pa.string())
            if pc.any(pc.starts_with(text, "<")).as_py():
                text = pa.array([None if v is None else str(v) for v in values(column)], pa.string())
            column = text
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


@contextlib.contextmanager
def writer(suffix: str, path: pathlib.Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Opens `path` for an answer of `schema`; gives the function that takes its batches in bounded memory."""
    with contextlib.ExitStack() as stack:
        if suffix == ".csv":
            empty = pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)
            texts = csv_ready(empty).schema
            csv = stack.enter_context(pa.csv.CSVWriter(str(path), texts))
            yield lambda batch: csv.write_batch(csv_ready(batch))
        elif suffix == ".arrow":
            ipc = stack.enter_context(pa.ipc.new_file(str(path), schema))
            yield ipc.write_batch
        else:
            parquet = stack.enter_context(pa.parquet.ParquetWriter(str(path), schema))
            held: list[pa.RecordBatch] = []

            def flush() -> None:
                if held:
                    parquet.write_table(pa.Table.from_batches(held, schema))
                    held.clear()

            def write(batch: pa.RecordBatch) -> None:
                held.append(batch)
                if sum(b.nbytes for b in held) >= GROUP_BYTES or sum(b.num_rows for b in held) >= GROUP_ROWS:
                    flush()

            yield write
            flush()


def check_target(output: str, force: bool) -> pathlib.Path:
    """The file of `--output`, if it may be written.

    Raises:
        UsageError: unknown ending, no such directory, or it exists and `force` was not given.
    """
    target = pathlib.Path(output)
    if target.suffix.lower() not in FORMATS:
        raise UsageError(f"--output {output}: the ending says the format; give one of {', '.join(FORMATS)}")
    if not target.parent.is_dir():
        raise UsageError(f"--output {output}: there is no directory {target.parent}")
    if target.is_dir():
        raise UsageError(f"--output {output}: this is a directory; name a file")
    if target.exists() and not force:
        raise UsageError(f"--output {output}: the file exists; name another one, or replace it with --force")
    return target


def write_file(answer: Any, target: pathlib.Path, force: bool) -> tuple[int, int]:
    """Writes the batches of `answer` to `target`, which appears when it is complete or not at all.

    Returns:
        Rows and bytes written.

    Raises:
        OutputError: the format cannot hold the answer, or `target` came into being meanwhile.
        OSError: the disk.
    """
    suffix = target.suffix.lower()
    schema = answer.schema
    if suffix == ".csv" and (columns := unsuitable(schema)):
        raise OutputError(
            f"a CSV file cannot hold {', '.join(columns)}: convert in the query (for example to_json), "
            "or write .parquet or .arrow"
        )
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    rows = 0
    try:
        with writer(suffix, part, schema) as write:
            for batch in answer:
                write(batch)
                rows += batch.num_rows
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        size = part.stat().st_size
        if target.exists() and not force:
            raise OutputError(f"{target} came into being while the query ran; it was left as it is")
        os.replace(part, target)
    except pa.ArrowNotImplementedError as error:
        text = f"{suffix[1:]} cannot hold this answer ({error}): cast in the query, or write .arrow"
        raise OutputError(text) from error
    finally:
        part.unlink(missing_ok=True)
    return rows, size


def print_json(answer: Any) -> None:
    """Prints every row of `answer` as one JSON object a line.

    Raises:
        OutputError: two columns of one name, of which an object could hold only one.
    """
    names = list(answer.schema.names)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OutputError(f"two columns are named {', '.join(twice)}: give them different names in the query")
    for batch in answer:
        columns = [values(column) for column in batch.columns]
        for row in zip(*columns, strict=True):
            print(json.dumps(dict(zip(names, map(plain, row), strict=True)), ensure_ascii=False))


def first_rows(answer: Any, most: int) -> tuple[list[pa.RecordBatch], int]:
    """The first `most` rows of `answer`, and how many it has in all. Holds no more than that."""
    kept: list[pa.RecordBatch] = []
    total = 0
    for batch in answer:
        if total < most:
            kept.append(batch.slice(0, most - total))
        total += batch.num_rows
    return kept, total


def table_text(schema: pa.Schema, batches: Iterable[pa.RecordBatch], total: int, *more: Any) -> str:
    """The [`box`] of `batches`, the first rows of an answer of `total` rows, with `more` of its arguments."""
    rows = [
        [cell(value) for value in row]
        for batch in batches
        for row in zip(*(values(column) for column in batch.columns), strict=True)
    ]
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    numeric = [any(check(field.type) for check in checks) for field in schema]
    return box(list(schema.names), [type_name(f.type) for f in schema], rows, numeric, total, *more)


# ---------------------------------------------------------------- progress


def bar(share: float | None, seconds: float, used: int | None, budget: int | None, room: int) -> str:
    """One line of progress that fits into `room` columns. `share` is 0..1 or none while it is not known."""
    text = f"{seconds:.0f} s"
    if used and budget:
        text += f"   {human(used)} of {human(budget)}"
    if share is not None:
        done = round(20 * min(max(share, 0.0), 1.0))
        text = f"[{'#' * done}{'.' * (20 - done)}] {share:4.0%}   {text}"
    return text[: max(room - 1, 0)]


def follow(work: Callable[[], Result], ward: Any, show: Callable[[float], None] | None = None) -> Result:
    """Runs `work` on another thread; this one calls `show` with the seconds passed, four times a second.

    So this thread runs Python and hears every signal at once: Ctrl-C cancels the queries of `ward`. What
    `work` returns or raises comes out here.
    """
    results: list[Result] = []
    failed: list[BaseException] = []
    done, started = threading.Event(), time.monotonic()

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # Raised again below.
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=body, name="duckward-work", daemon=True).start()
    try:
        while not done.wait(0.25):
            if show:
                show(time.monotonic() - started)
    except KeyboardInterrupt:
        # Again and again: one that comes before the query has begun is lost.
        while not done.wait(0.05):
            ward.cancel()
        raise
    if failed:
        raise failed[0]
    return results[0]


class Line:
    """The line of progress on standard error."""

    def __init__(self, ward: Any) -> None:
        self.ward, self.drawn = ward, False

    def draw(self, seconds: float) -> None:
        """Draws it anew; nothing for queries that are over before anyone could read it."""
        if seconds < 0.5:
            return
        found = self.ward.status()
        room = shutil.get_terminal_size().columns
        text = bar(self.ward.progress(), seconds, found.get("used"), found.get("budget"), room)
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        self.drawn = True

    def wipe(self) -> None:
        """Removes it, if it was ever drawn."""
        if self.drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def follow_on_line(work: Callable[[], Result], ward: Any, shown: bool) -> Result:
    """As `follow`, with a line of progress if it is `shown`; the line is gone afterwards."""
    line = Line(ward)
    try:
        return follow(work, ward, line.draw if shown else None)
    finally:
        line.wipe()


# ---------------------------------------------------------------- the verbs


def guard_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The given arguments of `duckward.guard`; the others stay with environment, file and defaults."""
    given = {
        "memory": options.memory,
        "profile": options.profile,
        "settings_file": options.settings,
        "history": options.history,
    }
    return {name: value for name, value in given.items() if value is not None}


@contextlib.contextmanager
def connected(
    database: str, read_only: bool = False, progress: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection, closed at the end. With `progress`, DuckDB counts it."""
    con = duckdb.connect(database, read_only=read_only)
    # DuckDB draws a bar of its own, also where nobody sees it; counting is tied to having it.
    for setting in ("enable_progress_bar_print=false", f"enable_progress_bar={progress}"):
        con.execute(f"set {setting}")
    try:
        yield con
    except BaseException:
        # What went wrong first is what has to be told.
        with contextlib.suppress(duckdb.Error):
            con.close()
        raise
    con.close()


def print_report(report: Any, as_json: bool) -> None:
    """Prints a report to standard error."""
    if report is not None:
        print(json.dumps(plain(report.to_dict()), ensure_ascii=False) if as_json else report, file=sys.stderr)


def statement(options: argparse.Namespace) -> str:
    """The SQL of the command line, or of standard input.

    Raises:
        UsageError: there is none.
    """
    query: str = sys.stdin.read() if options.query == "-" else options.query
    if not query.strip():
        raise UsageError("the SQL is empty; give a statement, or - to read it from standard input")
    return query


def run(options: argparse.Namespace) -> int:
    """`duckward run`: one statement under a guard."""
    target = check_target(options.output, options.force) if options.output else None
    query = statement(options)
    # Rows that scroll by on the terminal and a line that is redrawn would overwrite each other.
    streams = options.json and target is None and sys.stdout.isatty()
    shown = sys.stderr.isatty() and not options.no_progress and not streams
    with (
        connected(options.database, options.read_only, shown) as con,
        duckward.guard(con, **guard_arguments(options)) as ward,
    ):
        answers: list[Any] = []

        def work() -> Callable[[], None]:
            answers.append(ward.sql(query, pieces=options.pieces, verify=options.verify))
            return deliver(answers[0], options, target)

        try:
            follow_on_line(work, ward, shown)()
            if answers[0].report.to_dict().get("truncated"):
                print("duckward: the answer was cut: row_cap is set, and memory was short", file=sys.stderr)
        except duckward.Error as error:
            if not answers and options.report:
                print_report(error.report, options.json)
            raise
        finally:
            for answer in answers:
                if options.report:
                    print_report(answer.report, options.json)
                answer.close()
    return OK


def deliver(answer: Any, options: argparse.Namespace, target: pathlib.Path | None) -> Callable[[], None]:
    """Reads `answer` to its end as was asked; gives what prints it once the progress line is gone."""
    if target is not None:
        rows, size = write_file(answer, target, options.force)
        if options.json:
            return lambda: print(json.dumps({"output": str(target), "rows": rows, "bytes": size}))
        return lambda: print(f"wrote {plural(rows, 'row')} to {target} ({human(size)})", file=sys.stderr)
    if not answer.columns:
        # A statement without an answer, such as SET; it has run.
        for _ in answer:
            pass
        return lambda: None
    if options.json:
        print_json(answer)
        return lambda: None
    screen = shutil.get_terminal_size() if sys.stdout.isatty() else None
    # Seven lines are the frame, the head, the note and the next prompt.
    most = options.rows if options.rows is not None else max(screen.lines - 7, 5) if screen else ROWS_UNSEEN
    # Before the rows: an answer that was read has no schema any more.
    schema = answer.schema
    batches, total = first_rows(answer, most)
    room = screen.columns if screen else None
    text = table_text(schema, batches, total, room, can_draw(sys.stdout.encoding))
    return lambda: print(text)


def can_draw(encoding: str | None) -> bool:
    """Whether the lines of a table can be written in `encoding`."""
    try:
        "┌│…".encode(encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def explain(options: argparse.Namespace) -> int:
    """`duckward explain`: what would happen to a statement, and why."""
    query = statement(options)
    with (
        connected(options.database, options.read_only) as con,
        duckward.guard(con, **guard_arguments(options)) as ward,
    ):
        found = follow(lambda: ward.explain(query, pieces=options.pieces), ward)
    print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if options.json else found)
    return OK


def profile(options: argparse.Namespace) -> int:
    """`duckward profile`: what the columns of a table are like, and what to cut it by."""
    with (
        connected(options.database, options.read_only) as con,
        duckward.guard(con, **guard_arguments(options)) as ward,
    ):

        def work() -> list[duckward.Profile]:
            if options.column is None:
                return ward.profile(options.source)
            return [ward.profile(options.source, options.column)]

        found = follow(work, ward)
    if options.json:
        data = [column.to_dict() for column in found]
        print(json.dumps(data if options.column is None else data[0], indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(map(str, found)))
    return OK


def check_plan(options: argparse.Namespace) -> bool:
    """Whether `--plan` names a file that is to be made.

    Raises:
        UsageError: it cannot be one, or it is not there and nothing says how to cut.
    """
    if options.plan is None:
        return False
    file = pathlib.Path(options.plan)
    if not file.parent.is_dir():
        raise UsageError(f"--plan {file}: there is no directory {file.parent}")
    if file.is_dir():
        raise UsageError(f"--plan {file}: this is a directory; name a file")
    if file.exists():
        return False
    cuts = (options.by, options.every, options.pieces, options.rows, options.hash)
    # Whoever mistypes the name of a plan is not to get one that is only advised.
    if options.into is not None and all(cut is None for cut in cuts) and not options.value:
        raise UsageError(
            f"--plan {file}: there is no such file; say how to cut (--by ...), and a plan is made and kept "
            "there, or leave out --into to see the one that is advised"
        )
    return True


def partition(options: argparse.Namespace) -> int:
    """`duckward partition`: cuts a table into files or tables, or shows how it would."""
    only = {
        "--replace": options.replace,
        "--sort": options.sort,
        "--batch-rows": options.batch_rows is not None,
    }
    if options.into is None and (unused := [name for name, given in only.items() if given]):
        raise UsageError(f"{', '.join(unused)}: nothing is written without --into; give --into PLACE")
    makes = check_plan(options)
    shown = sys.stderr.isatty() and not options.no_progress
    with (
        connected(options.database, options.read_only, shown) as con,
        duckward.guard(con, **guard_arguments(options)) as ward,
    ):

        def work() -> duckward.Plan | duckward.Partitioning:
            plan = ward.plan(
                options.source,
                by=options.by,
                every=options.every,
                zone=options.zone,
                pieces=options.pieces,
                rows=options.rows,
                hash=options.hash,
                value=options.value,
                file=options.plan,
            )
            if options.into is None:
                return plan
            return ward.partition(
                plan, options.into, replace=options.replace, sort=options.sort, batch_rows=options.batch_rows
            )

        try:
            found = follow_on_line(work, ward, shown)
        finally:
            if makes and pathlib.Path(options.plan).exists():
                print(f"the plan is kept in {options.plan}: the same command goes by it", file=sys.stderr)
    if not options.json:
        print(found)
    else:
        more = {} if isinstance(found, duckward.Plan) else {"resumed": found.resumed}
        print(json.dumps(found.to_dict() | more, indent=2, ensure_ascii=False))
    return OK


def rows_of(text: str) -> str | duckward.Partitioning:
    """A source, or the partitioning that is in a directory."""
    directory = pathlib.Path(text)
    return duckward.Partitioning.load(directory) if (directory / "_duckward.json").is_file() else text


def foreign_key(text: str) -> tuple[tuple[str, ...], str]:
    """What `--references` says: "user_id=users.id", or "a,b=parents(x, y)"."""
    columns, equals, parent = text.partition("=")
    if not equals:
        wanted = "COLUMN=TABLE.COLUMN, or COLUMN,COLUMN=TABLE(COLUMN,COLUMN)"
        raise UsageError(f"--references {text}: give {wanted}")
    return tuple(column.strip() for column in columns.split(",")), parent


def validate(options: argparse.Namespace) -> int:
    """`duckward validate`: whether two sources have the same rows, and every difference."""
    named = [rows_of(options.left), *map(rows_of, options.right)]
    left: Any = named
    right: Any = None
    if options.pieces and options.source is not None:
        left, right = rows_of(options.source), named
    elif options.source is not None:
        raise UsageError("--source is what --pieces are compared with: give both")
    elif len(named) > 2 and not options.pieces:
        raise UsageError("two sources are compared, not more; --pieces looks at all of them as pieces of one")
    elif not options.pieces:
        left, right = named[0], named[1] if len(named) > 1 else None
    references = dict(foreign_key(text) for text in options.references or [])
    with (
        connected(options.database, options.read_only) as con,
        duckward.guard(con, **guard_arguments(options)) as ward,
    ):

        def work() -> duckward.Validation:
            return ward.validate(
                left,
                right,
                on=options.on,
                references=references,
                gaps=options.gaps,
                every=options.every,
                examples=options.examples,
            )

        found = follow(work, ward)
    print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if options.json else found)
    return OK if found else DIFFERENT


def json_lines(lines: Iterable[str]) -> Iterator[Any]:
    """The records of JSON lines; a line that is no JSON is a bad record by itself."""
    for line in lines:
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                yield line.rstrip("\n")


def csv_reader(source: Any, as_text: bool) -> pa.RecordBatchReader:
    """The batches of a CSV file. As texts, so that it is DuckDB that casts them, each by itself."""
    read = pa.csv.ReadOptions(block_size=4 << 20)
    if not as_text:
        return pa.csv.open_csv(source, read_options=read)
    file = pa.PythonFile(source, mode="r") if not isinstance(source, str) else pa.OSFile(source)
    head = file.read(1 << 20)
    names = pa.csv.open_csv(
        pa.BufferReader(head), read_options=pa.csv.ReadOptions(block_size=len(head) or 1)
    ).schema.names
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""],
        quoted_strings_can_be_null=False,
    )  # fmt: skip
    return pa.csv.open_csv(source, read_options=read, convert_options=convert)


@contextlib.contextmanager
def records_of(file: str, kind: str | None, as_text: bool) -> Iterator[Any]:
    """What `Ward.ingest` reads for FILE, or for standard input.

    Raises:
        UsageError: no such file, or its ending does not say what it is.
    """
    suffix = kind or ("jsonl" if file == "-" else pathlib.Path(file).suffix.lower().lstrip("."))
    if suffix not in INPUTS:
        raise UsageError(f"{file}: the ending says the format; give one of {', '.join(INPUTS)}, or --format")
    if file == "-":
        if suffix in ("parquet", "csv"):
            raise UsageError(f"-: standard input can be jsonl or arrow, not {suffix}; name a file")
        yield json_lines(sys.stdin) if suffix != "arrow" else pa.ipc.open_stream(sys.stdin.buffer)
        return
    if not pathlib.Path(file).is_file():
        raise UsageError(f"{file}: there is no such file")
    if suffix == "parquet":
        with pa.parquet.ParquetFile(file) as parquet:
            batches = parquet.iter_batches(batch_size=1 << 16)
            yield pa.RecordBatchReader.from_batches(parquet.schema_arrow, batches)
    elif suffix == "csv":
        yield csv_reader(file, as_text)
    elif suffix == "arrow":
        with pa.OSFile(file) as opened:
            try:
                found = pa.ipc.open_file(opened)
            except pa.ArrowInvalid:
                opened.seek(0)
                yield pa.ipc.open_stream(opened)
            else:
                batches = (found.get_batch(number) for number in range(found.num_record_batches))
                yield pa.RecordBatchReader.from_batches(found.schema, batches)
    else:
        with open(file, encoding="utf-8", errors="replace") as text:
            yield json_lines(text)


def ingest(options: argparse.Namespace) -> int:
    """`duckward ingest`: a file, or standard input, into a table."""
    with (
        records_of(options.file, options.format, as_text=not options.create) as reader,
        connected(options.database) as con,
        duckward.guard(con, **guard_arguments(options)) as ward,
    ):
        found = follow(
            lambda: ward.ingest(
                reader,
                options.table,
                batch_rows=options.batch_rows,
                batch_bytes=options.batch_bytes,
                token=options.token,
                rejects=options.rejects,
                create=options.create,
            ),
            ward,
        )
    print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if options.json else found)
    return OK


def status(options: argparse.Namespace) -> int:
    """`duckward status`: what a guard sees on this machine."""
    # A file, because a history may be wanted beside it.
    with (
        tempfile.TemporaryDirectory(prefix="duckward_status_") as place,
        connected(str(pathlib.Path(place) / "empty.duckdb")) as con,
        duckward.guard(con, **guard_arguments(options)) as ward,
    ):
        found = plain(ward.status())
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else status_text(found))
    return OK


# Numbers of `status()` that are bytes.
SIZES = {"budget", "used", "limit", "memory_limit", "tracked", "spilled"}


def status_text(found: dict[str, Any]) -> str:
    """A ward's status for people: what is measured, then the settings and where each comes from."""

    def show(name: str, value: Any) -> str:
        if name in SIZES and isinstance(value, int):
            return human(value)
        if name == "share" and isinstance(value, int | float):
            return f"{value:.1%}"
        if name == "changed" and value:
            return ", ".join(
                f"{setting} from {size(before)} to {size(now)}" for setting, before, now in value
            )
        if isinstance(value, list):
            return ", ".join(map(str, value)) or "none"
        return "none" if value is None else str(value)

    def size(text: Any) -> str:
        number = str(text).removesuffix("B")
        return human(int(number)) if number.isdecimal() else str(text)

    rest = {name: show(name, value) for name, value in found.items() if name not in ("settings", "sources")}
    room = max(map(len, rest), default=0)
    lines = [f"{name:<{room}}  {text}" for name, text in rest.items()]
    settings = {name: show(name, value) for name, value in found["settings"].items()}
    names, texts = (max(map(len, column), default=0) for column in (settings, settings.values()))
    lines += ["", "settings"]
    for name, text in settings.items():
        lines.append(f"  {name:<{names}}  {text:<{texts}}  ({found['sources'].get(name, 'unknown')})")
    return "\n".join(lines)


def demo(options: argparse.Namespace) -> int:
    """`duckward demo`: the same queries with plain DuckDB and with duckward, side by side."""
    try:
        limit = stage.parse_size(options.memory)
    except stage.DemoError as error:
        raise UsageError(f"--memory {error}") from None
    return stage.run(limit, options.json)


# ---------------------------------------------------------------- the command line


def rows_number(text: str) -> int:
    """The value of `--rows`: a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of rows")
    return int(text)


def pieces_number(text: str) -> str | int | bool:
    """The value of `--pieces` as `Ward.sql` takes it: "auto", "no", or a whole number from 1."""
    if text == "auto":
        return text
    if text == "no":
        return False
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, no, or a whole number of pieces from 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    epilog = "exit codes: 0 done, 1 the statement failed, 2 wrong usage, 3 no memory or disk, 130 cancelled"
    about = "DuckDB inside a memory budget: an answer, or a clear refusal."
    top = argparse.ArgumentParser(prog="duckward", description=about, epilog=epilog)
    top.add_argument("--version", action="store_true", help="print the versions of duckward and DuckDB")
    verbs = top.add_subparsers(title="commands", dest="verb", metavar="COMMAND")

    guard = argparse.ArgumentParser(add_help=False)
    guard.add_argument(
        "--memory", metavar="SIZE", help='budget: "512MB", "2GiB", a share such as 0.5, "auto"'
    )
    guard.add_argument("--profile", metavar="NAME", help="set of settings to start from")
    guard.add_argument("--settings", metavar="FILE", help="TOML file with settings")
    guard.add_argument(
        "--history",
        metavar="FILE",
        help="keep what is learnt of queries in FILE (.json) for the next time; beside: beside the database",
    )

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("database", metavar="DATABASE", help="DuckDB file, or :memory:")
    where.add_argument("--read-only", action="store_true", help="open the database read-only")

    what = argparse.ArgumentParser(add_help=False, parents=[where])
    what.add_argument("query", metavar="SQL", help="the statement; - reads it from standard input")
    what.add_argument(
        "--pieces", type=pieces_number, metavar="N", help="in so many pieces; auto when it must, or no"
    )

    one = verbs.add_parser("run", parents=[guard, what], epilog=epilog, help="run one statement")
    one.add_argument("--output", metavar="FILE", help="write the answer to FILE: .parquet, .csv or .arrow")
    one.add_argument("--force", action="store_true", help="replace FILE if it exists")
    one.add_argument("--rows", type=rows_number, metavar="N", help="rows to print (default: a screenful)")
    one.add_argument("--json", action="store_true", help="print every row as a line of JSON")
    one.add_argument(
        "--verify", choices=["counts", "full"], help="what is proved of pieces: rows, or values and keys too"
    )
    one.add_argument("--report", action="store_true", help="tell on stderr what it took: memory, spill, time")
    one.add_argument("--no-progress", action="store_true", help="draw no progress line on the terminal")
    one.set_defaults(act=run)

    ask = verbs.add_parser(
        "explain", parents=[guard, what], epilog=epilog, help="what run would do, and why, without running it"
    )
    ask.add_argument("--json", action="store_true", help="print it as JSON")
    ask.set_defaults(act=explain)

    like = verbs.add_parser(
        "profile",
        parents=[guard, where],
        epilog=epilog,
        help="what the columns of a table are like, and what to cut it by",
    )
    like.add_argument("source", metavar="SOURCE", help="a table, the path or pattern of files, or a query")
    like.add_argument("column", metavar="COLUMN", nargs="?", help="one of its columns; all without it")
    like.add_argument("--json", action="store_true", help="print it as JSON")
    like.set_defaults(act=profile)

    cut = verbs.add_parser(
        "partition",
        parents=[guard, where],
        epilog=epilog,
        help="cut a table into a directory of Parquet files or into tables; without --into, show the plan",
    )
    cut.add_argument("source", metavar="SOURCE", help="a table, the path or pattern of files, or a query")
    cut.add_argument(
        "--into",
        metavar="PLACE",
        help="a directory that is not there or empty, or tables, such as 'events_{piece}'",
    )
    cut.add_argument("--replace", action="store_true", help="also an earlier partitioning may be there")
    cut.add_argument(
        "--sort", action="append", metavar="COLUMN", help="sort each piece by it (give it again for more)"
    )
    cut.add_argument(
        "--plan",
        metavar="FILE",
        help="cut by the plan in FILE (.json), and go on after a kill; if it is not there, make it first",
    )
    cut.add_argument("--batch-rows", type=int, metavar="N", help="rows that are kept from a crash at once")
    cut.add_argument(
        "--by", action="append", metavar="COLUMN", help="a column to cut by (give it again for more)"
    )
    cut.add_argument("--every", metavar="STEP", help="by time: hour, day, week, month, quarter or year")
    cut.add_argument("--zone", metavar="ZONE", help="the zone whose calendar that is")
    cut.add_argument("--pieces", type=int, metavar="N", help="by range: so many pieces of like size")
    cut.add_argument("--rows", type=int, metavar="N", help="by range: about so many rows a piece")
    cut.add_argument("--hash", type=int, metavar="N", help="by hash: so many pieces")
    cut.add_argument("--value", action="store_true", help="by value: a piece for each")
    cut.add_argument("--json", action="store_true", help="print it as JSON")
    cut.add_argument("--no-progress", action="store_true", help="draw no progress line on the terminal")
    cut.set_defaults(act=partition)

    same = verbs.add_parser(
        "validate",
        parents=[guard, where],
        epilog=f"{epilog}; 4 something was found",
        help="whether two tables, files or queries have the same rows; of one, keys, references and gaps",
    )
    same.add_argument("left", metavar="LEFT", help="a table, files, a query, or a partitioned directory")
    same.add_argument("right", metavar="RIGHT", nargs="*", help="another; none to look at LEFT by itself")
    same.add_argument("--pieces", action="store_true", help="all that are named are pieces of one table")
    same.add_argument("--source", metavar="SOURCE", help="what these pieces are compared with")
    same.add_argument(
        "--on",
        action="append",
        metavar="COLUMN",
        help="a column that identifies a row (give it again for more)",
    )
    same.add_argument(
        "--references",
        action="append",
        metavar="COLUMN=TABLE.COLUMN",
        help="a foreign key (give it again for more); COLUMN,COLUMN=TABLE(COLUMN,COLUMN) for a composite one",
    )
    same.add_argument("--gaps", metavar="COLUMN", help="a column of numbers or times that must not have gaps")
    same.add_argument("--every", metavar="STEP", help='the length of its steps: 1, "hour", "15 minutes"')
    same.add_argument(
        "--examples", type=rows_number, default=5, metavar="N", help="examples of a finding (default: 5)"
    )
    same.add_argument("--json", action="store_true", help="print it as JSON")
    same.set_defaults(act=validate)

    take = verbs.add_parser(
        "ingest",
        parents=[guard],
        epilog=epilog,
        help="load a file into a table in batches, each committed whole; one that ended goes on by its token",
    )
    take.add_argument(
        "file", metavar="FILE", help=f"{', '.join(INPUTS)}; - reads JSON lines from standard input"
    )
    take.add_argument("database", metavar="DATABASE", help="DuckDB file")
    take.add_argument("table", metavar="TABLE", help="the table; columns are matched by name")
    take.add_argument("--format", choices=INPUTS, help="what FILE is, where its ending does not say it")
    take.add_argument(
        "--create", action="store_true", help="make the table of what FILE has, if it is not there"
    )
    take.add_argument(
        "--token", metavar="TEXT", help="what the load is known by; the same goes on where it ended"
    )
    take.add_argument(
        "--rejects",
        metavar="TABLE",
        help="where bad records go, with the reason; without it, one ends the load",
    )
    take.add_argument(
        "--batch-rows",
        type=rows_number,
        default=1_000_000,
        metavar="N",
        help="most rows of a batch; small ones may be committed together (default: 1000000)",
    )
    take.add_argument(
        "--batch-bytes",
        metavar="SIZE",
        help="bytes of what is committed at once (default: a sixteenth of the budget)",
    )
    take.add_argument("--json", action="store_true", help="print it as JSON")
    take.set_defaults(act=ingest)

    look = verbs.add_parser("status", parents=[guard], help="what a guard sees here: budget, settings")
    look.add_argument("--json", action="store_true", help="print it as JSON")
    look.set_defaults(act=status)

    show = verbs.add_parser("demo", help="the same queries with and without duckward, in little memory")
    show.add_argument("--memory", metavar="SIZE", default="512MiB", help="of each process (default: 512MiB)")
    show.add_argument("--json", action="store_true", help="print the results as JSON")
    show.set_defaults(act=demo)
    return top


def versions() -> str:
    """The versions of duckward and of the DuckDB it guards."""
    from importlib import metadata

    found = []
    for name in ("duckward", "duckdb"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} (not installed as a package)")
    return ", ".join(found)


def exit_code(error: BaseException) -> int:
    """The exit code for `error`."""
    refused = (duckward.OutOfMemoryError, duckward.DiskError, duckdb.OutOfMemoryException, MemoryError)
    if isinstance(error, KeyboardInterrupt | duckward.CancelledError):
        return CANCELLED
    if isinstance(error, refused) or getattr(error, "errno", None) in NO_ROOM:
        return REFUSED
    return USAGE if isinstance(error, UsageError | duckward.InvalidInputError) else FAILED


def expected(error: BaseException) -> bool:
    """Whether `error` is told as a message; any other is a defect and keeps its traceback."""
    known = (UsageError, OutputError, stage.DemoError, duckward.Error, duckdb.Error, pa.ArrowException)
    return isinstance(error, (*known, OSError, MemoryError, ImportError, KeyboardInterrupt))


def paragraph(error: BaseException) -> str:
    """What to say about `error`: its text without empty lines."""
    if isinstance(error, KeyboardInterrupt):
        return "cancelled"
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines) or type(error).__name__


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM, which containers are stopped with, end the command as cleanly as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv` (that of the process unless given) and returns the exit code."""
    grammar = parser()
    try:
        options = grammar.parse_args(argv)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else USAGE
    if options.version:
        print(versions())
        return OK
    if options.verb is None:
        grammar.print_help(sys.stderr)
        return USAGE
    # Data may hold characters that the terminal's encoding lacks.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            code: int = options.act(options)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # Whoever read the answer has seen enough (`| head`). Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except BaseException as error:
        if not expected(error):
            raise
        print(f"duckward: {paragraph(error)}", file=sys.stderr)
        return exit_code(error)
