"""Large answers, guarded and plain."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import Row, in_child, spread, turns

COLUMNS = "select i, i * 0.5 as x, i % 1000 as k, 'row ' || (i % 100000) as s from t"


def times(what: str, rows: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each run; `what` is a way to read an answer. Run in a process of its own."""
    import duckdb

    import duckward

    con = duckdb.connect()
    con.execute("set enable_progress_bar=false")
    con.execute(f"create table t as select range as i from range({rows})")
    # The ward's connection; the plain runs take another, because a ward moves settings of its instance.
    own = duckdb.connect()
    own.execute("set enable_progress_bar=false")
    own.execute(f"create table t as select range as i from range({rows})")
    ward = duckward.guard(own)
    batch = int(ward.status()["settings"]["batch_rows"])
    modern = hasattr(duckdb.DuckDBPyRelation, "to_arrow_reader")
    ways: dict[str, dict[str, Callable[[], Any]]] = {
        "iterate": {
            "plain": lambda: reader(con.sql(COLUMNS), batch, modern),
            "guarded": lambda: ward.sql(COLUMNS),
        },
        "iterate, plain at 1000000": {
            "plain": lambda: reader(con.sql(COLUMNS), 1_000_000, modern),
            "guarded": lambda: ward.sql(COLUMNS),
        },
        "to_arrow": {
            "plain": lambda: [con.sql(COLUMNS).to_arrow_table()],
            "guarded": lambda: [ward.sql(COLUMNS).to_arrow()],
        },
        "df": {"plain": lambda: [con.sql(COLUMNS).df()], "guarded": lambda: [ward.sql(COLUMNS).df()]},
    }
    found: dict[str, list[float]] = {"plain": [], "guarded": []}
    for number, pair in enumerate(turns(rounds + 1)):
        for kind in pair:
            gc.collect()
            began = time.perf_counter()
            count = sum(
                part.shape[0] if hasattr(part, "shape") else part.num_rows for part in ways[what][kind]()
            )
            seconds = time.perf_counter() - began
            if count != rows:
                raise SystemExit(f"{what} {kind}: {count} rows of {rows}")
            # The first pair makes threads and touches memory.
            if number:
                found[kind].append(seconds)
    ward.close()
    return found


def reader(relation: Any, rows: int, modern: bool) -> Any:
    """DuckDB's own stream; the method has another name before 1.5."""
    return relation.to_arrow_reader(rows) if modern else relation.fetch_record_batch(rows)


def stream(quick: bool) -> Iterator[Row]:
    """Large answers as batches, as an Arrow table, as a data frame: guarded over plain."""
    plan = [
        ("iterate", 20_000_000, "both in batches of the ward's batch_rows"),
        ("iterate, plain at 1000000", 20_000_000, "plain in DuckDB's own batches of 1,000,000 rows"),
        ("to_arrow", 5_000_000, "over to_arrow_table()"),
        ("df", 5_000_000, "over df() of the relation"),
    ]
    for what, rows, compared in plan:
        rows = rows // 4 if quick else rows
        found = in_child(times, what=what, rows=rows, rounds=2 if quick else 5)
        ratios = [guarded / plain for guarded, plain in zip(found["guarded"], found["plain"], strict=True)]
        rate = {kind: rows / statistics.median(seconds) / 1e6 for kind, seconds in found.items()}
        yield Row(
            f"stream {what.split(',')[0]}, time ratio",
            spread(ratios, ".3f"),
            compared=f"{rows:,} rows of 4 columns, {compared}: guarded {rate['guarded']:.1f}, plain "
            f"{rate['plain']:.1f} million rows/s",
        )
