"""A statement in pieces gives what DuckDB gives at once, or says why it cannot, and leaves nothing behind."""

from __future__ import annotations

import datetime
import decimal
import itertools
import pathlib
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import duckward
from duckward import demo
from pieces_fuzz import difference, leftovers, run

Con = duckdb.DuckDBPyConnection
HOLDS = hasattr(Con, "complete")

TABLES = """
    CREATE TABLE t AS SELECT i AS id, i % 7 AS k, i % 3 AS j, (i * 37) % 101 AS v, 's' || (i % 5) AS s,
        [i % 3, i % 4] AS l, {'a': i % 3, 'b': i} AS st FROM range(500) AS r(i);
    CREATE TABLE u AS SELECT i AS k, i * 10 AS w, DATE '2024-01-01' + i::INTEGER AS d FROM range(9) AS r(i);
    CREATE TABLE a AS SELECT i % 4 AS k, -i AS v FROM range(50) AS r(i);
    CREATE TABLE empty AS SELECT * FROM t WHERE false;
    CREATE TABLE odd AS SELECT * FROM (VALUES (1, 'nan'::DOUBLE), (2, '-0.0'::DOUBLE), (3, 0.0), (4, 'nan'),
        (5, NULL), (6, 'inf'), (7, NULL), (8, '-inf')) AS o(id, g);
    CREATE TABLE folded (s VARCHAR COLLATE NOCASE, v INTEGER);
    INSERT INTO folded VALUES ('Ab', 1), ('aB', 2), ('c', 3);
    CREATE VIEW vw AS SELECT k, v FROM t WHERE v > 10;
    CREATE TABLE target (k BIGINT PRIMARY KEY, s HUGEINT);
"""


@pytest.fixture
def data(con: Con) -> Con:
    """`con` with the tables that the statements here read."""
    con.execute("SET threads = 2")
    con.execute("SET TimeZone = 'UTC'")
    con.execute(TABLES)
    return con


@pytest.fixture
def guarded(data: Con) -> Iterator[duckward.Ward]:
    """A ward over `data` with room for everything; after each test nothing of ours is left."""
    with duckward.guard(data, memory="2GB") as ward:
        yield ward
        assert leftovers(data) == []


@pytest.fixture(params=["scan", "spool"])
def fed(request: pytest.FixtureRequest, data: Con) -> Iterator[duckward.Ward]:
    """As `guarded`, once for each way in which pieces get their rows."""
    with duckward.guard(data, memory="2GB", feed=request.param) as ward:
        yield ward
        assert leftovers(data) == []


def in_pieces(ward: duckward.Ward, sql: str, pieces: int = 3, **more: Any) -> duckward.Answer:
    return ward.sql(sql, pieces=pieces, **more)


def made(answer: duckward.Answer) -> list[dict[str, Any]]:
    """The pieces of the report."""
    return cast(list[dict[str, Any]], dict(answer.report.to_dict())["pieces"])


def same(ward: duckward.Ward, sql: str, pieces: int = 3, ordered: bool = False) -> None:
    outcome = difference(ward.connection, ward, sql, pieces, ordered)
    assert outcome.kind == "cut", f"{outcome.kind}: {outcome.group}\n{sql}\n{outcome.text}"


def refused(ward: duckward.Ward, sql: str, reason: str) -> None:
    with pytest.raises(duckward.InvalidInputError, match="cannot run in pieces: .*" + re.escape(reason)):
        in_pieces(ward, sql).fetchall()
    assert leftovers(ward.connection) == []


# ---------------------------------------------------------------- what is cut

# With an order that only equal rows tie in where there is an ORDER BY.
CUT = {
    "by a column": "SELECT k, sum(v) FROM t GROUP BY k",
    "by an expression": "SELECT k % 2, count(*) FROM t GROUP BY k % 2",
    "by an alias": "SELECT k + 1 AS x, count(*) FROM t GROUP BY x",
    "by an alias that is a column too": "SELECT j AS k, k AS j, count(*) FROM t GROUP BY j, k",
    "by an ordinal": "SELECT sum(v), k, j FROM t GROUP BY 2, 3",
    "by all": "SELECT k, sum(v), j FROM t GROUP BY ALL",
    "by a key that is not shown": "SELECT sum(v) FROM t GROUP BY k",
    "by a field": "SELECT st.a, sum(st.b) FROM t GROUP BY st.a",
    "by nested values": "SELECT l, st, count(*) FROM t GROUP BY l, st",
    "by floats": "SELECT g, count(*), max(id) FROM odd GROUP BY g",
    "of nothing": "SELECT k, median(v) FROM empty GROUP BY k",
    "having": "SELECT k FROM t GROUP BY k HAVING sum(v) > 3500 AND count(*) > 1",
    "filter": "SELECT k, count(*) FILTER (WHERE v > 50), sum(v) FILTER (WHERE j = 1) FROM t GROUP BY k",
    "ordered aggregates": "SELECT k, string_agg(s, ',' ORDER BY id), list(v ORDER BY id DESC) FROM t "
    "GROUP BY k",
    "quantiles": "SELECT k, quantile_disc(v, [0.1, 0.9]), quantile_cont(v, 0.5), median(v), mad(v) FROM t "
    "GROUP BY k",
    "within group": "SELECT k, percentile_cont(0.5) WITHIN GROUP (ORDER BY v) FROM t GROUP BY k",
    "best": "SELECT k, arg_max(s, id), arg_min(s, id, 3), max(v, 2), first(s ORDER BY id) FROM t GROUP BY k",
    "distinct inside": "SELECT k, count(DISTINCT v), sum(DISTINCT j), histogram(j), mode(k) FROM t GROUP "
    "BY k",
    "sets with a key in common": "SELECT grouping(k, j), k, j, sum(v) FROM t GROUP BY k, ROLLUP (j, s)",
    "the same set twice": "SELECT k, j, sum(v) FROM t GROUP BY GROUPING SETS ((k, j), (k, j), (k))",
    "distinct": "SELECT DISTINCT k, j FROM t",
    "distinct of all": "SELECT DISTINCT * FROM t",
    "distinct of nested values": "SELECT DISTINCT l, {'j': j, 'k': [k]} AS n FROM t",
    "distinct of floats": "SELECT DISTINCT g FROM odd",
    "distinct of constants": "SELECT DISTINCT k, NULL AS n, 'x' AS x, 1.5 FROM t",
    "distinct and the same name twice": "SELECT DISTINCT k, j AS k, j AS j FROM t ORDER BY 3, 1 LIMIT 4",
    "distinct of a join": "SELECT DISTINCT t.k, u.k, w FROM t JOIN u ON t.j = u.k WHERE v > 3",
    "distinct of a star and more": "WITH c AS (SELECT k, j FROM t) SELECT DISTINCT *, upper('a') AS duck, "
    "c.* FROM c",
    "distinct below": "SELECT k, count(*) FROM (SELECT DISTINCT k, s FROM t) GROUP BY k",
    "distinct of groups": "SELECT DISTINCT count(*) FROM t GROUP BY k",
    "distinct on groups": "SELECT DISTINCT ON (k) k, j, sum(v) FROM t GROUP BY k, j ORDER BY k, j DESC",
    "union": "SELECT k FROM t UNION SELECT v FROM a ORDER BY 1",
    "union by name": "SELECT k, s FROM t UNION BY NAME SELECT j AS s, 5 AS q FROM t",
    "union of types": "SELECT k::TINYINT AS k FROM t UNION SELECT j::DOUBLE FROM t",
    "intersect": "SELECT k, j FROM t INTERSECT SELECT v, k FROM a",
    "except": "SELECT v FROM t EXCEPT SELECT k FROM u",
    "union of three": "SELECT k, s FROM t UNION SELECT v, 'x' FROM a UNION (SELECT w, NULL FROM u) ORDER "
    "BY 1, s",
    "intersect of three": "SELECT k FROM t INTERSECT SELECT k FROM u INTERSECT SELECT k FROM a",
    "except of three": "SELECT v FROM t EXCEPT SELECT k FROM u EXCEPT SELECT w FROM u",
    "except of an intersect": "SELECT v, 'x' FROM t EXCEPT (SELECT k, s[:1] FROM t INTERSECT SELECT k, "
    "'s' FROM u)",
    "intersect with nulls": "SELECT CASE WHEN k > 3 THEN k END AS k, NULL AS n FROM t INTERSECT SELECT CASE "
    "WHEN k > 4 THEN k END, NULL FROM u",
    "except with nulls": "SELECT CASE WHEN v > 3 THEN v END AS k, 'x' AS x FROM t EXCEPT SELECT CASE WHEN "
    "k > 9 "
    "THEN k END, 'x' FROM u",
    "intersect of types": "SELECT k::TINYINT AS x, 7 AS y FROM t INTERSECT SELECT w::DECIMAL(9, 2) / 10, "
    "j FROM u, t",
    "intersect of floats": "SELECT g FROM odd INTERSECT SELECT g FROM odd WHERE id > 3",
    "except of floats": "SELECT g FROM odd EXCEPT SELECT g FROM odd WHERE id IN (3, 5)",
    "except of all": "SELECT * FROM t EXCEPT SELECT * FROM t WHERE k = 2 ORDER BY id LIMIT 7",
    "intersect under names of one side": "WITH c AS (SELECT k AS a, k AS b FROM t) SELECT a, b, a FROM c "
    "INTERSECT "
    "SELECT k, k, k FROM u ORDER BY b DESC",
    "intersect of groups": "SELECT k, count(*) FROM t GROUP BY k INTERSECT SELECT k, 71 FROM u",
    "all of two that are cut": "SELECT k, sum(v) FROM t GROUP BY k UNION ALL SELECT k, max(v) FROM a "
    "GROUP BY k",
    "window": "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY id ROWS 3 PRECEDING) FROM t",
    "named window": "SELECT id, rank() OVER w, lag(v) OVER w FROM t WINDOW w AS (PARTITION BY s ORDER BY id)",
    "star and window": "SELECT *, row_number() OVER (PARTITION BY k ORDER BY id) AS rn FROM t ORDER BY k, rn",
    "qualify": "SELECT id, v FROM t QUALIFY row_number() OVER (PARTITION BY k ORDER BY v, id) <= 2",
    "window of groups": "SELECT k, sum(x) OVER (PARTITION BY k) FROM (SELECT k, j, sum(v) AS x FROM t "
    "GROUP BY k, j)",
    "join": "SELECT t.k, sum(w) FROM t JOIN u ON t.k = u.k GROUP BY t.k",
    "left join": "SELECT u.k, count(a.v) FROM u LEFT JOIN a USING (k) GROUP BY u.k",
    "right join": "SELECT a.k, count(*) FROM a RIGHT JOIN u ON a.k = u.w GROUP BY a.k",
    "full join": "SELECT k, count(*) FROM a FULL JOIN u USING (k) GROUP BY k",
    "natural join": "SELECT w, sum(v) FROM a NATURAL JOIN u GROUP BY w",
    "semi join": "SELECT k, sum(v) FROM t SEMI JOIN u ON t.k = u.w GROUP BY k",
    "anti join": "SELECT k, sum(v) FROM t ANTI JOIN u ON t.k = u.w GROUP BY k",
    "cross join": "SELECT a.k, u.k, count(*) FROM a CROSS JOIN u GROUP BY a.k, u.k",
    "lateral below": "SELECT u.k, sum(q.x) FROM u, LATERAL (SELECT a.v + u.w AS x FROM a WHERE a.k = u.k) "
    "AS q GROUP BY u.k",
    "once used": "WITH c AS (SELECT k, sum(v) AS s FROM t GROUP BY k) SELECT k, s FROM c WHERE s > 3500",
    "twice used": "WITH c(x, y) AS (SELECT k, sum(v) FROM t GROUP BY k) SELECT m.x, n.y FROM c AS m JOIN "
    "c AS n USING (x)",
    "hides a table": "WITH a AS (SELECT k, v FROM a WHERE v < -10) SELECT k, sum(v) FROM a GROUP BY k",
    "in": "SELECT k, sum(v) FROM t WHERE k IN (SELECT k FROM u GROUP BY k HAVING sum(w) > 20) GROUP BY k",
    "exists": "SELECT k, sum(v) FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.w > 20) GROUP "
    "BY k",
    "correlated": "SELECT k, (SELECT max(w) FROM u WHERE u.k = t.k), sum(v) FROM t GROUP BY k",
    "unnested": "SELECT x, count(*) FROM (SELECT unnest(l) AS x FROM t) GROUP BY x",
    "unnested in from": "SELECT x, count(*) FROM t, unnest(l) AS q(x) GROUP BY x",
    "by names": "SELECT k AS a, sum(v) AS b FROM t GROUP BY k ORDER BY b DESC, a",
    "by an aggregate that is not shown": "SELECT k FROM t GROUP BY k ORDER BY min(id) DESC",
    "by ordinals": "SELECT k, j, count(*) FROM t GROUP BY 1, 2 ORDER BY 3 DESC NULLS FIRST, 2, 1",
    "order by all": "SELECT k, count(*) FROM t GROUP BY k ORDER BY ALL DESC",
    "limit": "SELECT k, sum(v) FROM t GROUP BY k ORDER BY sum(v) DESC LIMIT 3 OFFSET 1",
    "limit in per cent": "SELECT k, sum(v) FROM t GROUP BY k ORDER BY k LIMIT 40%",
    "limit below": "SELECT k, sum(v) FROM (SELECT * FROM t ORDER BY id LIMIT 20) GROUP BY k",
    "outer aggregate": "SELECT max(x), count(*) FROM (SELECT sum(v) AS x FROM t GROUP BY k)",
    "outer join": "SELECT w, x FROM (SELECT k, sum(v) AS x FROM t GROUP BY k) NATURAL JOIN u",
    "view": "SELECT k, median(v) FROM vw GROUP BY k",
    "from first": "FROM t SELECT k, sum(v) GROUP BY k",
    "in brackets": "((SELECT k, sum(v) FROM t GROUP BY k))",
    "the same name twice": "SELECT k, k, sum(v), sum(v) FROM t GROUP BY k",
    "names in quotes": 'SELECT k AS "group", sum(v) AS "a""b" FROM t GROUP BY "group" ORDER BY "group"',
    "collation in the order": "SELECT s, k, count(*) FROM t GROUP BY s, k ORDER BY s COLLATE NOCASE, k",
    "a constant beside": "SELECT k, 1 AS one, 'x' AS x, count(*) FROM t GROUP BY k",
    "pivoted below": "SELECT k, sum(z) FROM (PIVOT (SELECT k, j, v FROM t) ON j IN (0, 1) USING sum(v)) "
    "AS p(k, y, z) GROUP BY k",
}


