"""`ward.validate(left, right)`: the same rows are the same in any order; all differences are found."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Iterator
from typing import Any

import duckdb
import pandas as pd
import pytest

import duckward

# A value for row i, by type; `n` is a hash of the row.
VALUES = {
    "boolean": "n % 2 = 0",
    "tinyint": "(n % 200 - 100)::tinyint",
    "integer": "(n % 1000000)::integer",
    "ubigint": "n::ubigint",
    "hugeint": "n::hugeint * 1000003",
    "real": "(n % 1000 / 7)::real",
    "double": "case n % 11 when 0 then 'nan'::double when 1 then '-inf'::double else n / 3.7 end",
    "decimal(20, 4)": "(n % 10000000)::decimal(20, 4) / 16",
    "varchar": "case n % 5 when 0 then '' else 'é漢 ' || n end",
    "blob": "encode('b' || n)",
    "date": "date '1970-01-01' + (n % 40000)::integer",
    "time": "time '00:00:00' + to_seconds(n % 86400)",
    "timestamp": "timestamp '1992-01-01' + to_seconds(n % 1000000000)",
    "timestamptz": "to_timestamp(n % 1000000000)",
    "interval": "to_days((n % 1000)::integer)",
    "uuid": "md5(n::varchar)::uuid",
    "enum('a', 'b', 'c')": "['a', 'b', 'c'][1 + n % 3]::enum('a', 'b', 'c')",
    "bit": "(n % 1000)::integer::bit",
    "integer[]": "[n % 5, null, n % 7]::integer[]",
    "struct(x integer, y varchar)": "{'x': n % 100, 'y': n::varchar}::struct(x integer, y varchar)",
    "map(varchar, integer)": "map {n::varchar: (n % 9)::integer}",
}
ROWS = 200


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        columns = ", ".join(
            f"case when n % 13 = {index % 13} then null else {value} end as c{index}"
            for index, value in enumerate(VALUES.values())
        )
        connection.execute(f"""
            create table a as select i as id, hash(i, 1)::varchar as s, hash(i, 2)::varchar as t, {columns}
            from (select i, (hash(i) % 1000000007)::bigint as n from range({ROWS}) as r(i))
        """)
        yield connection


@pytest.fixture
def ward(con: duckdb.DuckDBPyConnection) -> Iterator[duckward.Ward]:
    with duckward.guard(con) as guarded:
        yield guarded


def kinds(found: duckward.Validation) -> list[str]:
    return [finding["kind"] for finding in found.findings]


def the(found: duckward.Validation, kind: str) -> dict[str, Any]:
    (finding,) = [finding for finding in found.findings if finding["kind"] == kind]
    return dict(finding)


def test_the_same_rows_in_another_order_are_the_same(ward: duckward.Ward) -> None:
    for on in (None, "id"):
        found = ward.validate("a", "select * from a order by s", on=on)
        assert found.ok
        assert found
        assert found.findings == []
        assert found.rows == (ROWS, ROWS)
        assert found.digests[0] == found.digests[1]
        assert len(found.columns) == len(VALUES) + 3
        assert all(column["same"] for column in found.columns)
        assert "the same" in str(found)


def test_files_and_other_databases_are_read(
    ward: duckward.Ward, con: duckdb.DuckDBPyConnection, tmp_path: pathlib.Path
) -> None:
    con.execute(f"attach '{tmp_path / 'other.duckdb'}' as other")
    con.execute("create table other.copied as from a")
    con.execute(f"copy (select id, s, c3, c12 from a) to '{tmp_path / 'half.parquet'}'")
    assert ward.validate("a", "other.copied").ok
    assert ward.validate("other.main.copied", "main.a", on=["id", "s"]).ok
    assert ward.validate("select id, s, c3, c12 from a", str(tmp_path / "half.parquet"), on="ID").ok


def test_a_data_frame_is_found_by_its_name(ward: duckward.Ward) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3]})
    assert ward.validate("frame", "select unnest([3, 2, 1])::bigint as x").ok
    assert the(ward.validate("frame", "select 2::bigint as x"), "missing_rows")["rows"] == len(frame) - 1


@pytest.mark.parametrize("on", [None, "id"])
def test_nothing_and_nothing_is_the_same(ward: duckward.Ward, on: str | None) -> None:
    assert ward.validate("select * from a where false", "select * from a where false", on=on).ok
    found = ward.validate("a", "select * from a where false", on=on)
    assert kinds(found)[:2] == ["row_count", "missing_rows"]
    assert the(found, "missing_rows")["rows"] == ROWS


class Injection:
    """One change to one copy of the table, and what must be found of it."""

    def __init__(self, con: duckdb.DuckDBPyConnection, dice: random.Random) -> None:
        self.con, self.dice = con, dice
        self.id = dice.randrange(ROWS)
        self.column = f"c{dice.randrange(len(VALUES))}"

    def make(self, select: str) -> bool:
        """Whether the copy is another one than the table, by DuckDB's own word."""
        self.con.execute(f"create or replace table b as {select}")
        found = self.con.execute(
            """select (select count(*) from (from a except all from b))
                + (select count(*) from (from b except all from a))"""
        ).fetchall()
        return bool(found[0][0])

    def drop(self) -> tuple[bool, str, str]:
        return self.make(f"from a where id <> {self.id}"), "missing_rows", "missing_rows"

    def double(self) -> tuple[bool, str, str]:
        return (
            self.make(f"from a union all from a where id = {self.id}"),
            "doubled_rows",
            "duplicate_keys",
        )

    def replaced(self, value: str) -> bool:
        cell = f"case when id = {self.id} then {value} else {self.column} end"
        return self.make(f"select * replace ({cell} as {self.column}) from a")

    def change(self) -> tuple[bool, str, str]:
        other = (self.id + self.dice.randrange(1, ROWS)) % ROWS
        value = f"(select {self.column} from a where id = {other})"
        return self.replaced(value), "missing_rows", "changed_values"

    def empty(self) -> tuple[bool, str, str]:
        return self.replaced("null"), "missing_rows", "changed_values"

    def swap_in_row(self) -> tuple[bool, str, str]:
        self.column = "s"
        select = f"""select * replace (case when id = {self.id} then t else s end as s,
            case when id = {self.id} then s else t end as t) from a"""
        return self.make(select), "missing_rows", "changed_values"

    def swap_between_rows(self) -> tuple[bool, str, str]:
        other = (self.id + self.dice.randrange(1, ROWS)) % ROWS
        cell = "(select {0} from a where id = {1})"
        select = f"""select * replace (case id when {self.id} then {cell.format(self.column, other)}
            when {other} then {cell.format(self.column, self.id)}
            else {self.column} end as {self.column}) from a"""
        return self.make(select), "missing_rows", "changed_values"


