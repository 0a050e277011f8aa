"""Pieces: keys over all of them, gaps, references; what is done to one is found, in that piece and row."""

from __future__ import annotations

import itertools
import pathlib
import random
from typing import Any

import duckdb
import pytest

import duckward

ROWS = 240
NAMES = ["p0", "p1", "p2", "p3"]
EACH = ROWS // len(NAMES)
# Cells that are injected: another value of the column's type, always.
COLUMNS = {
    "n": "coalesce(n, 0) + 1000003",
    "f": "coalesce(f, 0) - 0.5",
    "s": "coalesce(s, '') || 'x'",
    "d": "coalesce(d, date '2000-01-01') + 20000",
    "a": "list_append(a, 9)",
}


def fill(con: duckdb.DuckDBPyConnection) -> None:
    """The table `t` and its pieces, `p0` to `p3`, by id; moments go with it."""
    con.execute(f"""
        create or replace table t as select i as id, timestamp '2024-01-01' + to_hours(i * 12) as ts,
            (i % 9)::integer as u, case when i % 7 = 3 then null else i * 31 % 97 end as n, i / 8 as f,
            'v' || i as s, 'w' || i as s2, date '2024-01-01' + (i % 50)::integer as d, [i % 5, null] as a
        from range({ROWS}) r(i)
    """)
    for index, name in enumerate(NAMES):
        con.execute(f"create or replace table {name} as from t where id // {EACH} = {index}")


@pytest.fixture
def filled(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("set threads = 1")
    fill(con)
    return con


def the(found: duckward.Validation, kind: str, piece: str | None) -> dict[str, Any]:
    (finding,) = [one for one in found.findings if (one["kind"], one["piece"]) == (kind, piece)]
    return dict(finding)


def located(found: duckward.Validation, piece: str, row: int) -> bool:
    """Whether a finding about this piece shows this row."""
    return any(
        finding["piece"] == piece and example.get("id") == str(row)
        for finding in found.findings
        for example in finding["examples"]
    )


# ---------------------------------------------------------------- injected loss

# Injections of each kind: with those of test_validate.py and test_partition.py more than a thousand.
EACH_KIND = 22
KINDS = ["drop", "double", "double elsewhere", "change", "empty", "swap in row", "swap rows", "move", "type"]


def inject(con: duckdb.DuckDBPyConnection, kind: str, chance: random.Random) -> set[tuple[str, int]]:
    """Does something to a piece; where it must be found: pieces and rows."""
    home, away = chance.sample(range(len(NAMES)), 2)
    piece, other = NAMES[home], NAMES[away]
    row = home * EACH + chance.randrange(EACH)
    column = chance.choice(list(COLUMNS))
    if kind == "drop":
        con.execute(f"delete from {piece} where id = {row}")
    elif kind == "double":
        con.execute(f"insert into {piece} from {piece} where id = {row}")
    elif kind == "double elsewhere":
        con.execute(f"insert into {other} from {piece} where id = {row}")
        return {(other, row)}
    elif kind == "change":
        con.execute(f"update {piece} set {column} = {COLUMNS[column]} where id = {row}")
    elif kind == "empty":
        con.execute(f"update {piece} set s = null where id = {row}")
    elif kind == "swap in row":
        con.execute(f"update {piece} set s = s2, s2 = s where id = {row}")
    elif kind == "swap rows":
        beside = home * EACH + (row + chance.randrange(1, EACH)) % EACH
        con.execute(f"""
            update {piece} set s = case id when {row} then 'v{beside}' else 'v{row}' end
            where id in ({row}, {beside})
        """)
        return {(piece, row), (piece, beside)}
    elif kind == "move":
        con.execute(f"insert into {other} from {piece} where id = {row}")
        con.execute(f"delete from {piece} where id = {row}")
        return {(piece, row), (other, row)}
    elif kind == "type":
        con.execute(f"alter table {piece} alter s type blob using encode(s)")
    return {(piece, row)}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("move", "drop")])