@pytest.mark.parametrize("name", CUT)
def test_the_answer_in_pieces_is_the_answer(fed: duckward.Ward, name: str) -> None:
    same(fed, CUT[name], ordered="ORDER BY" in CUT[name].rsplit(")", 1)[-1])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT DISTINCT s FROM twice",
        "SELECT DISTINCT s, v FROM twice",
        "SELECT s FROM twice UNION SELECT upper(s) FROM twice",
        "SELECT s, v FROM twice INTERSECT SELECT upper(s), v FROM twice",
        "SELECT s FROM twice EXCEPT SELECT upper(s) FROM twice",
    ],
)
def test_what_is_equal_by_a_collation_is_not_cut_apart(guarded: duckward.Ward, sql: str) -> None:
    con = guarded.connection
    con.execute("CREATE TABLE twice (s VARCHAR COLLATE NOCASE, v INTEGER)")
    con.execute(
        "INSERT INTO twice SELECT chr((65 + i % 26 + i % 2 * 32)::INTEGER), i % 3 FROM range(156) AS r(i)"
    )
    refused(guarded, sql, "a collation may decide which of its rows are equal")
    rows = guarded.sql(sql).fetchall()
    assert len(rows) == len(con.sql(sql).fetchall()), "which of them it is, is open"


# Names, places and types that are easily confused. May be refused, but never wrong.
HARD = {
    "a name hidden by itself, where a table has it too": "WITH a AS (SELECT k, v FROM t WHERE id < 100), "
    "b AS (WITH a AS (SELECT * FROM a WHERE v > 10) SELECT k, sum(v) FROM a GROUP BY k) SELECT * FROM b",
    "a name hidden by itself": "WITH z AS (SELECT k, v FROM t), b AS (WITH z AS (SELECT * FROM z "
    "WHERE v > 10) "
    "SELECT k, sum(v) FROM z GROUP BY k) SELECT * FROM b",
    "an alias h0": "SELECT k, sum(v) AS h0 FROM t GROUP BY k ORDER BY -k LIMIT 3",
    "an alias c0": "SELECT -k AS c1, sum(v) AS c0 FROM t GROUP BY k ORDER BY -k",
    "the catalog": "SELECT DISTINCT table_name FROM duckdb_tables()",
    "the catalog, grouped": "SELECT table_name, count(*) FROM duckdb_columns() GROUP BY table_name",
    "NULL beside a boolean": "SELECT k, NULL AS d FROM t GROUP BY k UNION ALL SELECT k, true FROM t "
    "GROUP BY k",
    "NULL beside a date": "SELECT coalesce(d, DATE '2024-01-01') FROM (SELECT k, NULL AS d FROM t "
    "GROUP BY k)",
    "a DOUBLE that looks like a DECIMAL": "SELECT k, sum(v * 1e-1) AS x, 1e3 AS y FROM t GROUP BY k",
    "an expression of columns in ORDER BY": "SELECT k % 2 AS k, sum(v) AS v FROM t GROUP BY t.k ORDER "
    "BY k + 0, v",
    "an alias that is a column in ORDER BY": "SELECT j AS k, k AS j, count(*) FROM t GROUP BY 1, 2 "
    "ORDER BY k + 0, j + 0",
    "intersect of collated": "SELECT s, v FROM folded INTERSECT SELECT upper(s), v FROM folded",
    "except of collated": "SELECT s, v FROM folded EXCEPT SELECT upper(s), v FROM folded",
    "distinct of collated": "SELECT DISTINCT s FROM folded",
    "distinct of collated and more": "SELECT DISTINCT lower(s) COLLATE NOCASE AS s, v % 2 FROM folded",
    "distinct ordered by its table": "SELECT DISTINCT t.k FROM t ORDER BY t.k",
    "distinct ordered by an expression": "SELECT DISTINCT upper(s) FROM t ORDER BY upper(s)",
    "groups in a lateral join": "SELECT u.k, q.x FROM u, (SELECT a.k, sum(a.v) AS x FROM a WHERE a.k "
    "= u.k GROUP BY a.k) AS q",
    "recursion below": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 50) "
    "SELECT n % 3 AS m, count(*) FROM r GROUP BY m",
    "unnest beside groups": "SELECT k, unnest([1, 2]), sum(v) FROM t GROUP BY k",
    "unnest beside a window": "SELECT unnest([1, 2]), sum(v) OVER (PARTITION BY k) FROM t",
    "an alias in HAVING that is a column": "SELECT k, sum(v) AS v FROM t GROUP BY k HAVING v > 3500",
    "an alias that a lambda has": "SELECT k + 1 AS x, count(*) FROM t GROUP BY k + 1, "
    "list_transform(l, lambda x: x + 1)",
    "HAVING before the list": "SELECT k, max(s)::INTEGER FROM (SELECT k, CASE k WHEN 1 THEN 'x' ELSE "
    "'5' END AS s FROM t) "
    "GROUP BY k HAVING k <> 1",
    "an alias of duckward's own": "SELECT k + 1 AS duckward_h0, sum(v) FROM t GROUP BY duckward_h0",
    "HAVING of a column that is no key": "SELECT k, sum(v) FROM t GROUP BY ALL HAVING v > 50",
    "a name with a lambda": "SELECT k, [x + 1 FOR x IN list(v ORDER BY id) IF x > 3] FROM t GROUP BY k",
    "materialized": "WITH c AS MATERIALIZED (SELECT k, v FROM t WHERE v > 5) SELECT k, sum(v) FROM c "
    "GROUP BY k",
    "a key that only joined rows have": "SELECT y::INTEGER AS n, count(*) "
    "FROM (SELECT CASE WHEN k = 1 THEN 'no' ELSE k::VARCHAR END AS y FROM t) "
    "WHERE y IN (SELECT DISTINCT k::VARCHAR FROM u WHERE k <> 1) GROUP BY n",
    "the same expression twice in sets": "SELECT k AS m, k AS n, sum(v) FROM t GROUP BY GROUPING "
    "SETS ((n, m), (n))",
    "a column and its alias in sets": "SELECT k AS n, k AS m, j, histogram(v) FROM t "
    "GROUP BY GROUPING SETS ((k, j, m), (k))",
    "an expression under two aliases in sets": "SELECT k + 1 AS n, k + 1 AS m, j, histogram(v) FROM t "
    "GROUP BY GROUPING SETS ((n, j, m), (n))",
    "a struct without names": "SELECT row(k, j) AS kj, count(*)::INTEGER AS n FROM t GROUP BY kj",
}


