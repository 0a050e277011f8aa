"""Every shape of an answer is what DuckDB itself gives for the same statement."""

from __future__ import annotations

import gc
import os
import pathlib
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import duckward

Con = duckdb.DuckDBPyConnection
# DuckDB from 2.0 on refuses other work while an answer is read from it.
HOLDS = hasattr(Con, "complete")

TYPES = {
    "boolean": "true",
    "tinyint": "(-128)::TINYINT",
    "smallint": "32767::SMALLINT",
    "integer": "(-2147483648)::INTEGER",
    "bigint": "9223372036854775807",
    "hugeint": "170141183460469231731687303715884105727::HUGEINT",
    "hugeint negative": "(-170141183460469231731687303715884105727)::HUGEINT",
    "uhugeint": "340282366920938463463374607431768211455::UHUGEINT",
    "utinyint": "255::UTINYINT",
    "usmallint": "65535::USMALLINT",
    "uinteger": "4294967295::UINTEGER",
    "ubigint": "18446744073709551615::UBIGINT",
    "float": "1.5::FLOAT",
    "double": "0.1::DOUBLE",
    "infinity": "'-inf'::DOUBLE",
    "nan": "'nan'::DOUBLE",
    "decimal of 16 bits": "12.34::DECIMAL(4, 2)",
    "decimal of 128 bits": "(-12345678901234567890123456789.123456789)::DECIMAL(38, 9)",
    "varchar": "'grün 🦆 \\ '''",
    "long varchar": "repeat('duck', 20000)",
    "empty varchar": "''",
    "blob": "'\\x00\\xFFab'::BLOB",
    "bit": "'10101'::BIT",
    "date": "DATE '0044-03-15'",
    "time": "TIME '23:59:59.999999'",
    "time with zone": "'12:30:00+02'::TIMETZ",
    "timestamp": "TIMESTAMP '2026-11-20 12:34:56.789012'",
    "timestamp s": "'2026-11-20 12:34:56'::TIMESTAMP_S",
    "timestamp ms": "'2026-11-20 12:34:56.789'::TIMESTAMP_MS",
    "timestamp ns": "'2026-11-20 12:34:56.789012345'::TIMESTAMP_NS",
    "timestamp with zone": "TIMESTAMPTZ '2026-11-20 12:34:56.789012+00'",
    "interval": "INTERVAL '3 months 4 days 5 seconds'",
    "uuid": "'5c2f8c26-6a0c-4b59-9d0e-3b6a4bf3d5c1'::UUID",
    "enum": "'sad'::ENUM('happy', 'sad')",
    "json": "'{\"a\": [1, null]}'::JSON",
    "list": "[1, NULL, 3]",
    "empty list": "[]::INTEGER[]",
    "list of lists": "[['a'], NULL, []]::VARCHAR[][]",
    "array": "[1, 2, 3]::INTEGER[3]",
    "struct": "{'a': 1, 'b': {'c': [TRUE], 'd': NULL::DATE}}",
    "map": "MAP {'k': [1], 'l': NULL}",
    "union": "union_value(num := 2)::UNION(num INTEGER, str VARCHAR)",
    "null": "NULL",
    "list of structs": "[{'a': 1.5::DECIMAL(9, 3), 'u': '5c2f8c26-6a0c-4b59-9d0e-3b6a4bf3d5c1'::UUID}]",
    "enum in list": "['a', 'b', NULL]::ENUM('a', 'b')[]",
}


def arrow_form(table: pa.Table) -> tuple[Any, ...]:
    """A table as something that can be compared, NaN included."""
    return str(table.schema.remove_metadata()), repr(table.to_pylist())


def numpy_form(columns: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(name, str(values.dtype), repr(values.tolist())) for name, values in columns.items()]


def df_form(frame: pd.DataFrame) -> tuple[Any, ...]:
    return list(frame.columns), [str(t) for t in frame.dtypes], repr(frame.to_dict("list"))


def batches_form(answer: duckward.Answer) -> tuple[Any, ...]:
    schema = answer.schema
    return arrow_form(pa.Table.from_batches(list(answer), schema))


def rows_one_by_one(answer: Any) -> str:
    return repr(list(iter(answer.fetchone, None)))


def rows_some_by_some(answer: Any) -> str:
    rows = []
    while part := answer.fetchmany(7):
        rows += part
    return repr(rows)


def pl_form(frame: pl.DataFrame) -> tuple[Any, ...]:
    return str(frame.schema), repr(frame.rows())