INJECTIONS = ["drop", "double", "change", "empty", "swap_in_row", "swap_between_rows"]


@pytest.mark.parametrize("kind", INJECTIONS)
def test_every_injected_difference_is_found_and_located(
    ward: duckward.Ward, con: duckdb.DuckDBPyConnection, kind: str
) -> None:
    dice = random.Random(f"validate {kind}")
    made = 0
    while made < 40:
        injection = Injection(con, dice)
        is_other, by_row, by_key = getattr(injection, kind)()
        if not is_other:
            continue
        made += 1
        on = dice.choice([None, "id"])
        found = ward.validate("a", "b", on=on)
        assert not found.ok
        shown = str(injection.id)
        wanted = by_row if on is None else by_key
        located = [
            finding
            for finding in found.findings
            if finding["kind"] == wanted
            and finding["column"] in (None, injection.column)
            and any(row["id"] == shown for row in finding["examples"])
        ]
        assert located, (injection.id, injection.column, found.to_dict())


@pytest.mark.parametrize("index", range(len(VALUES)))
def test_another_type_is_found_though_values_are_the_same(
    ward: duckward.Ward, con: duckdb.DuckDBPyConnection, index: int
) -> None:
    kind = list(VALUES)[index]
    other = "varchar" if kind != "varchar" else "blob"
    value = f"encode(c{index})" if kind == "varchar" else f"c{index}::{other}"
    con.execute(f"create table b as select * replace ({value} as c{index}) from a")
    found = ward.validate("a", "b", on="id")
    assert the(found, "column_type")["column"] == f"c{index}"