@pytest.mark.parametrize("name", HARD)
def test_the_answer_in_pieces_is_the_answer_where_it_is_hard(fed: duckward.Ward, name: str) -> None:
    ordered = "ORDER BY" in HARD[name].rsplit(")", 1)[-1]
    outcome = difference(fed.connection, fed, HARD[name], 3, ordered)
    # To say why not is right, too.
    assert outcome.kind in ("cut", "refused"), f"{outcome.group}\n{HARD[name]}\n{outcome.text}"


def test_as_many_pieces_as_asked_for_where_there_are_groups(guarded: duckward.Ward) -> None:
    for pieces in (1, 2, 7, 64):
        answer = in_pieces(guarded, "SELECT id, sum(v) FROM t GROUP BY id", pieces)
        assert len(answer.fetchall()) == 500
        assert len(made(answer)) == pieces
        assert sum(piece["rows"] for piece in made(answer)) == 500
        assert "pieces" in str(answer.report)


def test_a_constant_among_the_keys_is_not_what_is_cut_by(guarded: duckward.Ward) -> None:
    for sql in (
        "SELECT id, 'x' AS x, median(v) FROM t GROUP BY ALL",
        "SELECT id, 'x' AS x, median(v) FROM t GROUP BY id, 'x'",
    ):
        answer = in_pieces(guarded, sql, 4)
        assert len(answer.fetchall()) == 500
        assert len(made(answer)) == 4


# Sets without a key in common: each is cut on its own. Where there is an order, only equal rows tie.
SETS = {
    "rollup": "SELECT k, j, median(v) FROM t GROUP BY ROLLUP (k, j)",
    "cube": "SELECT k, j, s, list(v ORDER BY id), count(*) FROM t GROUP BY CUBE (k, j, s)",
    "sets of several": "SELECT k, j, s, mad(v) FROM t GROUP BY ROLLUP ((k, j), s)",
    "two rollups": "SELECT k, j, s, median(v) FROM t GROUP BY ROLLUP (k, j), ROLLUP (s)",
    "no set without a key": "SELECT k, j, median(v) FROM t GROUP BY GROUPING SETS ((k), (j))",
    "the same set twice": "SELECT k, j, median(v) FROM t GROUP BY GROUPING SETS ((k), (j), (k), (), ())",
    "grouping": "SELECT grouping(k, j), grouping_id(j, k), grouping(k) + grouping(j), grouping(k, j, k), k, "
    "j, "
    "median(v) FROM t GROUP BY CUBE (k, j)",
    "grouping in expressions": "SELECT CASE WHEN grouping(k) = 1 THEN 'all' ELSE k::VARCHAR END AS name, "
    "typeof(grouping(k)), median(v) FROM t GROUP BY ROLLUP (k)",
    "of nothing": "SELECT k, j, median(v), count(*), list(v) FROM empty GROUP BY CUBE (k, j)",
    "of nothing, no empty set": "SELECT k, j, median(v) FROM empty GROUP BY GROUPING SETS ((k), (j))",
    "of nothing, having": "SELECT k, median(v) FROM empty GROUP BY ROLLUP (k) HAVING count(*) > 0",
    "having": "SELECT k, j, median(v) FROM t GROUP BY CUBE (k, j) HAVING count(*) > 70 OR k = 1",
    "having grouping": "SELECT k, j, median(v) FROM t GROUP BY CUBE (k, j) HAVING grouping(k, j) IN (1, 2)",
    "having only": "SELECT k, j FROM t GROUP BY CUBE (k, j) HAVING median(v) > 50",
    "having a column that is an alias too": "SELECT count(*) AS k, median(v) FROM t GROUP BY ROLLUP (k) "
    "HAVING k > 1",
    "filter": "SELECT k, j, median(v) FILTER (WHERE v > 20 AND j = 1), count(k) FROM t GROUP BY CUBE (k, j)",
    "a key inside an aggregate": "SELECT k, j, list(k ORDER BY id), sum(k + j), median(j) FROM t "
    "GROUP BY CUBE (k, j)",
    "distinct": "SELECT DISTINCT k, median(v) > 50 FROM t GROUP BY CUBE (k, j)",
    "distinct and order": "SELECT DISTINCT j, count(DISTINCT s) AS n FROM t GROUP BY CUBE (k, j) ORDER BY "
    "n, j",
    "distinct inside": "SELECT k, count(DISTINCT v), sum(DISTINCT j), histogram(j) FROM t GROUP BY ROLLUP "
    "(k)",
    "order by names": "SELECT j AS a, k AS b, median(v) FROM t GROUP BY CUBE (k, j) ORDER BY a DESC, b "
    "NULLS FIRST",
    "order by an aggregate of the list": "SELECT k, median(v + id) FROM t GROUP BY ROLLUP (k) "
    "ORDER BY median(v + id), k",
    "order by all": "SELECT k, j, median(v) FROM t GROUP BY CUBE (k, j) ORDER BY ALL DESC NULLS LAST",
    "limit": "SELECT k, j, grouping(k, j) AS g, median(v) FROM t GROUP BY CUBE (k, j) ORDER BY g, k, j DESC "
    "LIMIT 4 OFFSET 3",
    "limit in per cent": "SELECT k, median(v) FROM t GROUP BY ROLLUP (k) ORDER BY 1 LIMIT 40%",
    "keys that are NULL": "SELECT g, id % 2 AS h, grouping(g), list(id ORDER BY id) FROM odd GROUP BY CUBE "
    "(g, h)",
    "expressions": "SELECT k % 2, upper(s), (k % 2) * 10 + 1, median(v) FROM t GROUP BY CUBE (k % 2, "
    "upper(s))",
    "an expression around another key": "SELECT k, k + 1, (k + 1) * 2, median(v) FROM t GROUP BY CUBE (k, k "
    "+ 1)",
    "an alias": "SELECT k + 1 AS x, j AS y, median(v) FROM t GROUP BY CUBE (x, y) ORDER BY x, y",
    "an alias that is a column too": "SELECT j AS k, k AS j, median(v) FROM t GROUP BY CUBE (j, k)",
    "ordinals": "SELECT median(v), k + 1, j FROM t GROUP BY ROLLUP (2, 3)",
    "a key that is not shown": "SELECT median(v) FROM t GROUP BY CUBE (k, j)",
    "capitals": "SELECT K, median(V) FROM t GROUP BY ROLLUP (k, J) ORDER BY k, 2",
    "a field": "SELECT st.a, median(st.b) FROM t GROUP BY ROLLUP (st.a)",
    "nested values": "SELECT l, st, mode(k * 0) FROM t GROUP BY ROLLUP (l, st)",
    "a constant beside": "SELECT k, 1, 'x' AS x, NULL AS n, coalesce(k, -1), median(v) FROM t GROUP BY "
    "ROLLUP (k)",
    "the name of an expression": "SELECT k + 1, median(v) + 1, coalesce(k + 1, 0) FROM t GROUP BY ROLLUP (k "
    "+ 1)",
    "join": "SELECT t.k, d, median(v), list(w ORDER BY id) FROM t JOIN u ON t.k = u.k GROUP BY CUBE (t.k, d)",
    "join by name": "SELECT k, median(v) FROM t FULL JOIN u USING (k) GROUP BY ROLLUP (k)",
    "in FROM": "SELECT max(m), count(*) FROM (SELECT k, j, median(v) AS m FROM t GROUP BY CUBE (k, j))",
    "in FROM, with a limit": "SELECT * FROM (SELECT k, median(v) AS m FROM t GROUP BY ROLLUP (k) ORDER BY k "
    "LIMIT 3) "
    "AS s JOIN u USING (k)",
    "in a common table expression": "WITH c AS (SELECT k, j, median(v) AS m FROM t GROUP BY CUBE (k, j)) "
    "SELECT a.k, b.j FROM c AS a JOIN c AS b ON a.m = b.m",
    "around a common table expression": "WITH c AS (SELECT k, j, v FROM t WHERE v > 9) SELECT k, j, "
    "median(v) "
    "FROM c GROUP BY CUBE (k, j) ORDER BY 1, 2",
    "beside another": "SELECT k, median(v) FROM t GROUP BY ROLLUP (k) UNION ALL SELECT w, 1.0 FROM u",
    "sets of sets": "SELECT k, list(m ORDER BY m) FROM (SELECT k, j, median(v) AS m FROM t GROUP BY CUBE "
    "(k, j)) "
    "GROUP BY ROLLUP (k)",
    "of a view": "SELECT k, median(v) FROM vw GROUP BY ROLLUP (k)",
    "where in a query": "SELECT k, median(v) FROM t WHERE k IN (SELECT k FROM u WHERE w > 20) GROUP BY "
    "ROLLUP (k)",
    "collation": "SELECT s, v, list(v) FROM folded GROUP BY ROLLUP (v), ROLLUP (v + 1, s) ORDER BY 1, 2, 3",
}


