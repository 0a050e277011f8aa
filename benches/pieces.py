"""Queries in pieces: over the same query with ample memory, as the data grows, and what deciding costs."""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench import Row, in_child, turns

# In this much a million rows of the largest state below do not fit.
BUDGET = "512MB"
QUERIES = {
    "quantiles": "select k, median(v) m, quantile_disc(v, 0.9) q from t group by k",
    "ordered string_agg": "select k, string_agg(s, ',' order by id) l from t group by k",
    "lists in few groups": "select g, len(list(s)) n, list(s order by id)[1:3] l from t group by g",
    "arg_max(n)": "select k, arg_max(s, id, 5) a from t group by k",
    "join, then quantile": "select d.r, t.g, median(t.v) m, count(distinct t.u) c "
    "from t join d using (k) group by all",
}


def make(path: str, rows: int) -> None:
    """A database of `rows` rows: keys of twenty rows each, a hundred large groups, texts of 32 letters."""
    import duckdb

    with duckdb.connect(path) as con:
        con.execute(f"""
            create table t as select i as id, (hash(i) % {rows // 20})::int as k,
                (hash(i * 7) % 100)::int as g, (hash(i * 13) % 10000000)::bigint as u,
                (hash(i * 17) % 1000000)::int as v, md5(i::varchar) as s
            from range({rows}) as r(i);
            create table d as
                select i as k, (hash(i * 3) % 1000)::int as r from range({rows // 20}) as r(i);
        """)


def one(path: str, sql: str, kind: str) -> dict[str, Any]:
    """Seconds of the query, read batch by batch, in a process of its own, and how it went."""
    import duckdb

    con = duckdb.connect(path, read_only=True)
    con.execute("set enable_progress_bar=false")
    began = time.perf_counter()
    if kind == "plain":
        relation = con.sql(sql)
        reader: Any = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch
        found = sum(batch.num_rows for batch in reader(2048))
        return {"seconds": time.perf_counter() - began, "rows": found, "rung": ""}
    import duckward

    ward = duckward.guard(con, memory=BUDGET)
    answer = ward.sql(sql)
    found = sum(batch.num_rows for batch in answer)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "rows": found,
        "rung": answer.report.rung or "",
        "pieces": len(answer.report.pieces),
        "peak": answer.report.peak / 1e6,
    }


def deciding(path: str, rounds: int) -> dict[str, float]:
    """Milliseconds that a small query takes guarded over plain: without such an aggregate, and with one."""
    import duckdb

    import duckward

    con, own = (duckdb.connect(path, read_only=True) for _ in range(2))
    ward = duckward.guard(own)
    found = {}
    for name, sql in (
        ("harmless", "select g, max(v) from t where id < 1000 group by g"),
        ("suspect", "select d.r, t.g, median(t.v) m from t join d using (k) where t.id < 1000 group by all"),
    ):
        added = []
        for _ in range(rounds):
            began = time.perf_counter()
            con.sql(sql).fetchall()
            plain = time.perf_counter() - began
            began = time.perf_counter()
            ward.sql(sql).fetchall()
            added.append((time.perf_counter() - began - plain) * 1e3)
        found[name] = statistics.median(added)
    ward.close()
    return found


def pieces(quick: bool) -> Iterator[Row]:
    """Queries in pieces within 512 MB over the same with ample memory; growth; deciding."""
    rows, rounds = (4_000_000, 1) if quick else (16_000_000, 2)
    with tempfile.TemporaryDirectory(prefix="duckward-bench-") as folder:
        path = str(pathlib.Path(folder) / "data.duckdb")
        in_child(make, path=path, rows=rows)
        ratios = {}
        for name, sql in QUERIES.items():
            times: dict[str, list[float]] = {"plain": [], "guarded": []}
            told: dict[str, Any] = {}
            for pair in turns(rounds):
                for kind in pair:
                    found = in_child(one, path=path, sql=sql, kind=kind)
                    times[kind].append(found["seconds"])
                    if kind == "guarded":
                        told = found
            ratios[name] = statistics.median(times["guarded"]) / statistics.median(times["plain"])
            yield Row(
                f"in pieces: {name}",
                f"{ratios[name]:.2f} x ample",
                "<= 2.5",
                ratios[name] <= 2.5,
                f"{rows} rows; guarded {statistics.median(times['guarded']):.1f} s within {BUDGET} "
                f"({told['rung']}, {told['pieces']} pieces, peak {told['peak']:.0f} MB), "
                f"plain {statistics.median(times['plain']):.1f} s",
            )
        middle = statistics.median(ratios.values())
        yield Row("in pieces: median of these", f"{middle:.2f} x ample", "<= 1.5", middle <= 1.5)
        costs = in_child(deciding, path=path, rounds=10 if quick else 50)
        yield Row(
            "deciding, where a name is suspect",
            f"{costs['suspect']:.1f} ms",
            "<= 10 ms",
            costs["suspect"] <= 10,
            f"guarded over plain; where none is: {costs['harmless']:.1f} ms",
        )
        grown: dict[int, list[float]] = {}
        for factor in (1, 2, 4, 8):
            in_child(make, path=str(pathlib.Path(folder) / f"grown{factor}.duckdb"), rows=rows // 8 * factor)
        for _ in range(2 * rounds - 1):
            for factor in (1, 2, 4, 8):
                path = str(pathlib.Path(folder) / f"grown{factor}.duckdb")
                found = in_child(one, path=path, sql=QUERIES["ordered string_agg"], kind="guarded")
                grown.setdefault(factor, []).append(found["seconds"] * 8 / rows / factor * 1e6)
        per_row = [statistics.median(costs) for costs in grown.values()]
        spread = max(per_row) / min(per_row) - 1
        yield Row(
            "growth, 1 to 8 times the data",
            f"{spread:.0%} apart",
            "<= 20 %",
            spread <= 0.2,
            "ordered string_agg, microseconds a row: " + ", ".join(f"{cost:.2f}" for cost in per_row),
        )