def test_what_happens_to_a_table_of_pieces_is_found_in_its_piece(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward, kind: str
) -> None:
    chance = random.Random(f"pieces {kind}")
    for _ in range(EACH_KIND):
        expected = inject(filled, kind, chance)
        on = chance.choice([None, "id"])
        found = ward.validate("t", NAMES, on=on)
        assert not found.ok
        pieces = {piece for piece, _ in expected}
        assert {one["piece"] for one in found.findings} - {None} >= pieces
        if kind == "type":
            (one,) = [one for one in found.findings if one["kind"] == "column_type"]
            assert (one["piece"], one["column"]) == (*pieces, "s")
        else:
            assert all(located(found, *place) for place in expected), (expected, found.to_dict())
        fill(filled)


@pytest.mark.parametrize("kind", ["drop", "move"])
def test_rows_that_left_a_piece_are_found_by_the_gap_too(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward, kind: str
) -> None:
    chance = random.Random(f"gaps {kind}")
    for _ in range(EACH_KIND):
        (piece, row), *_ = sorted(
            inject(filled, kind, chance), key=lambda one: NAMES.index(one[0]) != one[1] // EACH
        )
        found = ward.validate("t", NAMES, on="id", gaps="id" if kind == "drop" else None)
        if kind == "drop":
            assert {"id": str(row), "rows left": "1", "rows right": "0"} in the(found, "missing_rows", None)[
                "examples"
            ]
            (gap,) = [one for one in found.findings if one["kind"] == "gap"]
            assert gap["examples"] == [{"from": str(row), "to": str(row), "steps": "1"}]
            assert piece in (gap["piece"], *gap["message"].split())
        else:
            # Nobody has said which rows belong into which of these tables: together they are what they were.
            assert found.ok
        fill(filled)


def cut(ward: duckward.Ward, path: pathlib.Path) -> duckward.Partitioning:
    return ward.partition(ward.plan("t", by="ts", every="month"), path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("double elsewhere", "type")])
def test_what_happens_to_the_source_is_found_in_its_piece(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path, kind: str
) -> None:
    done = cut(ward, tmp_path / "t")
    months = [piece["name"] for piece in done.pieces]
    chance = random.Random(f"source {kind}")
    for _ in range(EACH_KIND):
        row = chance.randrange(ROWS)
        (month,) = filled.execute(f"select strftime(ts, '%Y-%m') from t where id = {row}").fetchall()[0]
        expected = {(month, row)}
        column = chance.choice(list(COLUMNS))
        if kind == "drop":
            filled.execute(f"delete from t where id = {row}")
        elif kind == "double":
            filled.execute(f"insert into t from t where id = {row}")
        elif kind == "change":
            filled.execute(f"update t set {column} = {COLUMNS[column]} where id = {row}")
        elif kind == "empty":
            filled.execute(f"update t set s = null where id = {row}")
        elif kind == "swap in row":
            filled.execute(f"update t set s = s2, s2 = s where id = {row}")
        elif kind == "swap rows":
            other = (row + chance.randrange(1, ROWS)) % ROWS
            filled.execute(f"""
                update t set s = case id when {row} then 'v{other}' else 'v{row}' end
                where id in ({row}, {other})
            """)
            where = filled.execute(f"select strftime(ts, '%Y-%m') from t where id = {other}").fetchall()[0][0]
            expected.add((where, other))
        else:
            away = chance.choice([name for name in months if name != month])
            filled.execute(f"update t set ts = timestamp '{away}-01 01:00' where id = {row}")
            expected.add((away, row))
        on = chance.choice([None, "id"])
        found = ward.validate("t", done, on=on)
        assert all(located(found, *place) for place in expected), (kind, expected, found.to_dict())
        named = {one["piece"] for one in found.findings if one["kind"] != "duplicate_keys"}
        assert named == {piece for piece, _ in expected}, found.to_dict()
        fill(filled)
    assert ward.validate("t", done, on="id").ok


