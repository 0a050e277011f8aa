"""Loading: every record goes in once, or is rejected with the reason; one that was killed goes on."""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import duckward
from duckward._records import in_row_groups
from duckward.cli import main
from ingest_killed import KINDS, Plan, Tally, one

ROWS = 10_000


def numbers(rows: int = ROWS) -> pa.Table:
    return pa.table({"id": pa.array(range(rows)), "text": pa.array([f"t{row}" for row in range(rows)])})


def records(rows: int = ROWS) -> Iterator[dict[str, Any]]:
    return ({"id": row, "text": f"t{row}"} for row in range(rows))


def content(con: Any, table: str = "events") -> Any:
    return con.execute(
        f"SELECT count(*), count(DISTINCT id), sum(id), min(text), max(text) FROM {table}"
    ).fetchall()


WHOLE = [(ROWS, ROWS, ROWS * (ROWS - 1) // 2, "t0", f"t{ROWS - 1}")]


@pytest.fixture
def con(con: Any) -> Any:
    con.execute("CREATE TABLE events (id BIGINT, text VARCHAR)")
    return con


# ---------------------------------------------------------------- what has records


def frames(con: Any) -> dict[str, Any]:
    import polars
    import pyarrow.dataset

    table = numbers()
    frame = table.to_pandas()
    return {
        "table": table,
        "batch": table.to_batches()[0],
        "reader": table.to_reader(777),
        "batches": iter(table.to_batches(max_chunksize=777)),
        "tables": (table.slice(at, 999) for at in range(0, ROWS, 999)),
        "dataset": pyarrow.dataset.dataset(table),
        "scanner": pyarrow.dataset.dataset(table).scanner(),
        "duckdb": con.sql(f"SELECT range AS id, 't' || range AS text FROM range({ROWS})"),
        "pandas": frame,
        "index": frame.set_index(frame["id"] + 7),
        "chunks": (frame[at : at + 999] for at in range(0, ROWS, 999)),
        "polars": polars.from_arrow(table),
        "lazy": polars.from_arrow(table).lazy(),
        "slices": polars.from_arrow(table).iter_slices(777),
        "generator": records(),
        "list": list(records()),
    }


@pytest.mark.parametrize("kind", [
    "table", "batch", "reader", "batches", "tables", "dataset", "scanner", "duckdb", "pandas", "index",
    "chunks", "polars", "lazy", "slices", "generator", "list",
])  # fmt: skip
def test_whatever_has_records_is_loaded(con: Any, ward: duckward.Ward, kind: str) -> None:
    done = ward.ingest(frames(con)[kind], "events", batch_rows=3000)
    assert content(con) == WHOLE
    assert (done.rows, done.rejected, done.batches, done.resumed_from) == (ROWS, 0, 4, None)
    assert con.execute("SELECT id FROM events LIMIT 3 OFFSET 4000").fetchall() == [(4000,), (4001,), (4002,)]


def test_a_source_may_read_from_the_guarded_connection_itself(con: Any, ward: duckward.Ward) -> None:
    query = f"SELECT range AS id, 't' || range AS text FROM range({ROWS})"
    relation = con.sql(query)
    reader = (
        relation.to_arrow_reader(100)
        if hasattr(relation, "to_arrow_reader")
        else relation.fetch_record_batch(100)
    )
    ward.ingest(reader, "events", batch_rows=3000)
    assert content(con) == WHOLE
    con.execute("DELETE FROM events")
    con.execute(query)
    rows = ({"id": row[0], "text": row[1]} for row in iter(con.fetchone, None))
    ward.ingest(rows, "events", batch_rows=3000)
    assert content(con) == WHOLE
    con.execute("DELETE FROM events")
    ward.ingest(ward.sql(query), "events", batch_rows=3000)
    assert content(con) == WHOLE


def test_columns_are_matched_by_name_and_the_rest_is_default(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t (a INTEGER, b VARCHAR DEFAULT 'x', c DOUBLE)")
    ward.ingest(pa.table({"C": [1.5], "A": [1]}), "t")
    ward.ingest([{"a": 2, "B": None}, {"a": 3}, {"b": "y", "c": 4}], "t")
    assert con.execute("FROM t").fetchall() == [
        (1, "x", 1.5), (2, None, None), (3, "x", None), (None, "y", 4.0)
    ]  # fmt: skip


def test_values_are_cast_as_duckdb_casts(con: Any, ward: duckward.Ward) -> None:
    con.execute("""CREATE TABLE t (i INTEGER, h HUGEINT, d DECIMAL(9, 2), day DATE, moment TIMESTAMP,
        zoned TIMESTAMPTZ, clock TIME, length INTERVAL, yes BOOLEAN, u UUID, bytes BLOB,
        s STRUCT(x INTEGER, y VARCHAR[]), m MAP(VARCHAR, INTEGER), j JSON, e ENUM('a', 'b'))""")
    one = {
        "i": "7", "h": 2**100, "d": decimal.Decimal("12.345"), "day": "2024-02-29",
        "moment": datetime.datetime(2024, 1, 2, 3, 4, 5, 6), "clock": datetime.time(1, 2, 3),
        "zoned": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
        "length": datetime.timedelta(hours=1), "yes": 1, "u": uuid.UUID(int=5), "bytes": b"\x00\xff",
        "s": {"x": "3", "y": ["p", None]}, "m": {"k": 1}, "j": {"deep": [1, {"a": None}]}, "e": "b",
    }  # fmt: skip
    ward.ingest([one, {"i": 8}], "t")
    con.execute("SET TimeZone = 'UTC'")
    found = con.execute("SELECT COLUMNS(*)::VARCHAR FROM t WHERE i = 7").fetchall()[0]
    assert found == (
        "7", str(2**100), "12.35", "2024-02-29", "2024-01-02 03:04:05.000006", "2024-01-01 22:00:00+00",
        "01:02:03", "01:00:00", "true", "00000000-0000-0000-0000-000000000005", "\\x00\\xFF",
        "{'x': 3, 'y': [p, NULL]}", "{k=1}", found[13], "b",
    )  # fmt: skip
    assert json.loads(found[13]) == one["j"]


def test_a_table_is_made_when_that_is_asked_for(con: Any, ward: duckward.Ward) -> None:
    ward.ingest(numbers(), "made", create=True)
    assert con.execute("DESCRIBE made").fetchall()[0][:2] == ("id", "BIGINT")
    ward.ingest([{"a": 1, "b": "x", "c": [1]}, {"a": 2.5, "d": None}], "more", create=True)
    types = {row[0]: row[1] for row in con.execute("DESCRIBE more").fetchall()}
    assert types == {"a": "DOUBLE", "b": "VARCHAR", "c": "JSON", "d": "VARCHAR"}
    assert con.execute("SELECT a FROM more").fetchall() == [(1.0,), (2.5,)]
    ward.ingest(numbers(5).slice(0, 0), "empty", create=True)
    assert con.execute("SELECT count(*) FROM empty").fetchall() == [(0,)]


NAMES = ["it's", "a b", "a.b", 'qu"ote', "x" * 200, "select", "ünï", "1st", "%s", "; DROP TABLE events; --"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(con: Any, ward: duckward.Ward, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    con.execute(f"CREATE SCHEMA {quoted}")
    con.execute(f"CREATE TABLE {quoted}.{quoted} ({quoted} INTEGER CHECK ({quoted} < 10), id INTEGER UNIQUE)")
    full = f"{quoted}.{quoted}"
    done = ward.ingest(
        [{name: 1, "id": 1}, {name: 99, "id": 2}, {name: 3, "id": 1}, {name: "q", "id": 4}],
        full,
        token=name,
        rejects=f"{quoted}.rejected",
    )
    assert (done.rows, done.rejected) == (1, 3)
    assert con.execute(f"SELECT count(*), any_value(token) FROM {quoted}.rejected").fetchall() == [(3, name)]
    assert content(con)[0][0] == 0


def test_the_session_says_which_table_is_meant(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute(f"ATTACH '{tmp_path}/other.duckdb' AS other; CREATE SCHEMA other.s; USE other.s")
    con.execute("CREATE TABLE events (id BIGINT, text VARCHAR)")
    ward.ingest(numbers(5), "events", token="a")
    ward.ingest(numbers(7), "memory.events", token="a")
    ward.ingest(numbers(2), "s.events", token="b")
    assert content(con, "other.s.events")[0][0] == 7
    assert content(con, "memory.main.events")[0][0] == 7
    # Tokens live beside the rows.
    for database, tokens in (("other", [("a",), ("b",)]), ("memory", [("a",)])):
        assert (
            con.execute(f"SELECT token FROM {database}.main.duckward_ingests ORDER BY 1").fetchall() == tokens
        )


# ---------------------------------------------------------------- any chunking


def ugly(seed: int) -> list[Any]:
    """Records of all sorts, bad ones among them."""
    chance = random.Random(seed)
    values = [1, 2**70, -5, 2.5, float("nan"), "7", "x", "", None, True, decimal.Decimal("1.50"), b"b",
              [1, "2"], {"k": None}, datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3),
              "2024-05-06", object()]  # fmt: skip
    found: list[Any] = []
    for _ in range(chance.randrange(200)):
        record: Any = {key: chance.choice(values) for key in "abc" if chance.random() < 0.8}
        record["id"] = chance.randrange(200)
        if chance.random() < 0.02:
            record = chance.choice([7, "text", None, {"id": 1, "nowhere": 2}, {1: 2}])
        found.append(record)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_any_chunking_gives_the_same_table(con: Any, ward: duckward.Ward, seed: int) -> None:
    source = ugly(seed)
    chance = random.Random(seed)
    tables = []
    for number in range(5):
        con.execute(
            f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, a VARCHAR, b INTEGER CHECK (b > -3), "
            "c DATE DEFAULT '2000-01-01')"
        )
        done = ward.ingest(
            iter(source),
            f"t{number}",
            batch_rows=[10**6, 1, chance.randrange(1, 50), chance.randrange(50, 100), 7][number],
            batch_bytes=[1 << 20, 1 << 20, 1000, 1 << 20, 1][number],
            rejects=f"r{number}",
        )
        assert done.rows + done.rejected == len(source)
        tables.append(
            (
                con.execute(f"FROM t{number} ORDER BY rowid").fetchall(),
                con.execute(f"SELECT source_row, record FROM r{number} ORDER BY source_row").fetchall(),
            )
        )
    assert all(repr(table) == repr(tables[0]) for table in tables), seed
    for _, rejected in tables:
        assert all(isinstance(json.loads(record), object) for _, record in rejected)


def test_any_chunking_of_a_stream_gives_the_same_table(con: Any, ward: duckward.Ward) -> None:
    con.execute(f"CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS text FROM range({ROWS})")
    relation = con.sql("FROM t")
    table = relation.to_arrow_table() if hasattr(relation, "to_arrow_table") else relation.fetch_arrow_table()
    for chunk, rows, size in itertools.product((1000, 4096, ROWS), (999, 5000, 10**6), ("20KB", "10MB")):
        con.execute("DELETE FROM events")
        ward.ingest(table.to_reader(chunk), "events", batch_rows=rows, batch_bytes=size)
        assert ward.validate("t", "events").ok


def test_small_chunks_become_row_groups_and_keep_their_order(con: Any, ward: duckward.Ward) -> None:
    table = numbers(300_001)
    chunks = [pa.Table.from_batches([batch]) for batch in table.to_batches(1000)]
    joined = in_row_groups(chunks)
    assert [len(chunk) for chunk in joined.column("id").chunks] == [122_880, 122_880, 54_241]
    assert joined.equals(table)
    ward.ingest(table.to_reader(1000), "events", batch_rows=290_000)
    wrong = con.execute("SELECT count(*) FROM events WHERE id <> rowid OR text <> 't' || id").fetchall()
    assert wrong == [(0,)]
    assert con.execute("SELECT count(*) FROM events").fetchall() == [(300_001,)]


@pytest.mark.parametrize("words", [2, 100], ids=["joined", "too many to be joined"])
def test_chunks_with_other_dictionaries_are_loaded(con: Any, ward: duckward.Ward, words: int) -> None:
    def chunk(letter: str) -> pa.Table:
        texts = [f"{letter}{number}" for number in range(words)]
        found = pa.DictionaryArray.from_arrays(pa.array(range(words), pa.int8()), texts)
        return pa.table({"id": pa.array(range(words)), "text": found})

    assert in_row_groups([chunk("a"), chunk("b")]).column("text").num_chunks == (1 if words == 2 else 2)
    ward.ingest(iter([chunk("a"), chunk("b")]), "events")
    found = con.execute("SELECT id, text FROM events ORDER BY rowid").fetchall()
    assert found == [(number, f"{letter}{number}") for letter in "ab" for number in range(words)]


# ---------------------------------------------------------------- bad records


def test_bad_records_are_put_aside_with_the_reason(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE p (k INTEGER PRIMARY KEY); INSERT INTO p VALUES (1)")
    con.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER NOT NULL, b INTEGER CHECK (b > 0), "
        "l INTEGER[], k INTEGER REFERENCES p(k))"
    )
    source = [
        {"id": 1, "a": 1, "k": 1},
        {"id": "one", "a": 1},
        {"id": 2, "a": None},
        {"id": 3, "a": 1, "b": -1},
        {"id": 1, "a": 1},
        {"id": 4, "a": 1, "l": [1, "x"]},
        {"id": 5, "a": 1, "k": 77},
        {"id": 6, "a": 1, "zzz": 1},
        "no record",
        {"id": 7, "a": 1, "b": 1, "l": [1, 2], "k": 1},
    ]
    done = ward.ingest(source, "t", rejects="bad")
    assert (done.rows, done.rejected) == (2, 8)
    assert con.execute("SELECT id FROM t ORDER BY 1").fetchall() == [(1,), (7,)]
    found = con.execute("SELECT source_row, reason, record FROM bad ORDER BY 1").fetchall()
    assert [row for row, _, _ in found] == [2, 3, 4, 5, 6, 7, 8, 9]
    for (_, reason, _), expected in zip(found, [
        "id: 'one' cannot be cast to INTEGER", "a is NULL, and must not be",
        "the condition (b > 0) is not met", "key", "Could not convert|Failed to cast",
        "foreign key|Violates", "no column 'zzz'", "it is a str",
    ], strict=True):  # fmt: skip
        assert any(word.lower() in reason.lower() for word in expected.split("|")), reason
    assert json.loads(found[0][2])["id"] == "one"
    assert json.loads(found[6][2]) == {"id": 6, "a": 1, "zzz": 1}
    assert json.loads(found[7][2]) == "no record"


def test_the_same_of_an_arrow_stream(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, day DATE)")
    table = pa.table(
        {"id": [1, 2, 2, 2**40, 5], "day": ["2024-01-01", "x", "2024-01-02", "2024-01-03", None]}
    )
    done = ward.ingest(table, "t", rejects="bad", batch_rows=2)
    assert (done.rows, done.rejected) == (3, 2)
    found = con.execute("SELECT source_row, reason, record FROM bad ORDER BY 1").fetchall()
    assert [(row, json.loads(record)) for row, _, record in found] == [
        (2, {"id": 2, "day": "x"}), (4, {"id": 2**40, "day": "2024-01-03"})
    ]  # fmt: skip


def test_a_bad_record_stops_the_load_and_says_which(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t (id INTEGER)")
    source = [{"id": row if row != 2500 else "x"} for row in range(5000)]
    with pytest.raises(duckward.QueryError, match="record 2501 of the source") as caught:
        ward.ingest(source, "t", batch_rows=1000, token="one")
    assert isinstance(caught.value.__cause__, duckdb.Error)
    assert '2000 records of it are committed, and token="one"' in str(caught.value)
    assert con.execute("SELECT count(*) FROM t").fetchall() == [(2000,)]
    source[2500] = {"id": 2500}
    done = ward.ingest(source, "t", batch_rows=1000, token="one")
    assert (done.rows, done.resumed_from, done.total_rows) == (3000, 2000, 5000)
    with pytest.raises(duckward.QueryError, match=r"record 1 of the source.*is a int, not a dictionary"):
        ward.ingest([7], "t")


# ---------------------------------------------------------------- tokens


def test_a_load_goes_on_after_what_was_committed(con: Any, ward: duckward.Ward) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield from itertools.islice(records(), 5500)
        raise OSError("the line is dead")

    with pytest.raises(duckward.TransactionError, match="the line is dead") as caught:
        ward.ingest(failing(), "events", batch_rows=1000, token="mine")
    assert isinstance(caught.value.__cause__, OSError)
    assert "5000 records of it are committed" in str(caught.value)
    assert content(con)[0][0] == 5000
    assert con.execute("SELECT position, inserted, finished FROM duckward_ingests").fetchall() == [
        (5000, 5000, False)
    ]
    done = ward.ingest(records(), "events", batch_rows=1000, token="mine")
    assert (done.rows, done.resumed_from, done.total_rows) == (5000, 5000, ROWS)
    assert content(con) == WHOLE
    # The same of a stream, whose chunks do not end where batches do.
    con.execute("DELETE FROM events")
    broken = (
        batch if number < 6 else 1 / 0 for number, batch in enumerate(numbers().to_batches(max_chunksize=999))
    )
    with pytest.raises(duckward.TransactionError, match="ZeroDivisionError"):
        ward.ingest(broken, "events", batch_rows=1000, token="stream")
    assert content(con)[0][0] == 5000
    ward.ingest(numbers().to_reader(1234), "events", token="stream")
    assert content(con) == WHOLE


def test_a_token_that_cannot_go_on_is_refused(con: Any, ward: duckward.Ward) -> None:
    ward.ingest(numbers(), "events", token="done")
    with pytest.raises(duckward.StateError, match='token="done" is finished: 10000 rows'):
        ward.ingest(numbers(), "events", token="done")
    con.execute("CREATE TABLE other (id BIGINT, text VARCHAR)")
    with pytest.raises(duckward.InvalidInputError, match="belongs to a load into"):
        ward.ingest(numbers(), "other", token="done")
    with pytest.raises(duckward.QueryError):
        ward.ingest([*records(20), {"id": "x"}], "events", token="short", batch_rows=10)
    with pytest.raises(duckward.TransactionError, match="ended after 10 records, but 20 were committed"):
        ward.ingest(records(10), "events", token="short")
    con.execute("DROP TABLE events")
    with pytest.raises(duckward.InvalidInputError, match="no table"):
        ward.ingest(records(), "events", token="short")
    with pytest.raises(duckward.StateError, match="is gone"):
        ward.ingest(records(), "events", token="short", create=True)


def test_two_loads_with_one_token_do_not_double_anything(con: Any, ward: duckward.Ward) -> None:
    go = threading.Event()

    def slow() -> Iterator[dict[str, Any]]:
        yield from itertools.islice(records(), 1500)
        go.wait(30)
        yield from itertools.islice(records(), 1500, None)

    failed: list[BaseException] = []

    def first() -> None:
        try:
            ward.ingest(slow(), "events", token="same", batch_rows=1000)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    deadline = time.monotonic() + 30
    cursor = con.cursor()
    while time.monotonic() < deadline:
        tables = cursor.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'duckward_ingests'"
        ).fetchall()
        if tables[0][0] and cursor.execute("SELECT position FROM duckward_ingests").fetchall() == [(1000,)]:
            break
        time.sleep(0.01)
    done = ward.ingest(records(), "events", token="same", batch_rows=1000)
    go.set()
    thread.join(30)
    assert done.resumed_from == 1000
    assert content(con) == WHOLE
    assert [type(error) for error in failed] == [duckward.StateError]


def test_a_token_of_its_own_is_told(con: Any, ward: duckward.Ward) -> None:
    done = ward.ingest(numbers(), "events")
    assert con.execute("SELECT token, finished FROM duckward_ingests").fetchall() == [(done.token, True)]
    assert done.to_dict()["token"] == done.token


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(("arguments", "message"), [
    ({"table": "nowhere"}, r'no table "main"."nowhere" in the database "memory": make it, or give create'),
    ({"table": ""}, 'table="" is not accepted'),
    ({"table": "s.t.u.v.w"}, "no table"),
    ({"table": "seen"}, "it is a view"),
    ({"table": "passing"}, "temporary table"),
    ({"reader": pa.table({"id": [1], "x": [2], "y": [3]})}, r'no column "x", "y"'),
    ({"reader": pa.table([[1], [2]], names=["id", "ID"])}, "two columns"),
    ({"reader": pa.table({})}, "no column"),
    ({"reader": "events.csv"}, "reader is a str"),
    ({"reader": {"id": [1]}}, "reader is a dict"),
    ({"reader": 7}, "reader is a int"),
    ({"reader": None}, "reader is a NoneType"),
    ({"batch_rows": 0}, "batch_rows=0"),
    ({"batch_bytes": 0}, "batch_bytes=0"),
    ({"batch_bytes": "many"}, "batch_bytes='many'"),
    ({"token": " "}, "token="),
    ({"rejects": "events"}, "loaded into"),
    ({"rejects": "narrow"}, "lacks some of the columns"),
    ({"rejects": "o.bad"}, "another database"),
    ({"table": "fixed.t"}, "read-only"),
    ({"table": "ours"}, "duckward_x"),
    ({"table": "made", "reader": iter(()), "create": True}, "the source has no record"),
])  # fmt: skip
def test_bad_input_changes_nothing(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path, arguments: dict[str, Any], message: str
) -> None:
    with duckdb.connect(str(tmp_path / "fixed.duckdb")) as other:
        other.execute("CREATE TABLE t (id INTEGER)")
    con.execute(
        "CREATE VIEW seen AS FROM events; CREATE TEMP TABLE passing (id INTEGER);"
        "CREATE TABLE narrow (reason VARCHAR); CREATE TABLE ours (duckward_x INTEGER);"
        f"ATTACH '{tmp_path}/fixed.duckdb' AS fixed (READ_ONLY); ATTACH ':memory:' AS o"
    )
    before = con.execute("SELECT database_name, table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
    given = {"reader": numbers(), "table": "events", **arguments}
    with pytest.raises(duckward.InvalidInputError, match=message):
        ward.ingest(**given)
    assert (
        con.execute("SELECT database_name, table_name FROM duckdb_tables() ORDER BY ALL").fetchall() == before
    )
    assert content(con)[0][0] == 0


def test_a_database_that_is_read_only_is_refused(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "test.duckdb")
    with duckdb.connect(path) as con:
        con.execute("CREATE TABLE events (id BIGINT, text VARCHAR)")
    with (
        duckdb.connect(path, read_only=True) as con,
        duckward.guard(con, memory="1GB") as ward,
        pytest.raises(duckward.InvalidInputError, match="read-only"),
    ):
        ward.ingest(numbers(), "events")


def test_a_source_that_fails_at_once_leaves_no_trace(con: Any, ward: duckward.Ward) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        raise RuntimeError("not today")
        yield {}

    before = con.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    with pytest.raises(duckward.TransactionError, match="not today"):
        ward.ingest(failing(), "made", create=True)
    assert con.execute("SELECT table_name FROM duckdb_tables()").fetchall() == before


def test_no_records_are_an_empty_load(con: Any, ward: duckward.Ward) -> None:
    for nothing in (iter(()), [], numbers(0), numbers().to_reader().schema.empty_table().to_reader()):
        done = ward.ingest(nothing, "events")
        assert (done.rows, done.batches) == (0, 0)
    assert con.execute("SELECT bool_and(finished) FROM duckward_ingests").fetchall() == [(True,)]


def test_a_closed_ward_loads_nothing(con: Any) -> None:
    ward = duckward.guard(con, memory="1GB")
    ward.close()
    with pytest.raises(duckward.StateError, match="closed"):
        ward.ingest(numbers(), "events")


# ---------------------------------------------------------------- how it is told


def test_it_is_told_batch_by_batch_and_at_the_end(con: Any, ward: duckward.Ward) -> None:
    events: list[dict[str, Any]] = []
    with_events = ward.on(events.append)
    done = ward.ingest(
        [{"id": row if row % 1000 else "x"} for row in range(2500)],
        "events",
        batch_rows=1000,
        token="t",
        rejects="bad",
    )
    with_events.cancel()
    told = [event for event in events if event["event"] == "batch_committed"]
    assert [(event["batch"], event["rows"], event["rejected"], event["position"]) for event in told] == [
        (1, 999, 1, 1000), (2, 999, 1, 2000), (3, 499, 1, 2500)
    ]  # fmt: skip
    assert {event["token"] for event in told} == {"t"}
    assert "2497" in str(done)
    assert "3, into" in str(done)
    assert "<table" in done._repr_html_()
    assert repr(done).startswith("<duckward.Ingested: 2497 rows")
    assert done.to_dict()["rejected"] == 3


def test_ctrl_c_ends_a_load_and_the_connection_works(con: Any, ward: duckward.Ward) -> None:
    def endless() -> Iterator[dict[str, Any]]:
        for row in itertools.count():
            if row == 20_000:
                os.kill(os.getpid(), signal.SIGINT)
            yield {"id": row, "text": "x"}

    with pytest.raises(KeyboardInterrupt):
        ward.ingest(endless(), "events", batch_rows=1000, token="stopped")
    position = con.execute("SELECT position FROM duckward_ingests").fetchall()[0][0]
    assert content(con)[0][0] == position
    assert (
        ward.ingest(({"id": row, "text": "x"} for row in range(30_000)), "events", token="stopped").total_rows
        == 30_000
    )


# ---------------------------------------------------------------- kills

CLEAN = Plan("batches", 300_000, batch_rows=10_000)
PLANS = [*(Plan(kind, 60_000, batch_rows=5000, bad=1000) for kind in KINDS), CLEAN]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plan", PLANS, ids=[*KINDS, "clean"])
def test_a_kill_at_any_moment_neither_loses_nor_doubles(tmp_path: pathlib.Path, plan: Plan) -> None:
    tally, chance = Tally(), random.Random(str(plan))
    while tally.kills < 4 and not tally.wrong:
        one(tmp_path / f"{tally.loads}.duckdb", plan, chance, tally, most=10)
    assert not tally.wrong


# ---------------------------------------------------------------- memory


@pytest.mark.needs_cgroup
@pytest.mark.skipif(
    duckdb.__version__.startswith("1.5"),
    reason="the checkpoint of DuckDB 1.5, in a COMMIT or when it is closed, takes more than these 400 MB",
)
def test_a_load_much_larger_than_memory_stays_in_its_budget(run_in_cgroup: Any) -> None:
    done = run_in_cgroup(
        """
        import duckdb, duckward, pyarrow as pa
        con = duckdb.connect("big.duckdb", config={"threads": 2})
        con.execute("CREATE TABLE events (id BIGINT, text VARCHAR)")
        ward = duckward.guard(con)
        def batches():
            for at in range(0, 4_000_000, 50_000):
                ids = range(at, at + 50_000)
                yield pa.record_batch({"id": pa.array(ids), "text": [f"{i:0300d}" for i in ids]})
        print(ward.ingest(batches(), "events").rows)
        """,
        limit=400 << 20,
        timeout=110,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "4000000"), done.stderr


def test_under_pressure_batches_are_smaller(con: Any) -> None:
    # Everything that is used is above these thresholds.
    with duckward.guard(con, memory="4GB", warning=0.002, caution=0.001, hysteresis=0.0, elastic=False,
                        interrupt=False, refuse_new=False, queue_new=False) as ward:  # fmt: skip
        done = ward.ingest(numbers(), "events", batch_rows=8000)
    assert content(con) == WHOLE
    assert done.batches > 2


# ---------------------------------------------------------------- the command


def write(kind: str, path: pathlib.Path) -> None:
    table = numbers()
    if kind == "parquet":
        pa.parquet.write_table(table, str(path))
    elif kind == "csv":
        pa.csv.write_csv(table, str(path))
    elif kind == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=999)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records()))


@pytest.mark.parametrize("kind", ["parquet", "csv", "arrow", "jsonl"])
@pytest.mark.parametrize("create", [False, True])
def test_the_command_loads_a_file(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], kind: str, create: bool
) -> None:
    path, db = tmp_path / f"in.{kind}", str(tmp_path / "db.duckdb")
    write(kind, path)
    with duckdb.connect(db) as con:
        if not create:
            con.execute("CREATE TABLE events (id BIGINT, text VARCHAR)")
    arguments = ["ingest", str(path), db, "events", "--token", "x", "--batch-rows", "4000", "--json"]
    assert main([*arguments, *(["--create"] if create else [])]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["batches"], told["token"]) == (ROWS, 3, "x")
    with duckdb.connect(db) as con:
        assert content(con) == WHOLE
    assert main(arguments) == 1
    assert "is finished" in capsys.readouterr().err


def test_the_command_rejects_lines_that_are_no_records(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, db = tmp_path / "in.jsonl", str(tmp_path / "db.duckdb")
    path.write_text('{"id": 1}\n\n{"id": \n[1]\n{"id": "x"}\n{"id": 2, "text": null}\n')
    with duckdb.connect(db) as con:
        con.execute("CREATE TABLE events (id BIGINT, text VARCHAR)")
    assert main(["ingest", str(path), db, "events", "--rejects", "bad"]) == 0
    assert "3, into" in capsys.readouterr().out
    with duckdb.connect(db) as con:
        assert con.execute("SELECT id FROM events").fetchall() == [(1,), (2,)]
        assert con.execute("SELECT source_row, record FROM bad ORDER BY 1").fetchall()[0] == (
            2,
            json.dumps('{"id": '),
        )
    assert main(["ingest", str(path), db, "events"]) == 1
    assert "record 2 of the source" in capsys.readouterr().err


def test_the_command_reads_standard_input(tmp_path: pathlib.Path) -> None:
    db = str(tmp_path / "db.duckdb")
    command = [sys.executable, "-m", "duckward", "ingest", "-", db, "events", "--create", "--json"]
    text = "".join(json.dumps(record) + "\n" for record in records())
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, ROWS), done.stderr
    with duckdb.connect(db) as con:
        assert content(con) == WHOLE


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["nowhere.csv", "db", "t"], 2, "no such file"),
    (["in.txt", "db", "t"], 2, "--format"),
    (["-", "db", "t", "--format", "csv"], 2, "name a file"),
    (["in.csv", "db", "t"], 2, "no table"),
    (["in.csv", "db", "t", "--create", "--batch-rows", "0"], 2, "batch_rows"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    assert main(["ingest", *arguments]) == code
    assert message in capsys.readouterr().err
