"""How soon a query ends: by the guard when memory runs out, by Ctrl-C, by cancel()."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import mmap
import os
import queue
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from bench import MARK, BenchError, Row, command, in_child, quantile

# ---------------------------------------------------------------- memory

PAGE = mmap.PAGESIZE
# Bytes that are touched at once: half a millisecond at 1 GB/s.
CHUNK = 512 << 10
# A crossing that is not known to within this many ms measures nothing but the rest of the machine.
BLUR = 1.0


def observe(process: int, threshold: int) -> None:
    """Watches another process's memory from outside, and prints each crossing of the threshold as JSON.

    `before` and `after` are the times between which it crossed, in unix ns. From outside, because in the
    process itself whoever wants to note the time may have to wait for the GIL.
    """
    file = os.open(f"/proc/{process}/statm", os.O_RDONLY)
    seen: deque[tuple[int, int]] = deque(maxlen=1000)
    below = 0
    while os.getppid() == process:
        before = time.time_ns()
        fields = os.pread(file, 200, 0).split()
        if len(fields) < 3:
            break
        used = (int(fields[1]) - int(fields[2])) * PAGE
        seen.append((before, used))
        # After a crossing only once memory has been far below: it moves to and fro around the threshold.
        if used < 0.8 * threshold or (below and used < threshold):
            below = before
        elif below and used >= threshold:
            old = next(mark for mark in seen if mark[1] >= used - 100_000_000)
            rate = (used - old[1]) / max(1, before - old[0])
            print(json.dumps({"before": below, "after": time.time_ns(), "rate": rate}), flush=True)
            below = 0
        time.sleep(50e-6)


class Grower:
    """Touches fresh memory at a steady rate, without the GIL."""

    def __init__(self, most: int) -> None:
        self.region = mmap.mmap(-1, most, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Page by page, as the threshold is watched; a huge page would come all at once.
        with contextlib.suppress(AttributeError, OSError):
            self.region.madvise(mmap.MADV_NOHUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.region))
        self.most = most
        self.stop = threading.Event()

    def grow(self, rate: float, step: int) -> None:
        """Grows by `step` bytes at a time until it is stopped, or all is touched."""
        began = time.monotonic()
        done = 0
        while done < self.most and not self.stop.is_set():
            size = min(step, self.most - done)
            # ctypes.memset lets go of the GIL.
            ctypes.memset(self.address + done, 1, size)
            done += size
            if (ahead := done / rate - (time.monotonic() - began)) > 0:
                time.sleep(ahead)

    def free(self) -> None:
        """Gives the memory back."""
        self.region.madvise(mmap.MADV_DONTNEED)
        self.stop.clear()


def emergencies(count: int, budget: int, threads: int, busy: bool) -> list[dict[str, float]]:
    """Lets memory run out `count` times under a long query; what was noted, in ms from the crossing.

    With `busy`, another thread runs Python all the time.
    """
    import duckdb

    import duckward

    # Mapped before the guard comes: its ceiling counts what is mapped later.
    grower = Grower(budget + budget // 4)
    con = duckdb.connect(config={"threads": threads})
    con.execute("set enable_progress_bar=false")
    con.execute("create table t as select range as i from range(2000000)")
    long = "select max(hash(a.i + b.i)) from t a, t b"
    # A level that is left soon: what is measured is the first interrupt, many times.
    ward = duckward.guard(con, memory=budget, dwell=0.05)
    threshold = int(ward.status()["limit"] * float(ward.status()["settings"]["emergency"]))
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    ward.on(lambda event: told.put(event) if event["event"] == "query_interrupted" else None)
    arguments = {"process": os.getpid(), "threshold": threshold}
    observer = subprocess.Popen(command(observe, arguments), stdout=subprocess.PIPE, text=True)
    crossings: queue.Queue[dict[str, float]] = queue.Queue()

    def listen() -> None:
        for line in observer.stdout or ():
            crossings.put(json.loads(line))

    threading.Thread(target=listen, daemon=True).start()
    over = threading.Event()
    if busy:
        threading.Thread(target=spin, args=(over,), daemon=True).start()
    time.sleep(0.5)
    found = []
    for _ in range(count):
        # In one step where Python is busy: the grower would wait for the GIL between two.
        def grow() -> None:
            # So late that the watcher has no reason yet to look often.
            time.sleep(random.uniform(0.05, 0.3))
            grower.grow(1e9, budget * 2 if busy else CHUNK)

        thread = threading.Thread(target=grow)
        # In a transaction nothing is tried again.
        con.begin()
        thread.start()
        try:
            ward.sql(long).fetchall()
        except duckward.Error:
            ended = time.time_ns()
        grower.stop.set()
        thread.join()
        grower.free()
        con.rollback()
        event = told.get(timeout=10)
        crossing: dict[str, float] | None
        try:
            crossing = crossings.get(timeout=1)
        except queue.Empty:
            # The observer had to wait for a core while memory was above the threshold.
            crossing = None
            found.append({"sent": 0.0, "ended": 0.0, "blur": math.inf, "rate": 0.0})
        if crossing:
            # The event's time is cut to milliseconds, so it may be up to one later than it says.
            found.append(
                {
                    "sent": event["unix_ms"] + 1 - crossing["before"] / 1e6,
                    "ended": (ended - crossing["before"]) / 1e6,
                    "blur": (crossing["after"] - crossing["before"]) / 1e6,
                    "rate": crossing["rate"],
                }
            )
        while ward.level != "normal":
            time.sleep(0.02)
        for late in (told, crossings):
            while not late.empty():
                late.get()
    over.set()
    ward.close()
    observer.kill()
    observer.wait()
    return found


def spin(over: threading.Event) -> None:
    """Keeps the GIL busy, as a host's own Python code does."""
    while not over.is_set():
        sum(range(1000))