Shape = tuple[Callable[[Any], Any], Callable[[duckdb.DuckDBPyRelation], Any]]
SHAPES: dict[str, Shape] = {
    "fetchall": (lambda a: repr(a.fetchall()), lambda r: repr(r.fetchall())),
    "fetchone": (rows_one_by_one, lambda r: repr(r.fetchall())),
    "fetchmany": (rows_some_by_some, lambda r: repr(r.fetchall())),
    "to_arrow": (lambda a: arrow_form(a.to_arrow()), lambda r: arrow_form(r.to_arrow_table())),
    "iteration": (batches_form, lambda r: arrow_form(r.to_arrow_table())),
    "stream": (lambda a: arrow_form(pa.table(a)), lambda r: arrow_form(r.to_arrow_table())),
    "df": (lambda a: df_form(a.df()), lambda r: df_form(r.df())),
    "pl": (lambda a: pl_form(a.pl()), lambda r: pl_form(r.pl())),
    "fetchnumpy": (lambda a: numpy_form(a.fetchnumpy()), lambda r: numpy_form(r.fetchnumpy())),
}


def outcome(work: Callable[[], Any]) -> Any:
    """What `work` gives, or the class that it raises."""
    try:
        return work()
    except BaseException as error:  # polars panics with a BaseException.
        if isinstance(error, KeyboardInterrupt):
            raise
        return type(error)


def same_in_every_shape(ward: duckward.Ward, sql: str, params: Any = None) -> None:
    con = ward.connection
    for name, (guarded, plain) in SHAPES.items():
        expected = outcome(lambda plain=plain: plain(con.sql(sql, params=params)))
        actual = outcome(lambda guarded=guarded: guarded(ward.sql(sql, params)))
        assert actual == expected, f"{name} of {sql}"


# ---------------------------------------------------------------- types and shapes


@pytest.mark.filterwarnings("ignore::UserWarning:pyarrow", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TYPES)
def test_every_type_comes_as_duckdb_gives_it(ward: duckward.Ward, name: str) -> None:
    same_in_every_shape(ward, f"SELECT {TYPES[name]} AS v UNION ALL SELECT NULL")


@pytest.mark.parametrize("name", TYPES)
def test_every_type_survives_the_way_over_the_disk(con: Con, name: str) -> None:
    """With hardly any memory for answers, `to_arrow()` goes through a file."""
    # Enough rows for several batches, so that dictionaries and nulls meet their borders.
    copies = 3 if name == "long varchar" else 5000
    sql = (
        f"SELECT t.v, r.range FROM range({copies}) r LEFT JOIN (SELECT {TYPES[name]} AS v) t "
        "ON r.range % 3 <> 1 ORDER BY r.range"
    )
    with duckward.guard(con, "2GB", answer_memory=1, batch_rows=2048) as ward:
        answer = ward.sql(sql)
        table = answer.to_arrow()
        assert answer.report.spooled
        assert arrow_form(table) == arrow_form(con.sql(sql).to_arrow_table())


def test_lossless_conversion_is_kept(ward: duckward.Ward) -> None:
    ward.connection.execute("SET arrow_lossless_conversion = true")
    for name in ("bit", "hugeint", "uhugeint", "time with zone", "uuid", "json"):
        same_in_every_shape(ward, f"SELECT {TYPES[name]} AS v")


def test_string_views_come_through(con: Con) -> None:
    con.execute("SET arrow_large_buffer_size = true")
    with duckward.guard(con, "2GB", answer_memory=1) as ward:
        same_in_every_shape(ward, "SELECT range, repeat('x', range::INTEGER) s FROM range(100)")
        con.execute("SET arrow_large_buffer_size = false; SET produce_arrow_string_view = true")
        same_in_every_shape(ward, "SELECT range, repeat('x', range::INTEGER) s FROM range(100)")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "select -1 AS one, 'x' AS b, NULL AS n, true, 2.50 AS a, 3 AS a",
        "SELECT 1 AS a, 'x' AS b WHERE FALSE",
        "SELECT range FROM range(1)",
        "SELECT range AS r, range::VARCHAR AS v FROM range(2047)",
        "SELECT range AS r, range::VARCHAR AS v FROM range(2048)",
        "SELECT range AS r, range::VARCHAR AS v FROM range(20001)",
        'SELECT 1 AS a, 2 AS a, 3 AS ""',
        "SELECT NULL AS n FROM range(3)",
        "FROM range(5)",
        "VALUES (1, 'x'), (2, NULL)",
        "WITH t AS (SELECT 1 AS a) SELECT * FROM t ORDER BY a DESC",
        "(SELECT 3) UNION ALL (SELECT 1) ORDER BY 1",
        "SELECT * FROM (VALUES (3), (1), (2)) t(v) ORDER BY v DESC LIMIT 2",
        "SELECT 'a;b' AS v -- the end; really",
        "/* first */ SELECT 1",
        "DESCRIBE SELECT 1 AS a",
        "SUMMARIZE SELECT range FROM range(10)",
        "SHOW TABLES",
    ],
)
def test_every_shape_of_a_query_is_duckdbs(ward: duckward.Ward, sql: str) -> None:
    same_in_every_shape(ward, sql)


