"""What `profile()` says of columns: figures against DuckDB's own exact ones, every type, and the advice."""

from __future__ import annotations

import itertools
import json
import math
import pathlib
import random
from typing import Any

import duckdb
import pytest

import duckward
from samples import TYPES

TARGETS = ("BIGINT", "DOUBLE", "DATE", "TIMESTAMP", "BOOLEAN")
INFINITE = ("FLOAT", "DOUBLE", "DATE", "TIMESTAMP")


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def one(con: duckdb.DuckDBPyConnection, query: str) -> Any:
    row = con.execute(query).fetchone()
    assert row is not None
    return row


def check(con: duckdb.DuckDBPyConnection, found: duckward.Profile, table: str, column: str) -> None:
    """Compares a profile with what DuckDB says exactly, figure by figure."""
    c = f"{table}.{column}"
    finite = f"filter (where isfinite({c}))" if found.type.startswith(INFINITE) else ""
    rows, values, least, most, distinct = one(
        con,
        f"select count(*), count({c}), (min({c}) {finite})::varchar, (max({c}) {finite})::varchar, "
        f"count(distinct {c}) from {table}",
    )
    assert (found.rows, found.nulls) == (rows, rows - values)
    assert (found.minimum, found.maximum) == (least, most)
    infinite = f"count(*) filter (where isinf({c}))" if finite else "count(*) * 0"
    nan = f"count(*) filter (where isnan({c}))" if found.type in ("FLOAT", "DOUBLE") else "count(*) * 0"
    assert (found.infinite, found.nan) == one(con, f"select {infinite}, {nan} from {table}")
    assert found.distinct_exact or distinct > 100
    assert found.distinct == distinct if found.distinct_exact else 0.7 < found.distinct / distinct < 1.3
    top = found.most_frequent
    if top is None:
        assert values == 0
    else:
        # By value, because the zeros of two signs are one value and two texts.
        [count] = one(
            con,
            f"select count(*) from {table} where {c} in "
            f"(select {c} from {table} where {c}::varchar = {literal(top['value'])})",
        )
        largest = con.execute(
            f"select count(*) n from {table} where {c} is not null group by {c} order by n desc limit 1"
        ).fetchall()[0][0]
        if top["exact"]:
            assert count == largest
            assert math.isclose(top["share"], largest / rows)
        else:
            assert count / rows <= top["share"] * (1 + 1e-9)
        if distinct <= 100:
            assert largest / rows <= top["share"] * (1 + 1e-9)
    assert [conversion["to"] for conversion in found.conversions] == (
        list(TARGETS) if found.type == "VARCHAR" else []
    )
    for conversion in found.conversions:
        cast = f"try_cast({c} as {conversion['to']})"
        [converts] = one(con, f"select count({cast}) from {table}")
        assert (conversion["converts"], conversion["fails"]) == (converts, values - converts)
        failing = {
            value
            for (value,) in con.execute(
                f"select distinct {c} from {table} where {cast} is null and {c} is not null"
            ).fetchall()
        }
        examples = conversion["examples"]
        assert set(examples) <= failing
        assert len(set(examples)) == len(examples) <= 5
        assert bool(examples) == bool(failing)
        assert len(examples) == min(5, len(failing)) or distinct > 100
    check_advice(found)


def check_advice(found: duckward.Profile) -> None:
    """What is advised can be done, and says what it is."""
    if found.cut is None:
        assert found.advice.startswith("not by this column: ")
    else:
        assert found.cut in found.kinds
        assert found.advice.startswith(f"by {found.cut}")
    assert (found.step is None) == (found.cut != "time")
    assert (found.pieces is None) == (found.cut not in ("time", "value"))


def exists(con: duckdb.DuckDBPyConnection, kind: str) -> bool:
    try:
        con.execute(f"create or replace table probe (c {kind})")
    except duckdb.Error:
        return False
    return True


# ---------------------------------------------------------------- every type


