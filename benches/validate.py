"""Comparing two sources: over plain scans that hash all columns, and what finding a difference costs."""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench import BenchError, Row, in_child, turns

COLUMNS = "id, k, g, v, s, ts"
BUDGET = "1GB"


def make(path: str, rows: int) -> None:
    """A database of two tables: `a`, and `b` with the same rows but for one value and one row less."""
    import duckdb

    with duckdb.connect(path) as con:
        con.execute(f"""
            create table a as select i as id, (hash(i) % {rows // 20})::int as k,
                (hash(i * 7) % 100)::int as g, (hash(i * 17) % 1000000)::int as v, md5(i::varchar) as s,
                timestamp '2020-01-01' + interval (i) second as ts
            from range({rows}) as r(i);
            create table b as select * replace (if(id = 77, -1, v) as v) from a where id <> {rows // 2};
        """)


def one(path: str, kind: str) -> dict[str, Any]:
    """Seconds of one way to look at two tables, in a process of its own, and how many findings there were."""
    import duckdb

    con = duckdb.connect(path, read_only=True)
    con.execute("set enable_progress_bar=false")
    if kind == "scan":
        con.execute(f"select sum(hash({COLUMNS})) from a limit 1").fetchall()
        began = time.perf_counter()
        for _ in range(2):
            con.execute(f"select sum(hash({COLUMNS})) from a").fetchall()
        return {"seconds": time.perf_counter() - began, "findings": 0}
    import duckward

    ward = duckward.guard(con, memory=BUDGET)
    con.execute(f"select sum(hash({COLUMNS})) from a limit 1").fetchall()
    right, on = {"same": ("a", None), "row": ("b", None), "key": ("b", "id")}[kind]
    began = time.perf_counter()
    found = ward.validate("a", right, on=on)
    return {"seconds": time.perf_counter() - began, "findings": len(found.findings)}


def validate(quick: bool) -> Iterator[Row]:
    """Two tables that are the same, and two that are not, over a plain scan of each."""
    rows, rounds = (2_000_000, 1) if quick else (20_000_000, 2)
    with tempfile.TemporaryDirectory(prefix="duckward-bench-") as folder:
        path = str(pathlib.Path(folder) / "data.duckdb")
        in_child(make, path=path, rows=rows)
        times: dict[str, list[float]] = {}
        findings: dict[str, int] = {}
        for pair in turns(rounds):
            for kind in ("scan" if kind == "plain" else "same" for kind in pair):
                found = in_child(one, path=path, kind=kind)
                times.setdefault(kind, []).append(found["seconds"])
                findings[kind] = found["findings"]
        for kind in ("row", "key"):
            found = in_child(one, path=path, kind=kind)
            times[kind] = [found["seconds"]]
            findings[kind] = found["findings"]
        if findings["same"] or not findings["row"] or not findings["key"]:
            raise BenchError(f"a wrong verdict: {findings}")
        scan = statistics.median(times["scan"])
        ratio = statistics.median(times["same"]) / scan
        yield Row(
            "validate: the same rows",
            f"{ratio:.2f} x two plain scans",
            "<= 2",
            ratio <= 2,
            f"{rows} rows a side; a scan hashes all {len(COLUMNS.split(','))} columns: {scan:.1f} s for both",
        )
        for kind, what in (("row", "as wholes"), ("key", "by key")):
            yield Row(
                f"validate: two changes, {what}",
                f"{times[kind][0] / scan:.1f} x two plain scans",
                compared=f"located: {findings[kind]} findings, {times[kind][0]:.1f} s within {BUDGET}",
            )