def test_random_queries_answer_as_without_a_guard(ward: duckward.Ward) -> None:
    """Random projections, filters, groups and orders over a table of mixed types."""
    rng = random.Random(20261120)
    con = ward.connection
    con.execute(
        "CREATE TABLE t AS SELECT range AS i, (range * 7919) % 101 AS k, 'v' || range % 13 AS s, "
        "CASE WHEN range % 5 > 0 THEN (range / 3.0)::DECIMAL(12, 3) END AS d, "
        "DATE '2026-01-01' + (range % 400)::INTEGER AS day FROM range(5000)"
    )
    columns = ["i", "k", "s", "d", "day"]
    for _ in range(25):
        picked = rng.sample(columns, rng.randint(1, 5))
        where = rng.choice(
            ["", "WHERE k < 50", "WHERE d IS NULL", "WHERE i < 0", f"WHERE i % {rng.randint(1, 9)} = 0"]
        )
        if rng.random() < 0.4:
            what = f"{picked[0]}, count(*) AS n, sum(d) AS total, max(s) AS m"
            sql = f"SELECT {what} FROM t {where} GROUP BY ALL ORDER BY ALL"
        else:
            sql = f"SELECT {', '.join(picked)} FROM t {where} ORDER BY i LIMIT {rng.randint(0, 3000)}"
        same_in_every_shape(ward, sql)


def test_columns_and_schema_are_known(ward: duckward.Ward) -> None:
    answer = ward.sql("SELECT 1::INTEGER AS a, 'x' AS b")
    assert answer.columns == ["a", "b"]
    assert answer.schema.names == ["a", "b"]
    assert answer.schema.types[0] == pa.int32()


def test_literals_are_an_answer_like_any_other(ward: duckward.Ward) -> None:
    answer = ward.sql("SELECT 1 AS a, 'x' AS b")
    assert answer.columns == ["a", "b"]
    assert answer.schema.types[0] == pa.int32()
    assert "answered" not in repr(answer)
    assert answer.fetchall() == [(1, "x")]
    assert (answer.report.rows, answer.report.outcome) == (1, "answered")
    with pytest.raises(duckward.Error, match="already read by fetchall"):
        answer.fetchall()
    one = ward.sql("SELECT 7")
    assert one.fetchone() == (7,)
    with pytest.raises(duckward.Error, match="already read"):
        one.to_arrow()
    assert one.fetchone() is None
    with ward.sql("SELECT 7") as unread:
        pass
    with pytest.raises(duckward.Error, match="closed"):
        unread.fetchall()
    # An open answer of the same connection goes on.
    rows = ward.sql("SELECT range AS r FROM range(300000)")
    first = next(rows)
    assert ward.sql("SELECT 1").fetchall() == [(1,)]
    assert first.num_rows + sum(batch.num_rows for batch in rows) == 300000
    ward.connection.close()
    with pytest.raises(duckdb.ConnectionException):
        ward.sql("SELECT 1")


def test_the_schema_is_the_one_of_the_batches(ward: duckward.Ward) -> None:
    answer = ward.sql("SELECT 1::INTEGER AS a, 2::BIGINT AS a")
    assert answer.schema.equals(next(answer).schema)


def test_polars_and_another_connection_read_the_stream(ward: duckward.Ward) -> None:
    sql = "SELECT range AS r, range::VARCHAR AS v FROM range(30000)"
    assert pl.DataFrame(ward.sql(sql)).equals(ward.connection.sql(sql).pl())
    answer = ward.sql(sql)  # noqa: F841, found by name
    with duckdb.connect() as other:
        assert other.sql("SELECT count(*), sum(r), max(v) FROM answer").fetchall() == [
            (30000, 449985000, "9999")
        ]


def test_a_stream_that_is_not_read_to_its_end_frees_the_connection(ward: duckward.Ward) -> None:
    reader = pa.RecordBatchReader.from_stream(ward.sql("SELECT * FROM range(1000000)"))
    assert reader.read_next_batch().num_rows > 0
    del reader
    assert ward.connection.sql("SELECT 1").fetchall() == [(1,)]


def test_batches_have_the_rows_that_were_asked_for(con: Con) -> None:
    with duckward.guard(con, "2GB", batch_rows=2048) as ward:
        sizes = [batch.num_rows for batch in ward.sql("SELECT * FROM range(10000)")]
        assert sum(sizes) == 10000
        assert max(sizes) <= 2048


