"""`ward.deduplicate(source, on=)`: the first row of each key stays, the others can be put back."""

from __future__ import annotations

import pathlib
import random
from typing import Any

import duckdb
import pytest

import duckward


def rows(con: duckdb.DuckDBPyConnection, table: str) -> list[Any]:
    return sorted(con.execute(f"from {table}").fetchall(), key=repr)


def ours(con: duckdb.DuckDBPyConnection) -> list[Any]:
    return con.execute("select table_name from duckdb_tables() where table_name like '%duckward%'").fetchall()


def test_the_first_row_of_each_key_stays(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    values = "(1, 'a'), (2, 'b'), (1, 'c'), (null, 'd'), (null, 'd'), (1, 'e')"
    con.execute(f"create table t as select * from (values {values}) v(k, s)")
    before = rows(con, "t")
    done = ward.deduplicate("t", on="K")
    assert done.removed == 2
    assert rows(con, "t") == sorted([(1, "a"), (2, "b"), (None, "d"), (None, "d")], key=repr)
    (table,) = done.tables
    assert (table["name"], table["removed"]) == ("t", 2)
    assert rows(con, str(table["kept_in"])) == [(1, "c"), (1, "e")]
    assert str(done).splitlines()[:2] == ["removed        2 rows", "key            k"]
    assert ward.validate("t", on="k").findings[0]["kind"] == "null_keys"
    assert done.undo() == 2
    assert rows(con, "t") == before
    assert ours(con) == []
    with pytest.raises(duckward.StateError, match="is gone"):
        done.undo()
    # Nothing to do is nothing done.
    once = ward.deduplicate("t", on=["k", "s"])
    assert (once.removed, ours(con), once.undo()) == (0, [], 0)


def test_the_least_value_is_the_first_then_the_earlier_table(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    con.execute(
        "create table a as select * from (values (1, 5, 'a1'), (2, null, 'a2'), (3, 7, 'a3')) v(k, o, s)"
    )
    values = "(1, 4, 'b1'), (2, 9, 'b2'), (3, 7, 'b3'), (3, 7, 'b4')"
    con.execute(f"create table b as select * from (values {values}) v(k, o, s)")
    done = ward.deduplicate({"first": "a", "second": "main.b"}, on="k", order_by="o")
    assert [table["removed"] for table in done.tables] == [2, 2]
    assert [row[2] for row in rows(con, "a")] == ["a3"]
    assert [row[2] for row in rows(con, "b")] == ["b1", "b2"]
    assert ward.validate(["a", "b"], on="k").ok
    done.forget()
    assert ours(con) == []
    with pytest.raises(duckward.StateError, match="nothing was done"):
        done.undo()


def test_random_tables_lose_what_python_would_remove(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    chance = random.Random(4)
    for _ in range(25):
        names = [f"piece {index}" for index in range(chance.randrange(1, 4))]
        ordered = chance.random() < 0.5
        all_rows = []
        for number, name in enumerate(names):
            con.execute(f'create or replace table "{name}" (k integer, l varchar, o double, id integer)')
            for row in range(chance.randrange(1, 40)):
                key = (chance.choice([None, *range(chance.choice([2, 9]))]), chance.choice("xy"))
                value = chance.choice([None, 1.5, 2.5, float("inf")])
                all_rows.append((number, row, key, value))
                con.execute(f'insert into "{name}" values (?, ?, ?, ?)', [*key, value, row])
        before = [rows(con, f'"{name}"') for name in names]
        done = ward.deduplicate(names, on=["k", "l"], order_by="o" if ordered else None)
        first: dict[Any, Any] = {}
        for number, row, key, value in all_rows:
            place = ((value is None, value or 0.0) if ordered else (), number, row)
            if key[0] is not None and (key not in first or place < first[key]):
                first[key] = place
        stay = {(number, row) for number, row, key, _ in all_rows if key[0] is None}
        stay |= {place[1:] for place in first.values()}
        left = {(number, row[3]) for number, name in enumerate(names) for row in rows(con, f'"{name}"')}
        assert left == stay
        assert done.removed == len(all_rows) - len(stay)
        done.undo()
        assert [rows(con, f'"{name}"') for name in names] == before
    assert ours(con) == []


def test_nothing_is_done_by_halves(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    con.execute("create table t as select i % 5 as k, i as v from range(20) r(i)")
    con.execute("create table fine as select i % 3 as k, i as v from range(9) r(i)")
    con.execute("create table made (k integer, twice integer generated always as (k * 2))")
    con.execute("insert into made select i % 2 from range(4) r(i)")
    con.execute("create table parent (id integer primary key, k integer)")
    con.execute("insert into parent values (1, 1), (2, 1)")
    con.execute("create table child (parent integer references parent(id))")
    con.execute("insert into child values (1), (2)")
    con.execute("create view seen as from t")
    for given, error, says in (
        (["t", "main.t"], duckward.TransactionError, "rows would have been lost"),
        (["fine", "made"], duckdb.Error, "made"),
        (["t", "seen"], duckdb.Error, "rowid|base table"),
        (["fine", "parent"], duckdb.Error, "foreign key"),
    ):
        with pytest.raises(error, match=says):
            ward.deduplicate(given, on="k")
        counts = [
            con.execute(f"select count(*) from {name}").fetchall()[0][0]
            for name in ("t", "fine", "made", "parent")
        ]
        assert counts == [20, 9, 4, 2]
        assert ours(con) == []
        # No transaction was left open.
        con.execute("begin")
        con.execute("rollback")


def test_an_attached_database_and_a_cursor(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute(f"attach '{tmp_path}/other.duckdb' as other")
    con.execute('create table other."my table" as select i % 5 as "a key", i as v from range(20) r(i)')
    cursor = ward.cursor()
    done = ward.deduplicate('other.main."my table"', on="a key", connection=cursor)
    assert done.removed == 15
    assert str(done.tables[0]["kept_in"]).startswith('"other"."main"."duckward_removed_')
    con.execute("detach other")
    con.execute(f"attach '{tmp_path}/other.duckdb' as other")
    assert con.execute(f"select count(*) from {done.tables[0]['kept_in']}").fetchall() == [(15,)]
    assert done.undo() == 15
    assert con.execute('select count(*) from other."my table"').fetchall() == [(20,)]


def test_rows_that_do_not_fit_any_more_stay_where_they_are(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    con.execute("create table t as select 1 as k, i as v from range(3) r(i)")
    done = ward.deduplicate("t", on="k")
    con.execute("alter table t drop v")
    with pytest.raises(duckdb.Error):
        done.undo()
    (kept,) = [table["kept_in"] for table in done.tables]
    con.execute(f"delete from {kept} where v = 2")
    with pytest.raises(duckward.StateError, match="has 1 row:"):
        done.forget()
    assert rows(con, str(kept)) == [(1, 1)]


@pytest.mark.parametrize(
    ("given", "wanted", "says"),
    [
        ("select 1 as k", {"on": "k"}, "from a table or a partitioning only"),
        ("lake/*.parquet", {"on": "k"}, "from a table or a partitioning only"),
        ("t", {"on": []}, "name the columns"),
        ("t", {"on": "nosuch"}, "t has the columns k, v"),
        ("t", {"on": "k", "order_by": "nosuch"}, 'order_by="nosuch"'),
        (["t", "u"], {"on": "k", "order_by": "v"}, "another type"),
        ("named", {"on": "k"}, "has a column rowid"),
    ],
)
def test_bad_input_is_a_clear_error(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, given: Any, wanted: dict[str, Any], says: str
) -> None:
    con.execute("create table t as select 1 as k, i as v from range(3) r(i)")
    con.execute("create table u as select 1 as k, i::varchar as v from range(3) r(i)")
    con.execute('create table named as select 1 as k, i as "ROWID" from range(3) r(i)')
    with pytest.raises(duckward.InvalidInputError) as caught:
        ward.deduplicate(given, **wanted)
    assert says in str(caught.value)
    assert con.execute("select count(*) from t").fetchall() == [(3,)]


def test_an_open_transaction_is_refused(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    con.execute("create table t as select 1 as k, i as v from range(3) r(i)")
    con.execute("begin")
    con.execute("insert into t values (2, 2)")
    with pytest.raises(duckward.InvalidInputError, match="is in a transaction"):
        ward.deduplicate("t", on="k")
    con.execute("commit")
    assert con.execute("select count(*) from t").fetchall() == [(4,)]
