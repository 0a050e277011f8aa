"""`ward.deduplicate(partitioning, on=)`: the first piece keeps the key; whole or not at all, and undone."""

from __future__ import annotations

import pathlib
import random
import resource
from typing import Any

import duckdb
import pytest

import duckward

KINDS = pytest.mark.parametrize("kind", ["tables", "files"])


def overlapping(con: duckdb.DuckDBPyConnection) -> None:
    """Four months of 100 rows: ten ids of February are in January, too, and those of April all in March."""
    con.execute(
        "create table events as select i % 100 + 100 * (i // 100) - case when i between 120 and 129 then 100 "
        "when i >= 300 then 100 else 0 end as id, "
        "make_timestamp(2024, 1 + (i // 100)::integer, 1 + (i % 28)::integer, 0, 0, 0) as ts, i as v "
        "from range(400) r(i)"
    )


def cut(
    ward: duckward.Ward, kind: str, tmp_path: pathlib.Path, source: str = "events", **options: Any
) -> duckward.Partitioning:
    into: Any = "e_{piece}" if kind == "tables" else tmp_path / "e"
    plan = ward.plan(source, **(options or {"by": "ts", "every": "month"}))
    return ward.partition(plan, into)


def found(ward: duckward.Ward, kind: str, tmp_path: pathlib.Path) -> duckward.Partitioning:
    """The partitioning as it is there now."""
    return ward.partitioning("e_{piece}" if kind == "tables" else tmp_path / "e")