def test_files_that_did_not_change_are_not_read_again(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    hows: list[dict[str, Any]] = [
        {"by": "n", "pieces": 5}, {"by": "u", "value": True}, {"by": "s", "hash": 4}, {"rows": 100},
        {"by": ["ts", "id"], "every": "month", "hash": 2},
    ]  # fmt: skip
    done = [ward.partition(ward.plan("t", **how), tmp_path / str(i)) for i, how in enumerate(hows)]
    done[0] = ward.rebalance(done[0], target_rows=ROWS // 2)
    filled.execute("call enable_logging('QueryLog')")
    for one in done:
        found = ward.validate("t", one)
        told = found.to_dict()
        assert (told["ok"], told["left_digest"]) == (True, told["right_digest"])
        assert told["left_rows"] == told["right_rows"] == ROWS
        rows = {piece["name"]: (piece["rows"], piece["nulls"]) for piece in found.pieces if piece["rows"]}
        for piece in one.pieces:
            files = [f"{one.path}/{file['path']}" for file in piece["files"]]
            nulls = ", ".join(f"count(*) - count({name})" for name in rows[piece["name"]][1])
            ((count, *others),) = filled.execute(
                f"select count(*), {nulls} from read_parquet({files})"
            ).fetchall()
            assert rows[piece["name"]] == (count, dict(zip(rows[piece["name"]][1], others, strict=True)))
    read = filled.execute("""
        select message from duckdb_logs() where type = 'QueryLog' and message like '%UNION ALL%read_parquet%'
    """)
    assert read.fetchall() == []
    filled.execute("call disable_logging()")
    filled.execute("update t set n = null where id = 1")
    for one in done:
        assert not ward.validate("t", one).ok


def test_rows_moved_between_files_are_found_in_both(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    done = cut(ward, tmp_path / "t")
    files = [(piece["name"], tmp_path / "t" / piece["files"][0]["path"]) for piece in done.pieces]
    chance = random.Random("files")
    for _ in range(40):
        (name, file), (other_name, other) = chance.sample(files, 2)
        before, after = file.read_bytes(), other.read_bytes()
        ((row,),) = filled.execute(
            f"select id from '{file}' order by hash(id, {chance.randrange(1000)}) limit 1"
        ).fetchall()
        filled.execute(f"create or replace temp table moved as from '{file}' where id = {row}")
        filled.execute(f"copy (from '{file}' where id <> {row}) to '{tmp_path}/less.parquet'")
        filled.execute(f"copy (from '{other}' union all from moved) to '{tmp_path}/more.parquet'")
        file.write_bytes((tmp_path / "less.parquet").read_bytes())
        other.write_bytes((tmp_path / "more.parquet").read_bytes())
        found = ward.validate("t", done)
        assert {(one["kind"], one["piece"]) for one in found.findings} == {
            ("changed_file", name), ("changed_file", other_name)
        }  # fmt: skip
        file.write_bytes(before)
        other.write_bytes(after)
    assert ward.validate("t", done, on="id", gaps="ts", every="12 hours").ok


# ---------------------------------------------------------------- keys


def test_keys_over_random_pieces_are_those_of_python(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    chance = random.Random(11)
    for _ in range(25):
        names = [f"piece {index}" for index in range(chance.randrange(1, 6))]
        kinds = {name: chance.choice(["bigint", "integer", "varchar"]) for name in names}
        values = [None, *map(str, range(chance.choice([3, 20, 200])))]
        cells = {
            name: [(chance.choice(values), chance.choice("xyz")) for _ in range(chance.randrange(30))]
            for name in names
        }
        for name in names:
            con.execute(f'create or replace table "{name}" (k {kinds[name]}, l varchar, v integer)')
            if cells[name]:
                con.executemany(f'insert into "{name}" values (?, ?, 1)', cells[name])
        on = chance.choice([["k"], ["k", "l"]])
        found = ward.validate({name: name for name in names}, on=on, examples=1000)
        keys = {name: [cell[: len(on)] for cell in cells[name] if cell[0] is not None] for name in names}
        wanted = set()
        for name in names:
            if nulls := len(cells[name]) - len(keys[name]):
                wanted.add(("null_keys", name, nulls))
            twice = [key for key in keys[name] if keys[name].count(key) > 1]
            if twice:
                wanted.add(("duplicate_keys", name, len(twice)))
                shown = the(found, "duplicate_keys", name)["examples"]
                assert sorted(tuple(row[column] for column in on) for row in shown) == sorted(set(twice))
        overlaps = []
        for one, other in itertools.combinations(names, 2):
            if common := set(keys[one]) & set(keys[other]):
                rows = [sum(key in common for key in keys[name]) for name in (one, other)]
                overlaps.append(
                    {
                        "piece": one,
                        "other": other,
                        "keys": len(common),
                        "rows": rows[0],
                        "other_rows": rows[1],
                    }
                )
                wanted.add(("overlap", other, rows[1]))
        assert found.overlaps == overlaps
        told = {(one["kind"], one["piece"], one["rows"]) for one in found.findings}
        assert {one for one in told if one[0] != "column_type" and one[0] != "nulls"} == wanted
        assert [piece["rows"] for piece in found.pieces] == [len(cells[name]) for name in names]


def test_an_overlap_names_pieces_keys_and_rows(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    filled.execute("insert into p2 from p0 where id in (3, 4)")
    filled.execute("insert into p2 from p0 where id = 4")
    found = ward.validate(NAMES, on="ID")
    assert found.overlaps == [{"piece": "p0", "other": "p2", "keys": 2, "rows": 2, "other_rows": 3}]
    one = the(found, "overlap", "p2")
    assert one["message"] == "2 keys of piece p2 also in piece p0, with 3 rows there and 2 in the earlier one"
    assert one["examples"] == [
        {"id": "3", "rows": "1", "rows in the other": "1", "other piece": "p0"},
        {"id": "4", "rows": "2", "rows in the other": "1", "other piece": "p0"},
    ]
    assert the(found, "duplicate_keys", "p2")["rows"] == 2
    assert str(found).splitlines()[:2] == [
        "verdict        2 findings",
        "checked        p0, p1, p2, and 1 more: 243 rows",
    ]


def test_keys_of_a_partitioning_and_of_one_table(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    filled.execute("insert into t select * replace (ts + to_days(40) as ts) from t where id = 5")
    filled.execute("insert into t select * replace (null as id) from t where id = 7")
    done = cut(ward, tmp_path / "t")
    found = ward.validate("t", done, on="id")
    assert found.overlaps == [{"piece": "2024-01", "other": "2024-02", "keys": 1, "rows": 1, "other_rows": 1}]
    assert {(one["kind"], one["piece"]) for one in found.findings} == {
        ("overlap", "2024-02"), ("null_keys", "2024-01"), ("null_keys", None), ("duplicate_keys", None)
    }  # fmt: skip
    assert ward.validate(done, on="id").overlaps == found.overlaps
    alone = ward.validate("t", on="id")
    assert [one["kind"] for one in alone.findings] == ["null_keys", "duplicate_keys"]
    assert alone.rows == (ROWS + 2, ROWS + 2)
    assert alone.pieces == []
    assert repr(ward.validate("t", on=["id", "ts"])) == "<duckward.Validation: 1 finding>"


# ---------------------------------------------------------------- gaps


@pytest.mark.parametrize("every", [1, 7])
def test_gaps_of_numbers_are_those_of_python(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, every: int
) -> None:
    chance = random.Random(every)
    for _ in range(20):
        source = sorted(chance.sample(range(-60, 60), 40))
        there = sorted(chance.sample(source, chance.randrange(1, 35)))
        for name, values in (("a", source), ("b", there)):
            con.execute(f"create or replace table {name} as select unnest({values}) as i")
        steps = {value // every for value in there}
        for left, wanted in (
            (None, range(min(steps), max(steps))),
            ("a", {value // every for value in source}),
        ):
            missing = [step for step in wanted if step not in steps]
            # Of a source as a whole the rows differ, too; only the gaps are looked at here.
            given = ["b"] if left is None else ["a", "b"]
            found = ward.validate(*given, gaps="i", every=every, examples=100)
            gaps = [one for one in found.findings if one["kind"] == "gap"]
            lengths = [int(row["steps"] or 0) for one in gaps for row in one["examples"]]
            assert sum(lengths) == len(missing), (source, there, found)
            ends = {
                int(row[end] or 0) // every
                for one in gaps
                for row in one["examples"]
                for end in ("from", "to")
            }
            assert ends <= set(missing)


@pytest.mark.parametrize(
    ("kind", "every", "value"),
    [
        ("date", None, "date '2024-02-28' + {0}::integer"),
        ("timestamp", "hour", "timestamp '2024-03-31 00:30' + to_hours({0})"),
        ("timestamp_s", "90 minutes", "(timestamp '1969-12-31 20:00' + to_minutes({0} * 90))::timestamp_s"),
        ("timestamp_ns", "2 hours", "(timestamp '2024-03-31 00:30' + to_hours({0} * 2))::timestamp_ns"),
        ("timestamptz", "hour", "timestamptz '2024-03-31 00:30:00+00' + to_hours({0})"),
        ("timestamp", "month", "timestamp '2023-11-30 23:59' + to_months({0})"),
        ("date", "quarter", "(date '2023-11-30' + to_months({0} * 3))::date"),
        ("hugeint", "3", "{0}::hugeint * 3 - 5"),
    ],
)
def test_a_gap_in_time_has_a_place_and_a_length(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, kind: str, every: str | None, value: str
) -> None:
    con.execute("set timezone = 'Europe/Berlin'")
    for name, steps in (("a", "range(0, 5)"), ("b", "range(8, 12)"), ("none", "range(0)")):
        con.execute(f"create table {name} as select ({value.format('i')})::{kind} as v from {steps} r(i)")
    if "int" not in kind:
        con.execute("insert into a values ('infinity'), (null)")
    found = ward.validate(["a", "none", "b"], gaps="v", every=every)
    (gap,) = [one for one in found.findings if one["kind"] == "gap"]
    assert (gap["piece"], gap["column"], gap["examples"][0]["steps"]) == ("none", "v", "3"), gap
    assert gap["message"] == "column v has 1 gap with 3 steps between piece a and piece b; no rows in none"
    assert ward.validate(["a"], gaps="v", every=every).ok


def test_a_gap_may_be_wider_than_64_bits(ward: duckward.Ward) -> None:
    ends = f"select unnest([{-(2**120)}, {2**120}]::hugeint[]) as i"
    (gap,) = ward.validate(ends, gaps="i").findings
    assert gap["message"] == f"column i has 1 gap with {2**64 - 1} steps"
    assert gap["examples"][0]["steps"] == str(2**121 - 1)


def test_a_month_without_rows_is_a_gap_of_that_piece(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    filled.execute("delete from t where month(ts) = 2")
    done = cut(ward, tmp_path / "t")
    found = ward.validate(done, gaps="ts", every="day")
    (gap,) = found.findings
    assert (gap["kind"], gap["piece"]) == ("gap", "2024-02")
    assert gap["examples"] == [{"from": "2024-02-01 00:00:00", "to": "2024-02-29 00:00:00", "steps": "29"}]
    # The source has no rows there either.
    assert ward.validate("t", done, gaps="ts", every="day").ok


# ---------------------------------------------------------------- references, columns, NULLs


def test_rows_without_a_parent_are_counted_by_piece(
    filled: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    filled.execute('create table users as select i::varchar as "the id", i as org from range(8) r(i)')
    filled.execute(f"copy users to '{tmp_path}/users.parquet'")
    assert ward.validate(NAMES, references={"u": 'users."the id"'}).findings == [
        {
            "kind": "missing_parents", "column": "u", "piece": name, "rows": rows,
            "message": f"{rows} rows in piece {name} with 1 value of u that users does not have in the id",
            "examples": [{"u": "8", "rows": str(rows)}],
        }
        for name, rows in zip(NAMES, (6, 7, 7, 6), strict=True)
    ]  # fmt: skip
    composite = {("u", "n"): (f"{tmp_path}/users.parquet", ["the id", "org"])}
    pairs = ward.validate("t", references=composite).findings
    # As in SQL, a key with a NULL refers to nothing.
    wanted = "select count(*) from t where n is not null and u is not null and not (u < 8 and n = u)"
    assert [one["rows"] for one in pairs] == [filled.execute(wanted).fetchall()[0][0]]
    assert ward.validate("t", NAMES, references={"id": "t.id", "s": "t(s)"}, on="id", gaps="id").ok
    self_reference = ward.validate(
        "select 1 as id, 2 as parent union all select 2, null", references={"parent": "t.id"}
    )
    assert self_reference.ok


def test_columns_and_nulls_are_told_by_piece(filled: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    filled.execute("alter table p1 drop d")
    filled.execute("alter table p2 add more integer")
    filled.execute("update p3 set s = null")
    for found in (ward.validate(NAMES), ward.validate("t", NAMES)):
        kinds = {(one["kind"], one["piece"], one["column"]) for one in found.findings}
        assert {("missing_column", "p1", "d"), ("extra_column", "p2", "more")} <= kinds
        assert [piece["nulls"]["s"] for piece in found.pieces] == [0, 0, 0, EACH]
    assert ("nulls", "p3", "s") in {
        (one["kind"], one["piece"], one["column"]) for one in ward.validate(NAMES).findings
    }


def test_wide_integers_do_not_meet_in_a_double(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    con.execute(f"create table a as select {2**55}::bigint as k")
    con.execute(f"create table b as select {2**55 + 4}::bigint as k union all select 7")
    con.execute("create table c as select 7.5::double as k")
    assert ward.validate(["a", "b", "c"], on="k").overlaps == []
    con.execute("create table d as from b where k > 7")
    assert {one["kind"] for one in ward.validate("d", ["a", "c"]).findings} >= {"missing_rows", "extra_rows"}


def test_more_pieces_than_are_looked_into_are_all_named(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("create table t as select i as id, 'x' || i as s from range(1000) r(i)")
    done = ward.partition(ward.plan("t", by="id", hash=36), tmp_path / "it's [a] *lake*")
    con.execute("update t set s = 'y'")
    found = ward.validate("t", done)
    assert {one["piece"] for one in found.findings} == {piece["name"] for piece in done.pieces}
    con.execute("delete from t")
    assert (
        sum(one["rows"] or 0 for one in ward.validate("t", done).findings if one["kind"] == "row_count") > 0
    )
    empty = ward.partition(ward.plan("select 1 as id", by="id", hash=2), tmp_path / "one")
    assert ward.validate("select 1 as id", empty, on="id").ok


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("given", "wanted", "says"),
    [
        (("t",), {}, "nothing to compare t with"),
        (([],), {"on": "id"}, "give 1 to 1000"),
        ((["p0", "p0"],), {}, "two pieces have this name"),
        ((NAMES,), {"on": "nosuch"}, "piece p0 has the columns id"),
        (("t", NAMES), {"on": "nosuch"}, "piece p0 has the columns id"),
        ((["p0", "select 1 as u"],), {"on": "id"}, "has the columns u"),
        (("t", {"x": "select 1 as zz"}), {}, "no column in common"),
        ((NAMES,), {"gaps": "s"}, "give a column of whole numbers, dates or timestamps"),
        ((NAMES,), {"gaps": "ts"}, "give a time such as"),
        ((NAMES,), {"gaps": "ts", "every": "fortnight"}, "give a time such as"),
        ((NAMES,), {"gaps": "id", "every": 0}, "give a whole number from 1"),
        ((NAMES,), {"gaps": "nosuch"}, "has the columns id"),
        ((NAMES,), {"every": 1}, "give gaps="),
        ((NAMES,), {"references": {"u": "users"}}, "give \"table.column\""),
        ((NAMES,), {"references": {"u": "t.nosuch"}}, "t has the columns id"),
        ((NAMES,), {"references": {("u", "n"): "t.id"}}, "as many columns"),
        ((NAMES,), {"references": {"nosuch": "t.id"}}, "piece p0 has the columns id"),
        ((NAMES,), {"references": {"u": 3}}, "references=3"),
        ((NAMES,), {"on": "id", "examples": 1001}, "give a number up to 1000"),
        (({"a": 3},), {"on": "id"}, "<int>"),
    ],
)  # fmt: skip
def test_bad_input_is_a_clear_error(
    filled: duckdb.DuckDBPyConnection,
    ward: duckward.Ward,
    given: tuple[Any, ...],
    wanted: dict[str, Any],
    says: str,
) -> None:
    with pytest.raises(duckward.InvalidInputError) as caught:
        ward.validate(*given, **wanted)
    assert says in str(caught.value)
    assert filled.execute("select count(*) from t").fetchall() == [(ROWS,)]