def test_volatile_functions_run_once_a_reading(ward: duckward.Ward) -> None:
    ward.sql("CREATE SEQUENCE s")
    read = [
        ward.sql("SELECT nextval('s')").fetchall()[0][0],
        ward.sql("SELECT nextval('s')").to_arrow().column(0)[0].as_py(),
        next(iter(ward.sql("SELECT nextval('s')"))).column(0)[0].as_py(),
        ward.sql("SELECT nextval('s')").fetchone()[0],  # type: ignore[index]
        int(ward.sql("SELECT nextval('s')").df().iloc[0, 0]),
    ]
    assert read == [1, 2, 3, 4, 5]


# ---------------------------------------------------------------- parameters and statements


def test_parameters_are_bound_as_duckdb_binds_them(ward: duckward.Ward) -> None:
    same_in_every_shape(ward, "SELECT ?::INTEGER + 1 AS a, ? AS b", [1, "x'; DROP TABLE t"])
    same_in_every_shape(ward, "SELECT $name::VARCHAR AS a, $n::DOUBLE AS b", {"name": None, "n": 2.5})
    assert ward.sql("SELECT 1; SELECT $1::INTEGER", [5]).fetchall() == [(5,)]
    with pytest.raises(duckdb.InvalidInputException, match="parameter"):
        ward.sql("SELECT ?::INTEGER, ?::INTEGER", [1]).fetchall()


def test_of_several_statements_all_run_and_the_last_answers(ward: duckward.Ward) -> None:
    answer = ward.sql(
        "CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1), (2); SELECT 'not shown';"
        "UPDATE t SET i = i * 10; SELECT sum(i)::INTEGER AS s FROM t;"
    )
    assert answer.fetchall() == [(30,)]
    with pytest.raises(duckdb.CatalogException):
        ward.sql("INSERT INTO t VALUES (3); SELECT * FROM nowhere; INSERT INTO t VALUES (4)")
    assert ward.sql("SELECT count(*) FROM t").fetchall() == [(3,)], "what stood before the error was done"


def test_ddl_and_dml_run_at_once_and_count(ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    ward.sql("CREATE TABLE t (i INTEGER PRIMARY KEY, s VARCHAR)")
    inserted = ward.sql("INSERT INTO t SELECT range, 'x' FROM range(10)")
    assert inserted.report.rows == 10
    assert inserted.fetchall() == [(10,)]
    assert ward.sql("UPDATE t SET s = 'y' WHERE i < 3").fetchall() == [(3,)]
    assert ward.sql("DELETE FROM t WHERE i = 9").fetchone() == (1,)
    path = tmp_path / "t.parquet"
    assert ward.sql(f"COPY t TO '{path}' (FORMAT parquet)").fetchall() == [(9,)]
    assert ward.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(9,)]
    with pytest.raises(duckdb.ConstraintException):
        ward.sql("INSERT INTO t VALUES (1, 'again')")
    assert ward.sql("DROP TABLE t").fetchall() == []


def test_described_statements_give_duckdbs_rows(ward: duckward.Ward) -> None:
    con = ward.connection
    con.execute("CREATE TABLE t AS SELECT range AS i FROM range(3)")
    for sql in (
        "PRAGMA table_info('t')",
        "EXPLAIN SELECT * FROM t",
        "CALL pragma_version()",
        "PRAGMA version",
    ):
        assert ward.sql(sql).fetchall() == con.sql(sql).fetchall(), sql
    assert ward.sql("DELETE FROM t WHERE i = 0 RETURNING i").fetchall() == [(0,)]
    assert ward.sql("INSERT INTO t VALUES (7) RETURNING i, i * 2 AS j").columns == ["i", "j"]
    assert ward.sql("SELECT count(*) FROM t WHERE i = 7").fetchall() == [(1,)], "it ran once"


def test_a_statement_that_ran_at_once_is_read_in_parts(ward: duckward.Ward) -> None:
    answer = ward.sql("CALL range(5)")
    assert answer.fetchone() == (0,)
    assert answer.fetchmany(2) == [(1,), (2,)]
    assert answer.fetchall() == [(3,), (4,)]


@pytest.mark.parametrize("sql", ["EXPLAIN SELECT 1", "PRAGMA version", "CREATE TABLE t (i INTEGER)"])
def test_a_statement_that_ran_at_once_can_be_iterated(ward: duckward.Ward, sql: str) -> None:
    rows = ward.sql(sql.replace(" t ", " u ")).fetchall()
    assert sum(batch.num_rows for batch in ward.sql(sql)) == len(rows)


