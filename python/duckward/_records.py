"""Where `Ward.ingest` gets records from: whatever has them becomes a source of Arrow tables."""

from __future__ import annotations

import datetime
import decimal
import json
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import pyarrow as pa

# Records that are converted at once: at first, at least and at most; and the bytes that should come of it.
FIRST, FEWEST, MOST, CHUNK = 1024, 16, 16_384, 4 << 20

# Rows of a row group as DuckDB makes it.
ROW_GROUP = 122_880

# The Arrow type of each kind of value, always the same: so tables of several chunks fit together.
KINDS: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(), "blob": pa.binary(),
    "date": pa.date32(), "time": pa.time64("us"), "stamp": pa.timestamp("us"),
    "moment": pa.timestamp("us", "UTC"), "delta": pa.duration("us"), "json": pa.string(),
}  # fmt: skip
# Kinds whose values Arrow takes as they are. Whole numbers may be too large, and texts may not be Unicode.
EXACT: dict[type, str] = {
    bool: "bool", int: "int", float: "float", str: "text", bytes: "blob", datetime.date: "date",
    datetime.time: "time", datetime.timedelta: "delta",
}  # fmt: skip


class SourceError(ValueError):
    """What was given has no records."""


def name(value: Any) -> str:
    """The type of a value, as an error says it."""
    return type(value).__qualname__


# ---------------------------------------------------------------- streams


class Stream:
    """Arrow tables, one after the other; what is left of one comes first."""

    def __init__(self, first: pa.Table | None, rest: Iterator[pa.Table], schema: pa.Schema) -> None:
        self.schema, self._rest, self._first = schema, rest, first

    def shape(self) -> pa.Table:
        """No row, and the columns."""
        return self.schema.empty_table()

    def bind(self, names: list[str], defaults: list[bool]) -> None:
        """The table's columns make no difference to a stream."""

    def read(self) -> pa.Table | None:
        """The next rows; none at the end."""
        table, self._first = self._first, None
        while table is None or (table.num_rows == 0 and table.num_columns):
            table = next(self._rest, None)
            if table is None:
                return None
        return table

    def skip(self, count: int) -> int:
        """Passes over so many rows; how many there were."""
        passed = 0
        while passed < count and (table := self.read()) is not None:
            passed += table.num_rows
            if passed > count:
                self._first = table.slice(table.num_rows - (passed - count))
                passed = count
        return passed


def of_reader(reader: Any) -> Stream:
    """The batches of a `pyarrow.RecordBatchReader`."""
    return Stream(None, (pa.Table.from_batches([batch]) for batch in reader), reader.schema)


def of_chunks(first: Any, rest: Iterator[Any]) -> Stream:
    """The chunks of an iterator of batches, tables or data frames."""
    table = as_table(first)
    if table is None:
        raise SourceError(f"an iterator of {name(first)}")

    def others() -> Iterator[pa.Table]:
        for number, chunk in enumerate(rest, 2):
            found = as_table(chunk)
            if found is None:
                raise TypeError(f"chunk {number} is a {name(chunk)}, and the first one was a {name(first)}")
            yield found

    return Stream(table, others(), table.schema)


def size(table: pa.Table) -> int:
    """Bytes of a table; of whole buffers where pyarrow cannot count those of a slice (views, before 18)."""
    try:
        return int(table.nbytes)
    except pa.ArrowException:
        return int(table.get_total_buffer_size())


def in_row_groups(tables: list[pa.Table]) -> pa.Table:
    """Tables as one, in chunks of a row group where Arrow can join them: DuckDB inserts those fastest."""
    table = pa.concat_tables(tables, promote_options="default")
    try:
        groups = [table.slice(at, ROW_GROUP).combine_chunks() for at in range(0, table.num_rows, ROW_GROUP)]
    except pa.ArrowException:
        # Dictionaries that together have more values than their index type can number.
        return table
    return pa.concat_tables(groups) if groups else table