def interrupt(quick: bool) -> Iterator[Row]:
    """From crossing the emergency threshold at 1 GB/s to the interrupt: 99th percentile."""
    cores = os.cpu_count() or 1
    plan = [
        ("threshold to interrupt", max(1, cores - 1), False, "a query that leaves one core"),
        ("the same, all cores busy", cores, False, "a query on all cores"),
        (
            "the same, Python busy",
            max(1, cores - 1),
            True,
            "a query that leaves one core, where another thread runs Python: con.interrupt() needs the GIL",
        ),
    ]
    for number, (name, threads, busy, compared) in enumerate(plan):
        found: list[dict[str, float]] = []
        wanted = 10 if quick else 100 if number == 0 else 30
        # Several processes, so that one odd start does not make the figure.
        for _ in range(1 if quick else 2):
            count = wanted if quick else wanted // 2
            found += in_child(emergencies, count=count, budget=1 << 29, threads=threads, busy=busy)
        clear = [noted for noted in found if noted["blur"] <= BLUR]
        if not clear:
            raise BenchError("no crossing was seen clearly: the machine does too much else")
        sent = [noted["sent"] for noted in clear]
        ended = [noted["ended"] for noted in clear]
        rate = statistics.median(noted["rate"] for noted in clear)
        unclear = len(found) - len(clear)
        yield Row(
            name,
            f"p99 {quantile(sent, 0.99):.1f} ms",
            "-" if number else "<= 10 ms",
            None if number else quantile(sent, 0.99) <= 10,
            f"median {statistics.median(sent):.1f}, p90 {quantile(sent, 0.9):.1f}, longest {max(sent):.1f} "
            f"ms in {len(sent)} runs at {rate:.2f} GB/s under {compared}; up to 2 ms of each are the doubt "
            f"about both times; until the query had ended: median {statistics.median(ended):.1f}, p99 "
            f"{quantile(ended, 0.99):.1f} ms; left out: {unclear} whose crossing is not known to "
            f"{BLUR:.0f} ms",
        )


# ---------------------------------------------------------------- Ctrl-C and cancel

ROWS = 20_000_000
# Seconds after which a query that was to stop is taken to hang.
HANGS = 20.0
# By what DuckDB is doing; how the answer is read.
KINDS = {
    "group by": (
        "select max(c) from (select h % 15000000 k, count(*) c, sum(i), max(h) from t group by k)",
        "rows",
    ),
    "sort": ("create or replace temp table sorted as select * from t order by h", "rows"),
    "join": ("select count(*), max(a.i + b.i) from t a join t b on a.h = b.h", "rows"),
    "window": (
        "select max(s) from (select sum(i) over (partition by i % 10 order by h) s from t)",
        "rows",
    ),
    "df": ("select i, h, h::varchar s from t where i < 8000000", "frame"),
    # The last: DuckDB 2.0.0 can wait for itself for ever when a COPY is interrupted.
    "copy": ("copy (select *, h::varchar || 'x' s from t) to '{folder}/out.parquet'", "rows"),
}