def content(con: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    return sorted(con.execute(query).fetchall(), key=repr)


def left(con: duckdb.DuckDBPyConnection, tmp_path: pathlib.Path) -> list[str]:
    """What is there of ours besides the pieces."""
    tables = con.execute(
        "select table_name from duckdb_tables() where table_name like '%duckward_%' and "
        "table_name <> 'duckward_partitionings'"
    ).fetchall()
    return [name for (name,) in tables] + [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


@KINDS
def test_the_first_piece_keeps_the_key(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path, kind: str
) -> None:
    overlapping(con)
    before = cut(ward, kind, tmp_path)
    rows = content(con, before.query)
    assert [one["keys"] for one in ward.validate(before, on="id").overlaps] == [10, 100]

    removed = ward.deduplicate(before, on="ID")
    assert removed.removed == 110
    lost = {piece["name"]: piece["removed"] for piece in removed.tables}
    assert lost == {"2024-01": 0, "2024-02": 10, "2024-03": 0, "2024-04": 100, "null": 0}
    after = removed.partitioning
    assert after is not None
    assert ward.validate(after, on="id").ok
    assert (after.rows, after.check()) == (290, [])
    stays = "select * from events qualify row_number() over (partition by id order by ts) = 1"
    assert content(con, after.query) == content(con, stays)
    assert ward.validate(stays, after).ok
    assert found(ward, kind, tmp_path).to_dict() == after.to_dict()
    # Pieces that lost nothing are what they were.
    old = {piece["name"]: piece for piece in before.pieces}
    new = {piece["name"]: piece for piece in after.pieces}
    assert (new["2024-01"], new["2024-03"]) == (old["2024-01"], old["2024-03"])
    assert (old["2024-02"]["rows"], new["2024-02"]["rows"]) == (100, 90)
    assert new["2024-02"]["digest"] != old["2024-02"]["digest"]

    assert removed.undo() == 110
    assert content(con, before.query) == rows
    assert (before.check(), left(con, tmp_path)) == ([], [])
    assert found(ward, kind, tmp_path).to_dict() == before.to_dict()
    for again in (removed.undo, removed.forget):
        with pytest.raises(duckward.StateError, match="nothing was done"):
            again()
    assert content(con, before.query) == rows


@KINDS
def test_a_piece_may_lose_all_its_rows_and_what_was_kept_is_forgotten(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path, kind: str
) -> None:
    overlapping(con)
    removed = ward.deduplicate(cut(ward, kind, tmp_path), on="id")
    after = found(ward, kind, tmp_path)
    names = ["2024-01", "2024-02", "2024-03", "2024-04"]
    # A table without rows stays, a file without rows does not.
    assert [piece["name"] for piece in after.pieces] == (names if kind == "tables" else names[:3])
    kept = [str(piece["kept_in"]) for piece in removed.tables if piece["kept_in"] is not None]
    counts = [con.execute(f"select count(*) from {relation}").fetchall()[0][0] for relation in kept]
    assert counts == ([10, 100] if kind == "tables" else [100, 100])
    assert str(removed).count("now in" if kind == "tables" else "as it was in") == 2
    removed.forget()
    assert left(con, tmp_path) == []
    assert ward.validate(after, on="id").ok
    with pytest.raises(duckward.StateError, match="nothing was done"):
        removed.undo()
    # Once more there is nothing to do, and nothing is done.
    once = ward.deduplicate(after, on="id")
    assert (once.removed, once.undo(), left(con, tmp_path)) == (0, 0, [])
    once.forget()
    assert found(ward, kind, tmp_path).to_dict() == after.to_dict()


@KINDS
def test_random_pieces_lose_what_python_would_remove(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path, kind: str
) -> None:
    chance = random.Random(11)
    for number in range(4):
        ordered = chance.random() < 0.5
        con.execute("create or replace table t (k integer, l varchar, o double, n integer)")
        for row in range(chance.randrange(20, 60)):
            key = (chance.choice([None, *range(4)]), chance.choice("xy"))
            con.execute(
                "insert into t values (?, ?, ?, ?)", [*key, chance.choice([None, 1.5, float("inf")]), row]
            )
        plan = ward.plan("t", by="n", pieces=chance.randrange(2, 6))
        into: Any = "e_{piece}" if kind == "tables" else tmp_path / "e"
        done = ward.partition(plan, into, replace=number > 0)
        before = content(con, done.query)
        removed = ward.deduplicate(done, on=["k", "l"], order_by="o" if ordered else None)
        # Pieces are in the order of n; which of several rows of one piece is the first is not said.
        order, columns = ("o asc nulls last, n", "k, l, o") if ordered else ("n", "k, l")
        first = f"row_number() over (partition by k, l order by {order}) = 1"
        after = removed.partitioning
        assert after is not None
        for piece in plan.pieces:
            here = [
                content(con, f"select {columns} from ({query}) where {piece['condition']}")
                for query in (after.query, f"from t qualify k is null or {first}")
            ]
            assert here[0] == here[1]
        assert after.check() == []
        assert removed.undo() == len(before) - after.rows
        assert content(con, done.query) == before
    assert left(con, tmp_path) == []


def test_only_the_files_of_touched_pieces_are_written(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    overlapping(con)
    plan = ward.plan("events", by="ts", every="month")
    done = ward.partition(plan, tmp_path / "e", sort="v", batch_rows=150)
    numbers = {
        path.relative_to(tmp_path / "e"): path.stat().st_ino for path in (tmp_path / "e").rglob("*.parquet")
    }
    removed = ward.deduplicate(done, on="id")
    now = {
        path.relative_to(tmp_path / "e"): path.stat().st_ino for path in (tmp_path / "e").rglob("*.parquet")
    }
    same = {path.parent.name for path, number in now.items() if numbers.get(path) == number}
    assert same == {"ts_month=2024-01", "ts_month=2024-03"}
    # A piece that was sorted is sorted still.
    after = removed.partitioning
    assert after is not None
    (file,) = after.pieces[1]["files"]
    values = con.execute(f"select v from read_parquet('{tmp_path}/e/{file['path']}')").fetchall()
    assert (values, len(values)) == (sorted(values), 90)


@KINDS
def test_what_has_changed_meanwhile_is_neither_thinned_nor_put_back(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path, kind: str
) -> None:
    overlapping(con)
    done = cut(ward, kind, tmp_path)
    removed = ward.deduplicate(done, on="id")
    # The old one tells of what is not there any more.
    with pytest.raises(duckward.InvalidInputError, match="is not what it was"):
        ward.deduplicate(done, on="id")
    kept = left(con, tmp_path)
    now = ward.rebalance(found(ward, kind, tmp_path), target_rows=300)
    rows = content(con, now.query)
    with pytest.raises(duckward.StateError, match="nothing was done"):
        removed.undo()
    assert content(con, now.query) == rows
    assert left(con, tmp_path) == kept
    if kind == "files":
        (tmp_path / "e" / "extra.parquet").write_bytes(b"")
        says = "extra.parquet belongs to no piece"
    else:
        con.execute(f"drop table {now.pieces[0]['table']}")
        says = "is not there"
    with pytest.raises(duckward.InvalidInputError, match=says):
        ward.deduplicate(now, on="id")
    assert left(con, tmp_path) == kept


def test_a_file_that_came_since_is_not_removed_by_undo(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    overlapping(con)
    removed = ward.deduplicate(cut(ward, "files", tmp_path), on="id")
    extra = tmp_path / "e" / "mine.parquet"
    extra.write_bytes(b"mine")
    with pytest.raises(duckward.StateError, match="somebody changed it"):
        removed.undo()
    assert extra.read_bytes() == b"mine"
    extra.unlink()
    assert removed.undo() == 110


def test_rows_that_came_since_stay_in_their_tables(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    overlapping(con)
    done = cut(ward, "tables", tmp_path)
    removed = ward.deduplicate(done, on="id")
    con.execute("insert into e_2024_04 values (1000, '2024-04-05', 1000)")
    assert removed.undo() == 110
    assert con.execute("select count(*) from e_2024_04").fetchall() == [(101,)]
    # What is kept is what was written: the row that came is told.
    (finding,) = done.check()
    assert (finding["kind"], finding["piece"], finding["rows"]) == ("changed_table", "2024-04", 1)


@KINDS
def test_bad_input_changes_nothing(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path, kind: str
) -> None:
    overlapping(con)
    done = cut(ward, kind, tmp_path)
    rows = content(con, done.query)
    for wanted, says in (
        ({"on": []}, "name the columns"),
        ({"on": "nosuch"}, "has the columns id, ts, v"),
        ({"on": "id", "order_by": "nosuch"}, 'order_by="nosuch"'),
    ):
        with pytest.raises(duckward.InvalidInputError, match=says):
            ward.deduplicate(done, **wanted)
    if kind == "tables":
        con.execute("begin")
        with pytest.raises(duckward.InvalidInputError, match="is in a transaction"):
            ward.deduplicate(done, on="id")
        con.execute("commit")
    assert content(con, done.query) == rows
    assert (done.check(), left(con, tmp_path)) == ([], [])


@pytest.mark.parametrize(
    ("kind", "column"), [("tables", "rowid"), ("files", "rowid"), ("files", "file_row_number")]
)
def test_a_column_that_hides_where_a_row_is_is_refused(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path, kind: str, column: str
) -> None:
    con.execute(f'create table events as select i as k, i as "{column}" from range(9) r(i)')
    done = cut(ward, kind, tmp_path, by="k", hash=2)
    with pytest.raises(duckward.InvalidInputError, match=f"has a column {column}"):
        ward.deduplicate(done, on="k")
    assert (done.check(), left(con, tmp_path)) == ([], [])


def test_a_disk_that_refuses_leaves_all_as_it_was(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    overlapping(con)
    done = cut(ward, "files", tmp_path)
    rows = content(con, done.query)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises((duckward.DiskError, duckdb.IOException)):
            ward.deduplicate(done, on="id")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(con, done.query) == rows
    assert (done.check(), left(con, tmp_path)) == ([], [])


def test_a_cursor_of_an_attached_database(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    overlapping(con)
    con.execute(f"attach '{tmp_path}/other.duckdb' as other")
    plan = ward.plan("events", by="ts", every="month")
    done = ward.partition(plan, 'other.archive."e {piece}"')
    removed = ward.deduplicate(done, on="id", connection=ward.cursor())
    assert removed.removed == 110
    kept = [str(piece["kept_in"]) for piece in removed.tables if piece["kept_in"] is not None]
    assert all(relation.startswith('"other"."archive"."duckward_removed_') for relation in kept)
    assert removed.undo() == 110
    assert done.check() == []