@pytest.mark.parametrize("name", SETS)
def test_each_grouping_set_is_cut_on_its_own(fed: duckward.Ward, name: str) -> None:
    sql = SETS[name]
    same(fed, sql, ordered="ORDER BY" in sql.rsplit(")", 1)[-1] or "ORDER BY a" in sql)


@pytest.mark.parametrize(
    "below", ["SELECT * FROM t LIMIT 99", "SELECT k, v, sum(v / 7) OVER (ORDER BY s) AS x FROM t"]
)
@pytest.mark.parametrize("how", ["FROM ({}) AS b", "FROM b", "FROM u JOIN ({}) AS b(id, k, v) USING (k)"])
def test_every_set_sees_the_same_rows(guarded: duckward.Ward, below: str, how: str) -> None:
    before = f"WITH b AS ({below}) " if how == "FROM b" else ""
    sql = f"{before}SELECT b.k, list(b.v), count(*) {how.format(below)} GROUP BY ROLLUP (b.k)"
    rows = in_pieces(guarded, sql).fetchall()
    total = [row for row in rows if row[0] is None]
    assert len(total) == 1
    assert sorted(v for row in rows if row[0] is not None for v in row[1]) == sorted(total[0][1])


@pytest.mark.parametrize("into", ["INSERT INTO target ", "CREATE OR REPLACE TABLE target AS "])
def test_grouping_sets_are_written(guarded: duckward.Ward, into: str) -> None:
    sql = "SELECT coalesce(k, -1) AS k, median(v)::HUGEINT AS s FROM t GROUP BY ROLLUP (k)"
    expected = guarded.connection.execute(f"{sql} ORDER BY 1").fetchall()
    in_pieces(guarded, into + sql).fetchall()
    assert guarded.connection.execute("SELECT * FROM target ORDER BY 1").fetchall() == expected


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k, median(v) FROM t GROUP BY ROLLUP (k) ORDER BY grouping(k), k",
        "SELECT k, median(v), rank() OVER (ORDER BY k) FROM t GROUP BY ROLLUP (k)",
        "SELECT k, median(v) FROM t GROUP BY ROLLUP (k) QUALIFY row_number() OVER () > 0",
        "SELECT t.k, median(v) FROM t GROUP BY ROLLUP (k)",
        "SELECT k AS x, x + 1, median(v) FROM t GROUP BY ROLLUP (x)",
        "SELECT k + 1 AS x, median(v) FROM t WHERE x > 3 GROUP BY ROLLUP (x)",
        "SELECT k, t.k AS m, median(v) FROM t GROUP BY CUBE (k, t.k)",
        "SELECT k, (SELECT max(w) FROM u WHERE u.k = t.k), median(v) FROM t GROUP BY ROLLUP (k)",
        "SELECT DISTINCT ON (j) k, j, median(v) FROM t GROUP BY CUBE (k, j) ORDER BY j, k",
        "SELECT 7 AS x, median(v) FROM t GROUP BY ROLLUP (x)",
        "SELECT * FROM u, LATERAL (SELECT t.k, median(v) FROM t WHERE t.k = u.k GROUP BY ROLLUP (t.k))",
    ],
)
def test_sets_that_are_not_surely_the_same_stay_as_they_are(guarded: duckward.Ward, sql: str) -> None:
    refused(guarded, sql, "nothing in it has keys to cut by")


# ---------------------------------------------------------------- what is not

REFUSED = {
    "nothing to cut by": ("SELECT sum(v) FROM t", "nothing in it has keys to cut by"),
    "no aggregate": ("SELECT * FROM t", "nothing in it has keys to cut by"),
    "the empty set": ("SELECT sum(v) FROM t GROUP BY ()", "nothing in it has keys to cut by"),
    "no key in common": (
        "SELECT k, j, sum(v) FROM t GROUP BY CUBE (k, j)",
        "nothing in it has keys to cut by",
    ),
    "window over groups": (
        "SELECT k, sum(sum(v)) OVER (PARTITION BY k) FROM t GROUP BY k",
        "nothing in it has keys to cut by",
    ),
    "windows without a key in common": (
        "SELECT sum(v) OVER (PARTITION BY k), sum(v) OVER (PARTITION BY j) FROM t",
        "nothing in it has keys to cut by",
    ),
    "distinct on": ("SELECT DISTINCT ON (k) k, id FROM t ORDER BY k, id", "nothing in it has keys to cut by"),
    "random": (
        "SELECT k, max(random()) FROM t GROUP BY k",
        "it calls random(), which gives another value each time",
    ),
    "sample": ("SELECT k, count(*) FROM t TABLESAMPLE 10 ROWS GROUP BY k", "it takes a sample"),
    "limit in an expression": (
        "SELECT k, count(*) FROM t WHERE k = (SELECT k FROM u LIMIT 1) GROUP BY k",
        "a subquery in an expression has a LIMIT",
    ),
    "collation": ("SELECT s, sum(v) FROM folded GROUP BY s", "only after the aggregate"),
    "values": ("VALUES (1)", "it is not one SELECT"),
    "another statement": ("UPDATE t SET v = 1", "it is not one SELECT"),
    "deep": (f"SELECT k, sum({' + '.join(['v'] * 300)}) FROM t GROUP BY k", "nested too deeply"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused_with_the_reason(guarded: duckward.Ward, name: str) -> None:
    refused(guarded, *REFUSED[name])


def test_a_macro_is_not_looked_into(guarded: duckward.Ward) -> None:
    guarded.connection.execute("CREATE MACRO twice(x) AS 2 * x")
    refused(guarded, "SELECT k, sum(twice(v)) FROM t GROUP BY k", "it calls the macro twice()")


@pytest.mark.parametrize(
    "value",
    [3, None, 1.5, "it's", b"\x00\xff", True, datetime.date(2020, 1, 2), decimal.Decimal("1.20"), [1, None]],
)
def test_parameters(guarded: duckward.Ward, value: object) -> None:
    sql = "SELECT k, sum(v), ? AS p FROM t WHERE v > ? GROUP BY k"
    expected = guarded.connection.execute(sql, [value, 3]).fetchall()
    answer = guarded.sql(sql, [value, 3], pieces=2)
    assert sorted(map(repr, answer.fetchall())) == sorted(map(repr, expected))
    assert answer.report.rung == "in pieces"


@pytest.mark.parametrize(
    "aggregate",
    [
        "quantile_disc(v, 0.25)",
        "quantile_disc(v, [0.0, 0.1, 0.9, 1.0])",
        "quantile_cont(v, [0, 0.37, 0.5, 1])",
        "median(v) FILTER (WHERE k > 2)",
        "median(d)",
        "quantile_cont(d, [0.01, 0.1, 0.85, 0.99])",
        "count(DISTINCT v), sum(DISTINCT k), count(DISTINCT s)",
        "mad(v), mad(k), mad(v) FILTER (WHERE v % 3 = 1), mad(v) FILTER (WHERE v < 0)",
        "mad(d), mad(d) FILTER (WHERE isfinite(d))",
        "mode(k // 1000), mode(s) FILTER (WHERE id = 17), mode(CASE WHEN id % 3 > 0 THEN 'x' ELSE s END), "
        "mode(v) FILTER (WHERE id < 0), mode(NULL::INTEGER), mode([id % 2, 7]) FILTER (WHERE id % 4 > 0)",
        # From the other end, and not from pairs.
        "quantile_disc(v, -0.25)",
        "quantile_cont(v, -0.3)",
    ],
)
def test_aggregates_without_groups(guarded: duckward.Ward, aggregate: str) -> None:
    con = guarded.connection
    con.execute("""
        CREATE OR REPLACE TABLE bare AS SELECT *, CASE WHEN id % 7 = 0 THEN 'inf' WHEN id % 11 = 0 THEN '-inf'
            WHEN id % 13 = 0 THEN 'nan' ELSE (id * 0.37)::VARCHAR END::DOUBLE AS d FROM t
    """)
    sql = f"SELECT {aggregate} FROM bare"
    expected = con.execute(sql).fetchall()
    try:
        answer = guarded.sql(sql, pieces=3)
        assert repr(answer.fetchall()) == repr(expected)
    except duckward.InvalidInputError:
        assert "-0" in aggregate


def test_aggregates_without_groups_over_a_common_table_expression(guarded: duckward.Ward) -> None:
    same(guarded, "WITH c AS (SELECT k, v FROM t WHERE v > 9) SELECT median(v), count(DISTINCT k) FROM c")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sum(id) OVER (PARTITION BY k ORDER BY id) AS v, k AS a, v FROM t ORDER BY v DESC, 3 DESC, 2",
        "SELECT v, sum(id) OVER (PARTITION BY k ORDER BY id) AS v, k AS a FROM t ORDER BY v DESC, 2, 1, 3",
        "SELECT DISTINCT id % 9 AS v, v FROM t ORDER BY v DESC, 2",
        "SELECT k, v, sum(id) AS v FROM t GROUP BY 1, 2 ORDER BY v DESC, 1, 2",
        "SELECT k AS f, sum(v) AS f, count(*) AS c FROM t GROUP BY k ORDER BY f, 1, 3",
        "SELECT sum(v) AS f, count(*) AS F, k FROM t GROUP BY k ORDER BY f, 1, 3",
        "SELECT sum(id) OVER (PARTITION BY k ORDER BY id) AS v, * FROM t ORDER BY v DESC, id",
        "SELECT * EXCLUDE (v), sum(id) OVER (PARTITION BY k ORDER BY id) AS w FROM t ORDER BY w DESC, id",
        "SELECT a.k, b.k, sum(a.v) FROM t a LEFT JOIN (FROM t WHERE k < 4) b USING (k) "
        "GROUP BY a.k, b.k, k ORDER BY k, 3",
    ],
)
def test_the_order_by_a_name_that_two_columns_have(guarded: duckward.Ward, sql: str) -> None:
    expected = guarded.connection.execute(sql).fetchall()
    assert repr(in_pieces(guarded, sql, 4).fetchall()) == repr(expected)


