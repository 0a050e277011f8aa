"""Loading an Arrow stream in batches that are each committed, over DuckDB's own insert of all at once."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench import BenchError, Row, in_child, turns

BUDGET = "2GB"
CHUNK = 50_000
SMALL = 100_000


def one(kind: str, rows: int, batch_rows: int) -> dict[str, Any]:
    """Seconds of one way to load the stream, in a process of its own, and the rows that are there then."""
    import duckdb

    source = duckdb.connect()
    made = source.sql(f"""
        select i as id, (hash(i) % 1000)::int as k, (hash(i * 7) % 1000000)::double / 100 as v,
            md5(i::varchar) as s, timestamp '2020-01-01' + interval (i) second as ts
        from range({rows}) as r(i)
    """)
    table = made.to_arrow_table() if hasattr(made, "to_arrow_table") else made.fetch_arrow_table()
    source.close()
    with tempfile.TemporaryDirectory(prefix="duckward-bench-") as folder:
        con = duckdb.connect(f"{folder}/t.duckdb")
        con.execute("set enable_progress_bar=false")
        con.execute("create table t (id bigint, k int, v double, s varchar, ts timestamp)")
        if kind == "duckward":
            import duckward

            ward = duckward.guard(con, memory=BUDGET)
            reader = table.to_reader(CHUNK)
            began = time.perf_counter()
            ward.ingest(reader, "t", batch_rows=batch_rows)
            seconds = time.perf_counter() - began
        else:
            con.execute(f"set memory_limit='{BUDGET}'")
            reader = table.to_reader(CHUNK)
            began = time.perf_counter()
            con.execute("insert into t select * from reader")
            seconds = time.perf_counter() - began
        found = con.execute("select count(*), count(distinct id) from t").fetchall()[0]
    return {"seconds": seconds, "rows": found[0] if found[0] == found[1] else -1}


def ingest(quick: bool) -> Iterator[Row]:
    """Loading a stream in committed batches over DuckDB's insert of all of it at once."""
    rows, rounds = (1_000_000, 2) if quick else (5_000_000, 3)
    for batch_rows in (1_000_000, SMALL):
        times: dict[str, list[float]] = {"plain": [], "duckward": []}
        for pair in turns(rounds):
            for turn in pair:
                kind = "plain" if turn == "plain" else "duckward"
                found = in_child(one, kind=kind, rows=rows, batch_rows=batch_rows)
                if found["rows"] != rows:
                    raise BenchError(f"{kind} loaded {found['rows']} of {rows} rows, or some twice")
                times[kind].append(found["seconds"])
        plain, ours = (statistics.median(times[kind]) for kind in ("plain", "duckward"))
        ratio = plain / ours
        yield Row(
            f"ingest: batches of {batch_rows:,}",
            f"{ratio:.2f} x the speed",
            ">= 0.8",
            ratio >= 0.8,
            f"{rows:,} rows of 5 columns: INSERT ... SELECT * FROM reader {plain:.1f} s, and {ours:.1f} s",
        )