def stops(way: str, count: int) -> dict[str, dict[str, Any]]:
    """Milliseconds from the call that stops a query to its exception, by kind of query.

    `way`: "ctrl_c", "cancel", or "interrupt": without a guard, by DuckDB's own call.
    """
    import duckdb

    import duckward

    con = duckdb.connect()
    con.execute("set enable_progress_bar=false")
    con.execute(f"create table t as select range as i, hash(range) as h from range({ROWS})")
    ward: Any = None if way == "interrupt" else duckward.guard(con)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (sql, shape) in KINDS.items():
            times: list[float] = []
            raised: set[str] = set()
            early = 0
            found[kind] = {"times": times, "raised": [], "early": 0, "hung": 0}
            for _ in range(count):
                # No locks of Python's: a Ctrl-C may come while one is being taken, and leave it taken.
                noted: dict[str, int] = {}

                def stop(noted: dict[str, int] = noted, kind: str = kind) -> None:
                    time.sleep(random.uniform(0.1, 0.8))
                    if "over" in noted:
                        return
                    noted["at"] = time.monotonic_ns()
                    if way == "ctrl_c":
                        os.kill(os.getpid(), signal.SIGINT)
                    elif way == "cancel":
                        ward.cancel()
                    else:
                        con.interrupt()
                    while "over" not in noted and time.monotonic_ns() - noted["at"] < HANGS * 1e9:
                        time.sleep(0.005)
                    if "over" not in noted:
                        # The main thread will not come back: this one says what is known, and ends it all.
                        found[kind]["hung"] = 1
                        print(f"{MARK}{json.dumps(found)}", flush=True)
                        os._exit(0)

                thread = threading.Thread(target=stop)
                try:
                    thread.start()
                    answer: Any = (ward or con).sql(sql.format(folder=folder))
                    if shape == "frame":
                        answer.df()
                    elif answer is not None:
                        answer.fetchall()
                    noted["over"] = 1
                    # A signal may still be on its way.
                    thread.join()
                    time.sleep(0.01)
                    early += 1
                except (KeyboardInterrupt, duckward.Error, duckdb.InterruptException) as error:
                    ended = time.monotonic_ns()
                    noted["over"] = 1
                    raised.add(type(error).__name__)
                    thread.join()
                    times.append((ended - noted["at"]) / 1e6)
                found[kind].update(raised=sorted(raised), early=early)
    if ward is not None:
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
    ways = {"ctrl_c": "Ctrl-C", "cancel": "ward.cancel()", "interrupt": "con.interrupt(), plain DuckDB,"}
    by_way: dict[str, dict[str, dict[str, Any]]] = {way: {} for way in ways}
    # By turns, so that the rest of the machine troubles all alike.
    for _ in range(1 if quick else 4):
        for way, by_kind in by_way.items():
            for kind, noted in in_child(stops, way=way, count=3 if quick else 4).items():
                known = by_kind.setdefault(kind, {"times": [], "raised": [], "early": 0, "hung": 0})
                for key, value in noted.items():
                    known[key] += value
    # While rows become a data frame DuckDB heeds nobody, so that is told apart.
    frames = {way: by_kind.pop("df") for way, by_kind in by_way.items()}
    plain = [time for noted in by_way["interrupt"].values() for time in noted["times"]]
    for way, call in ways.items():
        found = by_way[way]
        times = [time for noted in found.values() for time in noted["times"]]
        if not times:
            raise BenchError("every query had ended before it was to be stopped")
        kinds = "; ".join(
            f"{kind} {statistics.median(noted['times']):.0f}/{max(noted['times']):.0f}"
            + (f" ({noted['early']} had ended before)" if noted["early"] else "")
            if noted["times"]
            else f"{kind}: all had ended before"
            for kind, noted in found.items()
        )
        hung = sum(noted["hung"] for noted in found.values())
        raised = sorted({name for noted in found.values() for name in noted["raised"]})
        yield Row(
            f"{call} to the exception",
            f"p99 {quantile(times, 0.99):.0f} ms",
            "-" if way == "interrupt" else "<= 250 ms, or as plain",
            None
            if way == "interrupt"
            else quantile(times, 0.99) <= max(250, 1.25 * quantile(plain, 0.99)) and not hung,
            f"{len(times)} queries, median {statistics.median(times):.0f} ms; median/longest by kind: "
            f"{kinds}; raised: {', '.join(raised)}; not ended within {HANGS:.0f} s: "
            + (
                ", ".join(f"{kind} {noted['hung']}" for kind, noted in found.items() if noted["hung"])
                or "none"
            ),
        )
    for way, noted in frames.items():
        if noted["times"]:
            yield Row(
                f"{ways[way]} and df()",
                f"median {statistics.median(noted['times']):.0f}, longest {max(noted['times']):.0f} ms",
                compared=f"{len(noted['times'])} queries, {noted['early']} had ended before, "
                f"{noted['hung']} did not end; rows become a data frame without a pause for anybody else",
            )
    patience = 40.0
    try:
        took = f"{in_child(plain_ctrl_c, patience=patience):.1f} s"
    except BenchError:
        took = f"not within {patience:.0f} s"
    yield Row("Ctrl-C, plain DuckDB", took, compared="once, in a long group by on all cores, for comparison")
