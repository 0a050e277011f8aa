"""The 22 queries of TPC-H at scale factor 1, guarded and plain."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench import HERE, BenchError, Row, command, turns


def queries() -> list[str]:
    """The queries, in order."""
    text = (HERE / "tpch.sql").read_text()
    return [part.strip().rstrip(";") for part in re.split(r"^-- \d+\n", text, flags=re.MULTILINE)[1:]]


def database() -> str:
    """The file with the data, which the demo makes once and keeps."""
    from duckward import demo

    try:
        return str(demo.prepare(demo.home(), lambda text: print(f"    {text}", flush=True)))
    except demo.DemoError as error:
        raise BenchError(str(error)) from error


def digest(rows: list[tuple[Any, ...]]) -> str:
    """A fingerprint of an answer: floats to nine digits, as threads add in any order; rows in any order."""

    def cell(value: Any) -> str:
        return f"{value:.9g}" if isinstance(value, float) else str(value)

    lines = sorted("|".join(map(cell, row)) for row in rows)
    return f"{len(lines)}:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def serve(kind: str, path: str) -> None:
    """A process that runs queries as it is told by lines of JSON; `kind` is "plain" or "guarded"."""
    import duckdb

    con = duckdb.connect(path, read_only=True)
    con.execute("set enable_progress_bar=false")
    ward: Any = None
    if kind == "guarded":
        import duckward

        ward = duckward.guard(con)
    else:
        # Before 1.5 the method has another name.
        arrow = (
            "to_arrow_table" if hasattr(duckdb.DuckDBPyRelation, "to_arrow_table") else "fetch_arrow_table"
        )
    for line in sys.stdin:
        order = json.loads(line)
        sql, shape = order["sql"], order["shape"]
        cpu, began = time.process_time(), time.perf_counter()
        if ward is not None:
            answer = ward.sql(sql)
            value = answer.fetchall() if shape == "fetchall" else answer.to_arrow()
        else:
            relation = con.sql(sql)
            value = relation.fetchall() if shape == "fetchall" else getattr(relation, arrow)()
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        rows = value if shape == "fetchall" else [tuple(row.values()) for row in value.to_pylist()]
        print(json.dumps({"wall": wall, "cpu": cpu, "digest": digest(rows)}), flush=True)
    if ward is not None:
        ward.close()
    con.close()


class Server:
    """A process of `serve`."""

    def __init__(self, kind: str, path: str) -> None:
        self.process = subprocess.Popen(
            command(serve, {"kind": kind, "path": path}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            # Of a failing child the last lines are shown by the system itself.
            stderr=None if os.environ.get("BENCH_STDERR") else subprocess.DEVNULL,
        )

    def ask(self, sql: str, shape: str) -> dict[str, Any]:
        """Runs one query there."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"sql": sql, "shape": shape}) + "\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise BenchError(f"a process of tpch died of: {sql[:60]} (BENCH_STDERR=1 shows what it said)")
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """Ends it."""
        self.process.communicate()


def tpch(quick: bool) -> Iterator[Row]:
    """22 queries of TPC-H at SF 1: total time guarded over plain, by fetchall() and to_arrow()."""
    path = database()
    texts = queries()
    rounds = 2 if quick else 8
    with contextlib.ExitStack() as stack:
        # The plain process has never heard of duckward.
        servers = {kind: Server(kind, path) for kind in ("plain", "guarded")}
        for server in servers.values():
            stack.callback(server.close)
        for shape in ("fetchall", "to_arrow"):
            # One run of each beforehand: reads the file, makes threads.
            for sql in texts:
                if servers["plain"].ask(sql, shape)["digest"] != servers["guarded"].ask(sql, shape)["digest"]:
                    raise BenchError(f"the answers differ: {sql}")
            yield from measure(servers, texts, shape, rounds)


def measure(servers: dict[str, Server], texts: list[str], shape: str, rounds: int) -> Iterator[Row]:
    """The rows of one shape."""
    # By what is measured, by process, by query: one time per round.
    times = {what: {kind: [[0.0] * rounds for _ in texts] for kind in servers} for what in ("wall", "cpu")}
    for number, sql in enumerate(texts):
        for turn, pair in enumerate(turns(rounds)):
            found = {kind: servers[kind].ask(sql, shape) for kind in pair}
            if found["plain"]["digest"] != found["guarded"]["digest"]:
                raise BenchError(f"the answers of query {number + 1} differ")
            for kind in pair:
                for what, table in times.items():
                    table[kind][number][turn] = found[kind][what]

    def total(what: str, kind: str) -> float:
        return sum(statistics.median(query) for query in times[what][kind])

    def by_round(what: str) -> list[float]:
        sums = {kind: [sum(turn) for turn in zip(*times[what][kind], strict=True)] for kind in servers}
        return [guarded / plain for guarded, plain in zip(sums["guarded"], sums["plain"], strict=True)]

    ratio = total("wall", "guarded") / total("wall", "plain")
    rounds_text = "{:.3f} to {:.3f}".format(*(pick(by_round("wall")) for pick in (min, max)))
    cpu = total("cpu", "guarded") / total("cpu", "plain")
    yield Row(
        f"tpch {shape}, total time ratio",
        f"{ratio:.4f} (rounds {rounds_text})",
        "<= 1.01",
        ratio <= 1.01,
        f"sum of the 22 medians over {rounds} rounds: guarded {total('wall', 'guarded'):.2f} s, plain "
        f"{total('wall', 'plain'):.2f} s, in two processes by turns; processor time, which the rest of the "
        f"machine moves less: {cpu:.4f} (rounds {min(by_round('cpu')):.3f} to {max(by_round('cpu')):.3f}); "
        "every answer was the same",
    )