def test_integers_of_another_width_have_the_same_values(ward: duckward.Ward) -> None:
    found = ward.validate(
        "select id, c2 from a", "select id::hugeint as id, c2::double as c2 from a", on="id"
    )
    assert kinds(found) == ["column_type", "column_type"]
    assert found.digests[0] == found.digests[1]


@pytest.mark.parametrize(
    ("left", "right"), [("hugeint", "double"), ("decimal(38, 10)", "double"), ("bigint", "real")]
)
def test_types_without_a_common_one_do_not_hide_a_difference(
    ward: duckward.Ward, left: str, right: str
) -> None:
    found = ward.validate(
        f"select 1 as id, {2**55 + 1 if left != 'decimal(38, 10)' else '0.1'}::{left} as x",
        f"select 1 as id, {2**55 if left != 'decimal(38, 10)' else '0.1000000001'}::{right} as x",
        on="id",
    )
    assert the(found, "changed_values")["column"] == "x"


@pytest.mark.parametrize("default", ["", "nocase"])
def test_a_collation_does_not_hide_a_difference(
    ward: duckward.Ward, con: duckdb.DuckDBPyConnection, default: str
) -> None:
    con.execute(f"set default_collation = '{default}'")
    con.execute("create table c (id integer, x varchar collate nocase, y varchar)")
    con.execute("insert into c values (1, 'a', 'a'), (2, 'b', 'b')")
    con.execute("create table d as from c")
    assert ward.validate("c", "d").ok
    con.execute("update d set x = 'A', y = 'A' where id = 1")
    for on in (None, "id"):
        found = ward.validate("c", "d", on=on)
        changed = {row["column"] for row in found.findings if row["kind"] == "changed_values"}
        assert changed == {"x", "y"}, found
    assert the(ward.validate("c", "d", on="x"), "missing_rows")["rows"] == 1


def test_columns_that_one_side_lacks_are_named(ward: duckward.Ward) -> None:
    found = ward.validate("select 1 as one, 2 as two", "select 1 as ONE, 3 as three")
    assert kinds(found) == ["missing_column", "extra_column"]
    assert [finding["column"] for finding in found.findings] == ["two", "three"]
    nothing = ward.validate("select 1 as one", "select * from (values (1), (2)) v(two)")
    assert kinds(nothing) == ["missing_column", "extra_column", "row_count"]
    assert nothing.rows == (1, 2)


def test_every_difference_is_listed_not_the_first(ward: duckward.Ward) -> None:
    found = ward.validate(
        "from (values (1, 'a', 10), (2, 'b', 20), (3, 'c', null), (4, 'd', 40)) v(id, s, n)",
        "from (values (1, 'a', 10), (2, 'x', null), (3, 'c', 30), (5, 'e', 50), (5, 'e', 50)) v(id, s, n)",
        on="id",
    )
    seen = {(finding["kind"], finding["column"], finding["rows"]) for finding in found.findings}
    assert seen == {
        ("row_count", None, 1),
        ("missing_rows", None, 1),
        ("extra_rows", None, 2),
        ("duplicate_keys", None, 2),
        ("changed_values", "s", 1),
        ("changed_values", "n", 2),
        ("distribution", "id", None),
        ("distribution", "s", None),
        ("distribution", "n", None),
    }
    (values,) = [finding for finding in found.findings if finding["column"] == "n" and finding["rows"] == 2]
    assert values["examples"] == [
        {"id": "2", "left": "20", "right": None},
        {"id": "3", "left": None, "right": "30"},
    ]