def test_an_alias_beside_a_star_that_has_its_name_is_refused(guarded: duckward.Ward) -> None:
    sql = "SELECT *, sum(id) OVER (PARTITION BY k ORDER BY id) AS v FROM t ORDER BY v DESC, id"
    with pytest.raises(duckward.InvalidInputError, match="v in ORDER BY may be one of several columns"):
        in_pieces(guarded, sql, 4).fetchall()


def test_parameters_with_names(guarded: duckward.Ward) -> None:
    sql = "SELECT k, sum(v) FROM t WHERE v > $least GROUP BY k"
    expected = guarded.connection.execute(sql, {"least": 3}).fetchall()
    assert sorted(guarded.sql(sql, {"least": 3}, pieces=2).fetchall()) == sorted(expected)


@pytest.mark.parametrize(
    "view",
    [
        "SELECT k, random() AS x FROM t",
        "SELECT k, id AS x FROM t USING SAMPLE 10 ROWS",
        "SELECT k, nextval('seq') AS x FROM t",
    ],
)
def test_a_view_is_looked_into(guarded: duckward.Ward, view: str) -> None:
    con = guarded.connection
    con.execute("CREATE SEQUENCE seq")
    con.execute(f"CREATE VIEW wild AS {view}")
    with pytest.raises(duckward.InvalidInputError):
        in_pieces(guarded, "SELECT DISTINCT x FROM wild", 8).fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "WITH wild AS (SELECT 1 AS k) SELECT k, median(x) FROM main.wild GROUP BY k",
        "SELECT k, median(x) FROM wild WHERE k IN (WITH wild AS (SELECT 1 AS k) FROM wild) GROUP BY k",
    ],
)
def test_a_view_is_not_taken_for_a_table_expression_of_its_name(guarded: duckward.Ward, sql: str) -> None:
    guarded.connection.execute("CREATE VIEW wild AS SELECT k, random() AS x FROM t")
    with pytest.raises(duckward.InvalidInputError, match="wild, which is the name of a view and of"):
        in_pieces(guarded, sql, 8).fetchall()


def test_a_data_frame_by_name_is_refused_and_a_registered_one_is_read(guarded: duckward.Ward) -> None:
    frame = pd.DataFrame({"k": [1, 2, 1], "v": [1, 2, 3]})
    # Not through a helper: the name is looked for in the frame of the caller.
    with pytest.raises(duckward.InvalidInputError, match="it reads frame, an object of the program"):
        guarded.sql("SELECT k, sum(v) FROM frame GROUP BY k", pieces=2).fetchall()
    guarded.connection.register("known", frame)
    if HOLDS:
        same(guarded, "SELECT k, sum(v) FROM known GROUP BY k")
    else:
        # Before 2.0 DuckDB does not tell what was registered.
        with pytest.raises(duckward.InvalidInputError, match="it reads known"):
            guarded.sql("SELECT k, sum(v) FROM known GROUP BY k", pieces=2).fetchall()


@pytest.mark.parametrize("sql", ["SELECT DISTINCT k FROM once", "SELECT k, count(*) FROM once GROUP BY k"])
def test_what_can_be_read_only_once_is_refused(guarded: duckward.Ward, sql: str) -> None:
    table = pa.table({"k": list(range(100))})
    guarded.connection.register("once", pa.RecordBatchReader.from_batches(table.schema, table.to_batches(10)))
    with pytest.raises(duckward.InvalidInputError, match="cannot run in pieces"):
        in_pieces(guarded, sql).fetchall()


@pytest.mark.parametrize("pieces", [0, -1, 2.5, "x", True, 1025, [2]])
def test_a_number_of_pieces_that_is_none_is_refused(guarded: duckward.Ward, pieces: Any) -> None:
    with pytest.raises(
        duckward.InvalidInputError, match=r"pieces=.* is not accepted: give \"auto\", False, or a number"
    ):
        guarded.sql("SELECT k, sum(v) FROM t GROUP BY k", pieces=pieces)


@pytest.mark.parametrize("pieces", [None, False, "auto"])
def test_no_pieces_where_none_are_asked_for(guarded: duckward.Ward, pieces: Any) -> None:
    answer = guarded.sql("SELECT k, sum(v) FROM t GROUP BY k", pieces=pieces)
    assert len(answer.fetchall()) == 7
    assert made(answer) == []


@pytest.mark.parametrize(
    "sql",
    [
        "selec 1",
        "SELECT k, sum(v FROM t",
        "SELECT nothing, sum(v) FROM t GROUP BY nothing",
        "SELECT 'x'::INT FROM none",
    ],
)
def test_a_wrong_statement_is_duckdbs_own_error(guarded: duckward.Ward, sql: str) -> None:
    with pytest.raises(duckdb.Error) as theirs:
        guarded.connection.sql(sql)
    with pytest.raises(type(theirs.value)) as ours:
        in_pieces(guarded, sql)
    assert str(ours.value) == str(theirs.value)


# ---------------------------------------------------------------- statements that change something

QUERY = "SELECT k, sum(v) AS s FROM t GROUP BY k"
# One group fails, whichever piece it is in.
BROKEN = "SELECT k, sum(CASE WHEN k = 6 THEN 'x' ELSE '1' END::INTEGER) AS s FROM t GROUP BY k"


def content(con: Con, table: str) -> list[Any]:
    return sorted(con.execute(f"FROM {table}").fetchall())


@pytest.mark.parametrize(
    "into", ["INSERT INTO target", "INSERT INTO target BY NAME", "INSERT OR REPLACE INTO target"]
)
def test_insert(guarded: duckward.Ward, into: str) -> None:
    con = guarded.connection
    answer = in_pieces(guarded, f"{into} {QUERY}")
    assert answer.fetchall() == [(7,)]
    assert len(made(answer)) == 3
    assert content(con, "target") == sorted(con.sql(QUERY).fetchall())


@pytest.mark.parametrize("rest", ["RETURNING k", "ON CONFLICT DO NOTHING RETURNING k"])
def test_insert_returning(guarded: duckward.Ward, rest: str) -> None:
    con = guarded.connection
    if "CONFLICT" not in rest:
        con.execute("CREATE OR REPLACE TABLE target (k BIGINT, s HUGEINT)")
    answer = in_pieces(guarded, f"INSERT INTO target {QUERY} {rest}")
    assert sorted(answer.fetchall()) == [(k,) for k in range(7)]
    assert content(con, "target") == sorted(con.sql(QUERY).fetchall())


def test_insert_into_what_it_reads(guarded: duckward.Ward) -> None:
    in_pieces(guarded, "INSERT INTO a SELECT k, sum(v) FROM a GROUP BY k")
    assert guarded.connection.execute("SELECT count(*) FROM a").fetchall() == [(54,)]


@pytest.mark.parametrize(
    "create", ["TABLE made", "OR REPLACE TABLE made", "TEMP TABLE made", "TABLE IF NOT EXISTS made"]
)
def test_create_table_as(guarded: duckward.Ward, create: str) -> None:
    con = guarded.connection
    in_pieces(guarded, f"CREATE {create} AS {QUERY}")
    assert content(con, "made") == sorted(con.sql(QUERY).fetchall())
    assert [row[:2] for row in con.execute("DESCRIBE made").fetchall()] == [("k", "BIGINT"), ("s", "HUGEINT")]


def test_create_table_as_with_an_expression_called_data(guarded: duckward.Ward) -> None:
    in_pieces(
        guarded, "CREATE TABLE made AS WITH data AS (FROM t) SELECT k, sum(v) AS s FROM data GROUP BY k"
    )
    assert content(guarded.connection, "made") == sorted(guarded.connection.sql(QUERY).fetchall())


def test_insert_of_a_query_in_brackets(guarded: duckward.Ward) -> None:
    in_pieces(guarded, f"INSERT INTO target ({QUERY})")
    assert content(guarded.connection, "target") == sorted(guarded.connection.sql(QUERY).fetchall())


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_copy(guarded: duckward.Ward, tmp_path: pathlib.Path, kind: str) -> None:
    con = guarded.connection
    answer = in_pieces(guarded, f"COPY ({QUERY} ORDER BY k) TO 'made.{kind}' (FORMAT {kind})")
    assert answer.fetchall() == [(7,)]
    assert con.sql(f"FROM 'made.{kind}'").fetchall() == con.sql(f"{QUERY} ORDER BY k").fetchall()
    assert [path.name for path in tmp_path.iterdir()] == [f"made.{kind}"]


