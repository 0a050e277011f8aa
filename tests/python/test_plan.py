"""Plans: every row is in exactly one piece, whatever the type; what is advised; what is refused."""

from __future__ import annotations

import json
import pathlib
import random
import re
import threading
from typing import Any

import duckdb
import pytest

import duckward
from samples import TYPES

SCALAR = [kind for kind in TYPES if not re.search(r"\]$|^STRUCT|^MAP|^JSON|^VARIANT", kind)]


def counts(con: duckdb.DuckDBPyConnection, plan: duckward.Plan) -> list[int]:
    """The rows of each piece, and a proof that each fulfils exactly one condition, that of its number."""
    source = plan.source if plan.source.isidentifier() else f"({plan.source})"
    ask = ", ".join(f"coalesce(({piece['condition']}), false)::INTEGER" for piece in plan.pieces)
    table = f"SELECT [{ask}] AS hits, {plan.number} AS number FROM {source}"
    wrong = con.execute(
        f"SELECT count(*) FROM ({table}) WHERE list_sum(hits) <> 1 OR hits[number + 1] IS DISTINCT FROM 1"
    ).fetchone()
    assert wrong == (0,), (plan, wrong)
    found = con.execute(f"SELECT number, count(*) FROM ({table}) GROUP BY 1").fetchall()
    rows = dict(found)
    return [rows.get(number, 0) for number in range(len(plan))]


def check(con: duckdb.DuckDBPyConnection, plan: duckward.Plan) -> None:
    rows = counts(con, plan)
    assert rows == [piece["rows"] for piece in plan.pieces]
    assert sum(rows) == plan.rows
    assert len({piece["name"] for piece in plan.pieces}) == len(plan)
    assert duckward.Plan.from_json(plan.to_json()) == plan
    assert str(plan)
    assert repr(plan)
    assert str(plan.plot())
    assert plan.plot().svg.endswith("</svg>")


def fill(con: duckdb.DuckDBPyConnection, kind: str, values: list[str | None]) -> None:
    try:
        con.execute(f'CREATE OR REPLACE TABLE t (id INTEGER, "a ""b" {kind})')
    except duckdb.Error:
        pytest.skip(f"no {kind} in this version")
    for number, value in enumerate(values):
        con.execute(f"INSERT INTO t VALUES ({number}, ?::{kind})", [value])


@pytest.mark.parametrize("kind", SCALAR)
def test_every_row_of_every_type_is_in_one_piece(con: Any, ward: duckward.Ward, kind: str) -> None:
    fill(con, kind, [*TYPES[kind], None, *TYPES[kind]])
    column = 'a "b'
    for how in ({"value": True}, {"pieces": 2}, {"pieces": 100}, {"hash": 1}, {"hash": 7}, {"rows": 2}):
        plan = ward.plan("t", by=column, **how)  # type: ignore[arg-type]
        check(con, plan)
        assert plan.pieces[-1]["rows"] == 1
        if "value" in how:
            assert max(piece["rows"] for piece in plan.pieces[:-2]) <= 4
        # A plan that was kept means the same in a session with another zone.
        con.execute("SET TimeZone = 'Asia/Kathmandu'")
        check(con, duckward.Plan.from_json(plan.to_json()))
        con.execute("RESET TimeZone")


@pytest.mark.parametrize(
    "value",
    ["chr(i::INTEGER) || ',1,' || chr(39) || i", "repeat(',', i::INTEGER)", "encode(chr(i::INTEGER))"],
)
def test_values_of_many_pieces_are_told_apart(con: Any, ward: duckward.Ward, value: str) -> None:
    con.execute(f"CREATE TABLE t AS SELECT {value} AS v FROM range(200) AS r(i), range(2)")
    con.execute("INSERT INTO t VALUES (NULL)")
    for how in ({"value": True}, {"pieces": 150}):
        plan = ward.plan("t", by="v", **how)  # type: ignore[arg-type]
        check(con, plan)
        assert len(plan) >= 100