@pytest.mark.parametrize("sql", ["EXPLAIN SELECT 1", "CREATE TABLE t (i INTEGER)"])
def test_a_statement_that_ran_at_once_has_a_schema(ward: duckward.Ward, sql: str) -> None:
    answer = ward.sql(sql)
    assert answer.schema.names == answer.columns


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (2, 2.5, 'b') RETURNING *",
        "PIVOT t ON s USING sum(i)",
        "SELECT * FROM (PIVOT t ON s USING sum(d))",
    ],
)
def test_returning_and_pivot_keep_their_types(ward: duckward.Ward, sql: str) -> None:
    setup = "CREATE OR REPLACE TABLE t AS SELECT 1::INTEGER AS i, 1.5::DECIMAL(9, 2) AS d, 'a' AS s"
    for name, (guarded, plain) in SHAPES.items():
        ward.connection.execute(setup)
        expected = plain(ward.connection.sql(sql))
        ward.connection.execute(setup)
        assert guarded(ward.sql(sql)) == expected, name


def test_the_count_of_a_change_does_not_depend_on_its_text(ward: duckward.Ward) -> None:
    ward.sql("CREATE TABLE t (s VARCHAR)")
    assert ward.sql("INSERT INTO t VALUES ('returning customer')").fetchall() == [(1,)]
    ward.connection.execute("PREPARE p AS INSERT INTO t VALUES ('x'), ('y')")
    assert ward.sql("EXECUTE p").fetchall() == [(2,)]


def test_prepared_statements_and_parsed_statements_run(ward: duckward.Ward) -> None:
    con = ward.connection
    con.execute("PREPARE p AS SELECT $1::INTEGER * 2 AS v")
    assert ward.sql("EXECUTE p(21)").fetchall() == [(42,)]
    (statement,) = con.extract_statements("SELECT 42 AS v")
    assert ward.sql(statement).fetchall() == [(42,)]


def test_errors_of_the_statement_are_duckdbs_own(ward: duckward.Ward) -> None:
    with pytest.raises(duckdb.ParserException, match="SELCT"):
        ward.sql("SELCT 1")
    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        ward.sql("SELECT * FROM nowhere")
    with pytest.raises(duckdb.BinderException, match="nope"):
        ward.sql("SELECT nope FROM range(1)")
    sql = (
        "SELECT (CASE WHEN range < 90000 THEN range::VARCHAR ELSE 'bad one' END)::INTEGER FROM range(100000)"
    )
    for read in (
        lambda a: a.fetchall(),
        lambda a: a.to_arrow(),
        lambda a: a.df(),
        lambda a: a.pl(),
        lambda a: a.fetchnumpy(),
        lambda a: list(iter(a.fetchone, None)),
        lambda a: list(a),
    ):
        answer = ward.sql(sql)
        with pytest.raises(duckdb.ConversionException, match="bad one"):
            read(answer)
        assert answer.report.outcome.startswith("failed")
    assert ward.sql("SELECT 1").fetchall() == [(1,)]


# ---------------------------------------------------------------- what the connection knows

FRAME = pd.DataFrame({"a": [1, 2, 3]})


def read_elsewhere(answer: duckward.Answer) -> list[tuple[Any, ...]]:
    """Reads where the caller's variables are not in sight."""
    return answer.fetchall()


def test_local_and_global_frames_are_found(ward: duckward.Ward) -> None:
    arrow = pa.table({"a": [10, 20]})  # noqa: F841, found by name
    lazy = pl.LazyFrame({"a": [5, 6]})  # noqa: F841
    polars = pl.DataFrame({"a": [7]})  # noqa: F841
    local = FRAME * 2  # noqa: F841
    assert ward.sql("SELECT sum(a)::INTEGER FROM FRAME").fetchall() == [(6,)]
    assert ward.sql("SELECT sum(a)::INTEGER FROM local").fetchall() == [(12,)]
    assert ward.sql("SELECT sum(a)::INTEGER FROM arrow").to_arrow().column(0).to_pylist() == [30]
    assert ward.sql("SELECT a FROM polars UNION ALL SELECT a FROM lazy ORDER BY 1").fetchall() == [
        (5,),
        (6,),
        (7,),
    ]
    assert ward.sql("WITH x AS (FROM local) SELECT count(*) FROM x").fetchall() == [(3,)]
    assert ward.sql("CREATE TABLE t AS SELECT * FROM local").fetchall() == [(3,)]
    assert ward.sql("SELECT 1; SELECT max(a) FROM local").fetchall() == [(6,)]


def test_a_frame_is_found_where_sql_was_called_not_where_it_is_read(ward: duckward.Ward) -> None:
    def made() -> duckward.Answer:
        local = pd.DataFrame({"a": [4, 5]})  # noqa: F841
        return ward.sql("SELECT sum(a)::INTEGER FROM local")

    answer = made()
    gc.collect()
    assert read_elsewhere(answer) == [(9,)]
    batches = list(made())
    assert batches[0].column(0).to_pylist() == [9]


