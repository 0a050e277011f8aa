"""Partitioning into tables: they have every row of the source once, and are published whole or not at all."""

from __future__ import annotations

import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import duckdb
import pytest

import duckward
from samples import TYPES

INTO = "events_{piece}"


def rows(con: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    return sorted(con.execute(query).fetchall(), key=repr)


def tables(con: duckdb.DuckDBPyConnection, schema: str = "main") -> list[str]:
    found = con.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = ? "
        "ORDER BY ALL",
        [schema],
    ).fetchall()
    return [name for (name,) in found]


def idle(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether no transaction is open, and nothing of ours is left in the session."""
    numbers = [con.execute("SELECT txid_current()").fetchall() for _ in range(2)]
    left = con.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall()
    return numbers[0] != numbers[1] and left == [(0,)]


def check(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, done: duckward.Partitioning, source: str
) -> None:
    """The tables have what is kept of them, and that is the source."""
    assert idle(con)
    for piece in done.pieces:
        place = con.execute(
            "SELECT database_name, schema_name FROM duckdb_tables() WHERE table_name = ?", [piece["table"]]
        ).fetchall()
        ((database, schema),) = place
        table = ".".join('"' + name.replace('"', '""') + '"' for name in (database, schema, piece["table"]))
        # Rows have other numbers in another table.
        condition = "true" if "rowid" in piece["condition"] else piece["condition"]
        counted = con.execute(f"SELECT count(*), count(*) FILTER (WHERE {condition}) FROM {table}").fetchall()
        assert counted == [(piece["rows"], piece["rows"])]
        assert piece["rows"] > 0
    assert done.check() == []
    assert ward.validate(source, done).ok
    again = ward.partitioning(done.path)
    assert (again.to_dict(), again.path, again.query) == (done.to_dict(), done.path, done.query)
    assert again.validation is None
    assert again.check() == []


def months(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        "CREATE OR REPLACE TABLE events AS SELECT range id, "
        "TIMESTAMP '2024-01-15' + INTERVAL (range) HOUR ts, "
        "['DE', 'FR', NULL][range % 3 + 1] country FROM range(2000)"
    )


def test_a_month_is_a_table(con: Any, ward: duckward.Ward) -> None:
    months(con)
    done = ward.partition(ward.plan("events", by="ts", every="month"), INTO)
    check(con, ward, done, "events")
    names = [f"events_2024_{month:02}" for month in (1, 2, 3, 4)]
    assert tables(con) == ["duckward_partitionings", "events", *names]
    assert [piece["table"] for piece in done.pieces] == names
    assert (len(done), done.rows, done.bytes) == (4, 2000, 0)
    assert done.path == "memory.main.events_{piece}"
    assert done.validation
    assert done.validation.digests[0] == done.validation.digests[1]
    for text in (str(done), done._repr_html_()):
        assert "every row of events is there once" in text
        assert "files" not in text
    assert repr(done) == "<duckward.Partitioning: 2000 rows in 4 pieces in memory.main.events_{piece}>"
    assert rows(con, done.query) == rows(con, "FROM events")
    assert con.execute("SELECT count(*) FROM events_2024_02 WHERE month(ts) = 2").fetchall() == [(696,)]


def test_a_directory_by_its_path_is_a_partitioning_too(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    months(con)
    done = ward.partition(ward.plan("events", by="id", pieces=3), str(tmp_path / "lake"))
    assert ward.partitioning(str(tmp_path / "lake")).to_dict() == done.to_dict()
    # A path is never a template.
    odd = ward.partition(ward.plan("events", by="id", pieces=3), tmp_path / "lake {piece}")
    assert ward.partitioning(tmp_path / "lake {piece}").to_dict() == odd.to_dict()
    assert tables(con) == ["events"]


@pytest.mark.parametrize("kind", [*TYPES, "VARCHAR COLLATE NOCASE"])
def test_every_type_comes_back(con: Any, ward: duckward.Ward, kind: str) -> None:
    bare = kind.split(" COLLATE")[0]
    try:
        con.execute(f"CREATE TABLE t (id INTEGER, v {kind})")
    except duckdb.Error:
        pytest.skip(f"no {kind} in this version")
    for number, value in enumerate([*TYPES[bare], None]):
        con.execute(f"INSERT INTO t VALUES ({number}, ?::{bare})", [value])
    done = ward.partition(ward.plan("t", by="id", hash=3), "p_{piece}")
    check(con, ward, done, "t")
    assert rows(con, f"SELECT id, v::VARCHAR FROM ({done.query})") == rows(
        con, "SELECT id, v::VARCHAR FROM t"
    )
    types = "SELECT DISTINCT data_type FROM duckdb_columns() WHERE table_name {} AND column_name = 'v'"
    assert rows(con, types.format("LIKE 'p\\_%' ESCAPE '\\'")) == rows(con, types.format("= 't'"))
    # An earlier one is compared with what is staged, too.
    check(con, ward, ward.partition(ward.plan("t", by="id", hash=2), "p_{piece}", replace=True), "t")


def test_types_that_no_table_has(con: Any, ward: duckward.Ward) -> None:
    source = "SELECT range AS id, NULL AS nothing, 'Duck' AS piece FROM range(100)"
    done = ward.partition(ward.plan(source, by="id", pieces=3), "p_{piece}")
    check(con, ward, done, source)
    assert [name for name, _ in done.to_dict()["columns"]] == ["id", "nothing", "piece"]


def test_what_is_for_directories_is_refused(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(100)")
    plan = ward.plan("t", by="id", pieces=3)
    more: list[dict[str, Any]] = [{"sort": "id"}, {"batch_rows": 9}, {"workers": 2}, {"worker_memory": "1GB"}]
    for given in more:
        with pytest.raises(duckward.InvalidInputError, match=f"{next(iter(given))}= is for directories"):
            ward.partition(plan, INTO, **given)


def test_our_own_names_are_refused(con: Any, ward: duckward.Ward) -> None:
    source = "SELECT range AS id, 'Duck' AS Duckward_piece FROM range(100)"
    with pytest.raises(duckward.InvalidInputError, match="names that begin with duckward_"):
        ward.partition(ward.plan(source, by="id", pieces=3), "p_{piece}")


def test_random_tables_and_plans(con: Any, ward: duckward.Ward) -> None:
    chance = random.Random(5)
    for _ in range(10):
        count, values = chance.choice([1, 50, 3000]), chance.choice([2, 7, 300])
        con.execute(
            f'CREATE OR REPLACE TABLE t AS SELECT range % {values} AS "k/ \'k", range AS id, '
            f"CASE WHEN random() < 0.2 THEN NULL ELSE (random() * 50)::INTEGER END AS n, random() AS f, "
            f"['a', 'b/c', 'A', NULL, '', 'null'][1 + range % 6] AS s FROM range({count})"
        )
        how: dict[str, Any] = chance.choice(
            [
                {"by": "k/ 'k", "value": True},
                {"by": "id", "pieces": 120},
                {"rows": 500},
                {"by": "n", "hash": 5},
                {"by": ["id", "s"], "pieces": 3, "value": True},
                {"by": ["k/ 'k", "s"], "value": True, "hash": 3},
            ]
        )
        if count == 1 and "pieces" in how:
            continue
        into = chance.choice(["t_{piece}", 'arch."t ""{piece}"""', "{piece}_"])
        done = ward.partition(ward.plan("t", **how), into, replace=True)
        check(con, ward, done, "t")


def test_values_of_any_kind_name_tables(con: Any, ward: duckward.Ward) -> None:
    values = ["..", "a/b", "a%2Fb", "it's", 'a"b', "a b", "日本", "", " ", "x" * 200, "x" * 199 + "y", "null",
              "other", "É", "é", "a", "A", "a_b", "A_B", "2024-01", "2024_01", "line\nbreak",
              "duckward_partitionings", "Duckward Partitionings", "drop table t; --"]  # fmt: skip
    con.execute("CREATE TABLE t (v VARCHAR)")
    con.executemany("INSERT INTO t VALUES (?)", [[value] for value in [*values, None]])
    plan = ward.plan("t", by="v", value=True)
    for into in ("{piece}", "s.v_{piece}"):
        done = ward.partition(plan, into)
        check(con, ward, done, "t")
        names = [piece["table"] for piece in done.pieces]
        assert len({name.lower() for name in names}) == len(names) == len(values) + 1
        assert all(len(name) < 160 for name in names)
        for piece in done.pieces:
            assert all(letter.isalnum() or letter == "_" for letter in piece["table"])
        # The same names the next time.
        assert names == [piece["table"] for piece in ward.partition(plan, into, replace=True).pieces]


def test_schemas_and_databases(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    months(con)
    plan = ward.plan("events", by="ts", every="month")
    con.execute(f"ATTACH '{tmp_path}/other.duckdb' AS \"Other\"")
    con.execute(f"ATTACH '{tmp_path}/frozen.duckdb' AS frozen")
    con.execute(f"DETACH frozen; ATTACH '{tmp_path}/frozen.duckdb' AS frozen (READ_ONLY)")
    for into, path in (
        ("archive.events_{piece}", "memory.archive.events_{piece}"),
        ("other.main.events_{piece}", "Other.main.events_{piece}"),
        ('other."new schema".events_{piece}', 'Other."new schema".events_{piece}'),
        ("Archive.more_{piece}", "memory.archive.more_{piece}"),
    ):
        done = ward.partition(plan, into)
        assert done.path == path
        assert done.check() == []
        assert ward.validate("events", done).ok
        assert ward.partitioning(into.upper().replace("{PIECE}", "{piece}")).to_dict() == done.to_dict()
    assert "events_2024_01" not in tables(con)
    # What is kept of them knows no database's name, which is another in another session.
    con.execute('DETACH "Other"')
    with duckdb.connect(str(tmp_path / "other.duckdb")) as alone:
        found = duckward.guard(alone).partitioning('"new schema".events_{piece}')
        assert found.path == 'other."new schema".events_{piece}'
        assert found.check() == []
    for into, expected in (
        ("frozen.events_{piece}", "the database frozen is read-only"),
        ("nowhere.main.events_{piece}", "there is no database nowhere that keeps tables"),
        ("temp.main.events_{piece}", "there is no database temp that keeps tables"),
    ):
        with pytest.raises(duckward.InvalidInputError, match=expected):
            ward.partition(plan, into)
        assert idle(con)
    for into in (
        "lake/{piece}",
        "a.b.c.e_{piece}",
        "e_{piece}{piece}",
        "e_{piece};",
        '"e_{piece}',
        ".{piece}",
    ):
        with pytest.raises(duckward.InvalidInputError, match="for tables give events_"):
            ward.partition(plan, into)
    with pytest.raises(duckward.InvalidInputError, match=r"there is no partitioning .*; that schema has"):
        ward.partitioning("archive.other_{piece}")
    with pytest.raises(
        duckward.InvalidInputError, match=r"there is no partitioning .*; none is in that schema"
    ):
        ward.partitioning("other_{piece}")


def test_a_database_that_is_read_only_is_refused(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "t.duckdb")
    with duckdb.connect(path) as made:
        months(made)
    with duckdb.connect(path, read_only=True) as con:
        ward = duckward.guard(con, memory="2GB")
        with pytest.raises(
            duckward.InvalidInputError, match="the database t is read-only; open it for writing"
        ):
            ward.partition(ward.plan("events", by="id", pieces=3), INTO)
        assert idle(con)


def test_replacing_is_asked_for_and_whole(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(1000)")
    ward.partition(ward.plan("t", by="id", pieces=5), INTO)
    before = tables(con)
    con.execute("INSERT INTO t SELECT range + 1000 FROM range(500)")
    for into in (INTO, "EVENTS_{piece}", "memory.main.events_{piece}"):
        with pytest.raises(duckward.InvalidInputError, match=r"it is there already; .* or replace=True"):
            ward.partition(ward.plan("t", by="id", pieces=3), into)
        assert idle(con)
    assert tables(con) == before
    done = ward.partition(ward.plan("t", by="id", pieces=3), INTO, replace=True)
    check(con, ward, done, "t")
    assert done.rows == 1500
    assert tables(con) == ["duckward_partitionings", *(f"events_{number}" for number in range(3)), "t"]
    assert con.execute("SELECT count(*) FROM duckward_partitionings").fetchall() == [(1,)]


def test_the_source_may_be_what_is_replaced(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(3000)")
    first = ward.partition(ward.plan("t", by="id", pieces=5), INTO)
    con.execute("INSERT INTO events_0 VALUES (99999, 'later')")
    con.execute("INSERT INTO t VALUES (99999, 'later')")
    second = ward.partition(ward.plan(first, by="id", hash=3), INTO, replace=True)
    check(con, ward, second, "t")
    assert len(second) == 3
    assert [finding["kind"] for finding in first.check()].count("missing_table") == 2


def test_what_is_not_ours_is_never_replaced(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(100)")
    plan = ward.plan("t", by="id", pieces=3)
    con.execute("CREATE TABLE EVENTS_1 AS SELECT 'precious' AS thesis")
    for replace in (False, True):
        with pytest.raises(
            duckward.InvalidInputError, match="events_1 is there, and no partitioning of that"
        ):
            ward.partition(plan, INTO, replace=replace)
    con.execute("DROP TABLE EVENTS_1; CREATE VIEW events_1 AS SELECT 1 AS id")
    with pytest.raises(duckward.InvalidInputError, match="events_1 is there, and no partitioning of that"):
        ward.partition(plan, INTO, replace=True)
    con.execute("DROP VIEW events_1")
    ward.partition(plan, INTO)
    # Somebody has put another table in the place of one of ours.
    con.execute("CREATE OR REPLACE TABLE events_1 AS SELECT 'precious' AS thesis")
    with pytest.raises(duckward.InvalidInputError, match="events_1 has other columns than the partitioning"):
        ward.partition(plan, INTO, replace=True)
    con.execute("DROP TABLE events_1")
    # A table of another template's.
    other = ward.plan("SELECT id, 's_2' AS v FROM t", by="v", value=True)
    with pytest.raises(duckward.InvalidInputError, match="events_2 is there, and no partitioning of that"):
        ward.partition(other, "event{piece}", replace=True)
    assert idle(con)
    check(con, ward, ward.partition(plan, INTO, replace=True), "t")


def test_a_table_in_the_place_of_the_one_that_tells_is_refused(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(100)")
    con.execute("CREATE TABLE Duckward_Partitionings AS SELECT 1 AS mine")
    plan = ward.plan("t", by="id", pieces=3)
    for work in (lambda: ward.partition(plan, INTO, replace=True), lambda: ward.partitioning(INTO)):
        with pytest.raises(duckward.InvalidInputError, match="is not the table that duckward keeps its"):
            work()
        assert idle(con)
    assert tables(con) == ["Duckward_Partitionings", "t"]


def test_a_transaction_that_is_open_is_left_alone(con: Any, ward: duckward.Ward) -> None:
    months(con)
    plan = ward.plan("events", by="ts", every="month")
    con.execute("BEGIN; INSERT INTO events VALUES (1, NULL, 'XX')")
    with pytest.raises(duckward.StateError, match="a transaction is open on this connection"):
        ward.partition(plan, INTO)
    # It was not spoiled.
    con.execute("COMMIT")
    assert con.execute("SELECT count(*) FROM events WHERE ts IS NULL").fetchall() == [(1,)]
    con.execute("BEGIN")
    done = ward.partition(plan, INTO, connection=ward.cursor())
    con.execute("ROLLBACK")
    check(con, ward, done, "events")
    assert [piece["name"] for piece in done.pieces][-1] == "null"


def test_a_plan_for_another_table_is_refused(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(10)")
    plan = ward.plan("t", by="id", hash=2)
    con.execute("ALTER TABLE t ADD COLUMN more INTEGER")
    with pytest.raises(duckward.InvalidInputError, match="the plan was made for another form of t"):
        ward.partition(plan, INTO)
    con.execute("ALTER TABLE t DROP COLUMN more; DELETE FROM t")
    with pytest.raises(duckward.InvalidInputError, match="t has no rows: there is nothing to cut"):
        ward.partition(plan, "fresh.events_{piece}")
    con.execute("DROP TABLE t")
    with pytest.raises(duckdb.CatalogException):
        ward.partition(plan, INTO)
    assert idle(con)
    assert tables(con) == []
    assert con.execute("SELECT count(*) FROM duckdb_schemas() WHERE schema_name = 'fresh'").fetchall() == [
        (0,)
    ]


def test_a_source_that_is_other_each_time_is_rolled_back(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, 0.5 AS r FROM range(1000)")
    before = ward.partition(ward.plan("t", by="id", pieces=2), INTO)
    plan = ward.plan("SELECT id, random() AS r FROM t", by="id", pieces=3)
    for into in (INTO, "fresh.e_{piece}"):
        with pytest.raises(
            duckward.TransactionError,
            match=r"what was written is not what .* has, and was rolled back: piece 0 has",
        ):
            ward.partition(plan, into, replace=True)
        check(con, ward, before, "t")
    assert tables(con, "fresh") == []


def test_rows_that_came_after_the_plan_are_in_a_piece(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT DATE '2024-03-01' + (range)::INTEGER AS d, 'a' AS s FROM range(90)")
    plan = ward.plan("t", by=["d", "s"], every="month", value=True)
    con.execute(
        "INSERT INTO t VALUES ('1900-01-01', 'a'), ('2100-01-01', 'new'), ('infinity', NULL), (NULL, 'x')"
    )
    done = ward.partition(plan, INTO)
    check(con, ward, done, "t")
    assert done.rows == 94


def test_whatever_happens_to_a_table_is_found_and_located(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(3000)")
    done = ward.partition(ward.plan("t", by="id", pieces=12), INTO)
    # Their tables begin alike, and are known.
    ward.partition(ward.plan("t", by="id", hash=2), "events_by_hash_{piece}")
    chance = random.Random(2)
    for kind, verdict in (
        ("DROP TABLE {0}", "missing_table"),
        ("DROP TABLE {0}; CREATE VIEW {0} AS FROM t", "missing_table"),
        ("ALTER TABLE {0} ADD COLUMN more INTEGER", "changed_table"),
        ("ALTER TABLE {0} ALTER id TYPE HUGEINT", "changed_table"),
        ("ALTER TABLE {0} RENAME s TO z", "changed_table"),
        ("DELETE FROM {0} WHERE id = (SELECT min(id) FROM {0})", "changed_table"),
        ("INSERT INTO {0} VALUES (-7, NULL)", "changed_table"),
        ("UPDATE {0} SET s = 'x' WHERE id = (SELECT max(id) FROM {0})", "changed_table"),
        ("UPDATE {0} SET id = -id WHERE id = (SELECT max(id) FROM {0})", "changed_table"),
    ):
        piece = chance.choice(done.pieces)
        con.execute(f"CREATE OR REPLACE TEMP TABLE kept AS FROM {piece['table']}")
        con.execute(kind.format(piece["table"]))
        found = done.check()
        assert [(one["kind"], one["piece"]) for one in found] == [(verdict, piece["name"])], kind
        assert piece["table"] in found[0]["message"]
        compared = ward.validate("t", done)
        assert not compared.ok
        if "DROP" in kind or "ALTER" in kind:
            assert [one["kind"] for one in compared.findings] == [verdict]
        con.execute(f"DROP {'VIEW' if 'VIEW' in kind else 'TABLE'} IF EXISTS {piece['table']}")
        con.execute(f"CREATE TABLE {piece['table']} AS FROM temp.kept")
    con.execute("CREATE TABLE events_stray AS SELECT 1 AS a")
    assert [(one["kind"], one["piece"], one["message"]) for one in done.check()] == [
        ("extra_table", None, "table events_stray belongs to no piece")
    ]
    # It is in no piece, so it is in no query either.
    assert ward.validate("t", done).ok


def test_what_is_kept_and_was_edited_is_refused(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(100)")
    plan = ward.plan("t", by="id", pieces=3)
    ward.partition(plan, INTO)
    ((kept,),) = con.execute("SELECT manifest FROM duckward_partitionings").fetchall()
    for before, after in (("events_1", "events_7"), ('"rows": 100', '"rows": 101'), ("{", "")):
        assert before in kept
        con.execute("UPDATE duckward_partitionings SET manifest = ?", [kept.replace(before, after, 1)])
        for work in (lambda: ward.partition(plan, INTO, replace=True), lambda: ward.partitioning(INTO)):
            with pytest.raises(
                duckward.InvalidInputError, match=r"duckward_partitionings of events_.piece. is no"
            ):
                work()
            assert idle(con)
    con.execute("UPDATE duckward_partitionings SET manifest = ?", [kept])
    assert ward.partitioning(INTO).check() == []


def test_digests_of_another_version_are_not_compared(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(100)")
    kept: dict[str, Any] = dict(ward.partition(ward.plan("t", by="id", pieces=3), INTO).to_dict())
    kept |= {"duckdb": "v0.9.9", "checksum": ""}
    bare = json.dumps(kept, separators=(",", ":"), ensure_ascii=False)
    kept["checksum"] = hashlib.sha256(bare.encode()).hexdigest()
    con.execute("UPDATE duckward_partitionings SET manifest = ?", [json.dumps(kept)])
    done = ward.partitioning(INTO)
    with pytest.raises(
        duckward.StateError, match="their values were not compared, because the digests were made by"
    ):
        done.check()
    con.execute("DELETE FROM events_1 WHERE id = 50")
    assert [one["kind"] for one in done.check()] == ["changed_table"]


def test_readers_see_the_old_state_or_the_new_one(ward: duckward.Ward, con: Any) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(20000)")
    plans = [ward.plan("t", by="id", pieces=4), ward.plan("SELECT id + 1 AS id FROM t", by="id", pieces=4)]
    done = ward.partition(plans[0], INTO)
    sums = {
        con.execute("SELECT sum(id) FROM t").fetchall()[0][0],
        con.execute("SELECT sum(id + 1) FROM t").fetchall()[0][0],
    }
    reader = con.cursor()
    held = con.cursor()
    held.execute("BEGIN")
    query = f"SELECT sum(id), count(*) FROM ({done.query})"
    old = held.execute(query).fetchall()
    seen, failed = set(), []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                seen.add(reader.execute(query).fetchall()[0])
            except duckdb.Error as error:
                failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(10):
        ward.partition(plans[(number + 1) % 2], INTO, replace=True)
    stop.set()
    thread.join()
    assert failed == []
    assert {count for _, count in seen} == {20000}
    assert {total for total, _ in seen} <= sums
    # Who has begun to read goes on with what there was.
    assert held.execute(query).fetchall() == old
    held.execute("COMMIT")


def test_many_pieces(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, 's' || range AS s FROM range(20000)")
    done = ward.partition(ward.plan("t", by="id", hash=1100), INTO)
    assert len(done) > 1000
    # As it is read without us.
    assert len(con.execute(done.query).fetchall()) == 20000
    assert ward.validate("t", done).ok
    assert done.check() == []
    assert ward.partitioning(INTO).to_dict() == done.to_dict()


def sizes(done: duckward.Partitioning) -> list[int]:
    return [piece["rows"] for piece in done.pieces if piece["name"] != "null"]


def test_large_pieces_are_split_and_small_ones_put_together(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, 's' || range AS s FROM range(4000)")
    done = ward.partition(ward.plan("t", by="id", pieces=8), "a.t_{piece}")
    con.execute("INSERT INTO t SELECT range, 'new' FROM range(4000, 9000)")
    con.execute("INSERT INTO a.t_7 SELECT range, 'new' FROM range(4000, 9000)")
    # Of the eight pieces one is too large, and seven are too small.
    more = ward.rebalance(done, target_rows=1500)
    check(con, ward, more, "t")
    assert sizes(more) == pytest.approx([2000, 1500, 1375, 1375, 1375, 1375], abs=100)
    assert len(more.plan.cuts[0]["rule"]["bounds"]) == 5
    assert more.plan.source == "t"
    assert tables(con, "a") == ["duckward_partitionings", *(f"t_{number}" for number in range(6))]
    # Now nothing is to be done, and the old one is no more.
    again = ward.rebalance(more, target_rows=1500)
    assert again.to_dict() == more.to_dict()
    assert idle(con)
    with pytest.raises(
        duckward.InvalidInputError, match="is not what it was: another partitioning took its place"
    ):
        ward.rebalance(done, target_rows=1500)
    check(con, ward, more, "t")


def test_months_are_split_and_put_together(con: Any, ward: duckward.Ward) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT d::DATE AS d, i FROM "
        "range(DATE '2024-01-01', DATE '2024-07-01', INTERVAL 1 DAY) AS s(d), "
        "range(CASE WHEN month(d) = 3 THEN 100 ELSE 10 END) AS r(i)"
    )
    con.execute("INSERT INTO t VALUES (NULL, 1)")
    done = ward.rebalance(ward.partition(ward.plan("t", by="d", every="month"), INTO), target_rows=1000)
    check(con, ward, done, "t")
    names = ["2024-01..2024-02", *(f"2024-03.{part}" for part in (1, 2, 3)), "2024-04..2024-06", "null"]
    assert [piece["name"] for piece in done.pieces] == names
    assert done.pieces[0]["table"] == "events_2024_01__2024_02"
    assert duckward.Plan.from_json(done.plan.to_json()) == done.plan
    assert all(900 <= size <= 1200 for size in sizes(done)[1:4])


def test_random_tables_are_balanced(con: Any, ward: duckward.Ward) -> None:
    chance = random.Random(7)
    for _ in range(10):
        count, target = chance.choice([300, 3000]), chance.choice([60, 333, 10**6])
        con.execute(
            f"CREATE OR REPLACE TABLE t AS SELECT range AS id, "
            f"(random() * random() * {count})::INTEGER AS n, "
            f"TIMESTAMPTZ '2024-01-01' + INTERVAL (random() * random() * 9000) HOUR AS ts, "
            f"nullif(chr(65 + (random() * 20)::INTEGER), 'C') AS s FROM range({count})"
        )
        plan = ward.plan("t", **chance.choice(
            [{"by": "id", "pieces": 7}, {"by": "n", "pieces": 30}, {"by": "s", "pieces": 4},
             {"by": "ts", "every": "week", "zone": "Asia/Tokyo"}, {"by": "n", "hash": 9},
             {"by": "id", "hash": 1}]
        ))  # fmt: skip
        done = ward.partition(plan, INTO, replace=True)
        more = ward.rebalance(done, target_rows=target)
        check(con, ward, more, "t")
        column = plan.cuts[0]["column"]
        for piece in more.pieces:
            if (
                piece["rows"] > 3 * target
                and piece["name"] != "null"
                and plan.cuts[0]["rule"]["kind"] != "hash"
            ):
                frequent = con.execute(
                    f"SELECT max(n) FROM (SELECT count(*) AS n FROM t WHERE {piece['condition']} "
                    f"GROUP BY {column})"
                ).fetchall()
                assert frequent[0][0] * 1.5 >= piece["rows"] - 2 * target


def oids(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """The storage of each table: a table that is renamed has the rows where they were."""
    found = {}
    for table in tables(con):
        info = con.execute(
            f"SELECT min(block_id) FROM pragma_storage_info('{table}') WHERE persistent"
        ).fetchall()
        found[table] = info[0][0]
    return found


def test_tables_that_need_no_change_stay(tmp_path: pathlib.Path) -> None:
    con = duckdb.connect(str(tmp_path / "t.duckdb"), config={"threads": 2})
    ward = duckward.guard(con, memory="2GB")
    con.execute(
        "CREATE TABLE t AS SELECT range AS id, 's' || range AS s, range // 1000 AS v, range % 7 AS k "
        "FROM range(12000)"
    )
    done = ward.partition(ward.plan("t", by="id", pieces=12), INTO)
    con.execute("CHECKPOINT")
    before = oids(con)
    con.execute("INSERT INTO t SELECT range, 'new', 1, 1 FROM range(4000, 7000)")
    con.execute("INSERT INTO events_04 SELECT range, 'new', 1, 1 FROM range(4000, 7000)")
    # Rows in another's table: what they belong to does not stay.
    con.execute(
        "INSERT INTO t VALUES (8500, 'astray', 1, 1); INSERT INTO events_04 VALUES (8500, 'astray', 1, 1)"
    )
    con.execute("CREATE INDEX found ON events_09 (id)")
    more = ward.rebalance(done, target_rows=1000)
    check(con, ward, more, "t")
    after = oids(con)
    # Those above have other numbers now, and one with an index is not renamed.
    shift = len(more) - len(done)
    assert shift > 0
    stayed = {f"events_{number:02}": f"events_{number:02}" for number in (0, 1, 2, 3)}
    stayed |= {f"events_{number:02}": f"events_{number + shift:02}" for number in (7, 10, 11)}
    assert all(before[old] == after[new] for old, new in stayed.items())
    assert ward.rebalance(more, target_rows=1000).to_dict() == more.to_dict()
    # It is so in the file, too.
    con.close()
    con = duckdb.connect(str(tmp_path / "t.duckdb"))
    ward = duckward.guard(con, memory="2GB")
    assert ward.partitioning(INTO).to_dict() == more.to_dict()
    check(con, ward, ward.partitioning(INTO), "t")
    # All rows that were to move are gone.
    con.execute("DELETE FROM events_00")
    con.execute("DELETE FROM t WHERE id < 1000")
    check(con, ward, ward.rebalance(ward.partitioning(INTO), target_rows=1100), "t")
    con.close()


def test_tables_of_every_kind_are_balanced(con: Any, ward: duckward.Ward) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT range AS id, (range * range) % 31 AS v, "
        "DATE '2024-01-01' + (range // 20)::INTEGER AS d FROM range(4000)"
    )
    con.execute("INSERT INTO t VALUES (1, NULL, NULL), (2, NULL, DATE '2024-02-02')")
    hows: list[dict[str, Any]] = [
        {"by": "v", "value": True}, {"by": "id", "hash": 3},
        {"by": ["d", "v"], "every": "month", "value": True},
        {"by": ["v", "d"], "value": True, "every": "month"}, {"rows": 300},
        {"by": ["d", "id"], "every": "month", "hash": 2}, {"by": ["v", "id"], "value": True, "hash": 2},
    ]  # fmt: skip
    for how in hows:
        done = ward.partition(ward.plan("t", **how), INTO, replace=True)
        for target in (900, 200) if how == hows[0] else (900,):
            done = ward.rebalance(done, target_rows=target)
            check(con, ward, done, "t")
            assert ward.rebalance(done, target_rows=target).to_dict() == done.to_dict()


def test_what_cannot_be_balanced(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, range % 3 AS v FROM range(100)")
    hows: list[tuple[dict[str, Any], str]] = [
        ({"rows": 50}, "put together and not split, and one has 50 rows; give 25 or more `target_rows`"),
        ({"by": ["rowid", "v"], "rows": 50, "value": True}, "they are cut by row number and by another"),
    ]
    for how, expected in hows:
        done = ward.partition(ward.plan("t", **how), INTO, replace=True)
        with pytest.raises(duckward.InvalidInputError, match=expected):
            ward.rebalance(done, target_rows=10)
        check(con, ward, done, "t")
    long = ward.partition(
        ward.plan("SELECT range AS id FROM range(50000)", by="id", pieces=4), "long_{piece}"
    )
    with pytest.raises(duckward.InvalidInputError, match=r"that makes \d+ pieces, and 10000 are the most"):
        ward.rebalance(long, target_rows=2)
    assert long.check() == []
    done = ward.partition(ward.plan("t", by="id", pieces=4), INTO, replace=True)
    with pytest.raises(duckward.InvalidInputError, match="target_rows=0 is not accepted"):
        ward.rebalance(done, target_rows=0)
    con.execute("BEGIN")
    with pytest.raises(duckward.StateError, match="a transaction is open"):
        ward.rebalance(done, target_rows=10)
    con.execute("ROLLBACK; ALTER TABLE events_2 ADD COLUMN more INTEGER")
    with pytest.raises(
        duckward.InvalidInputError, match="cannot be balanced: table events_2 has other columns"
    ):
        ward.rebalance(done, target_rows=10)
    assert idle(con)


def test_cancelling_leaves_the_old_state(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(400000)")
    done = ward.partition(ward.plan("t", by="id", pieces=3), INTO)
    plan = ward.plan("t", by="id", pieces=60)
    chance = random.Random(1)
    cancelled = 0
    for _ in range(8):
        timer = threading.Timer(chance.random() * 0.8, ward.cancel)
        timer.start()
        try:
            done = ward.partition(plan, INTO, replace=True)
        except duckward.CancelledError:
            cancelled += 1
        timer.join()
        assert idle(con)
        assert len(done.check()) == 0
    assert cancelled > 0
    check(con, ward, done, "t")


@pytest.mark.timeout(600)
def test_a_kill_leaves_the_old_state_or_the_new_one(tmp_path: pathlib.Path) -> None:
    database = tmp_path / "t.duckdb"
    with duckdb.connect(str(database)) as made:
        made.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(50000)")
        made.execute("CREATE TABLE u AS SELECT range + 7 AS id, 'u' || range AS s FROM range(30000)")
    script = f"""
        import sys, duckdb, duckward
        con = duckdb.connect({str(database)!r}, config={{"threads": 2}})
        ward = duckward.guard(con, "1GB")
        plans = [ward.plan(table, by="id", pieces=pieces) for table, pieces in (("t", 40), ("u", 5))]
        print("begun", flush=True)
        for number in range(1000):
            done = ward.partition(plans[number % 2], "part.p_{{piece}}", replace=True)
            ward.rebalance(done, target_rows=2500)
            print("round", number, flush=True)
    """
    chance = random.Random(3)
    seen = set()
    for number in range(24):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        # At first nothing is there; later there is something to replace. DuckDB may draw a bar besides.
        first = "begun" if number < 4 else "round 0"
        assert any(line.strip().endswith(first) for line in process.stdout)
        time.sleep(chance.random() * 1.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with duckdb.connect(str(database)) as con:
            found = set(tables(con, "part"))
            if not found:
                seen.add("nothing")
                assert tables(con) == ["t", "u"]
                continue
            ward = duckward.guard(con, "1GB")
            done = ward.partitioning("part.p_{piece}")
            table = done.plan.source
            seen.add(table)
            assert found == {"duckward_partitionings", *(piece["table"] for piece in done.pieces)}
            check(con, ward, done, table)
    assert {"t", "u"} <= seen
