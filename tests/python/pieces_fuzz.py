"""Random statements in pieces against plain DuckDB: `python tests/python/pieces_fuzz.py --seed S --count N`.

Every statement has one right answer: where order matters it is a total one, and summed floats are exact.
A refusal is counted by its reason; anything else that differs is printed with what it takes to see it again.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast

import duckdb
import pyarrow as pa

import duckward

Con = duckdb.DuckDBPyConnection
Verify: TypeAlias = Literal["counts", "full"]

# ---------------------------------------------------------------- answers


def canonical(value: Any) -> str:
    """A value as a text that is the same for equal values: NaN equals NaN, and -0.0 equals 0.0."""
    if isinstance(value, float):
        return "nan" if value != value else repr(value + 0.0)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{canonical(k)}: {canonical(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(canonical, value)) + "]"
    return repr(value)


@dataclass(frozen=True)
class Given:
    """An answer: its columns with their types, and its rows in the order they came in."""

    columns: list[str]
    types: str
    rows: list[str]


def given(columns: list[str], table: pa.Table) -> Given:
    """What an Arrow table holds. By columns, because names need not be unique."""
    rows = [canonical(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    return Given(list(columns), str(table.schema.remove_metadata()), rows)


def plain(con: Con, sql: str) -> Given:
    """DuckDB's own answer."""
    relation = con.sql(sql)
    return given(relation.columns, relation.to_arrow_table())


def cut(ward: duckward.Ward, sql: str, pieces: int, verify: Verify) -> tuple[Given, str | None]:
    """The answer in pieces, and what was proved of them."""
    answer = ward.sql(sql, pieces=pieces, verify=verify)
    return given(answer.columns, answer.to_arrow()), answer.report.verified


def leftovers(con: Con) -> list[str]:
    """What a statement left behind that it must not; an open transaction is ended."""
    left = []
    try:
        sql = "SELECT table_name FROM duckdb_tables() WHERE starts_with(table_name, 'duckward_')"
        left += [f"table {name}" for (name,) in con.execute(sql).fetchall()]
    except duckdb.Error as error:
        left.append(f"a broken connection: {error}")
    try:
        con.execute("ROLLBACK")
        left.append("an open transaction")
    except duckdb.TransactionException:
        pass  # As it should be.
    if con.execute("SELECT 42").fetchall() != [(42,)]:
        left.append("a connection that cannot answer")
    return left


def shortened(rows: list[str]) -> str:
    more = f" ... {len(rows)} rows" if len(rows) > 6 else ""
    return "\n    ".join(row[:300] for row in rows[:6]) + more


def difference(
    con: Con, ward: duckward.Ward, sql: str, pieces: int, ordered: bool, verify: Verify = "counts"
) -> Outcome:
    """Compares one statement."""
    # DuckDB 1.4 groups what comes out of grouping sets wrongly now and then, where threads share the work
    # (duckdb issue 19616); one thread does not.
    alone = duckdb.__version__.startswith("1.4") and re.search(r"\b(CUBE|ROLLUP|SETS)\b", sql) is not None
    if alone:
        (threads,) = con.execute("SELECT current_setting('threads')").fetchall()[0]
        con.execute("SET threads = 1")
    try:
        return _difference(con, ward, sql, pieces, ordered, verify)
    finally:
        if alone:
            con.execute(f"SET threads = {threads}")


def _difference(
    con: Con, ward: duckward.Ward, sql: str, pieces: int, ordered: bool, verify: Verify
) -> Outcome:
    expected: Given | None = None
    theirs: Exception | None = None
    try:
        expected = plain(con, sql)
    except (duckdb.Error, pa.ArrowException, ValueError) as error:
        theirs = error
    outcome = _compared(ward, sql, pieces, verify, ordered, expected, theirs)
    if left := leftovers(con):
        return Outcome("left", "left behind", f"left behind: {left}\n    {outcome.text}")
    return outcome


@dataclass(frozen=True)
class Outcome:
    """How one statement went: "cut", "refused", "invalid" (for DuckDB too), "differs" or "left"."""

    kind: str
    # What those that are alike have in common; of those that were cut, what was proved.
    group: str
    text: str = ""

    @property
    def bad(self) -> bool:
        return self.kind in ("differs", "left")


def _gist(error: Exception) -> str:
    first = str(error).splitlines()[0] if str(error) else ""
    # Names and numbers are another matter each time.
    alike = re.sub('"[^"]*"|[0-9]+', "_", first)[:120]
    return f"{type(error).__name__}: {alike}"


def _compared(
    ward: duckward.Ward,
    sql: str,
    pieces: int,
    verify: Verify,
    ordered: bool,
    expected: Given | None,
    theirs: Exception | None,
) -> Outcome:
    try:
        got, verified = cut(ward, sql, pieces, verify)
    except duckward.InvalidInputError as error:
        reason = str(error).removeprefix("the statement cannot run in pieces: ").split(";")[0]
        return Outcome("refused", reason)
    except Exception as error:
        if theirs is not None and type(error) is type(theirs):
            return Outcome("invalid", _gist(theirs))
        return Outcome(
            "differs", _gist(error), f"plain: {str(theirs) if theirs else 'an answer'}\n    cut: {error}"
        )
    if expected is None:
        return Outcome(
            "differs", "an answer where DuckDB has none", f"plain: {theirs}\n    cut: {got.rows[:3]}"
        )
    if got.columns != expected.columns:
        return Outcome("differs", "columns", f"plain: {expected.columns}\n    cut: {got.columns}")
    if got.types != expected.types:
        return Outcome("differs", "types", f"plain: {expected.types!r}\n    cut: {got.types!r}")
    if sorted(got.rows) != sorted(expected.rows):
        mine, other = collections.Counter(expected.rows), collections.Counter(got.rows)
        lost, new = list((mine - other).elements()), list((other - mine).elements())
        return Outcome(
            "differs", "rows", f"only plain:\n    {shortened(lost)}\n  only cut:\n    {shortened(new)}"
        )
    if ordered and got.rows != expected.rows:
        text = f"plain:\n    {shortened(expected.rows)}\n  cut:\n    {shortened(got.rows)}"
        return Outcome("differs", "order", text)
    return Outcome("cut", verified or "nothing")