def test_registered_objects_and_functions_are_found(ward: duckward.Ward) -> None:
    con = ward.connection
    con.register("shown", pa.table({"a": [1, 2, 3]}))
    con.create_function("twice", lambda x: x * 2, ["BIGINT"], "BIGINT")
    expected = [(2,), (4,), (6,)]
    assert ward.sql("SELECT twice(a) FROM shown ORDER BY 1").fetchall() == expected
    assert ward.sql("SELECT twice(a) AS t FROM shown ORDER BY 1").to_arrow().column(0).to_pylist() == [
        2,
        4,
        6,
    ]
    assert sum(b.num_rows for b in ward.sql("SELECT twice(range) FROM range(5000)")) == 5000


def test_an_exception_in_a_function_reaches_the_caller(ward: duckward.Ward) -> None:
    def broken(x: int) -> int:
        raise ValueError("no such duck")

    ward.connection.create_function("broken", broken, ["BIGINT"], "BIGINT")
    for read in (lambda a: a.fetchall(), lambda a: a.to_arrow(), lambda a: list(a)):
        with pytest.raises(duckdb.InvalidInputException, match="no such duck"):
            read(ward.sql("SELECT broken(1)"))
    assert ward.sql("SELECT 1").fetchall() == [(1,)]


def test_attached_databases_temp_tables_variables_and_settings_stay(
    ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con = ward.connection
    ward.sql(f"ATTACH '{tmp_path / 'other.duckdb'}' AS other")
    ward.sql("CREATE TABLE other.t AS SELECT 42 AS v")
    con.execute("CREATE TEMP TABLE mine AS SELECT 7 AS v")
    con.execute("SET VARIABLE x = 5; SET TimeZone = 'Asia/Tokyo'")
    ward.sql("SET VARIABLE y = 6")
    assert ward.sql("SELECT v FROM other.t").fetchall() == [(42,)]
    assert ward.sql("SELECT v, getvariable('x'), getvariable('y') FROM mine").fetchall() == [(7, 5, 6)]
    assert ward.sql("SELECT current_setting('TimeZone')").fetchall() == [("Asia/Tokyo",)]
    ward.sql("USE other")
    assert con.sql("SELECT v FROM t").fetchall() == [(42,)]
    ward.sql("USE memory")
    ward.sql("DETACH other")


# ---------------------------------------------------------------- several answers, read in parts


def test_an_open_answer_stays_whole_when_another_statement_runs(ward: duckward.Ward) -> None:
    for others in (
        ["SELECT 42"],
        [
            "CREATE OR REPLACE TABLE t AS SELECT * FROM range(10)",
            "INSERT INTO t VALUES (1)",
            "SELECT * FROM t",
        ],
    ):
        answer = ward.sql("SELECT range AS r FROM range(200000)")
        rows = next(answer).column(0).to_pylist()
        given = [ward.sql(other).fetchall() for other in others]
        assert given[0] in ([(42,)], [(10,)])
        for batch in answer:
            rows += batch.column(0).to_pylist()
        assert rows == list(range(200000))
        assert answer.report.rows == 200000


def test_two_answers_are_read_in_turn(ward: duckward.Ward) -> None:
    first = ward.sql("SELECT range AS r FROM range(100000)")
    second = ward.sql("SELECT -range AS r FROM range(100000)")
    one, two = 0, 0
    batches = [next(first, None), next(second, None)]
    while any(batch is not None for batch in batches):
        one += sum(batches[0].column(0).to_pylist()) if batches[0] is not None else 0
        two += sum(batches[1].column(0).to_pylist()) if batches[1] is not None else 0
        batches = [
            next(each, None) if batch is not None else None
            for each, batch in zip((first, second), batches, strict=True)
        ]
    assert one == -two == 99999 * 50000


def test_rows_taken_one_by_one_leave_the_connection_free(ward: duckward.Ward) -> None:
    answer = ward.sql("SELECT range AS r FROM range(100000)")
    assert answer.fetchone() == (0,)
    assert ward.sql("SELECT 42").fetchall() == [(42,)]
    assert answer.fetchmany(2) == [(1,), (2,)]
    assert ward.connection.sql("SELECT 43").fetchall() == [(43,)]
    assert ward.connection.execute("SELECT 44").fetchall() == [(44,)]
    rest = answer.fetchall()
    assert (len(rest), rest[0], rest[-1]) == (99997, (3,), (99999,))


def test_the_connection_used_directly_never_shortens_an_open_answer(ward: duckward.Ward) -> None:
    answer = ward.sql("SELECT range AS r FROM range(200000)")
    total = next(answer).num_rows
    if HOLDS:
        with pytest.raises(duckdb.Error, match="open result"):
            ward.connection.execute("SELECT 42")
    else:
        assert ward.connection.execute("SELECT 42").fetchall() == [(42,)]
    assert total + sum(batch.num_rows for batch in answer) == 200000
    assert ward.connection.execute("SELECT 42").fetchall() == [(42,)]


def test_an_error_in_the_rest_of_an_open_answer_is_told_to_its_reader(ward: duckward.Ward) -> None:
    sql = "SELECT (CASE WHEN range < 3900000 THEN range::VARCHAR ELSE 'bad' END)::INTEGER FROM range(4000000)"
    answer = ward.sql(sql)
    try:
        next(answer)
    except duckdb.ConversionException:
        assert not HOLDS, "the first batch is good"
        return
    assert ward.sql("SELECT 42").fetchall() == [(42,)]
    with pytest.raises(duckdb.ConversionException, match="bad"):
        list(answer)


READERS: dict[str, Callable[[duckward.Answer], Any]] = {
    "fetchall": lambda a: a.fetchall(),
    "to_arrow": lambda a: a.to_arrow(),
    "df": lambda a: a.df(),
    "pl": lambda a: a.pl(),
    "fetchnumpy": lambda a: a.fetchnumpy(),
    "iteration": lambda a: list(a),
    "__arrow_c_stream__": lambda a: pa.table(a),
}


@pytest.mark.parametrize("sql", ["SELECT 1 AS a", "EXPLAIN SELECT 1"])
@pytest.mark.parametrize("first", READERS)
def test_an_answer_is_read_once_and_says_so(ward: duckward.Ward, first: str, sql: str) -> None:
    answer = ward.sql(sql)
    READERS[first](answer)
    for name, again in READERS.items():
        if name == "iteration" and first in ("iteration", "__arrow_c_stream__"):
            continue
        with pytest.raises(duckward.StateError, match=r"already read by .*run the query again"):
            again(answer)
    with pytest.raises(duckward.StateError, match="already read"):
        answer.fetchone()


def test_a_new_shape_after_some_batches_is_refused_or_gives_the_rest(ward: duckward.Ward) -> None:
    for name in ("fetchall", "df", "pl", "fetchnumpy"):
        answer = ward.sql("SELECT * FROM range(100000)")
        next(answer)
        with pytest.raises(duckward.StateError, match=r"some of this answer was already read"):
            READERS[name](answer)
        answer.close()
    answer = ward.sql("SELECT * FROM range(100000)")
    first = next(answer).num_rows
    assert first + pa.table(answer).num_rows == 100000
    answer = ward.sql("SELECT * FROM range(10)")
    answer.fetchone()
    for name in ("df", "to_arrow", "iteration"):
        with pytest.raises(duckward.StateError, match=r"some of this answer was already read"):
            READERS[name](answer)


def run_child(script: str) -> subprocess.CompletedProcess[str]:
    """For what may take the process down."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )


def test_to_arrow_after_some_batches_gives_the_rest() -> None:
    done = run_child("""
        import duckdb, duckward
        con = duckdb.connect()
        with duckward.guard(con, "2GB") as ward:
            answer = ward.sql("SELECT * FROM range(100000)")
            print(next(answer).num_rows + answer.to_arrow().num_rows)
    """)
    assert (done.returncode, done.stdout.strip()) == (0, "100000"), done.stderr[-2000:]


def test_an_answer_can_be_the_source_of_another_query() -> None:
    """Through `ward.sql`: the stream of one ward's answer is pulled inside the query of another."""
    done = run_child("""
        import duckdb, duckward
        con, other = duckdb.connect(), duckdb.connect()
        with duckward.guard(con, "2GB") as ward, duckward.guard(other, "2GB") as elsewhere:
            for read in ("fetchall", "to_arrow", "df"):
                answer = ward.sql("SELECT range AS r FROM range(100000)")
                print(len(getattr(elsewhere.sql("SELECT count(*) FROM answer"), read)()))
    """)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "1", "1"]), done.stderr[-2000:]