def test_ten_thousand_pieces(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT (range * 7919) % 10000 AS u, 'user ' || u AS s, "
        "DATE '2000-01-01' + u::INTEGER AS d FROM range(30000)"
    )
    hows: list[dict[str, Any]] = [
        {"by": "u", "value": True}, {"by": "s", "value": True}, {"by": "d", "every": "day"},
        {"by": "u", "pieces": 10_000},
    ]  # fmt: skip
    for how in hows:
        plan = ward.plan("t", **how)
        assert {piece["rows"] for piece in plan.pieces} == {0, 3}
        assert sum(piece["rows"] > 0 for piece in plan.pieces) == 10_000
        plan.save(tmp_path / "plan.json")
        assert duckward.Plan.load(tmp_path / "plan.json") == plan
        assert len(str(plan).splitlines()) < 60
        # As many bars as there is room for.
        svg = plan.plot().svg
        assert svg.count("<title>") <= 320
        assert "each bar is the largest of 32" in svg
    # Most pieces have no rows any more.
    plan = ward.plan("t", by="s", value=True)
    con.execute("DELETE FROM t WHERE u % 100 <> 3; INSERT INTO t VALUES (10000, 'a new one', NULL)")
    done = ward.partition(plan, tmp_path / "lake")
    assert [piece["rows"] for piece in done.pieces] == [3] * 100 + [1]
    assert ward.validate("t", done).ok
    con.execute("INSERT INTO t SELECT 10001, 'user 103', NULL")
    (finding,) = [one for one in ward.validate("t", done).findings if one["kind"] == "missing_rows"]
    assert finding["piece"] == "user 103"
    con.execute("INSERT INTO t SELECT range, 'more ' || range, NULL FROM range(10000)")
    with pytest.raises(
        duckward.InvalidInputError, match="more than 10000 values; cut it by hash or by range"
    ):
        ward.plan("t", by="s", value=True)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in SCALAR])
def test_values_with_parts_cannot_be_cut(con: Any, ward: duckward.Ward, kind: str) -> None:
    fill(con, kind, TYPES[kind])
    with pytest.raises(
        duckward.InvalidInputError, match="its values have parts; cut by one of them in a query"
    ):
        ward.plan("t", by='a "b', pieces=2)


def test_a_calendar_is_that_of_the_zone(con: Any, ward: duckward.Ward) -> None:
    con.execute("SET TimeZone = 'Europe/Berlin'")
    # Clocks are set on in the night to March 31, and back in that to October 27.
    con.execute(
        "CREATE TABLE t AS SELECT ts FROM range(TIMESTAMPTZ '2024-01-01 00:00:00+01', "
        "TIMESTAMPTZ '2025-01-01 00:00:00+01', INTERVAL 30 MINUTE) r(ts)"
    )
    plan = ward.plan("t", by="ts", every="month")
    check(con, plan)
    assert [piece["name"] for piece in plan.pieces] == [f"2024-{month:02}" for month in range(1, 13)] + [
        "null"
    ]
    months = con.execute("SELECT month(ts), count(*) FROM t GROUP BY 1 ORDER BY 1").fetchall()
    assert [piece["rows"] for piece in plan.pieces] == [rows for _, rows in months] + [0]
    assert plan.cuts[0]["rule"]["zone"] == "Europe/Berlin"
    utc = ward.plan("t", by="ts", every="month", zone="UTC")
    check(con, utc)
    assert utc.pieces[0]["name"] == "2023-12"
    assert utc.pieces[0]["rows"] == 2
    for every in ("day", "week", "quarter", "year"):
        plan = ward.plan("t", by="ts", every=every)
        check(con, plan)
        assert (
            sum(piece["rows"] > 0 for piece in plan.pieces)
            == {"day": 366, "week": 53, "quarter": 4, "year": 1}[every]
        )


@pytest.mark.parametrize(
    "kind", ["TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ", "DATE"]
)
def test_every_type_of_time_has_a_calendar(con: Any, ward: duckward.Ward, kind: str) -> None:
    moment = "TIMESTAMP '1969-11-20 23:59:59' + INTERVAL (range * 7) HOUR"
    con.execute(f"CREATE TABLE t AS SELECT ({moment})::{kind} AS ts FROM range(900)")
    con.execute(f"INSERT INTO t VALUES (NULL), ('infinity'::{kind}), ('1969-01-01'::{kind})")
    for every in ("day", "week", "month", "quarter", "year"):
        plan = ward.plan("t", by="ts", every=every)
        check(con, plan)
        assert plan.pieces[-1]["rows"] == 1


