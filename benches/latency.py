"""How soon a query ends: by the guard when memory runs out, by Ctrl-C, by cancel()."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import queue
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench import BenchError, Row, in_child, quantile

# ---------------------------------------------------------------- memory

# Bytes that are touched at once: an eighth of a millisecond at 1 GB/s.
CHUNK = 128 << 10
PAGE = mmap.PAGESIZE


class Grower:
    """Touches fresh memory at a steady rate, without the GIL, and notes when the process passes a threshold.

    The time noted is the one before the step that passed it, so it is early by up to a step, never late.
    """

    def __init__(self, most: int) -> None:
        self.region = mmap.mmap(-1, most, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Page by page, as the threshold is watched; a huge page would come all at once.
        with contextlib.suppress(AttributeError, OSError):
            self.region.madvise(mmap.MADV_NOHUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.region))
        self.most = most
        self.statm = os.open("/proc/self/statm", os.O_RDONLY)
        self.stop = threading.Event()

    def anonymous(self) -> int:
        """Anonymous memory of the process, as the guard reads it."""
        fields = os.pread(self.statm, 200, 0).split()
        return (int(fields[1]) - int(fields[2])) * PAGE

    def grow(self, rate: float, threshold: int) -> dict[str, float]:
        """Grows until it is stopped; when it crossed (unix ns) and how fast it was in the last 100 MB before."""
        began = time.monotonic()
        marks: list[tuple[float, int]] = []
        crossed = 0
        done = 0
        while done + CHUNK <= self.most and not self.stop.is_set():
            before = time.time_ns()
            # ctypes.memset lets go of the GIL.
            ctypes.memset(self.address + done, 1, CHUNK)
            done += CHUNK
            now = time.monotonic()
            if not crossed:
                marks.append((now, done))
                if self.anonymous() >= threshold:
                    crossed = before
            if (ahead := done / rate - (now - began)) > 0:
                time.sleep(ahead)
        since = [mark for mark in marks if mark[1] >= marks[-1][1] - 100_000_000]
        seconds = since[-1][0] - since[0][0]
        return {"crossed": crossed, "rate": (since[-1][1] - since[0][1]) / seconds if seconds else 0.0}

    def free(self) -> None:
        """Gives the memory back."""
        self.region.madvise(mmap.MADV_DONTNEED)
        self.stop.clear()


def emergencies(count: int, budget: int, rate: float, busy: bool) -> list[dict[str, float]]:
    """Lets memory run out `count` times under a long query; what was noted each time."""
    import duckdb
    import duckward

    # Mapped before the guard comes: its ceiling counts what is mapped later.
    grower = Grower(2 * budget)
    con = duckdb.connect()
    con.execute("set enable_progress_bar=false")
    con.execute("create table t as select range as i from range(2000000)")
    long = "select max(hash(a.i + b.i)) from t a, t b"
    # One attempt, and a level that is left soon: what is measured is the first interrupt, many times.
    ward = duckward.guard(con, memory=budget, retries=0, dwell=0.05)
    threshold = int(ward.status()["limit"] * float(ward.status()["settings"]["emergency"]))
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    ward.on(lambda event: told.put(event) if event["event"] == "query_interrupted" else None)
    over = threading.Event()
    if busy:
        threading.Thread(target=spin, args=(over,), daemon=True).start()
    found = []
    for _ in range(count):
        noted: dict[str, float] = {}

        def grow(noted: dict[str, float] = noted) -> None:
            time.sleep(random.uniform(0.05, 0.3))
            noted.update(grower.grow(rate, threshold))

        thread = threading.Thread(target=grow)
        thread.start()
        failure = "answered"
        try:
            ward.sql(long).fetchall()
        except duckward.Error as error:
            failure = type(error).__name__
        ended = time.time_ns()
        grower.stop.set()
        thread.join()
        grower.free()
        event = told.get(timeout=10)
        if not noted["crossed"]:
            raise SystemExit(f"ended with {failure} before the threshold was crossed")
        # The event's time is cut to milliseconds, so it may be up to one later than it says.
        noted["sent"] = (event["unix_ms"] + 1) * 1e6 - noted["crossed"]
        noted["ended"] = ended - noted["crossed"]
        found.append(noted)
        while ward.level != "normal":
            time.sleep(0.02)
        while not told.empty():
            told.get()
    over.set()
    ward.close()
    return found


def spin(over: threading.Event) -> None:
    """Keeps the GIL busy, as a host's own Python code does."""
    while not over.is_set():
        sum(range(1000))