# ---------------------------------------------------------------- data

# Literals by type, and what can be done with values of it.
TYPES: dict[str, tuple[str, list[str]]] = {
    "TINYINT": ("int", ["-128", "127", "0", "3"]),
    "SMALLINT": ("int", ["-32768", "7", "0"]),
    "INTEGER": ("int", ["-5", "0", "1", "2", "99"]),
    "BIGINT": ("int", ["-4", "0", "3000000000", "12"]),
    "UTINYINT": ("int", ["0", "255", "9"]),
    "USMALLINT": ("int", ["0", "65535"]),
    "UINTEGER": ("int", ["0", "4294967295", "5"]),
    "UBIGINT": ("any", ["0", "18446744073709551615", "8"]),
    "HUGEINT": ("any", ["-170141183460469231731687303715884105727", "0", "5"]),
    "UHUGEINT": ("any", ["340282366920938463463374607431768211455", "0"]),
    "DECIMAL(4,2)": ("any", ["1.25", "-99.99", "0.00"]),
    "DECIMAL(18,3)": ("any", ["123456789012345.125", "-0.001"]),
    "DECIMAL(38,9)": ("any", ["12345678901234567890.123456789", "0"]),
    "FLOAT": ("any", ["'nan'", "'-0.0'", "0.0", "'inf'", "1.5"]),
    "DOUBLE": ("any", ["'nan'", "'-0.0'", "0.0", "'-inf'", "2.5", "1e300", "0.1"]),
    "VARCHAR": ("str", ["''", "'a'", "'A'", "'grün 🦆'", "'it''s'", "'a,b'", "'longer than twelve bytes'"]),
    "BLOB": ("any", ["'\\x00\\xFF'::BLOB", "''::BLOB", "'ab'::BLOB"]),
    "BOOLEAN": ("any", ["true", "false"]),
    "BIT": ("any", ["'101'", "'0'", "'0101'"]),
    "DATE": ("any", ["'2024-02-29'", "'0044-03-15'", "'1969-12-31'"]),
    "TIME": ("any", ["'00:00:00'", "'23:59:59.999999'"]),
    "TIMETZ": ("any", ["'12:30:00+02'", "'10:30:00+00'", "'00:00:00-05'"]),
    "TIMESTAMP": ("any", ["'2024-01-01 01:02:03.456789'", "'1900-01-01'"]),
    "TIMESTAMP_S": ("any", ["'2024-01-01 01:02:03'", "'1900-01-01'"]),
    "TIMESTAMP_MS": ("any", ["'2024-01-01 01:02:03.456'", "'1900-01-01'"]),
    "TIMESTAMP_NS": ("any", ["'2024-01-01 01:02:03.456789012'", "'1970-01-01'"]),
    "TIMESTAMPTZ": ("tz", ["'2024-01-01 01:02:03+00'", "'2024-01-01 03:02:03+02'"]),
    "INTERVAL": ("any", ["'1 month'", "'31 days'", "'721 hours'", "'3 seconds'"]),
    "UUID": ("any", ["'5c2f8c26-6a0c-4b59-9d0e-3b6a4bf3d5c1'", "'00000000-0000-0000-0000-000000000000'"]),
    "ENUM('sad','ok','a b')": ("any", ["'sad'", "'ok'", "'a b'"]),
    "INTEGER[]": ("list", ["[]", "[1,2]", "[NULL]", "[2,1,1]"]),
    "VARCHAR[][]": ("any", ["[]", "[['a'],NULL]", "[[],['b','']]"]),
    "INTEGER[2]": ("any", ["[1,2]", "[NULL,3]"]),
    "STRUCT(a INTEGER, b VARCHAR)": ("struct", ["{'a':1,'b':'x'}", "{'a':NULL,'b':''}", "{'a':1,'b':NULL}"]),
    "STRUCT(f DOUBLE[], g STRUCT(h DATE))": ("any", ["{'f':[0.0],'g':{'h':NULL}}", "{'f':['nan'],'g':NULL}"]),
    "MAP(VARCHAR, INTEGER)": ("map", ["MAP{'a':1}", "MAP{}", "MAP{'b':NULL,'a':2}"]),
    "UNION(n INTEGER, s VARCHAR)": ("any", ["union_value(n := 1)", "union_value(s := 'x')"]),
    "JSON": ("any", ["'{\"a\":1}'", "'[]'", "'null'"]),
}
# Some are the names that duckward gives to columns of its own.
NAMES = ["g", "x", "c0", "c1", "h0", "h1", "b", "a b", "Mixed", "group", "ü", "duckward_h0", "a"]


@dataclass(frozen=True)
class Col:
    """An expression that stands for a column, what can be done with it, and its own name."""

    sql: str
    kind: str
    name: str


@dataclass(frozen=True)
class Source:
    """What stands behind FROM. `uid` is a number that no two rows share, if there is one."""

    sql: str
    cols: list[Col]
    uid: str | None
    ctes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    name: str
    cols: list[tuple[str, str, str]]  # name, type, kind
    rows: list[list[str]]

    def ddl(self) -> list[str]:
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind, _ in self.cols)
        made = [f"CREATE OR REPLACE TABLE {self.name} ({columns})"]
        if self.rows:
            rows = ", ".join("(" + ", ".join(row) + ")" for row in self.rows)
            made.append(f"INSERT INTO {self.name} VALUES {rows}")
        return made