def test_another_database_is_written(guarded: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con = guarded.connection
    con.execute(f"ATTACH '{tmp_path}/other.duckdb' AS other; CREATE TABLE other.o (k BIGINT, s HUGEINT)")
    in_pieces(guarded, f"INSERT INTO other.o {QUERY}")
    assert content(con, "other.o") == sorted(con.sql(QUERY).fetchall())
    con.execute("USE other")
    same(guarded, "SELECT k, sum(s) FROM o GROUP BY k")
    con.execute("USE memory; DETACH other")


@pytest.mark.parametrize(
    "statement",
    [
        BROKEN,
        f"INSERT INTO target {BROKEN}",
        f"CREATE TABLE made AS {BROKEN}",
        f"COPY ({BROKEN}) TO 'made.csv'",
    ],
)
def test_an_error_in_one_group_changes_nothing(
    guarded: duckward.Ward, tmp_path: pathlib.Path, statement: str
) -> None:
    con = guarded.connection
    for pieces in (2, 3, 7):
        with pytest.raises(duckdb.ConversionException):
            in_pieces(guarded, statement, pieces).fetchall()
        assert leftovers(con) == []
        assert content(con, "target") == []
        # In the end it runs as it is, to fail by itself, and before 1.5 a failing COPY leaves its file.
        if not (duckdb.__version__.startswith("1.4") and statement.startswith("COPY")):
            assert list(tmp_path.iterdir()) == []
        assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'made'").fetchall() == [
            (0,)
        ]


def test_a_constraint_that_is_violated_changes_nothing(guarded: duckward.Ward) -> None:
    con = guarded.connection
    con.execute("INSERT INTO target VALUES (6, 0)")
    with pytest.raises(duckdb.ConstraintException):
        in_pieces(guarded, f"INSERT INTO target {QUERY}")
    assert content(con, "target") == [(6, 0)]


# ---------------------------------------------------------------- what the pieces read, written once


def spooled(con: Con, sql: str, feed: str) -> bool:
    """Whether what the pieces of `sql` read was written once."""
    with duckward.guard(con, memory="2GB", feed=feed) as ward:
        answer = in_pieces(ward, sql)
        answer.fetchall()
        pieces = made(answer)
    assert leftovers(con) == []
    assert pieces
    assert len({piece["spooled"] for piece in pieces}) == 1
    return bool(pieces[0]["spooled"])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k, median(v), count(*) FROM t GROUP BY k",
        "SELECT t.k, sum(w), list(v ORDER BY id) FROM t JOIN u ON t.k = u.k WHERE v > 5 GROUP BY t.k",
        "SELECT st.a, sum(st.b) FROM t GROUP BY st.a",
        "WITH c AS (SELECT k, v + 1 AS x FROM t) SELECT k + 1 AS n, max(x) FROM c GROUP BY n "
        "HAVING sum(x) > 3",
        "SELECT DISTINCT k, j FROM t",
        "SELECT k FROM t EXCEPT SELECT k FROM u",
    ],
)
def test_what_the_pieces_need_is_written_once_where_it_can_be(data: Con, sql: str) -> None:
    assert spooled(data, sql, "spool")
    assert not spooled(data, sql, "scan")
    assert not spooled(data, sql, "auto"), "so little is read again sooner"


@pytest.mark.parametrize(
    "sql",
    [
        # Sorted, it would come in another order.
        "SELECT k, list(v) FROM t GROUP BY k",
        "SELECT k, first(v), string_agg(s, ',') FROM t GROUP BY k",
        "SELECT k, arg_max(s, v) FROM t GROUP BY k",
        "SELECT k, sum(v * 1e-1) FROM t GROUP BY k",
        "SELECT k, stddev(v) FROM t GROUP BY k",
        # What it reads cannot be named beforehand, or is not only the input.
        "SELECT k, (SELECT max(w) FROM u), sum(v) FROM t GROUP BY k",
        "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY id) FROM t",
    ],
)
def test_what_depends_on_order_or_on_more_than_its_input_is_not_written(data: Con, sql: str) -> None:
    assert not spooled(data, sql, "spool")


def test_a_full_disk_while_it_is_written_leaves_nothing(con: Con, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE big AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(3000000)")
    con.execute(f"SET temp_directory = '{tmp_path / 'spill'}'")
    con.execute("SET max_temp_directory_size = '1MB'")
    con.execute("SET memory_limit = '150MB'")
    sql = "SELECT id % 1000 AS k, max(s), median(id) FROM big GROUP BY id % 1000"
    with (
        duckward.guard(con, memory="2GB", feed="spool") as ward,
        pytest.raises((duckward.DiskError, duckward.OutOfMemoryError)),
    ):
        in_pieces(ward, sql).fetchall()
    assert leftovers(con) == []


# ---------------------------------------------------------------- what is proved


@pytest.mark.parametrize("name", CUT)
def test_the_answer_is_the_answer_when_all_is_proved(fed: duckward.Ward, name: str) -> None:
    ordered = "ORDER BY" in CUT[name].rsplit(")", 1)[-1]
    outcome = difference(fed.connection, fed, CUT[name], 3, ordered, "full")
    assert outcome.kind == "cut", f"{outcome.kind}: {outcome.group}\n{CUT[name]}\n{outcome.text}"


FULL = {
    "a key": "SELECT k, median(v) FROM t GROUP BY k",
    "a key by number": "SELECT k + 1 AS k, median(v) FROM t GROUP BY 1",
    "all": "SELECT k, j, list(s ORDER BY id) FILTER (WHERE v > 3) FROM t GROUP BY ALL",
    "several sets": "SELECT k, j, sum(v) FROM t GROUP BY GROUPING SETS ((k, j), (k))",
    "having": "SELECT k FROM t GROUP BY k HAVING sum(v) > 3500",
    "a join": "SELECT t.k, sum(w) FROM t JOIN u ON t.k = u.k GROUP BY t.k",
    "a view": "SELECT k, max(v) FROM vw GROUP BY k",
    "no key": "SELECT median(v), count(DISTINCT s) FROM t",
    "distinct": "SELECT DISTINCT k, j FROM t",
    "distinct of all": "SELECT DISTINCT *, 5 FROM u ORDER BY w LIMIT 3",
    "distinct with the same name twice": "SELECT DISTINCT k, k, s FROM t",
    "distinct of a subquery": "SELECT DISTINCT (SELECT max(w) FROM u), k FROM t",
    "union": "SELECT k FROM t UNION SELECT k FROM u UNION SELECT v FROM a",
    "union by name": "SELECT k, s FROM t UNION BY NAME SELECT s FROM t",
    "intersect": "SELECT k, j FROM t INTERSECT SELECT k, w FROM u",
    "except": "SELECT v, k::SMALLINT FROM t EXCEPT SELECT k, w FROM u ORDER BY v",
    "windows": "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY id) FROM t ORDER BY j, id",
    "windows and a star": "SELECT t.* EXCLUDE (l), row_number() OVER (PARTITION BY k ORDER BY id) FROM t",
}
COUNTS = {
    "a lambda": "SELECT k, max(list_transform([v], lambda x: x + 1)) FROM t GROUP BY k",
    "a subquery": "SELECT k, (SELECT max(w) FROM u), sum(v) FROM t GROUP BY k",
    "a subquery in an aggregate": "SELECT k, sum(v + (SELECT max(w) FROM u)) FROM t GROUP BY k",
    "one of two": f"{FULL['a key']} UNION ALL SELECT k, max([x + 1 FOR x IN l])[1] FROM t GROUP BY k",
}
NOTHING = {
    "a left side of equal values that differ": "SELECT g FROM odd INTERSECT SELECT g FROM odd",
    "qualify beside what might fail": "SELECT id::UTINYINT FROM t WHERE id < 256 QUALIFY row_number() OVER "
    "(PARTITION BY k ORDER BY id) = 1",
    "qualify by an alias that is a column too": "SELECT id, row_number() OVER (PARTITION BY k ORDER BY "
    "id) AS v FROM t "
    "QUALIFY v < 3",
    "having of what might fail": "SELECT k, max(s)::VARCHAR AS m FROM t GROUP BY k HAVING m > 's'",
    "one of two": f"{FULL['a key']} UNION ALL (SELECT k, -v FROM t QUALIFY max(v) OVER (PARTITION BY k) > 3)",
}
# By counts there is no room for the rows that it leaves out.
FULL_OR_NOTHING = {
    "qualify": "SELECT id FROM t QUALIFY row_number() OVER (PARTITION BY k ORDER BY id) = 1",
    "qualify of an alias": "SELECT *, rank() OVER (PARTITION BY k ORDER BY v) AS r FROM t QUALIFY r < 3 "
    "AND v > 5 "
    "ORDER BY k, v, id LIMIT 9",
    "qualify of a number": "SELECT id, 'x' AS x FROM t QUALIFY row_number() OVER (PARTITION BY k ORDER BY "
    "id) - 1",
    "qualify of nothing": "SELECT id FROM t QUALIFY lag(id) OVER (PARTITION BY k ORDER BY id) > 400",
}


@pytest.mark.parametrize(
    ("sql", "verify", "verified"),
    [(sql, "full", "full") for sql in FULL.values()]
    + [(sql, "counts", "counts") for sql in (*FULL.values(), *COUNTS.values())]
    + [(sql, "full", "counts") for sql in COUNTS.values()]
    + [(sql, "full", "full") for sql in FULL_OR_NOTHING.values()]
    + [(sql, "counts", None) for sql in FULL_OR_NOTHING.values()]
    + [(sql, verify, None) for sql in NOTHING.values() for verify in ("counts", "full")],
)
def test_the_report_says_what_was_proved(
    fed: duckward.Ward, sql: str, verify: Any, verified: str | None
) -> None:
    answer = in_pieces(fed, sql, verify=verify)
    assert answer.report.verified is None, "nothing has run"
    answer.fetchall()
    report = answer.report
    assert report.verified == report.to_dict()["verified"] == verified
    line = re.search(r"^verified +(\w+): (.*)$", str(report), re.MULTILINE)
    assert line is not None
    assert line[1] == (verified or "no")
    assert line[2] in report._repr_html_()


@pytest.mark.parametrize("name", FULL_OR_NOTHING)
def test_what_waits_for_the_proof_is_the_same(fed: duckward.Ward, name: str) -> None:
    sql = FULL_OR_NOTHING[name]
    outcome = difference(fed.connection, fed, sql, 3, "ORDER BY" in sql.rsplit(")", 1)[-1], "full")
    assert (outcome.kind, outcome.group) == ("cut", "full"), f"{outcome.group}\n{sql}\n{outcome.text}"


def test_counts_are_what_is_proved_unless_told(guarded: duckward.Ward) -> None:
    answer = in_pieces(guarded, FULL["a key"])
    answer.fetchall()
    assert answer.report.verified == "counts"
    whole = guarded.sql(FULL["a key"], pieces=False, verify="full")
    whole.fetchall()
    assert whole.report.verified is None, "where there are no pieces nothing is proved of them"
    assert "verified" not in str(whole.report)


@pytest.mark.parametrize("verify", ["", "Full", "all", True, False, 1, ["full"]])
def test_a_proof_that_is_none_is_refused(guarded: duckward.Ward, verify: Any) -> None:
    with pytest.raises(
        duckward.InvalidInputError,
        match=re.escape(f'verify={verify!r} is not accepted: give "counts" or "full"'),
    ):
        guarded.sql("SELECT 1", verify=verify)


def withheld(ward: duckward.Ward, sql: str) -> duckward.Report:
    """The report of an answer that is withheld, because its proof failed."""
    with pytest.raises(
        duckward.InternalError, match=r"the answer is withheld: .*with other values"
    ) as raised:
        in_pieces(ward, sql, verify="full").fetchall()
    report = raised.value.report
    assert report is not None
    assert report.outcome == "failed: internal"
    assert report.verified is None
    assert "the answer is withheld" in report.why
    assert "the answer is withheld" in str(report)
    assert "verified" not in str(report)
    assert leftovers(ward.connection) == []
    return report


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k, median(x) FROM (SELECT k, other(v) AS x FROM t) GROUP BY k",
        "SELECT id, max(x) OVER (PARTITION BY k) FROM (SELECT k, id, other(v) AS x FROM t)",
        "SELECT *, max(v) OVER (PARTITION BY k) FROM (SELECT * REPLACE (other(j) AS j) FROM t)",
        "SELECT k, v FROM (SELECT k, v, id, other(j) AS x FROM t) QUALIFY max(x) OVER (PARTITION BY k) > 0",
        "INSERT INTO target SELECT k, max(x) FROM (SELECT k, other(v) AS x FROM t) GROUP BY k",
    ],
)
def test_other_values_than_there_were_are_found(fed: duckward.Ward, sql: str) -> None:
    calls = itertools.count()
    # DuckDB is told nothing of what makes it give another value each time.
    fed.connection.create_function("other", lambda value: value + next(calls), ["BIGINT"], "BIGINT")
    assert len(withheld(fed, sql).pieces) == 3
    assert fed.sql("SELECT count(*) FROM target").fetchall() == [(0,)]
    answer = in_pieces(fed, sql, verify="counts")
    answer.fetchall()
    assert answer.report.verified == (None if "QUALIFY" in sql else "counts"), (
        "the number of rows does not tell"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT DISTINCT {} AS x, k FROM t",
        "SELECT {} AS x FROM t UNION SELECT k FROM u",
        "SELECT {} AS x FROM t INTERSECT SELECT k FROM u",
        "SELECT k FROM u EXCEPT SELECT {} FROM t",
    ],
)
@pytest.mark.parametrize("verify", ["counts", "full"])
def test_rows_that_are_lost_between_the_count_and_the_pieces_are_found(
    guarded: duckward.Ward, sql: str, verify: Any
) -> None:
    calls = itertools.count()
    guarded.connection.create_function("other", lambda value: value + next(calls), ["BIGINT"], "BIGINT")
    with pytest.raises(duckward.InternalError, match="the answer is withheld: "):
        in_pieces(guarded, sql.format("other(v)"), verify=verify).fetchall()
    assert leftovers(guarded.connection) == []
    same(guarded, sql.format("v"))