def test_hours_are_those_of_the_clock(con: Any, ward: duckward.Ward) -> None:
    con.execute("SET TimeZone = 'Europe/Berlin'")
    for day, hours in (("2024-03-31", 23), ("2024-10-27", 24), ("2024-06-01", 24)):
        con.execute(
            f"CREATE OR REPLACE TABLE t AS SELECT ts FROM range(TIMESTAMPTZ '{day} 00:00:00', "
            f"TIMESTAMPTZ '{day} 00:00:00' + INTERVAL 1 DAY, INTERVAL 10 MINUTE) r(ts)"
        )
        plan = ward.plan("t", by="ts", every="hour")
        check(con, plan)
        # In autumn two hours have one name, and are one piece.
        assert sum(piece["rows"] > 0 for piece in plan.pieces) == hours


def test_a_calendar_has_steps_without_rows(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT unnest(['2024-01-31', '2024-04-01', 'infinity'])::DATE AS d")
    plan = ward.plan("t", by="D", every="month")
    check(con, plan)
    assert [(piece["name"], piece["rows"]) for piece in plan.pieces] == [
        ("2024-01", 1), ("2024-02", 0), ("2024-03", 0), ("2024-04", 2), ("null", 0)
    ]  # fmt: skip
    assert plan.pieces[1]["condition"] == """"d" >= '2024-02-01'::DATE AND "d" < '2024-03-01'::DATE"""


def test_ranges_are_balanced_on_skewed_data(con: Any, ward: duckward.Ward) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT exp(random() * 20) AS v, (random() ** 8 * 1000)::INTEGER AS w "
        "FROM range(300000)"
    )
    plan = ward.plan("t", by="v", pieces=24)
    check(con, plan)
    assert plan.balance["pieces"] == 24
    assert plan.balance["variation"] < 0.1
    assert plan.heavy == []
    plan = ward.plan("t", by="w", pieces=10)
    check(con, plan)
    # 0 alone has two fifths of the rows.
    assert plan.heavy[0]["value"] == "0"
    assert 0.3 < plan.heavy[0]["share"] < 0.5
    rest = [piece["rows"] for piece in plan.pieces[1:] if piece["rows"]]
    assert max(rest) < 1.5 * sum(rest) / len(rest)