@pytest.mark.skipif(
    not HOLDS, reason="DuckDB before 2.0 waits for itself: the binder holds the connection's lock"
)
def test_an_answer_as_a_source_on_its_own_connection_ends() -> None:
    """It works or is refused; it neither hangs nor takes the process down."""
    done = run_child("""
        import duckdb, duckward
        con = duckdb.connect()
        with duckward.guard(con, "2GB") as ward:
            answer = ward.sql("SELECT range AS r FROM range(100000)")
            try:
                print(con.sql("SELECT count(*) FROM answer").fetchall() == [(100000,)])
            except duckdb.Error:
                print(True)
            del answer
            print(ward.sql("SELECT 42").fetchall() == [(42,)])
    """)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True"]), done.stderr[-2000:]


def test_a_closed_answer_frees_the_connection_and_cannot_be_read(ward: duckward.Ward) -> None:
    answer = ward.sql("SELECT * FROM range(1000000)")
    next(answer)
    answer.close()
    answer.close()
    assert ward.connection.sql("SELECT 1").fetchall() == [(1,)]
    assert answer.report.outcome == "closed before its end" or not HOLDS
    for read in READERS.values():
        with pytest.raises(duckward.StateError, match=r"closed; run the query again"):
            read(answer)
    with ward.sql("SELECT * FROM range(1000000)") as half:
        next(half)
    assert ward.connection.sql("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_an_answer_that_is_dropped_frees_the_connection(ward: duckward.Ward, batches: int) -> None:
    answer = ward.sql("SELECT * FROM range(1000000)")
    for _ in range(batches):
        next(answer)
    del answer
    gc.collect()
    assert ward.connection.sql("SELECT 1").fetchall() == [(1,)]
    assert ward.status()["running"] == 0


def test_rows_end_as_duckdb_ends_them(ward: duckward.Ward) -> None:
    for sql in ("SELECT 1", "EXPLAIN SELECT 1"):
        answer = ward.sql(sql)
        assert answer.fetchone() is not None
        assert answer.fetchone() is None
        assert answer.fetchone() is None
        assert answer.fetchmany(3) == []
        assert answer.fetchall() == []


def test_an_answer_keeps_its_ward_alive(con: Con) -> None:
    assert duckward.guard(con, "2GB").sql("SELECT 42").fetchall() == [(42,)]
    answer = duckward.guard(con, "2GB").sql("SELECT * FROM range(100000)")
    gc.collect()
    assert sum(batch.num_rows for batch in answer) == 100000


def test_an_answer_is_read_by_one_thread_at_a_time(ward: duckward.Ward) -> None:
    """Whoever comes second is told, or comes after; rows are never doubled or lost."""
    answer = ward.sql("SELECT range AS r FROM range(300000)")
    seen: list[int] = []
    failures: list[BaseException] = []

    def read() -> None:
        while True:
            try:
                batch = next(answer, None)
            except duckward.StateError as error:
                if "another thread" in str(error):
                    continue
                return
            except BaseException as error:
                failures.append(error)
                return
            if batch is None:
                return
            seen.extend(batch.column(0).to_pylist())

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert sorted(seen) == list(range(300000))


def test_the_report_tells_what_happened(ward: duckward.Ward) -> None:
    answer = ward.sql("SELECT * FROM range(5000)")
    assert answer.report.outcome == "not run yet"
    assert answer.report.rung is None
    answer.fetchall()
    report = answer.report
    assert (report.outcome, report.rung, report.why, report.rows) == ("answered", "as is", "", 5000)
    assert [attempt["rung"] for attempt in report.attempts] == ["as is"]
    assert 0 < report.peak <= report.budget == 2_000_000_000
    assert report.spooled is None
    assert not report.truncated
    assert "answered" in str(report)
    assert "<table>" in report._repr_html_()
    assert report.to_dict()["rows"] == 5000
    assert "range" in repr(answer)
    assert "<b>" not in ward.sql('SELECT 1 AS "<b>"')._repr_html_()


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    gc.collect()


def test_numpy_of_no_rows_has_every_column(ward: duckward.Ward) -> None:
    columns = ward.sql("SELECT 1 AS a, 'x' AS b WHERE FALSE").fetchnumpy()
    assert list(columns) == ["a", "b"]
    assert all(len(np.asarray(values)) == 0 for values in columns.values())


@pytest.mark.parametrize("read", ["to_arrow", "iterate", "stream"])
def test_a_union_in_a_union_is_whole(con: duckdb.DuckDBPyConnection, ward: duckward.Ward, read: str) -> None:
    """Before 1.5 DuckDB's own stream of it ends early when several threads run it, without an error."""
    con.execute("SET threads = 4")
    for number, rows in enumerate((7, 3, 1, 3)):
        con.execute(f"CREATE TABLE p{number} AS SELECT i FROM range({rows}) r(i)")
    con.execute("CREATE VIEW low AS FROM p0 UNION ALL FROM p1; CREATE VIEW high AS FROM p2 UNION ALL FROM p3")
    for sql, rows in (
        ("FROM low UNION ALL FROM high", 14),
        ("FROM p0 UNION ALL (FROM p1 UNION ALL (FROM p2 UNION ALL FROM p3))", 14),
        ("SELECT i + 1 FROM p0 UNION ALL (FROM p1 UNION ALL FROM p3) UNION ALL FROM high", 17),
    ):
        answer = ward.sql(sql)
        if read == "iterate":
            found = sum(batch.num_rows for batch in answer)
        else:
            found = (answer.to_arrow() if read == "to_arrow" else pa.table(answer)).num_rows
        assert found == rows, sql