def as_table(chunk: Any) -> pa.Table | None:
    """A batch, a table or a data frame as a table; none of anything else."""
    if isinstance(chunk, pa.RecordBatch):
        return pa.Table.from_batches([chunk])
    if isinstance(chunk, pa.Table):
        return chunk
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(chunk, pandas.DataFrame):
        # An index is no column, as everywhere in DuckDB.
        return pa.Table.from_pandas(chunk, preserve_index=False)
    if hasattr(chunk, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(chunk).read_all()
    if hasattr(chunk, "__arrow_c_array__"):
        return pa.Table.from_batches([pa.record_batch(chunk)])
    return None


# ---------------------------------------------------------------- records


class Records:
    """Dictionaries, converted some at a time. A value keeps its kind, whichever others come with it."""

    def __init__(self, records: Iterator[Any]) -> None:
        self._records, self._size = records, FIRST
        self._ahead: list[Any] = []
        self._error: BaseException | None = None
        self._places: dict[str, int] = {}
        self._defaults: list[bool] = []
        self._keys: dict[tuple[Any, ...], tuple[list[tuple[Any, int]], str | None]] = {}

    def shape(self) -> list[tuple[str, list[str]]]:
        """The keys of the first records, and the kinds of their values."""
        self._ahead = self._take(FIRST)
        found: dict[str, list[str]] = {}
        for record in self._ahead:
            for key, value in record.items() if isinstance(record, Mapping) else ():
                kinds = found.setdefault(key, []) if isinstance(key, str) else []
                try:
                    kind = classify(value)[0]
                except (TypeError, ValueError):
                    continue
                if kind and kind not in kinds:
                    kinds.append(kind)
        return list(found.items())

    def bind(self, names: list[str], defaults: list[bool]) -> None:
        """Says the names of the table's columns, and which have a default."""
        self._places = {column.lower(): place for place, column in enumerate(names)}
        self._defaults = defaults

    def _take(self, count: int) -> list[Any]:
        """The next records. What the source raises is raised after those that came before."""
        taken, self._ahead = self._ahead[:count], self._ahead[count:]
        if self._error is not None and not taken:
            raise self._error
        if self._error is None:
            try:
                for record in islice(self._records, count - len(taken)):
                    taken.append(record)
            except Exception as error:
                if not taken:
                    raise
                self._error = error
        return taken

    def skip(self, count: int) -> int:
        """Passes over so many records; how many there were."""
        passed = 0
        while passed < count and (taken := self._take(min(MOST, count - passed))):
            passed += len(taken)
        return passed

    def read(self) -> pa.Table | None:
        """The next records as a table in the layout of a batch; none at the end."""
        records = self._take(self._size)
        if not records:
            return None
        table = self._convert(records)
        if table.nbytes > CHUNK:
            self._size = max(self._size // 2, FEWEST)
        elif table.nbytes < CHUNK // 4:
            self._size = min(self._size * 2, MOST)
        return table

    def _layout(self, keys: tuple[Any, ...]) -> tuple[list[tuple[Any, int]], str | None]:
        """Where the keys of a record go, or why they cannot."""
        known = self._keys.get(keys)
        if known is None:
            pairs = [(key, self._places.get(key.lower()) if isinstance(key, str) else None) for key in keys]
            unknown = [
                repr(key)
                for key, place in pairs
                if place is None and not (isinstance(key, str) and key.lower().startswith("_airbyte_"))
            ]
            places = [(key, place) for key, place in pairs if place is not None]
            reason = None
            if unknown:
                reason = f"the table has no column {', '.join(unknown)}"
            elif len({place for _, place in places}) < len(places):
                reason = "two keys are for the same column"
            known = (places, reason)
            if len(self._keys) < MOST:
                self._keys[keys] = known
        return known

    def _convert(self, records: list[Any]) -> pa.Table:
        count = len(records)
        reasons: dict[int, str] = {}
        values: dict[int, list[Any]] = {}
        given: dict[int, list[bool]] = {}
        for row, record in enumerate(records):
            if not isinstance(record, Mapping):
                reasons[row] = f"it is a {name(record)}, not a dictionary"
                continue
            places, reason = self._layout(tuple(record))
            if reason:
                reasons[row] = reason
                continue
            for key, place in places:
                column = values.get(place)
                if column is None:
                    column = values[place] = [None] * count
                    if self._defaults[place]:
                        given[place] = [False] * count
                column[row] = record[key]
                if place in given:
                    given[place][row] = True
        arrays: dict[str, pa.Array] = {}
        names = {place: column for column, place in self._places.items()}
        for place, column in sorted(values.items()):
            for kind, array in columns(column, names[place], reasons).items():
                arrays[f"duckward_{place}_{kind}"] = array
        for place, has in given.items():
            arrays[f"duckward_has_{place}"] = pa.array(has, pa.bool_())
        if reasons or not arrays:
            raw = {row: as_json(records[row]) for row in reasons}
            arrays["duckward_reason"] = pa.array([reasons.get(row) for row in range(count)], pa.string())
            arrays["duckward_raw"] = pa.array([raw.get(row) for row in range(count)], pa.string())
        return pa.table(arrays)


def columns(values: list[Any], column: str, reasons: dict[int, str]) -> dict[str, pa.Array]:
    """The values as an array for each kind among them. Why one cannot be converted goes into `reasons`."""
    types = set(map(type, values))
    types.discard(type(None))
    if len(types) == 1 and (kind := EXACT.get(types.pop())):
        try:
            return {kind: pa.array(values, KINDS[kind])}
        except (pa.ArrowException, OverflowError, ValueError):
            pass  # One of them; which, is found below.
    found: dict[str, list[Any]] = {}
    for row, value in enumerate(values):
        try:
            kind, converted = classify(value)
            if kind:
                pa.scalar(converted, KINDS[kind])
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            reasons.setdefault(row, f"{column}: {error}")
            continue
        if kind:
            found.setdefault(kind, [None] * len(values))[row] = converted
    if not found:
        return {"text": pa.nulls(len(values), pa.string())}
    return {kind: pa.array(array, KINDS[kind]) for kind, array in sorted(found.items())}


def classify(value: Any) -> tuple[str, Any]:
    """The kind of a value, and the value as Arrow takes it; an empty kind of what is NULL.

    Raises:
        TypeError: a database has no such value.
    """
    kind = EXACT.get(type(value))
    if kind and not (kind == "int" and not -(2**63) <= value < 2**63):
        return kind, value
    if value is None:
        return "", None
    if isinstance(value, bool):
        return "bool", bool(value)
    if isinstance(value, int | decimal.Decimal):
        # Exact as a text, whatever its size.
        return "text", format(value, "f") if isinstance(value, decimal.Decimal) else str(int(value))
    if isinstance(value, float):
        return "float", float(value)
    if isinstance(value, str):
        return "text", str(value)
    if isinstance(value, uuid.UUID):
        return "text", str(value)
    if isinstance(value, bytearray | memoryview):
        return "blob", bytes(value)
    if isinstance(value, datetime.datetime):
        # That of pandas for no time at all is equal to nothing, not even itself.
        if value != value:
            return "", None
        return ("moment", value.astimezone(datetime.timezone.utc)) if value.tzinfo else ("stamp", value)
    if isinstance(value, datetime.date):
        return "date", value
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return "json", as_json(value)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return classify(value.tolist())
    raise TypeError(f"a value of type {name(value)} cannot be stored")


def as_json(value: Any) -> str:
    """A record or a nested value as JSON; what JSON cannot say as text."""

    def other(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {str(key): item for key, item in part.items()}
        if isinstance(part, set | frozenset):
            return list(part)
        return part.tolist() if hasattr(part, "tolist") else str(part)

    def finite(part: Any) -> Any:
        if isinstance(part, float) and (part != part or part in (float("inf"), float("-inf"))):
            return str(part)
        if isinstance(part, Mapping):
            return {str(key): finite(item) for key, item in part.items()}
        return [finite(item) for item in part] if isinstance(part, list | tuple) else part

    try:
        text = json.dumps(value, default=other, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        # Keys that are no texts, numbers that JSON lacks.
        try:
            text = json.dumps(finite(value), default=other, ensure_ascii=False)
        except (RecursionError, TypeError, ValueError):
            text = json.dumps(str(value), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


# ---------------------------------------------------------------- what people give


def opened(reader: Any, batch_rows: int) -> Stream | Records:
    """A source of what `reader` has.

    Raises:
        SourceError: it has no records.
    """
    if type(reader).__module__.split(".")[0] == "airbyte":
        reader = of_airbyte(reader, batch_rows)
    if isinstance(reader, str | bytes | Mapping):
        raise SourceError(f"a {name(reader)}")
    if isinstance(reader, pa.RecordBatchReader):
        return of_reader(reader)
    for convert in (as_dataset, as_lazy):
        if (found := convert(reader, batch_rows)) is not None:
            return found
    pandas = sys.modules.get("pandas")
    is_frame = pandas is not None and isinstance(reader, pandas.DataFrame)
    if is_frame or isinstance(reader, pa.Table | pa.RecordBatch):
        table = as_table(reader)
        assert table is not None
        return Stream(table, iter(()), table.schema)
    if hasattr(reader, "__arrow_c_stream__"):
        return of_reader(pa.RecordBatchReader.from_stream(reader))
    if not isinstance(reader, Iterable):
        raise SourceError(f"a {name(reader)}")
    iterator = iter(reader)
    first = next(iterator, None)
    if first is None:
        return Records(
            iter(()) if (second := next(iterator, None)) is None else chain([first, second], iterator)
        )
    if isinstance(first, Mapping):
        return Records(chain([first], iterator))
    if isinstance(first, str | bytes | int | float | list | tuple) or as_table(first) is None:
        # The first record may be the bad one.
        return Records(chain([first], iterator))
    return of_chunks(first, iterator)


def as_dataset(reader: Any, batch_rows: int) -> Stream | None:
    """A `pyarrow.dataset` that is read as it is needed."""
    dataset = sys.modules.get("pyarrow.dataset")
    if dataset is not None and isinstance(reader, dataset.Dataset):
        return of_reader(reader.scanner(batch_size=min(batch_rows, 1 << 17)).to_reader())
    if dataset is not None and isinstance(reader, dataset.Scanner):
        return of_reader(reader.to_reader())
    return None


def as_lazy(reader: Any, batch_rows: int) -> Stream | None:
    """A lazy frame of polars, in batches where it gives them."""
    polars = sys.modules.get("polars")
    if polars is None or not isinstance(reader, polars.LazyFrame):
        return None
    table = reader.collect(engine="streaming").to_arrow()
    return Stream(table, iter(()), table.schema)


def of_airbyte(reader: Any, batch_rows: int) -> Any:
    """The records of what PyAirbyte gives: of `read()` its one stream, of a cached stream Arrow."""
    if isinstance(reader, Mapping):
        streams = list(reader)
        if len(streams) != 1:
            raise SourceError(f"a {name(reader)} of {len(streams)} streams ({', '.join(map(str, streams))}); "
                              "give one of them, such as result[\"users\"], that is,")  # fmt: skip
        reader = reader[streams[0]]
    to_arrow: Callable[..., Any] | None = getattr(reader, "to_arrow", None)
    try:
        return to_arrow(max_chunk_size=min(batch_rows, 1 << 17)) if to_arrow else reader
    except NotImplementedError:
        # Records that are in no cache.
        return reader