def quoted(name: str) -> str:
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) and name != "group" else f'"{name}"'


def random_table(rng: random.Random, name: str) -> Table:
    cols = [("id", "BIGINT", "id"), ("k", "INTEGER", "int"), ("v", "INTEGER", "int"), ("f", "DOUBLE", "dbl")]
    for column in rng.sample(NAMES, rng.randint(1, 4)):
        kind = rng.choice(list(TYPES))
        cols.append((column, kind, TYPES[kind][0]))
    count = rng.choice([0, 1, 5, 30, 60, 120])
    skew = rng.random() < 0.3
    rows = []
    for at in range(count):
        k = "7" if skew and rng.random() < 0.8 else str(rng.randint(0, rng.choice([2, 9, 40])))
        k = "NULL" if rng.random() < 0.1 else k
        v = "NULL" if rng.random() < 0.1 else str(rng.randint(-20, 20))
        f = "NULL" if rng.random() < 0.1 else str(rng.randint(-40, 40) / 4)
        row = [str(at), k, v, f]
        for _, kind, _ in cols[4:]:
            row.append("NULL" if rng.random() < 0.15 else f"({rng.choice(TYPES[kind][1])})::{kind}")
        rows.append(row)
    return Table(name, cols, rows)


# ---------------------------------------------------------------- statements


@dataclass(frozen=True)
class Select:
    """A query in parts, so that parts can be left out."""

    items: list[str]
    source: str
    ctes: tuple[str, ...] = ()
    distinct: str = ""
    where: str = ""
    group: str = ""
    having: str = ""
    qualify: str = ""
    order: str = ""
    limit: str = ""
    # What stands around it, if anything; {} is its place.
    around: str = "{}"
    ordered: bool = False
    # The columns it gives: name and kind.
    gives: list[Col] = field(default_factory=list)

    def text(self) -> str:
        parts = [f"WITH {', '.join(self.ctes)}"] if self.ctes and self.around == "{}" else []
        parts.append(f"SELECT {self.distinct}{', '.join(self.items)} FROM {self.source}")
        for word in ("where", "group", "having", "qualify", "order", "limit"):
            if part := getattr(self, word):
                parts.append(part)
        inner = " ".join(parts)
        if self.around == "{}":
            return inner
        scope = f"WITH {', '.join(self.ctes)} " if self.ctes else ""
        return scope + self.around.replace("{}", inner)

    def smaller(self) -> Iterator[Select]:
        for part in ("limit", "order", "qualify", "having", "where", "distinct"):
            if part == "order" and self.order:
                # Without an order a limit may take any rows.
                yield replace(self, order="", limit="", ordered=False)
            elif getattr(self, part):
                yield replace(self, **cast(dict[str, Any], {part: ""}))
        if self.around != "{}":
            yield replace(self, around="{}")
        ordinals = any(re.search(r"\b\d+\b", text) for text in (self.group, self.order))
        if len(self.items) > 1 and not ordinals:
            for at in range(len(self.items)):
                yield replace(self, items=self.items[:at] + self.items[at + 1 :])