def test_a_hash_is_the_same_in_every_version(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range i, 'k' || range s, range / 7 f FROM range(1000)")
    for column, expected in (
        ("i", [250, 250, 250, 250]),
        ("s", [242, 254, 258, 246]),
        ("f", [261, 261, 239, 239]),
    ):
        plan = ward.plan("t", by=column, hash=4)
        check(con, plan)
        assert [piece["rows"] for piece in plan.pieces[:-1]] == expected, column


def test_equal_texts_of_a_collation_share_a_piece(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t (s VARCHAR COLLATE NOCASE)")
    con.execute("INSERT INTO t SELECT ['a', 'A', 'b', 'B', 'Z', NULL][range % 6 + 1] FROM range(60)")
    plan = ward.plan("t", by="s", value=True)
    check(con, plan)
    assert [piece["rows"] for piece in plan.pieces] == [20, 20, 10, 0, 10]
    check(con, ward.plan("t", by="s", pieces=2))


# Of each type an expression that has some hundred values for `i`, those at the ends among them.
MANY = {
    "SMALLINT": "i * 7 - 900",
    "HUGEINT": "(i - 150) * 170141183460469231731687303715884105::HUGEINT",
    "DECIMAL(18,3)": "i * 1.125 - 100",
    "DOUBLE": "CASE i WHEN 0 THEN 'nan'::DOUBLE WHEN 1 THEN 'inf' WHEN 2 THEN '-inf' WHEN 3 THEN -0.0 "
    "WHEN 4 THEN 0.0 ELSE i / 7 END",
    "DATE": "[DATE '2024-01-01' + i::INTEGER, 'infinity', '-infinity'][1 + (i % 30 // 28) * (1 + i % 2)]",
    "TIMESTAMP": "TIMESTAMP '1969-12-31' + INTERVAL (i * 997) MINUTE",
    "TIMESTAMPTZ": "[TIMESTAMPTZ '2024-03-30 00:00:00+00' + INTERVAL (i) HOUR, 'infinity']"
    "[1 + (i = 9)::INTEGER]",
    "TIME": "TIME '00:00:00' + INTERVAL (i * 4) MINUTE",
    "INTERVAL": "INTERVAL (i) DAY",
    "VARCHAR": "['', chr(i::INTEGER + 40), 'x' || i, repeat('é', i::INTEGER), chr(127 + i::INTEGER)]"
    "[1 + i % 5]",
    "VARCHAR COLLATE NOCASE": "[upper(t), t][1 + i % 2]",
    "BLOB": "from_hex(md5(i::VARCHAR))",
    "UUID": "md5(i::VARCHAR)::UUID",
    "BIT": "i::INTEGER::BIT",
    "ENUM": "('v' || i % 200)",
}


@pytest.mark.parametrize("kind", MANY)
def test_many_pieces_are_found_as_few_are(con: Any, ward: duckward.Ward, kind: str) -> None:
    if kind == "ENUM":
        con.execute("CREATE TYPE many AS ENUM (SELECT 'v' || i FROM range(200) AS r(i))")
    con.execute(f"CREATE TABLE t (k {'many' if kind == 'ENUM' else kind}, id INTEGER)")
    con.execute(
        f"INSERT INTO t SELECT {MANY[kind]}, i "
        "FROM (SELECT i % 150 AS i, 'n' || i % 70 AS t FROM range(300) AS r(i))"
    )
    con.execute("INSERT INTO t SELECT NULL, range FROM range(5)")
    for how in (
        {"by": "k", "value": True},
        {"by": "k", "pieces": 128},
        {"by": ["k", "id"], "value": True, "hash": 2},
    ):
        plan = ward.plan("t", **how)  # type: ignore[arg-type]
        assert len(plan) > 64
        check(con, plan)
        assert sum(piece["rows"] for piece in plan.pieces if "IS NULL" in piece["condition"]) == 5


@pytest.mark.parametrize("pieces", [1, 2, 63, 64, 65, 66, 97, 128, 129, 500])
def test_any_number_of_pieces(con: Any, ward: duckward.Ward, pieces: int) -> None:
    con.execute("CREATE TABLE t AS SELECT range * 3 AS k FROM range(800)")
    plan = ward.plan("t", by="k", pieces=pieces)
    assert len(plan) == pieces + 1
    check(con, plan)


def test_cuts_follow_one_another(con: Any, ward: duckward.Ward) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT range id, DATE '2024-01-01' + (range % 90)::INTEGER d, "
        "['a/b', 'null', NULL][range % 3 + 1] s FROM range(9000)"
    )
    plan = ward.plan("t", by=["d", "id"], every="month", hash=4)
    check(con, plan)
    assert plan.pieces[0]["name"] == "2024-01/0"
    assert len(plan) == 4 * 5
    plan = ward.plan("t", by=["s", "d", "id"], every="month", pieces=3)
    check(con, plan)
    assert [cut["rule"]["kind"] for cut in plan.cuts] == ["value", "time", "range"]


def test_what_is_left_open_is_advised(con: Any, ward: duckward.Ward) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT range id, TIMESTAMP '2024-01-01' + INTERVAL (range) MINUTE ts "
        "FROM range(300000)"
    )
    plan = ward.plan("t")
    check(con, plan)
    assert plan.cuts[0]["column"] == "ts"
    assert plan.cuts[0]["rule"]["kind"] == "time"
    plan = ward.plan("t", rows=50_000)
    assert [piece["rows"] for piece in plan.pieces][:-1] == pytest.approx([50_000] * 6, rel=0.1)
    plan = ward.plan("t", by="id", pieces=3)
    assert plan.balance["pieces"] == 3


