"""Cutting a table into files: over DuckDB's bare COPY of the same pieces, by hand, and with many pieces."""

from __future__ import annotations

import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench import BenchError, Row, in_child, turns

BUDGET = "1GB"
PIECES = 24
MANY = 1000
# How two pieces that were cut by hand are asked for what is in both.
OVERLAPS = {
    "keys joined": "select count(*) from p{} join p{} using (id)",
    "rows intersected": "select count(*) from (from p{} intersect from p{})",
}


def make(path: str, rows: int) -> None:
    """A database with one table."""
    import duckdb

    with duckdb.connect(path) as con:
        con.execute(f"""
            create table t as select i as id, (hash(i) % {rows // 20})::int as k,
                (hash(i * 7) % 100)::int as g, (hash(i * 17) % 1000000)::int as v, md5(i::varchar) as s,
                timestamp '2020-01-01' + interval (i) second as ts
            from range({rows}) as r(i)
        """)


def one(path: str, kind: str, rows: int, pieces: int) -> dict[str, Any]:
    """Seconds of one way to cut the table, in a process of its own, and the rows that were written."""
    import duckdb

    con = duckdb.connect(path, read_only=True)
    con.execute("set enable_progress_bar=false")
    with tempfile.TemporaryDirectory(prefix="duckward-bench-") as folder:
        con.execute("select sum(hash(id, k, g, v, s, ts)) from t").fetchall()
        if kind == "duckward":
            import duckward

            ward = duckward.guard(con, memory=BUDGET)
            plan = ward.plan("t", by="v", pieces=pieces)
            began = time.perf_counter()
            done = ward.partition(plan, f"{folder}/lake")
            return {"seconds": time.perf_counter() - began, "rows": done.rows}
        con.execute(f"set memory_limit='{BUDGET}'")
        if kind == "plain":
            began = time.perf_counter()
            con.execute(
                f"copy (select *, v * {pieces} // 1000000 as piece from t) to '{folder}/lake' "
                "(format parquet, partition_by (piece))"
            )
        else:
            hand = duckdb.connect(f"{folder}/hand.duckdb")
            hand.execute("set enable_progress_bar=false")
            hand.execute(f"attach '{path}' as d (read_only); set memory_limit='{BUDGET}'")
            began = time.perf_counter()
            bounds = [1000000 * piece // pieces for piece in range(pieces + 1)]
            for piece, (low, high) in enumerate(itertools.pairwise(bounds)):
                hand.execute(f"create table p{piece} as from d.t where v >= {low} and v < {high}")
            for left, right in itertools.combinations(range(pieces), 2):
                hand.execute(OVERLAPS[kind].format(left, right)).fetchall()
            return {"seconds": time.perf_counter() - began, "rows": rows}
        seconds = time.perf_counter() - began
        written = con.execute(f"select count(*) from '{folder}/lake/**/*.parquet'").fetchall()
        return {"seconds": seconds, "rows": written[0][0]}


def partition(quick: bool) -> Iterator[Row]:
    """Partitioning with its proof over the bare COPY and over what people do by hand; many pieces."""
    rows, rounds = (2_000_000, 1) if quick else (20_000_000, 3)
    with tempfile.TemporaryDirectory(prefix="duckward-bench-") as folder:
        path = str(pathlib.Path(folder) / "data.duckdb")
        in_child(make, path=path, rows=rows)
        times: dict[tuple[str, int], list[float]] = {}

        def timed(kind: str, pieces: int) -> None:
            found = in_child(one, path=path, kind=kind, rows=rows, pieces=pieces)
            if found["rows"] != rows:
                raise BenchError(f"{kind} wrote {found['rows']} of {rows} rows")
            times.setdefault((kind, pieces), []).append(found["seconds"])

        for pair in turns(rounds):
            for kind in pair:
                timed("plain" if kind == "plain" else "duckward", PIECES)
        for pieces in (10, MANY):
            timed("duckward", pieces)
        for kind in OVERLAPS:
            timed(kind, PIECES)
        seconds = {what: statistics.median(found) for what, found in times.items()}
        ours = seconds["duckward", PIECES]
        ratio = ours / seconds["plain", PIECES]
        yield Row(
            f"partition: {PIECES} pieces, proved",
            f"{ratio:.2f} x bare COPY",
            "<= 1.25",
            ratio <= 1.25,
            f"{rows} rows; COPY ... PARTITION_BY {seconds['plain', PIECES]:.1f} s, and {ours:.1f} s",
        )
        for kind in OVERLAPS:
            by_hand = seconds[kind, PIECES] / ours
            yield Row(
                f"partition: {PIECES} pieces by hand, {kind}",
                f"{by_hand:.1f} x as long",
                ">= 5",
                by_hand >= 5,
                f"a CREATE TABLE AS for each, and each pair: {seconds[kind, PIECES]:.1f} s",
            )
        growth = seconds["duckward", MANY] / seconds["duckward", 10]
        yield Row(
            f"partition: {MANY} pieces over 10",
            f"{growth:.2f} x the time",
            "<= 1.2",
            growth <= 1.2,
            f"{seconds['duckward', 10]:.1f} s and {seconds['duckward', MANY]:.1f} s",
        )