@pytest.mark.parametrize(
    "items",
    [
        "*, v * 1e-1, count(*) OVER (PARTITION BY k ORDER BY id * 1e-1)",
        "v * 1e-1, *, count(*) OVER (PARTITION BY k ORDER BY id * 1e-1)",
        "v * 1e-1, * EXCLUDE (l), t.*, count(*) OVER (PARTITION BY k ORDER BY id * 1e-1)",
        "columns('[vk]') * 1e-1, count(*) OVER (PARTITION BY k ORDER BY id * 1e-1)",
    ],
)
def test_columns_beside_a_star_keep_their_names(guarded: duckward.Ward, items: str) -> None:
    """Before 2.0 a number of floating point is written in another way for DuckDB to read it again."""
    same(guarded, f"SELECT {items} FROM t")
    refused(guarded, f"SELECT *, v * 1e-1, t.*, {items} FROM t", "a column between two stars has no name")


@pytest.mark.parametrize("having", ["o IS NOT NULL", "v > 50", "v IS NOT NULL AND count(*) > 1"])
def test_by_all_with_a_column_in_having_is_not_cut(guarded: duckward.Ward, having: str) -> None:
    """Before 2.0 DuckDB groups by that column, too."""
    refused(guarded, f"SELECT v IS NOT NULL AS o FROM t GROUP BY ALL HAVING {having}", "has keys to cut by")
    same(guarded, "SELECT v > 50 AS o, max(k) FROM t GROUP BY ALL HAVING count(v) > 1")


def replacing(ward: duckward.Ward, file: pathlib.Path, other: pathlib.Path) -> duckward.Subscription:
    """Puts `other` in the place of `file` when the first piece is done."""
    return ward.on(lambda event: other.replace(file) if event.get("piece") == 1 and other.exists() else None)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("named", ["'{}'", "read_{kind}('{}')", "read_{kind}(['{}'])", "seen", "linked"])
def test_a_file_that_is_replaced_meanwhile_is_found(
    data: Con, tmp_path: pathlib.Path, kind: str, named: str
) -> None:
    """Also one with the same keys and as many rows, which counts do not tell."""
    file, other = tmp_path / f"it's rows.{kind}", tmp_path / f"other.{kind}"
    path = str(file).replace("'", "''")
    data.execute(f"COPY (SELECT k, v FROM t) TO '{path}'")
    data.execute(f"CREATE TEMP VIEW seen AS SELECT * FROM '{path}'")
    data.execute(f"CREATE TEMP VIEW linked AS WITH f AS (FROM '{path}') SELECT k, v FROM f")
    data.execute("CREATE TABLE into_it (k BIGINT, m DOUBLE)")
    sql = f"SELECT k, median(v) FROM {named.format(path, kind=kind)} GROUP BY k"
    with duckward.guard(data, memory="2GB", feed="scan") as ward:
        for statement in (sql, f"INSERT INTO into_it {sql}", f"COPY ({sql}) TO '{tmp_path / 'made.csv'}'"):
            data.execute(f"COPY (SELECT k, v + 1000 AS v FROM t) TO '{other}'")
            replaced = replacing(ward, file, other)
            with pytest.raises(
                duckward.TransactionError, match=r"rows\.\w+ was changed or replaced while the pieces read it"
            ) as raised:
                in_pieces(ward, statement).fetchall()
            replaced.cancel()
            assert not other.exists()
            assert "run the statement again" in str(raised.value)
            assert leftovers(data) == []
        assert content(data, "into_it") == []
        assert not (tmp_path / "made.csv").exists()
        same(ward, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k, mode(j) FILTER (j < 3), median(v), count(*) FROM t GROUP BY k",
        "SELECT g, m + 1, a FROM (SELECT k % 7 AS g, mode(k) AS m, arg_max(v, id, 3) AS a FROM t WHERE v > 3 "
        "GROUP BY g, k)",
        "SELECT k, mode(k), list(v ORDER BY id) FROM t WHERE v IS NOT NULL OR k > 2 "
        "GROUP BY GROUPING SETS ((k), (k, j)) HAVING k > 1",
        "SELECT lower(k::VARCHAR) AS l, mode(k), median(v) FROM t GROUP BY ALL ORDER BY l",
        "WITH c AS (SELECT * FROM t WHERE k <> 4) SELECT c.k, mode(c.k), quantile_disc(o.v, 0.5) "
        "FROM c JOIN t o USING (id) GROUP BY c.k",
    ],
)
def test_an_aggregate_on_a_branch_of_its_own_is_cut_too(guarded: duckward.Ward, sql: str) -> None:
    """DuckDB 2.0 computes mode() beside the others and joins the two: a filter goes into one of them only."""
    same(guarded, sql)