def test_files_and_queries_are_cut_like_tables(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute(f"COPY (SELECT range i, range % 5 g FROM range(1000)) TO '{tmp_path}/a b.parquet'")
    plan = ward.plan(f"{tmp_path}/a b.parquet", by="g", value=True)
    assert [piece["rows"] for piece in plan.pieces] == [200] * 5 + [0, 0]
    check(con, ward.plan(f"SELECT * FROM '{tmp_path}/a b.parquet' WHERE i < 500", by="i", pieces=5))


def test_a_plan_is_saved_and_loaded(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE t AS SELECT range i FROM range(1000)")
    plan = ward.plan("t", by="i", pieces=4)
    path = tmp_path / "plan.json"
    plan.save(path)
    assert duckward.Plan.load(path) == plan
    text = path.read_text()
    assert json.loads(text) == plan.to_dict()
    bound = plan.cuts[0]["rule"]["bounds"][1]
    path.write_text(text.replace(bound, "7", 1))
    with pytest.raises(duckward.InvalidInputError, match="is not what its cuts say"):
        duckward.Plan.load(path)
    with pytest.raises(duckward.DiskError, match="reading the plan from"):
        duckward.Plan.load(tmp_path / "nowhere.json")


def test_whoever_reads_a_plan_while_it_is_saved_finds_a_whole_one(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(20000)")
    plans = [ward.plan("t", by="id", pieces=pieces) for pieces in (3, 900)]
    path = tmp_path / "plan.json"
    plans[0].save(path)
    done = threading.Event()
    seen = []

    def read() -> None:
        while not done.is_set():
            seen.append(duckward.Plan.load(path))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        plans[number % 2].save(path)
    done.set()
    reader.join()
    assert len(seen) > 1
    assert all(plan in plans for plan in seen)
    # One that cannot be written leaves the old one, and nothing beside it.
    with pytest.raises(duckward.DiskError, match=r"writing the plan to .*nowhere"):
        plans[0].save(tmp_path / "nowhere" / "plan.json")
    path.write_text("{")
    with pytest.raises(duckward.InvalidInputError, match=r"plan\.json: this is no plan"):
        duckward.Plan.load(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_is_kept_in_a_file_and_taken_again(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, random() AS r FROM range(300000)")
    path = tmp_path / "plan.json"
    how: dict[str, Any] = {"by": "r", "pieces": 7}
    # The bounds come from a sample: made anew, it would be another plan.
    plan = ward.plan("t", **how, file=path)
    assert duckward.Plan.load(path) == plan
    con.execute("INSERT INTO t VALUES (-1, 0.5)")
    for again in (how, {}, {"by": "R"}, {"pieces": 7}):
        assert ward.plan("t", **again, file=str(path)) == plan
    assert plan.to_dict()["wish"]["pieces"] == 7
    before = path.read_bytes()
    for source, other, message in (
        ("t", {"pieces": 8}, "pieces=8 is not accepted: .* was made with pieces=7; leave it out"),
        ("t", {"by": "id"}, "was made with by="),
        ("t", {"by": ["r", "id"], "pieces": 7}, "was made with by="),
        ("t", {"by": "r", "hash": 7}, "hash=7 is not accepted: .* was made without it"),
        ("t", {"value": True}, "value=True is not accepted"),
        ("FROM t", how, 'is of "t"; give that source, or name another file'),
    ):
        with pytest.raises(duckward.InvalidInputError, match=message):
            ward.plan(source, **other, file=path)
    assert path.read_bytes() == before
    # A plan that is kept by hand does not say less; one of another plan does.
    done = ward.rebalance(ward.partition(plan, tmp_path / "lake"), target_rows=150000)
    done.plan.save(path)
    assert ward.plan("t", file=path) == done.plan
    with pytest.raises(duckward.InvalidInputError, match="does not say what it was made with"):
        ward.plan("t", **how, file=path)


def test_where_no_plan_can_be_kept_none_is_made(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(100)")
    (tmp_path / "directory.json").mkdir()
    (tmp_path / "other.json").write_text("{}")
    for name, error, message in (
        ("t.duckdb", duckward.InvalidInputError, r"a file whose name ends in \.json"),
        ("plan", duckward.InvalidInputError, r"a file whose name ends in \.json"),
        ("nowhere/plan.json", duckward.DiskError, "writing the plan to"),
        ("directory.json", duckward.DiskError, "reading the plan from"),
        ("other.json", duckward.InvalidInputError, r"other\.json: this is no plan"),
    ):
        with pytest.raises(error, match=message):
            ward.plan("t", by="id", hash=2, file=tmp_path / name)
    with pytest.raises(duckward.InvalidInputError):
        ward.plan("t", by="id", hash=0, file=tmp_path / "plan.json")
    with pytest.raises(duckdb.CatalogException):
        ward.plan("u", file=tmp_path / "plan.json")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["directory.json", "other.json"]


def test_random_plans_of_random_tables(con: Any, ward: duckward.Ward) -> None:
    chance = random.Random(11)
    for _ in range(25):
        kinds = chance.sample([kind for kind in SCALAR if kind not in ("TIME_NS", "BIGNUM")], 2)
        lists = ", ".join(
            f"[{', '.join(literal(value, kind) for value in [*TYPES[kind], None])}]"
            f"[1 + (hash(range, {place}) % {len(TYPES[kind]) + 1})::INTEGER] AS c{place}"
            for place, kind in enumerate(kinds)
        )
        size = chance.choice([1, 7, 500])
        con.execute(f"CREATE OR REPLACE TABLE t AS SELECT {lists}, range AS id FROM range({size})")
        how: dict[str, Any] = chance.choice(
            [
                {"pieces": chance.randint(2, 9)},
                {"hash": chance.randint(1, 9)},
                {"value": True},
                {"rows": chance.randint(1, 99)},
            ]
        )
        by = chance.choice([["c0"], ["c1"], ["id"], ["c0", "id"]])
        if len(by) == 2:
            how["hash" if "hash" not in how else "value"] = 3 if "hash" not in how else True
        column = f'"{by[0]}"'
        values = con.execute(f"SELECT count(DISTINCT {column}) FROM t").fetchall()[0][0]
        if values == 0 or (values == 1 and ("pieces" in how or "rows" in how)):
            continue
        check(con, ward.plan("t", by=by, **how))


def literal(value: str | None, kind: str) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + f"'::{kind}"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"by": "x"}, 'by="x" is not accepted: t has the columns id, ts, s, n, one'),
        ({"by": ["id", "ID"], "hash": 2}, "name each column once"),
        ({"by": "s", "every": "month"}, "`every` wants a DATE or a TIMESTAMP"),
        ({"by": "ts", "every": "fortnight"}, 'every="fortnight" is not accepted: give one of hour, day,'),
        ({"by": "ts", "every": "hour"}, "that makes 26281 pieces, and 10000 are the most: cut by longer"),
        ({"by": "ts", "every": "day", "zone": "UTC"}, "leave it out: ts is TIMESTAMP, which has no zone"),
        ({"by": "id", "pieces": 0}, "pieces=0 is not accepted: give a number from 1 to 10000"),
        ({"by": "id", "hash": 10_001}, "hash=10001 is not accepted: give a number from 1 to 10000"),
        ({"by": "id", "pieces": 2, "rows": 5}, "give `pieces` or `rows`, not both"),
        ({"by": "id", "pieces": 2, "hash": 2}, "every column of `by` is cut otherwise already"),
        ({"pieces": 2}, "name the column that `pieces` is meant for"),
        ({"by": "id", "zone": "UTC"}, "a zone goes with `every`"),
        ({"by": "n", "pieces": 2}, "n (INTEGER) cannot be cut that way: every value is NULL"),
        ({"by": "n", "value": True}, "every value is NULL"),
        ({"by": "one", "pieces": 2}, "it has only one value, '1', and no cut splits one value"),
        ({"by": "one"}, "one is not cut without being told how"),
        ({"by": ["id", "s"], "hash": 900, "value": True}, "that makes 989298 pieces, and 10000 are the most"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused(
    con: Any, ward: duckward.Ward, how: dict[str, Any], expected: str
) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT range id, TIMESTAMP '2024-01-01' + INTERVAL (range) DAY ts, "
        "'s' || range AS s, NULL::INTEGER n, 1 one FROM range(1096)"
    )
    with pytest.raises(duckward.InvalidInputError) as caught:
        ward.plan("t", **how)
    assert expected in str(caught.value)


def test_an_empty_table_is_refused_and_errors_of_the_source_are_duckdbs(
    con: Any, ward: duckward.Ward
) -> None:
    con.execute("CREATE TABLE t (i INTEGER)")
    with pytest.raises(duckward.InvalidInputError, match="t has no rows: there is nothing to cut"):
        ward.plan("t", by="i", pieces=2)
    with pytest.raises(duckdb.CatalogException):
        ward.plan("nowhere", by="i", pieces=2)


def test_a_view_has_no_row_numbers(con: Any, ward: duckward.Ward) -> None:
    con.execute("CREATE TABLE t AS SELECT range i FROM range(10)")
    con.execute("CREATE VIEW v AS SELECT i + 1 AS i FROM t")
    with pytest.raises((duckdb.Error, duckward.InvalidInputError)):
        ward.plan("v", rows=5)