class Maker:
    """Makes tables and statements over them."""

    def __init__(self, rng: random.Random, directory: pathlib.Path) -> None:
        self.rng = rng
        self.directory = directory
        self.tables = [random_table(rng, f"t{n}") for n in range(3)]
        self.extra = [
            "CREATE OR REPLACE VIEW vw AS SELECT * FROM t0 WHERE v IS NULL OR v > -10",
            f"COPY (SELECT id, k, v, f FROM t1) TO '{directory}/t1.parquet'",
            f"COPY (SELECT id, k, v, f FROM t2) TO '{directory}/t2.csv' (HEADER)",
        ]
        self.fresh = 0

    def setup(self) -> list[str]:
        return [sql for table in self.tables for sql in table.ddl()] + self.extra

    def maybe(self, share: float) -> bool:
        return self.rng.random() < share

    def name(self, letter: str) -> str:
        self.fresh += 1
        return f"{letter}{self.fresh}"

    # ------------------------------------------------ sources

    def table(self, alias: str | None = None) -> Source:
        table = self.rng.choice(self.tables)
        prefix = f"{alias}." if alias else self.rng.choice(["", "", f"{table.name}."])
        cols = [Col(prefix + quoted(n), kind, n) for n, _, kind in table.cols if kind != "id"]
        sql = f"{table.name} AS {alias}" if alias else table.name
        return Source(sql, cols, f"{prefix}id")

    def plain_cols(self, prefix: str = "") -> list[Col]:
        return [Col(f"{prefix}k", "int", "k"), Col(f"{prefix}v", "int", "v"), Col(f"{prefix}f", "dbl", "f")]

    def join(self) -> Source:
        one, other = self.table("a"), self.table("b")
        kind = self.rng.choice(
            ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN", "CROSS JOIN"]
        )
        uid = "(coalesce(a.id, -1) * 1000 + coalesce(b.id, -1))"
        if kind == "CROSS JOIN":
            small = replace(other, sql=f"(SELECT * FROM {other.sql.split()[0]} WHERE id < 4) AS b")
            return Source(f"{one.sql} CROSS JOIN {small.sql}", one.cols + small.cols, uid)
        if self.maybe(0.3):
            cols = [c for c in one.cols + other.cols if c.name != "k"] + [Col("k", "int", "k")]
            sql = f"{one.sql} {kind} {other.sql} USING (k)"
        elif self.maybe(0.1):
            right = "(SELECT id AS bid, k, w FROM (SELECT id, k, v AS w FROM t1)) AS b"
            cols = [c for c in one.cols if c.name != "k"] + [Col("k", "int", "k"), Col("w", "int", "w")]
            return Source(
                f"{one.sql} NATURAL {kind.replace('SEMI ', '').replace('ANTI ', '')} {right}",
                cols,
                "(coalesce(a.id, -1) * 1000 + coalesce(b.bid, -1))",
            )
        else:
            cols = one.cols + other.cols
            sql = f"{one.sql} {kind} {other.sql} ON a.k = b.v" + (" AND b.id < 50" if self.maybe(0.5) else "")
        if kind in ("SEMI JOIN", "ANTI JOIN"):
            cols = [c for c in cols if not c.sql.startswith("b.")]
            return Source(sql, [c for c in cols if c.name != "k"] + [Col("a.k", "int", "k")], "a.id")
        return Source(sql, cols, uid)

    def source(self, depth: int) -> Source:
        what = self.rng.random()
        if what < 0.3:
            return self.table()
        if what < 0.5:
            return self.join()
        if what < 0.55:
            return Source("vw", self.plain_cols(), "id")
        if what < 0.6:
            file = self.rng.choice(["t1.parquet", "t2.csv"])
            return Source(f"'{self.directory}/{file}'", self.plain_cols(), "id")
        if what < 0.65:
            sql = "t0 AS a, LATERAL (SELECT a.v + b.k AS w, b.id AS bid FROM t1 AS b WHERE b.k = a.k) AS l"
            return Source(sql, [*self.plain_cols("a."), Col("l.w", "int", "w")], "(a.id * 1000 + l.bid)")
        if what < 0.7:
            sql = "(SELECT id, k, v, f, unnest([k, v, NULL]) AS u, unnest([0, 1, 2]) AS n FROM t0) AS q"
            return Source(sql, [*self.plain_cols(), Col("u", "int", "u")], "(id * 10 + n)")
        if what < 0.75:
            return Source("t0, unnest([k, v]) AS u(w)", [*self.plain_cols(), Col("w", "int", "w")], None)
        if what < 0.8:
            sql = "t0 JOIN (SELECT k AS kk, count(*) AS n FROM t1 GROUP BY k) AS s ON s.kk = t0.k"
            return Source(sql, [*self.plain_cols("t0."), Col("n", "int", "n")], "id")
        if depth <= 0:
            return self.table("t")
        inner = self.query(depth - 1, named=True)
        cols = [Col(quoted(col.name), col.kind, col.name) for col in inner.gives]
        if self.maybe(0.5):
            return Source(f"({inner.text()}) AS q", cols, None)
        name = self.rng.choice([self.name("w"), "t0", "t1", "vw", "Cte"])
        cte = f"{name} AS {self.rng.choice(['', 'MATERIALIZED ', 'NOT MATERIALIZED '])}({inner.text()})"
        if self.maybe(0.3):
            first = quoted(cols[0].name)
            twice = [Col(f"a.{c.sql}", c.kind, c.name) for c in cols]
            return Source(
                f"{name} AS a JOIN {name} AS b ON a.{first} IS NOT DISTINCT FROM b.{first}",
                twice,
                None,
                (cte,),
            )
        if self.maybe(0.3):
            # The same name again, further in; it hides the outer one, which it reads.
            again = f"(WITH {name} AS (SELECT * FROM {name}) SELECT * FROM {name}) AS q"
            return Source(again, cols, None, (cte,))
        return Source(name, cols, None, (cte,))

    # ------------------------------------------------ expressions

    def col(self, source: Source, *kinds: str) -> Col | None:
        fit = [c for c in source.cols if not kinds or c.kind in kinds]
        return self.rng.choice(fit) if fit else None

    def key(self, source: Source) -> Col:
        col = self.col(source) or Col("1", "int", "1")
        if self.maybe(0.5):
            return col
        sql = col.sql
        by_kind: dict[str, list[tuple[str, str]]] = {
            "int": [
                (f"{sql} % 3", "int"),
                (f"{sql} IS NULL", "any"),
                (f"coalesce({sql}, -1)", "int"),
                (f"CASE WHEN {sql} > 3 THEN 'big' WHEN {sql} <= 3 THEN 'small' END", "str"),
                (f"CASE {sql} WHEN 1 THEN 10 ELSE 20 END", "int"),
                (f"{sql} BETWEEN 1 AND 5", "any"),
                (f"{sql} IN (1, 2, NULL)", "any"),
                (f"({sql}::DOUBLE / 2)", "any"),
                (f"-({sql}::BIGINT)", "int"),
                (f"[{sql}, 1]", "any"),
                (f"{{'p': {sql}}}", "any"),
                (f"DATE '2024-01-01' + {sql}::INTEGER", "any"),
                (f"list_transform([{sql}], lambda x: x + 1)", "any"),
            ],
            "dbl": [
                (f"{sql} * 2", "dbl"),
                (f"floor({sql})", "dbl"),
                (f"{sql} > 0", "any"),
                (f"{sql} * 1e-1", "any"),
            ],
            "str": [
                (f"upper({sql})", "str"),
                (f"{sql} || '-'", "str"),
                (f"length({sql})", "int"),
                (f"substring({sql} FROM 1 FOR 1)", "str"),
                (f"{sql} LIKE 'a%'", "any"),
                (f"{sql} NOT ILIKE 'A%' ESCAPE '$'", "any"),
            ],
            "list": [(f"{sql}[1]", "int"), (f"len({sql})", "int"), (f"list_sort({sql})", "any")],
            "struct": [(f"({sql}).a", "int"), (f"struct_extract({sql}, 'b')", "str")],
            "map": [(f"map_keys({sql})", "any"), (f"cardinality({sql})", "any")],
            "tz": [(f"{sql} AT TIME ZONE 'UTC'", "any")],
        }
        expression, kind = self.rng.choice(by_kind.get(col.kind, [(f"{sql} IS NOT NULL", "any")]))
        return Col(f"({expression})" if self.maybe(0.2) else expression, kind, "")

    def aggregate(self, source: Source) -> tuple[str, str]:
        uid = source.uid
        number = self.col(source, "int")
        exact = self.col(source, "dbl") or number
        text = self.col(source, "str")
        other = self.col(source)
        choices: list[tuple[str, str]] = [("count(*)", "int")]
        if other and other.kind != "map":
            choices += [
                (f"count({other.sql})", "int"),
                (f"min({other.sql})", other.kind),
                (f"max({other.sql})", other.kind),
            ]
            choices += [(f"count(DISTINCT {other.sql})", "int")]
            if uid:
                choices += [
                    (f"list({other.sql} ORDER BY {uid})", "any"),
                    (f"first({other.sql} ORDER BY {uid} DESC)", other.kind),
                    (f"arg_max({other.sql}, {uid})", other.kind),
                    (f"arg_min({other.sql}, {uid}, 3)", "any"),
                    (f"max_by({other.sql}, {uid}) FILTER (WHERE {other.sql} IS NOT NULL)", other.kind),
                ]
        if number:
            n = number.sql
            choices += [
                (f"sum({n})", "any"),
                (f"avg({n})", "any"),
                (f"median({n})", "any"),
                (f"quantile_disc({n}, 0.25)", "int"),
                (f"quantile_cont({n}, [0.1, 0.9])", "any"),
                (f"percentile_disc(0.5) WITHIN GROUP (ORDER BY {n} DESC)", "int"),
                (f"mad({n})", "any"),
                (f"histogram({n})", "map"),
                (f"list(DISTINCT {n} ORDER BY {n} NULLS LAST)", "any"),
                (f"sum(DISTINCT {n})", "any"),
                (f"sum({n}) FILTER (WHERE {n} > 0)", "any"),
                (f"bit_xor({n})", "int"),
                (f"bool_or({n} > 5)", "any"),
                (f"max({n}, 2)", "any"),
                (f"list_sort(list({n}))", "any"),
                (f"sum({n}) + count(*)", "any"),
                (f"mode({n} * 0)", "any"),
                (f"sum({n}::BIGINT * 2) / 2", "any"),
                (f"round(coalesce(sum({n}), 0), 1)", "any"),
            ]
        if exact:
            choices += [
                (f"sum({exact.sql})", "any"),
                (f"median({exact.sql})", "any"),
                (f"max({exact.sql})", exact.kind),
            ]
        if text and uid:
            choices += [
                (f"string_agg({text.sql}, ',' ORDER BY {uid})", "str"),
                (f"string_agg(DISTINCT {text.sql}, '|' ORDER BY {text.sql})", "str"),
            ]
        return self.rng.choice(choices)

    def number(self, source: Source) -> str:
        """An aggregate that can stand in one column with any other of these."""
        col = self.col(source, "int")
        n = col.sql if col else "1"
        return self.rng.choice(
            [f"sum({n})", f"median({n})", "count(*)", f"count(DISTINCT {n})", f"mad({n})", "NULL"]
        )

    def constant(self) -> tuple[str, str]:
        return self.rng.choice(
            [
                ("NULL", "any"),
                ("1", "any"),
                ("'2020-01-01'", "str"),
                ("0.5", "any"),
                ("1e-1", "any"),
                ("[]", "any"),
                ("true", "any"),
            ]
        )

    def alias(self, taken: set[str]) -> str:
        fit = [n for n in [*NAMES, "k", "v", "f", "id", "m", "n"] if n.lower() not in taken]
        alias = self.rng.choice(fit) if self.maybe(0.35) else self.name("o")
        taken.add(alias.lower())
        return alias

    def where(self, source: Source) -> str:
        col = self.col(source, "int")
        if col is None or self.maybe(0.5):
            return ""
        sql = col.sql
        tests = [
            f"{sql} > 0",
            f"{sql} IS NOT NULL",
            f"{sql} IN (SELECT k FROM t1)",
            f"{sql} IN (SELECT k FROM t1 GROUP BY k HAVING count(*) > 1)",
            f"{sql} <> ALL (SELECT v FROM t2 WHERE v IS NOT NULL)",
            f"({sql} > 3 OR {sql} IS NULL) AND NOT ({sql} = 5)",
            f"len(list_filter([{sql}], lambda z: z > 1)) > 0",
        ]
        if "." in sql:
            # Without its table the name would be one of the subquery.
            tests += [
                f"{sql} >= (SELECT min(z.v) FROM t1 AS z WHERE z.k IS NOT DISTINCT FROM {sql})",
                f"NOT EXISTS (SELECT 1 FROM t2 AS z WHERE z.k = {sql} AND z.v > 15)",
            ]
        return f"WHERE {self.rng.choice(tests)}"

    # ------------------------------------------------ queries

    def query(self, depth: int, named: bool) -> Select:
        what = self.rng.random()
        if what < 0.6:
            return self.grouped(depth, named)
        if what < 0.75:
            return self.windowed(depth, named)
        if what < 0.85:
            return self.distinct(depth)
        return self.set_operation(depth, named)

    def grouped(self, depth: int, named: bool) -> Select:
        source = self.source(depth)
        keys = [self.key(source) for _ in range(self.rng.choice([1, 1, 2, 2, 3]))]
        taken: set[str] = set()
        parts: list[tuple[str, str, str, int]] = []  # expression, kind, alias, key or -1
        shown = [at for at in range(len(keys)) if named or self.maybe(0.9)]
        for at in shown:
            parts.append(
                (keys[at].sql, keys[at].kind, self.alias(taken) if named or self.maybe(0.5) else "", at)
            )
        for _ in range(self.rng.choice([0, 1, 1, 2, 3])):
            sql, kind = self.aggregate(source)
            parts.append((sql, kind, self.alias(taken) if named or self.maybe(0.5) else "", -1))
        if self.maybe(0.1):
            sql, kind = self.constant()
            parts.append((sql, kind, self.alias(taken), -1))
        sets = self.maybe(0.2)
        if sets and self.maybe(0.5):
            sql, kind = self.of_sets(keys)
            parts.append((sql, kind, self.alias(taken) if named or self.maybe(0.5) else "", -1))
        if not parts:
            parts.append(("count(*)", "int", self.alias(taken), -1))
        self.rng.shuffle(parts)
        items = [f"{sql} AS {quoted(alias)}" if alias else sql for sql, _, alias, _ in parts]
        place = {key: at for at, (_, _, _, key) in enumerate(parts) if key >= 0}
        group = "GROUP BY " + self.grouping(keys, place, [part[2] for part in parts], sets)
        having = self.having(source, keys, [(part[0], part[2]) for part in parts])
        if sets and self.maybe(0.1):
            having = f"HAVING grouping({keys[-1].sql}) = 1 OR count(*) > 1"
        gives = [Col(alias or sql, kind, alias or sql) for sql, kind, alias, _ in parts]
        sortable = all(kind != "map" for _, kind, _, _ in parts)
        made = Select(items, source.sql, source.ctes, "", self.where(source), group, having, gives=gives)
        if self.maybe(0.08):
            made = replace(made, distinct="DISTINCT ")
        return self.ordered(made, source, keys, sortable, aggregates=not made.distinct)

    def of_sets(self, keys: list[Col]) -> tuple[str, str]:
        """What says of a row which set it is of."""
        key, other = self.rng.choice(keys).sql, self.rng.choice(keys).sql
        return self.rng.choice(
            [
                (f"grouping({key})", "int"),
                (f"grouping_id({key}, {other})", "int"),
                (f"grouping({key}) * 2 + grouping({other})", "int"),
                (f"CASE WHEN grouping({key}) = 1 THEN 'all' ELSE CAST({key} AS VARCHAR) END", "str"),
                (f"({key}) IS NULL", "any"),
                (f"[{key}, {key}]", "any"),
            ]
        )

    def grouping(self, keys: list[Col], place: dict[int, int], aliases: list[str], sets: bool) -> str:
        if not sets and self.maybe(0.15) and len(place) == len(keys):
            return "ALL"
        texts = []
        for at, key in enumerate(keys):
            ways = [key.sql]
            if at in place:
                ways.append(str(place[at] + 1))
                if aliases[place[at]]:
                    ways.append(quoted(aliases[place[at]]))
            texts.append(self.rng.choice(ways))
        if sets:
            listed = ", ".join(texts)
            return self.rng.choice(
                [
                    f"ROLLUP ({listed})",
                    f"CUBE ({listed})",
                    f"GROUPING SETS (({listed}), ({texts[0]}))",
                    f"{texts[0]}, ROLLUP ({listed})",
                    f"GROUPING SETS (({texts[0]}), ({texts[0]}))",
                    f"GROUPING SETS (({listed}), ())",
                    f"GROUPING SETS (({texts[0]}), (), ({texts[-1]}), ({texts[0]}))",
                ]
            )
        return ", ".join(texts)

    def having(self, source: Source, keys: list[Col], parts: list[tuple[str, str]]) -> str:
        if self.maybe(0.7):
            return ""
        tests = ["count(*) > 1", "count(*) % 2 = 1", "count(*)", f"{keys[0].sql} IS NOT NULL"]
        if number := self.col(source, "int"):
            tests += [f"sum({number.sql}) > 0", f"max({number.sql}) IN (SELECT v FROM t2)"]
        tests += [f"{quoted(alias)} IS NOT NULL" for _, alias in parts if alias]
        return f"HAVING {self.rng.choice(tests)}"

    def ordered(
        self, made: Select, source: Source, keys: list[Col], sortable: bool, aggregates: bool
    ) -> Select:
        """With an order in which only equal rows tie, or none."""
        if self.maybe(0.45) or not sortable:
            return made
        by = []
        if aggregates and self.maybe(0.4):
            sql, kind = self.aggregate(source)
            by += [f"{sql} DESC NULLS LAST"] if kind != "map" else []
        ends = ["", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"]
        named = [quoted(col.name) for col in made.gives if re.fullmatch("[a-zA-Z0-9_ ü]+", col.name)]
        if named and self.maybe(0.4):
            by.append(self.rng.choice(named) + self.rng.choice(ends))
        if aggregates and keys and self.maybe(0.3):
            by.append(self.rng.choice(keys).sql + self.rng.choice(ends))
        if self.maybe(0.1) and not by:
            order = "ORDER BY ALL" + self.rng.choice(["", " DESC"])
        else:
            at = list(range(1, len(made.items) + 1))
            self.rng.shuffle(at)
            order = "ORDER BY " + ", ".join(by + [f"{n}{self.rng.choice(ends)}" for n in at])
        limit = ""
        if self.maybe(0.4):
            limit = self.rng.choice(["LIMIT 3", "LIMIT 5 OFFSET 2", "OFFSET 3", "LIMIT 50%", "LIMIT 0"])
        return replace(made, order=order, limit=limit, ordered=True)

    def windowed(self, depth: int, named: bool) -> Select:
        source = self.source(depth)
        key, second = self.key(source), self.key(source)
        number = self.col(source, "int") or Col("1", "int", "")
        over = f"PARTITION BY {key.sql}" + (f", {second.sql}" if self.maybe(0.3) else "")
        if source.uid:
            order = f"{over} ORDER BY {source.uid}" + self.rng.choice(["", " DESC"])
            calls = [
                f"row_number() OVER ({order})",
                f"sum({number.sql}) OVER ({order} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)",
                f"lag({number.sql}, 1, 0) OVER ({order})",
                f"last_value({number.sql} IGNORE NULLS) OVER ({order})",
                f"count(*) OVER ({order} ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE "
                f"CURRENT ROW)",
                f"list({number.sql}) OVER ({order})",
                f"median({number.sql}) OVER ({order} ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING)",
            ]
        else:
            calls = [f"sum({number.sql}) OVER ({over})", f"rank() OVER ({over} ORDER BY {number.sql})"]
        calls += [
            f"count(*) FILTER (WHERE {number.sql} > 0) OVER ({over})",
            f"max({number.sql}) OVER ({over})",
        ]
        calls += [
            f"count(DISTINCT {number.sql}) OVER ({over})",
            f"dense_rank() OVER ({over} ORDER BY {number.sql})",
        ]
        taken: set[str] = set()
        texts = [(key.sql, key.kind), (second.sql, second.kind)][: self.rng.randint(0, 2)]
        texts += [(call, "any") for call in self.rng.sample(calls, self.rng.randint(1, 2))]
        parts = [(sql, kind, self.alias(taken) if named or self.maybe(0.5) else "") for sql, kind in texts]
        self.rng.shuffle(parts)
        items = [f"{sql} AS {quoted(alias)}" if alias else sql for sql, _, alias in parts]
        gives = [Col(alias or sql, kind, alias or sql) for sql, kind, alias in parts]
        qualify = ""
        if self.maybe(0.3):
            test = self.rng.choice(["<= 2", "= 1", "% 2 = 0"])
            qualify = f"QUALIFY {self.rng.choice(calls[:1] + calls[-2:])} {test}"
        made = Select(items, source.sql, source.ctes, "", self.where(source), qualify=qualify, gives=gives)
        if not named and self.maybe(0.15):
            # In no order: what a star gives may not be sortable.
            return replace(made, items=["*", *items])
        return self.ordered(made, source, [key], all(kind != "map" for _, kind, _ in parts), aggregates=False)

    def distinct(self, depth: int) -> Select:
        source = self.source(depth)
        keys = [self.key(source) for _ in range(self.rng.randint(1, 3))]
        taken: set[str] = set()
        aliases = [self.alias(taken) for _ in keys]
        items = [f"{key.sql} AS {quoted(alias)}" for key, alias in zip(keys, aliases, strict=True)]
        gives = [Col(alias, key.kind, alias) for key, alias in zip(keys, aliases, strict=True)]
        sortable = all(key.kind != "map" for key in keys)
        made = Select(items, source.sql, source.ctes, "DISTINCT ", self.where(source), gives=gives)
        if sortable and self.maybe(0.25):
            rest = ", ".join(str(n) for n in range(1, len(items) + 1))
            return replace(
                made, distinct=f"DISTINCT ON ({keys[0].sql}) ", order=f"ORDER BY {rest}", ordered=True
            )
        made = self.ordered(made, source, [], sortable, aggregates=False)
        if made.order and self.maybe(0.3):
            made = (
                replace(made, order=made.order.replace("ORDER BY ", f"ORDER BY {keys[0].sql}, ", 1))
                if "ALL" not in made.order
                else made
            )
        return made

    def overlap(self, depth: int, named: bool) -> Select:
        """What parts of one source have in common, of any types, or a DISTINCT of all of it."""
        source = self.source(depth - 1)
        if not named and self.maybe(0.3):
            return Select(["*"], source.sql, source.ctes, "DISTINCT ", self.where(source))
        keys = [self.key(source) for _ in range(self.rng.randint(1, 3))]
        taken: set[str] = set()
        aliases = [self.alias(taken) for _ in keys]
        first = ", ".join(f"{key.sql} AS {quoted(alias)}" for key, alias in zip(keys, aliases, strict=True))
        others = ", ".join(key.sql for key in keys)
        text = f"SELECT {first} FROM {source.sql} {self.where(source)}"
        for _ in range(self.rng.choice([1, 1, 2])):
            word = self.rng.choice(["UNION", "INTERSECT", "EXCEPT"])
            text += f" {word} SELECT {others} FROM {source.sql} {self.where(source)}"
        scope = f"WITH {', '.join(source.ctes)} " if source.ctes else ""
        gives = [Col(alias, key.kind, alias) for key, alias in zip(keys, aliases, strict=True)]
        return Select(["*"], "t0", around=scope + text, gives=gives)

    def set_operation(self, depth: int, named: bool) -> Select:
        if self.maybe(0.3):
            return self.overlap(depth, named)
        word = self.rng.choice(
            ["UNION", "UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL"]
        )
        sides = []
        for _ in range(self.rng.choice([2, 2, 3])):
            source = self.source(depth - 1)
            first = self.col(source, "int") or Col("1", "int", "")
            second = self.col(source, "int", "dbl") or Col("2", "int", "")
            if self.maybe(0.5):
                sides.append(
                    f"SELECT {first.sql} AS p, {self.rng.choice([second.sql, 'NULL', '7'])} AS q FROM "
                    f"{source.sql}"
                )
            else:
                sides.append(
                    f"SELECT {first.sql} AS p, {self.number(source)} AS q FROM {source.sql} GROUP BY "
                    f"{first.sql}"
                )
            if source.ctes:
                sides[-1] = f"(WITH {', '.join(source.ctes)} {sides[-1]})"
        by_name = " BY NAME" if word in ("UNION", "UNION ALL") and self.maybe(0.2) else ""
        text = f" {word}{by_name} ".join(sides)
        gives = [Col("p", "int", "p"), Col("q", "any", "q")]
        order = self.rng.choice(
            ["", "", " ORDER BY 1, 2", " ORDER BY q DESC, p NULLS FIRST", " ORDER BY ALL LIMIT 4"]
        )
        if self.maybe(0.5):
            # As it stands, so that the operation is the top of the statement.
            return Select(["*"], "t0", around=text + order, ordered=bool(order), gives=gives)
        return Select(["p", "q"], f"({text}{order}) AS s", gives=gives)

    def statement(self) -> Select:
        made = self.query(self.rng.choice([0, 1, 1, 2]), named=self.maybe(0.4))
        if made.around != "{}" or self.maybe(0.75):
            return made
        names = [col for col in made.gives if re.fullmatch("[a-zA-Z0-9_ ü]+", col.name)]
        if not names or len(names) != len(made.gives):
            return made
        first = quoted(names[0].name)
        around = self.rng.choice(
            [
                "SELECT * FROM ({}) AS outside",
                f"SELECT {first}, count(*) FROM ({{}}) AS outside GROUP BY {first}",
                "SELECT count(*) FROM ({}) AS outside",
                f"SELECT * FROM ({{}}) AS outside WHERE {first} IS NOT NULL",
                f"SELECT outside.* FROM ({{}}) AS outside LEFT JOIN t1 ON t1.id = 3 AND "
                f"{first.join(['outside.', ''])} IS NULL",
                "SELECT * FROM ({}) AS one UNION ALL SELECT * FROM ({}) AS other",
            ]
        )
        return replace(made, around=around, ordered=False)


# ---------------------------------------------------------------- the run


@dataclass
class Tally:
    """What came of many statements."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    reasons: collections.Counter[str] = field(default_factory=collections.Counter)
    invalid: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: collections.Counter[str] = field(default_factory=collections.Counter)
    # What was proved of those that were to be proved in full.
    proved: collections.Counter[str] = field(default_factory=collections.Counter)
    # The first of each group.
    shown: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        valid = sum(self.outcomes.values()) - self.outcomes["invalid"]
        lines = [
            f"{valid} statements, {self.outcomes['cut']} cut "
            f"({100 * self.outcomes['cut'] / max(valid, 1):.0f} %), "
            f"{self.outcomes['refused']} refused, {sum(self.bad.values())} bad; "
            f"{self.outcomes['invalid']} more are wrong SQL"
        ]
        kinds = {"proved": self.proved, "refused": self.reasons, "bad": self.bad, "wrong SQL": self.invalid}
        for title, counts in kinds.items():
            lines += [f"  {title}: {count:5} {reason}" for reason, count in counts.most_common(25)]
        return "\n".join(lines)


def _shrunk(con: Con, ward: duckward.Ward, made: Select, pieces: int, verify: Verify, group: str) -> Select:
    """Parts are left out while the statement goes wrong in the same way."""
    for _ in range(30):
        for smaller in made.smaller():
            outcome = difference(con, ward, smaller.text(), pieces, smaller.ordered, verify)
            if outcome.bad and outcome.group == group:
                made = smaller
                break
        else:
            break
    return made


def run(
    seed: int, count: int, say: Callable[[str], object] = print, per_schema: int = 20, shown: int = 3
) -> Tally:
    """`count` statements from `seed` on. Of what goes wrong in the same way, the first `shown` are told."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as directory:
        for first in range(0, count, per_schema):
            here = seed + first
            rng = random.Random(here)
            maker = Maker(rng, pathlib.Path(directory))
            # Both ways in turn, and the same for the same seed.
            feed = ("scan", "spool")[here // per_schema % 2]
            with (
                duckdb.connect(config={"threads": 2}) as con,
                duckward.guard(con, memory="2GB", feed=feed) as ward,
            ):
                con.execute("SET TimeZone = 'UTC'")
                for sql in maker.setup():
                    con.execute(sql)
                for at in range(min(per_schema, count - first)):
                    made = maker.statement()
                    pieces = rng.choice([1, 2, 3, 5, 8, 50])
                    verify: Verify = "full" if at % 3 == 0 else "counts"
                    outcome = difference(con, ward, made.text(), pieces, made.ordered, verify)
                    tally.outcomes[outcome.kind] += 1
                    if outcome.kind == "cut" and verify == "full":
                        tally.proved[outcome.group] += 1
                    if outcome.kind == "refused":
                        tally.reasons[outcome.group] += 1
                    elif outcome.kind == "invalid":
                        tally.invalid[outcome.group] += 1
                    if not outcome.bad:
                        continue
                    tally.bad[outcome.group] += 1
                    if tally.bad[outcome.group] > shown:
                        continue
                    small = _shrunk(con, ward, made, pieces, verify, outcome.group)
                    text = difference(con, ward, small.text(), pieces, small.ordered, verify).text
                    tables = [
                        table for table in maker.tables if table.name in small.text() or "vw" in small.text()
                    ]
                    schema = "\n".join(f"  {table.ddl()[0]}  -- {len(table.rows)} rows" for table in tables)
                    where = f"seed {here} statement {at}, pieces={pieces}, feed={feed}, verify={verify}"
                    report = f"\n{outcome.group}: {where}\n{schema}\n  {small.text()}\n  {text}"
                    tally.shown.setdefault(outcome.group, report)
                    say(report)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--shown", type=int, default=3, help="how many of a kind are printed")
    given_ = parser.parse_args()
    tally = run(given_.seed, given_.count, shown=given_.shown)
    print(f"\nDuckDB {duckdb.__version__}, seed {given_.seed}: {tally.text()}")
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