def test_a_file_may_be_written_by_the_statement_that_reads_it(data: Con, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "rows.csv"
    data.execute(f"COPY (SELECT k, v FROM t) TO '{file}'")
    want = data.execute(f"SELECT k, max(v) FROM '{file}' GROUP BY k ORDER BY k").fetchall()
    with duckward.guard(data, memory="2GB") as ward:
        in_pieces(ward, f"COPY (SELECT k, max(v) AS v FROM '{file}' GROUP BY k) TO '{file}'").fetchall()
    assert data.execute(f"SELECT * FROM '{file}' ORDER BY k").fetchall() == want


# ---------------------------------------------------------------- an end from outside

BIG = "SELECT id % 50 AS k, sum(v) AS s FROM t GROUP BY id % 50"


@pytest.mark.parametrize("after", [1, 5, 20])
@pytest.mark.parametrize("statement", [BIG, f"INSERT INTO target {BIG}", f"CREATE TABLE made AS {BIG}"])
def test_a_cancelled_statement_leaves_nothing(guarded: duckward.Ward, statement: str, after: int) -> None:
    con = guarded.connection

    def cancel(event: dict[str, Any]) -> None:
        if event["event"] == "piece_done" and event["piece"] == after:
            thread = threading.Thread(target=guarded.cancel)
            thread.start()
            thread.join()

    subscription = guarded.on(cancel)
    try:
        with pytest.raises(duckward.CancelledError):
            in_pieces(guarded, statement, 40).fetchall()
    finally:
        subscription.cancel()
    assert leftovers(con) == []
    assert content(con, "target") == []
    assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'made'").fetchall() == [(0,)]
    same(guarded, BIG)


@pytest.mark.parametrize("read", [0, 1])
def test_an_answer_that_is_given_up_leaves_nothing(guarded: duckward.Ward, read: int) -> None:
    answer = in_pieces(guarded, "SELECT id, sum(v) FROM t GROUP BY id")
    for _ in range(read):
        next(answer)
    answer.close()
    assert leftovers(guarded.connection) == []
    same(guarded, QUERY)


def test_another_statement_while_an_answer_is_read(guarded: duckward.Ward) -> None:
    first = in_pieces(guarded, "SELECT id, sum(v) FROM t GROUP BY id")
    assert first.fetchone() is not None
    assert len(in_pieces(guarded, QUERY).fetchall()) == 7
    assert len(first.fetchall()) == 499


# ---------------------------------------------------------------- transactions, databases, connections


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN TRANSACTION READ ONLY"])
def test_inside_the_users_transaction(guarded: duckward.Ward, begin: str) -> None:
    con = guarded.connection
    con.execute(begin)
    if begin == "BEGIN":
        con.execute("INSERT INTO t (k, v) VALUES (100, 1)")
    expected = sorted(con.execute(QUERY).fetchall())
    assert sorted(in_pieces(guarded, QUERY).fetchall()) == expected
    assert con.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name LIKE 'duckward%'"
    ).fetchall() == [(0,)]
    con.execute("ROLLBACK")
    assert con.execute("SELECT count(*) FROM t WHERE k = 100").fetchall() == [(0,)]


def test_a_refusal_leaves_the_users_transaction_as_it_was(guarded: duckward.Ward) -> None:
    con = guarded.connection
    con.execute("BEGIN")
    con.execute("INSERT INTO target VALUES (1, 1)")
    with pytest.raises(duckward.InvalidInputError):
        in_pieces(guarded, "SELECT sum(v) FROM t").fetchall()
    con.execute("COMMIT")
    assert content(con, "target") == [(1, 1)]


@pytest.fixture
def readonly(tmp_path: pathlib.Path) -> Iterator[duckward.Ward]:
    """A ward over a database file that is open for reading only."""
    path = str(tmp_path / "readonly.duckdb")
    with duckdb.connect(path) as con:
        con.execute(TABLES)
    with duckdb.connect(path, read_only=True) as con, duckward.guard(con, memory="2GB") as ward:
        con.execute("SET threads = 2")
        yield ward
        assert leftovers(con) == []


@pytest.mark.parametrize("name", ["by a column", "distinct", "union", "window", "twice used", "limit below"])
def test_a_database_that_is_read_only(readonly: duckward.Ward, name: str) -> None:
    same(readonly, CUT[name])


def test_now_is_the_same_in_every_piece(readonly: duckward.Ward) -> None:
    rows = in_pieces(readonly, "SELECT id, now()::VARCHAR FROM t GROUP BY id", 5).fetchall()
    assert len(rows) == 500
    assert len({now for _, now in rows}) == 1


def test_a_file_database(db: Con) -> None:
    db.execute(TABLES)
    with duckward.guard(db, memory="2GB") as ward:
        same(ward, QUERY)
        in_pieces(ward, f"INSERT INTO target {QUERY}")
        assert content(db, "target") == sorted(db.sql(QUERY).fetchall())
        assert leftovers(db) == []


def test_a_cursor(guarded: duckward.Ward) -> None:
    cursor = guarded.cursor()
    assert len(in_pieces(guarded, QUERY, connection=cursor).fetchall()) == 7
    assert leftovers(cursor) == []


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_files(guarded: duckward.Ward, tmp_path: pathlib.Path, format: str) -> None:
    guarded.connection.execute(f"COPY (SELECT k, v FROM t) TO '{tmp_path}/t.{format}'")
    same(guarded, f"SELECT k, sum(v) FROM '{tmp_path}/t.{format}' GROUP BY k")
    same(
        guarded,
        f"SELECT k, median(v) FROM read_{format}('{tmp_path}/t.{format}') GROUP BY k ORDER BY k",
        ordered=True,
    )


# ---------------------------------------------------------------- several statements, shapes of answers


def test_of_several_statements_that_can_all_be_cut(guarded: duckward.Ward) -> None:
    answer = in_pieces(guarded, f"CREATE TABLE made AS {QUERY}; SELECT k, max(s) FROM made GROUP BY k")
    assert len(answer.fetchall()) == 7
    with pytest.raises(duckward.InvalidInputError, match="cannot run in pieces"):
        in_pieces(guarded, f"SET threads = 2; {QUERY}")


def test_a_query_before_the_last(guarded: duckward.Ward) -> None:
    assert len(in_pieces(guarded, f"{QUERY}; {QUERY}").fetchall()) == 7


def rows_by_batches(answer: duckward.Answer) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for batch in answer for row in batch.to_pylist()]


def rows_one_by_one(answer: duckward.Answer) -> list[tuple[Any, ...]]:
    return list(iter(answer.fetchone, None))


def rows_some_by_some(answer: duckward.Answer) -> list[tuple[Any, ...]]:
    return [row for part in iter(lambda: answer.fetchmany(3), []) for row in part]


SHAPES: dict[str, Callable[[duckward.Answer], list[tuple[Any, ...]]]] = {
    "fetchall": lambda answer: answer.fetchall(),
    "fetchone": rows_one_by_one,
    "fetchmany": rows_some_by_some,
    "df": lambda answer: list(answer.df().itertuples(index=False, name=None)),
    "pl": lambda answer: answer.pl().rows(),
    "to_arrow": lambda answer: [tuple(row.values()) for row in answer.to_arrow().to_pylist()],
    "iteration": rows_by_batches,
    "stream": lambda answer: [tuple(row.values()) for row in pa.table(answer).to_pylist()],
    "stream to polars": lambda answer: pl.DataFrame(answer).rows(),
    "fetchnumpy": lambda answer: list(
        zip(*(part.tolist() for part in answer.fetchnumpy().values()), strict=True)
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_an_answer(guarded: duckward.Ward, name: str) -> None:
    sql = "SELECT k, sum(v)::BIGINT AS s, max(s) AS m FROM t GROUP BY k ORDER BY k"
    answer = in_pieces(guarded, sql)
    assert answer.columns == ["k", "s", "m"]
    assert SHAPES[name](answer) == guarded.connection.sql(sql).fetchall()
    assert str(answer.report.rung) == "in pieces"
    assert answer.report.outcome == "answered"
    assert len(made(answer)) == 3
    assert leftovers(guarded.connection) == []


def test_the_report_and_the_events_tell_of_the_pieces(guarded: duckward.Ward) -> None:
    seen: list[dict[str, Any]] = []
    subscription = guarded.on(lambda event: seen.append(event) if event["event"] == "piece_done" else None)
    answer = in_pieces(guarded, "SELECT id, sum(v) FROM t GROUP BY id", 4)
    answer.fetchall()
    subscription.cancel()
    assert [event["piece"] for event in seen] == [1, 2, 3, 4]
    assert [event["rows"] for event in seen] == [piece["rows"] for piece in made(answer)]
    assert seen[-1]["share"] == pytest.approx(1)
    assert all(piece["splits"] == 0 and piece["seconds"] >= 0 for piece in made(answer))


# ---------------------------------------------------------------- many statements


@pytest.fixture(scope="module")
def tpch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckward.Ward]:
    """A ward over the tables of TPC-H."""
    folder = tmp_path_factory.mktemp("tpch")
    try:
        command = [demo.tpch_generator(), "parquet", "-s", "0.02", "-o", str(folder)]
    except demo.DemoError as error:
        pytest.skip(str(error))
    subprocess.run(command, check=True, capture_output=True)
    with duckdb.connect() as con:
        for file in folder.glob("*.parquet"):
            con.execute(f"CREATE TABLE {file.stem} AS FROM '{file}'")
        with duckward.guard(con, memory="2GB") as ward:
            yield ward


# Of the others every aggregate is over the whole table, or below a comparison.
WITH_KEYS = {1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 15, 16, 18, 21, 22}
QUERIES = pathlib.Path(__file__).parents[2] / "benches" / "tpch.sql"


@pytest.mark.parametrize("number", range(1, 23))
def test_tpch(tpch: duckward.Ward, number: int) -> None:
    text = re.split(r"^-- (\d+)$", QUERIES.read_text(), flags=re.MULTILINE)
    sql = dict(zip(text[1::2], text[2::2], strict=True))[str(number)].strip().rstrip(";")
    outcome = difference(tpch.connection, tpch, sql, 3, False)
    assert outcome.kind == ("cut" if number in WITH_KEYS else "refused"), outcome.text


# Several, so that none is longer than a test may be.
@pytest.mark.parametrize("seed", range(1, 5))
def test_random_statements(seed: int) -> None:
    tally = run(seed=seed, count=300, say=lambda text: None)
    assert not tally.bad, "\n".join(tally.shown.values())
    assert tally.outcomes["cut"] > 0.6 * sum(tally.outcomes.values()), tally.text()
    assert tally.proved["full"] > 0.4 * tally.proved.total(), tally.text()