def interrupt(quick: bool) -> Iterator[Row]:
    """From crossing the emergency threshold at 1 GB/s to the interrupt: 99th percentile."""
    count = 10 if quick else 100
    for busy in (False, True):
        found = []
        # Several processes, so that one odd start does not make the figure.
        for _ in range(1 if quick else 4):
            found += in_child(emergencies, count=count if quick else count // 4, budget=1 << 29, rate=1e9, busy=busy)
        sent = [noted["sent"] / 1e6 for noted in found]
        ended = [noted["ended"] / 1e6 for noted in found]
        rate = statistics.median(noted["rate"] for noted in found) / 1e9
        yield Row(
            "threshold to interrupt" + (", Python busy" if busy else ""),
            f"p99 {quantile(sent, 0.99):.1f} ms",
            "-" if busy else "<= 10 ms",
            None if busy else quantile(sent, 0.99) <= 10,
            f"median {statistics.median(sent):.1f}, p90 {quantile(sent, 0.9):.1f}, longest {max(sent):.1f} ms in "
            f"{len(sent)} runs at {rate:.2f} GB/s under a query on all cores; 1 ms of it is the rounding of the "
            f"event's time; until the query had ended: median {statistics.median(ended):.1f}, p99 "
            f"{quantile(ended, 0.99):.1f} ms"
            + ("; another thread runs Python, and con.interrupt() needs the GIL" if busy else ""),
        )


# ---------------------------------------------------------------- Ctrl-C and cancel

ROWS = 20_000_000
# By what DuckDB is doing; how the answer is read.
KINDS = {
    "group by": ("select max(c) from (select h % 15000000 k, count(*) c, sum(i), max(h) from t group by k)", "rows"),
    "sort": ("create or replace temp table sorted as select * from t order by h", "rows"),
    "join": ("select count(*), max(a.i + b.i) from t a join t b on a.h = b.h", "rows"),
    "window": (
        "select max(s) from (select sum(i) over (partition by i % 10 order by h) s from t)",
        "rows",
    ),
    "copy": ("copy (select *, h::varchar || 'x' s from t) to '{folder}/out.parquet'", "rows"),
    "df": ("select i, h, h::varchar s from t where i < 8000000", "frame"),
}


def stops(way: str, count: int) -> dict[str, dict[str, Any]]:
    """Milliseconds from the call that stops a query to its exception, by kind of query."""
    import duckdb
    import duckward

    con = duckdb.connect()
    con.execute("set enable_progress_bar=false")
    con.execute(f"create table t as select range as i, hash(range) as h from range({ROWS})")
    ward = duckward.guard(con)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (sql, shape) in KINDS.items():
            times: list[float] = []
            raised: set[str] = set()
            early = 0
            for _ in range(count):
                noted: dict[str, int] = {}
                running = threading.Event()

                def stop(noted: dict[str, int] = noted, running: threading.Event = running) -> None:
                    time.sleep(random.uniform(0.1, 0.8))
                    if not running.is_set():
                        return
                    noted["at"] = time.monotonic_ns()
                    if way == "ctrl_c":
                        os.kill(os.getpid(), signal.SIGINT)
                    else:
                        ward.cancel()

                thread = threading.Thread(target=stop)
                running.set()
                try:
                    thread.start()
                    answer = ward.sql(sql.format(folder=folder))
                    if shape == "frame":
                        answer.df()
                    else:
                        answer.fetchall()
                    running.clear()
                    # A signal may still be on its way.
                    thread.join()
                    time.sleep(0.01)
                    early += 1
                except (KeyboardInterrupt, duckward.Error) as error:
                    ended = time.monotonic_ns()
                    running.clear()
                    raised.add(type(error).__name__)
                    thread.join()
                    times.append((ended - noted["at"]) / 1e6)
                answer = None
            found[kind] = {"times": times, "raised": sorted(raised), "early": early}
    ward.close()
    return found


def plain_ctrl_c() -> float:
    """Seconds that DuckDB itself takes to heed a Ctrl-C in a group by."""
    import duckdb

    con = duckdb.connect()
    con.execute("set enable_progress_bar=false")
    con.execute(f"create table t as select range as i, hash(range) as h from range({ROWS})")
    noted: list[float] = []

    def stop() -> None:
        time.sleep(0.5)
        noted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    # The guarded ones end in time; this one is to be so long that its own end is not taken for the answer.
    sql = KINDS["group by"][0].replace("from t group", "from t, range(20) group")
    with contextlib.suppress(KeyboardInterrupt, RuntimeError, duckdb.Error):
        con.sql(sql).fetchall()
    ended = time.monotonic()
    thread.join()
    return ended - noted[0]


def stop(quick: bool) -> Iterator[Row]:
    """From Ctrl-C or ward.cancel() to the exception, by kind of query: 99th percentile."""
    for way, call in (("ctrl_c", "Ctrl-C"), ("cancel", "ward.cancel()")):
        found: dict[str, dict[str, Any]] = {}
        for _ in range(1 if quick else 2):
            for kind, noted in in_child(stops, way=way, count=3 if quick else 10).items():
                known = found.setdefault(kind, {"times": [], "raised": [], "early": 0})
                for key, value in noted.items():
                    known[key] += value
        times = [time for noted in found.values() for time in noted["times"]]
        if not times:
            raise BenchError("every query had ended before it was to be stopped")
        by_kind = "; ".join(
            f"{kind} {statistics.median(noted['times']):.0f}/{max(noted['times']):.0f}"
            + (f" ({noted['early']} had ended before)" if noted["early"] else "")
            if noted["times"]
            else f"{kind}: all had ended before"
            for kind, noted in found.items()
        )
        raised = sorted({name for noted in found.values() for name in noted["raised"]})
        yield Row(
            f"{call} to the exception",
            f"p99 {quantile(times, 0.99):.0f} ms",
            "<= 250 ms",
            quantile(times, 0.99) <= 250,
            f"{len(times)} queries, median {statistics.median(times):.0f} ms; median/longest by kind: {by_kind}; "
            f"raised: {', '.join(raised)}",
        )
    patience = 40.0
    try:
        took = f"{in_child(plain_ctrl_c, patience=patience):.1f} s"
    except BenchError:
        took = f"not within {patience:.0f} s"
    yield Row("Ctrl-C, plain DuckDB", took, compared="once, in a long group by on all cores, for comparison")