@pytest.mark.parametrize("kind", TYPES)
def test_every_type(con: duckdb.DuckDBPyConnection, ward: duckward.Ward, kind: str) -> None:
    if not exists(con, kind):
        pytest.skip(f"this DuckDB has no {kind}")
    values = [f"{literal(value)}::{kind}" for value in TYPES[kind]]
    nothing = f"null::{kind}"
    for index, rows in enumerate(
        ([], [nothing], [nothing, nothing], values[:1], [*values, nothing], values * 3 + values[:1] * 2)
    ):
        table = f"t{index}"
        con.execute(f"create table {table} (c {kind})")
        for row in rows:
            con.execute(f"insert into {table} select {row}")
        found = ward.profile(table, "c")
        assert found.type == con.execute(f"describe {table}").fetchall()[0][1]
        check(con, found, table, "c")
        if not rows or rows[0] == nothing or len(set(rows)) == 1:
            assert found.cut is None
            assert found.kinds == []


def test_a_union(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    con.execute("create table t (c union(a integer, b varchar))")
    con.execute("insert into t values (1), ('x'), ('x'), (null)")
    found = ward.profile("t", "c")
    assert (found.type, found.rows, found.cut) == ("UNION(a INTEGER, b VARCHAR)", 4, None)
    assert "have parts" in found.advice


def test_an_enum_is_counted_exactly_however_many_values_it_has(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    con.execute("create type many as enum (select 'v' || i from range(500) r(i))")
    con.execute("create table t as select ('v' || (i % 400))::many as c from range(4000) r(i)")
    found = ward.profile("t", "c")
    assert (found.distinct, found.distinct_exact, found.cut) == (400, True, "hash")


@pytest.mark.parametrize("count", [1, 99, 100, 101, 102, 303, 304, 5000])
def test_few_values_are_known_exactly(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, count: int
) -> None:
    con.execute(f"create table t as select i % {count} as i, 'v' || i % {count} as s from range(20000) r(i)")
    for column in "is":
        found = ward.profile("t", column)
        check(con, found, "t", column)
        assert found.distinct_exact == (count <= 100)


def test_collations_and_zeros_do_not_confuse_counts(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    con.execute("create table t (c varchar collate nocase)")
    con.execute("insert into t select unnest(['a', 'A', 'b', 'B', 'B'])")
    top = ward.profile("t", "c").most_frequent
    assert top == {"value": "B", "share": 0.4, "exact": True}


# ---------------------------------------------------------------- random columns


def column_of(rng: random.Random, kind: str) -> list[str | None]:
    """Values of a random column: few or many, even or lopsided, with and without NULL."""
    few = rng.choice([1, 2, 5, 60, 150, 4000])
    texts = {
        "BIGINT": lambda n: str(n * 7 - 50),
        "DOUBLE": lambda n: rng.choice(["nan", "inf"]) if n == 3 else str(n / 8 - 1),
        "DECIMAL(18,3)": lambda n: f"{n}.{n % 1000:03}",
        "DATE": lambda n: "infinity" if n == 4 else f"{1900 + n % 200}-{1 + n % 12:02}-{1 + n % 28:02}",
        "TIMESTAMP": lambda n: f"2024-{1 + n % 12:02}-{1 + n % 28:02} {n % 24:02}:00:{n % 60:02}",
        "BOOLEAN": lambda n: str(n % 2 == 0),
        "BLOB": lambda n: f"\\x{n % 256:02X}{n}",
        "VARCHAR": lambda n: rng.choice(
            [
                f"{n}",
                f"0{n}",
                f"{n}.5",
                f"2024-01-{1 + n % 28:02}",
                f"2024-01-{1 + n % 28:02} 10:00:00",
                "true",
                "N/A",
                "",
                f"日{n}\n\\",
            ]
        )
        if few > 60
        else ["12", "2024-01-01", "yes", "1e3", "x\\n", "\n", "-7", "nan"][n % 8],
    }  # fmt: skip
    lopsided, holes = rng.random() < 0.4, rng.choice([0.0, 0.1, 0.9])
    values: list[str | None] = []
    for _ in range(rng.choice([1, 50, 3000])):
        n = 0 if lopsided and rng.random() < 0.7 else rng.randrange(few)
        values.append(None if rng.random() < holes else texts[kind](n))
    return values


@pytest.mark.parametrize("seed", range(12))
def test_random_columns_are_as_duckdb_counts_them(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, seed: int
) -> None:
    rng = random.Random(seed)
    kinds = [
        "BIGINT",
        "DOUBLE",
        "DECIMAL(18,3)",
        "DATE",
        "TIMESTAMP",
        "BOOLEAN",
        "BLOB",
        "VARCHAR",
        "VARCHAR",
    ]
    for kind in kinds:
        con.execute(f"create or replace table t (c {kind})")
        con.execute(f"insert into t select unnest(?::varchar[])::{kind}", [column_of(rng, kind)])
        check(con, ward.profile("t", "c"), "t", "c")


def test_all_columns_at_once_say_what_each_says_alone(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    con.execute(
        "create table t as select i % 7 as few, i as id, 'u' || floor(sqrt(i)) as s, (i % 3)::boolean as b, "
        "date '2024-01-01' + (i % 300)::integer as d, i / 3 as f, null as n, [i] as l from range(5000) r(i)"
    )
    together = ward.profile("t")
    assert [found.name for found in together] == ["few", "id", "s", "b", "d", "f", "n", "l"]
    for found in together:
        alone = ward.profile("t", found.name).to_dict()
        told = found.to_dict()
        # Which of several equally frequent values is named is a matter of threads.
        tops = [told.pop("most_frequent"), alone.pop("most_frequent")]
        assert told == alone
        if found.distinct_exact:
            assert len({top and top["share"] for top in tops}) == 1


# ---------------------------------------------------------------- names and sources


NAMES = [
    "plain",
    "two words",
    'quo"te',
    "a.b",
    "it's",
    "s",
    "c0",
    "c1",
    "n",
    "select",
    "x" * 200,
    "日本語",
    "top0",
]


def test_any_name(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in NAMES]
    columns = ", ".join(f"{index} as {name}" for index, name in enumerate(quoted))
    con.execute(f'create table "odd ""table.s" as select {columns} from range(3)')
    for index, name in enumerate(NAMES):
        for asked in (name, name.upper()):
            found = ward.profile('"odd ""table.s"', asked)
            assert (found.name, found.minimum) == (name, str(index))
    assert [found.minimum for found in ward.profile('"odd ""table.s"')] == [str(i) for i in range(len(NAMES))]


def test_tables_views_files_and_queries(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("create table t as select i % 4 as k, i as v from range(100) r(i)")
    con.execute("create view w as from t")
    sources = ["t", "main.t", "memory.main.t", "w", "from t", "select * from t;", "values (0, 1), (1, 2)"]
    for ending in ("parquet", "csv"):
        con.execute(f"copy t to '{tmp_path}/it_s.{ending}'")
        sources.append(f"{tmp_path}/it_s.{ending}")
    for source in sources:
        found = ward.profile(source)
        assert len(found) == 2, source
        assert found[0].minimum == "0", source
    twice = ward.profile("select 1 as a, 2 as a")
    assert [found.minimum for found in twice] == ["1", "2"]


def test_another_connection(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    cursor = ward.cursor()
    cursor.execute("create temp table mine as select 42 as a")
    assert ward.profile("mine", "a", connection=cursor).minimum == "42"
    with pytest.raises(duckdb.CatalogException):
        ward.profile("mine", "a")


def test_an_unknown_table_is_duckdbs_own_error(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    with pytest.raises(duckdb.CatalogException) as plain:
        con.execute('DESCRIBE SELECT * FROM "nowhere"')
    with pytest.raises(duckdb.CatalogException) as ours:
        ward.profile("nowhere", "a")
    assert str(ours.value).splitlines()[0] == str(plain.value).splitlines()[0]


@pytest.mark.parametrize("source", ["", " ", "select 1; select 2"])
def test_what_is_no_source(ward: duckward.Ward, source: str) -> None:
    with pytest.raises(duckward.InvalidInputError, match="source"):
        ward.profile(source)


def test_an_unknown_column_is_named_with_those_there_are(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    con.execute("create table t (first integer, second integer)")
    with pytest.raises(duckward.InvalidInputError) as error:
        ward.profile("t", "third")
    for word in ("third", "first, second"):
        assert word in str(error.value)


def test_nothing_is_left_behind_and_a_closed_ward_refuses(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("create table t as select 1 as a")
    before = con.execute("select * from duckdb_settings() order by name").fetchall()
    with duckward.guard(con, memory="2GB") as ward:
        ward.profile("t")
    assert con.execute("select * from duckdb_settings() order by name").fetchall() == before
    assert con.execute("select table_name from duckdb_tables()").fetchall() == [("t",)]
    with pytest.raises(duckward.StateError):
        ward.profile("t")


# ---------------------------------------------------------------- the advice


SPANS = [
    ("2024-01-01 00:00:00", "2024-01-01 20:30:00", "hour"),
    ("2024-02-20 00:00:00", "2024-03-15 12:00:00", "day"),
    ("2022-12-31 23:59:59", "2024-01-01 00:00:00", "month"),
    ("1969-06-15 00:00:00", "1971-07-01 00:00:00", "month"),
    ("1890-01-01 00:00:00", "1900-12-31 00:00:00", "quarter"),
    ("1900-05-05 00:00:00", "2024-05-05 00:00:00", "year"),
]


@pytest.mark.parametrize(
    "kind", ["DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ"]
)
@pytest.mark.parametrize(("first", "last", "step"), SPANS)
def test_times_are_cut_by_a_step_of_the_calendar(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, kind: str, first: str, last: str, step: str
) -> None:
    con.execute("set timezone = 'UTC'")
    con.execute(
        f"create table t as select unnest(range(timestamp '{first}', timestamp '{last}' + interval 1 second, "
        f"greatest((timestamp '{last}' - timestamp '{first}') / 5000, interval 1 second)))::{kind} as c "
        f"union all select timestamp '{last}'::{kind} union all select 'infinity'::{kind}"
    )
    found = ward.profile("t", "c")
    if kind == "DATE" and step == "hour":
        assert found.cut is None
        return
    assert (found.cut, found.step) == ("time", step), found.advice
    [pieces] = one(con, f"select count(distinct date_trunc('{step}', c)) from t where isfinite(c)")
    assert found.pieces == pieces
    assert 4 <= pieces <= 200
    assert f"each {step}" in found.advice


@pytest.mark.parametrize(
    ("values", "cut", "words"),
    [
        ("i % 12", "value", "12 values"),
        ("'shop ' || i % 100", "value", "100 values"),
        ("i % 2000", "range", "in an order"),
        ("i", "hash", "as keys have"),
        ("'user ' || i", "hash", "as keys have"),
        ("'user ' || i % 2000", "range", "in an order"),
        ("uuid()", "hash", "as keys have"),
        ("sqrt(i)", "range", "in an order"),
        ("7", None, "only one value"),
        ("if(i % 2 = 0, 7, null)", None, "only one value besides NULL"),
        ("null::integer", None, "all of it is NULL"),
        ("if(i % 10 = 0, i::double, 'nan'::double)", None, "90 % of its values are NaN"),
        ("if(i % 10 = 0, i, 7)", None, "no cut splits one value"),
        ("if(i % 10 = 0, i % 50, 7)", None, "no cut splits one value"),
        ("[i]", None, "have parts"),
        ("{'a': i}", None, "have parts"),
        ("if(i % 4 = 0, i % 40, null)", "value", "NULL, a piece of its own, has 75 %"),
        ("date '9999-12-31' - (i % 2 * 3000000 + i % 3)::integer", "value", "values"),
        ("date '9999-12-31' - (i % 2 * 3000000 + i % 300)::integer", "range", "no step of the calendar"),
        ("(date '2024-01-01' + (i % 300)::integer)::varchar", "range", "every value is a DATE"),
        ("(i % 3000)::varchar", "range", "every value is a BIGINT"),
        ("(i % 3000 + 0.5)::varchar", "range", "every value is a DOUBLE"),
        ("if(i % 2 = 0, 'yes', 'no')", "value", "every value is a BOOLEAN"),
        (
            "(timestamp '2024-01-01' + interval (i % 3000) second)::varchar",
            "range",
            "every value is a TIMESTAMP",
        ),
    ],
)
def test_advice(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, values: str, cut: str | None, words: str
) -> None:
    con.execute(f"create table t as select {values} as c from range(10000) r(i)")
    found = ward.profile("t", "c")
    assert found.cut == cut, found.advice
    assert words in found.advice
    check_advice(found)


@pytest.mark.parametrize(
    ("values", "to", "altered"),
    [
        ("['1', '2']", "BIGINT", 0),
        ("['1', ' 2 ']", "BIGINT", 0),
        ("['1', '2.5']", "BIGINT", 1),
        ("['01234', '1']", "BIGINT", 1),
        ("['01234', '1']", "DOUBLE", 1),
        ("['1.50', '-0.25', '0.30000000000000004', '1e3']", "DOUBLE", 0),
        ("['12345678901234567890', '1']", "DOUBLE", 1),
        ("['2024-01-01', '2024-01-01 00:00:00']", "DATE", 0),
        ("['2024-01-01', '2024-01-01 10:00:00']", "DATE", 1),
        ("['2024-01-01', '2024-01-01 10:00:00+02', '2024-01-01T10:00:00Z']", "TIMESTAMP", 1),
        ("['2024-01-01 10:00:00.123456', '2024-01-01 10:00:00.1234567']", "TIMESTAMP", 1),
    ],
)
def test_a_conversion_that_loses_something_is_not_proposed(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward, values: str, to: str, altered: int
) -> None:
    con.execute(f"create table t as select unnest({values}) as c")
    found = ward.profile("t", "c")
    [tried] = [conversion for conversion in found.conversions if conversion["to"] == to]
    assert (tried["fails"], tried["altered"]) == (0, altered)
    assert (found.converts_to == to) == (altered == 0)


def test_odd_texts_convert_as_duckdb_converts_them(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    rng = random.Random(1)
    parts = [
        "2024-01-01", "2024/1/1", "24-1-1", "0001-01-01", " ", "T", "10:00", "10:00:00.5", "24:00:00", "Z",
        "+02", " UTC", "infinity", "-inf", "epoch", " (BC)", "20240101", "1", "-", "5881580-07-10",
        "294247-01-10", "1e400", "0x1F", ".", "\n", "t", "no",
    ]  # fmt: skip
    texts = ["".join(rng.choices(parts, k=rng.randint(1, 5))) for _ in range(20_000)]
    con.execute("create table t as select unnest(?::varchar[]) as c", [texts])
    check(con, ward.profile("t", "c"), "t", "c")


def test_frequent_values_that_do_not_convert_come_first(
    con: duckdb.DuckDBPyConnection, ward: duckward.Ward
) -> None:
    con.execute("create table t as select unnest(['a', 'N/A', 'N/A', 'b', '1', '2', 'c', 'd', 'e']) as c")
    [tried] = [
        conversion for conversion in ward.profile("t", "c").conversions if conversion["to"] == "BIGINT"
    ]
    assert (tried["converts"], tried["fails"], len(tried["examples"])) == (2, 7, 5)
    assert tried["examples"][0] == "N/A"


# ---------------------------------------------------------------- how it is told


def test_text_html_and_data(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    con.execute("create table t as select '<' || i % 3 as c from range(9) r(i) union all select '5'")
    found = ward.profile("t", "c")
    assert "most frequent  '<0': 30.0 % of the rows" in str(found)
    assert "converts to    BIGINT: 1 values; 9 do not, such as '<0'" in str(found)
    assert repr(found).startswith("<duckward.Profile: c VARCHAR, by value")
    assert "&lt;0" in found._repr_html_()
    told = found.to_dict()
    assert json.loads(json.dumps(told)) == told
    for name, value in told.items():
        assert getattr(found, name) == value


def test_it_runs_guarded(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    con.execute("create table t as select i from range(1000) r(i)")
    events: list[dict[str, Any]] = []
    ward.on(events.append)
    ward.profile("t")
    ended = [event for event in events if event["event"] == "query_ended"]
    assert len(ended) == 2, "DESCRIBE, and one pass"


def test_many_columns(con: duckdb.DuckDBPyConnection, ward: duckward.Ward) -> None:
    columns = ", ".join(f"i % {n + 2} as c{n}" for n in range(150))
    con.execute(f"create table t as select {columns} from range(1000) r(i)")
    found = ward.profile("t")
    assert [each.distinct for each in found[:98]] == list(itertools.accumulate([2] + [1] * 97))
