"""Pieces against their source, over plain scans; keys over pieces, over one query for each two of them."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench import BenchError, Row, in_child, turns
from validate import BUDGET, COLUMNS, make

PIECES = 24
FEW, MANY = 10, 1000


def cut(folder: str, rows: int) -> None:
    """The table `a`, partitionings of it, and tables `a_0` to `a_23`, of which two share 1,000 keys."""
    import duckdb

    import duckward

    make(f"{folder}/data.duckdb", rows)
    with duckdb.connect(f"{folder}/data.duckdb") as con, duckward.guard(con, memory=BUDGET) as ward:
        for pieces in (PIECES, FEW, MANY):
            ward.partition(ward.plan("a", by="id", pieces=pieces), f"{folder}/lake{pieces}")
        # Every piece has keys from the least to the largest; else joins of two skip nearly everything.
        for number in range(PIECES):
            con.execute(f"create table a_{number} as from a where hash(id) % {PIECES} = {number}")
        con.execute("insert into a_7 from a_3 order by id limit 1000")


def one(folder: str, kind: str, pieces: int = PIECES) -> dict[str, Any]:
    """Seconds of one way to look at the pieces, in a process of its own, and what was found."""
    import duckdb

    con = duckdb.connect(f"{folder}/data.duckdb", read_only=True)
    con.execute("set enable_progress_bar=false")
    con.execute(f"select sum(hash({COLUMNS})) from a limit 1").fetchall()
    names = [f"a_{number}" for number in range(PIECES)]
    found: Any = 0
    if kind == "scan":
        began = time.perf_counter()
        con.execute(f"select sum(hash({COLUMNS})) from a").fetchall()
        con.execute(f"select sum(hash({COLUMNS})) from '{folder}/lake{pieces}/**/*.parquet'").fetchall()
    elif kind == "pairs":
        began = time.perf_counter()
        pairs = [
            con.execute(f"select count(distinct a.id) from {one} a join {other} b using (id)").fetchall()[0][
                0
            ]
            for one, other in itertools.combinations(names, 2)
        ]
        found = sum(pairs)
    else:
        import duckward

        ward = duckward.guard(con, memory=BUDGET)
        done = duckward.Partitioning.load(f"{folder}/lake{pieces}")
        began = time.perf_counter()
        if kind == "pieces":
            found = len(ward.validate("a", done).findings)
        else:
            found = sum(pair["keys"] for pair in ward.validate(names, on="id").overlaps)
    return {"seconds": time.perf_counter() - began, "found": found}


def pieces(quick: bool) -> Iterator[Row]:
    """Validating 24 pieces, over a plain scan of both; keys of 24 tables in one pass, over pairs of them."""
    rows, rounds = (2_000_000, 1) if quick else (20_000_000, 2)
    with tempfile.TemporaryDirectory(prefix="duckward-bench-") as folder:
        in_child(cut, folder=folder, rows=rows)
        times: dict[str, list[float]] = {}
        for kinds in (("scan", "pieces"), ("pairs", "keys")):
            for pair in turns(rounds):
                for kind in (kinds[0] if kind == "plain" else kinds[1] for kind in pair):
                    found = in_child(one, folder=folder, kind=kind)
                    times.setdefault(kind, []).append(found["seconds"])
                    if found["found"] != (1000 if kind in ("pairs", "keys") else 0):
                        raise BenchError(f"a wrong verdict: {kind} found {found['found']}")
        middle = {kind: statistics.median(all_of_it) for kind, all_of_it in times.items()}
        ratio = middle["pieces"] / middle["scan"]
        yield Row(
            f"validate: {PIECES} pieces of a table",
            f"{ratio:.2f} x a plain scan of both",
            "<= 1.5",
            ratio <= 1.5,
            f"{rows} rows; a scan hashes all columns of the table and of its files: {middle['scan']:.1f} s; "
            "validating reads the table, and compares the SHA-256 of files with what was written",
        )
        flat = {}
        for pieces in (FEW, MANY):
            found = [in_child(one, folder=folder, kind="pieces", pieces=pieces) for _ in range(rounds)]
            if any(one_of["found"] for one_of in found):
                raise BenchError(f"a wrong verdict over {pieces} pieces")
            flat[pieces] = statistics.median(one_of["seconds"] for one_of in found)
        growth = flat[MANY] / flat[FEW]
        yield Row(
            f"validate: {MANY} pieces over {FEW}",
            f"{growth:.2f} x the time",
            "<= 1.2",
            growth <= 1.2,
            f"{flat[FEW]:.1f} s and {flat[MANY]:.1f} s",
        )
        yield Row(
            f"validate: keys of {PIECES} tables",
            f"{middle['keys'] / middle['pairs']:.2f} x a query for each two",
            compared=f"{middle['keys']:.1f} s within {BUDGET}, and {middle['pairs']:.1f} s for "
            f"{PIECES * (PIECES - 1) // 2} joins",
        )