def test_a_key_with_null_is_a_key(ward: duckward.Ward) -> None:
    left = "select * from (values (null, 1), (1, 2)) v(k, x)"
    assert ward.validate(left, left, on="k").ok
    found = ward.validate(left, "select * from (values (null, 5), (1, 2)) v(k, x)", on="k")
    assert the(found, "changed_values")["examples"] == [{"k": None, "left": "1", "right": "5"}]


def test_examples_are_as_many_as_asked_for(ward: duckward.Ward) -> None:
    for wanted in (0, 3):
        found = ward.validate("a", "select * from a where id > 100", examples=wanted)
        assert len(the(found, "missing_rows")["examples"]) == wanted
        assert the(found, "missing_rows")["rows"] == 101


@pytest.mark.parametrize("name", ['a "quoted" name', "it's", "two words", "dotted.name", "select", "ü" * 100])
def test_any_name_of_a_table_or_a_column(
    ward: duckward.Ward, con: duckdb.DuckDBPyConnection, name: str
) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    con.execute(f"create table {quoted} as select 1 as {quoted}, 2 as k")
    given = name if name in ("it's", "two words", "ü" * 100) else quoted
    assert ward.validate(given, quoted, on=[name]).ok


def test_the_table_is_as_html_too(ward: duckward.Ward) -> None:
    found = ward.validate("select '<b>' as x", "select '<i>' as x")
    html = found._repr_html_()
    assert "<table>" in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert repr(found) == f"<duckward.Validation: {len(found.findings)} findings>"


def test_data_does_not_drive_the_terminal(ward: duckward.Ward) -> None:
    left = "select 'a' || chr(27) || '[31m' as x, repeat('long', 99) as y"
    found = ward.validate(left, "select 'b' as x, 'z' as y")
    (shown,) = [line for line in str(found).splitlines() if "e.g." in line and "long" in line]
    assert chr(27) not in str(found)
    assert "x=a\\u{1b}[31m" in shown
    assert len(shown) < 100
    assert the(found, "missing_rows")["examples"][0]["x"] == "a" + chr(27) + "[31m"


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("a", "nosuch"), duckdb.CatalogException, "nosuch"),
        (("a", "select nosuch from a"), duckdb.BinderException, "nosuch"),
        (("a", ""), duckward.InvalidInputError, "give a table"),
        (("a", "select 1; drop table a"), duckward.InvalidInputError, "one query"),
        (("a", 3), duckward.InvalidInputError, "<int>"),
        (("a", "a", "nosuch"), duckward.InvalidInputError, "both have id, s"),
        (("a", "select 1 as x", "id"), duckward.InvalidInputError, "none in common"),
        (("a", "a", 3), duckward.InvalidInputError, "on=3"),
    ],
)
def test_bad_input_is_a_clear_error(
    ward: duckward.Ward, arguments: tuple[Any, ...], error: type[Exception], says: str
) -> None:
    left, right, *on = arguments
    with pytest.raises(error) as caught:
        ward.validate(left, right, on=on[0] if on else None)
    assert says in str(caught.value)
    assert ward.connection.execute("select count(*) from a").fetchall() == [(ROWS,)]


def test_a_closed_ward_says_so(con: duckdb.DuckDBPyConnection) -> None:
    guarded = duckward.guard(con)
    guarded.close()
    with pytest.raises(duckward.StateError):
        guarded.validate("a", "a")


def test_it_runs_on_a_cursor_and_in_a_transaction(ward: duckward.Ward) -> None:
    cursor = ward.cursor()
    cursor.execute("begin")
    cursor.execute("delete from a where id = 7")
    assert ward.validate("a", "a", connection=cursor).rows == (ROWS - 1, ROWS - 1)
    assert ward.validate("a", "a").rows == (ROWS, ROWS)
    cursor.execute("rollback")
