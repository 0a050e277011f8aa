"""What the guard costs when nothing happens: memory, import, a small query, the watching thread."""

from __future__ import annotations

import gc
import io
import pathlib
import select
import statistics
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from bench import Row, in_child, own_memory, spread, turns

SMALL = "select sum(range), count(*) from range(1000000)"

# ---------------------------------------------------------------- memory, import, wheel


def memory_of(kind: str) -> tuple[int, int]:
    """Anonymous and resident bytes of a process that has run a few queries."""
    import duckdb

    con = duckdb.connect()
    if kind == "guarded":
        import duckward

        ward: Any = duckward.guard(con)
        run = lambda sql: ward.sql(sql).fetchall()  # noqa: E731
    else:
        run = lambda sql: con.sql(sql).fetchall()  # noqa: E731
    for _ in range(20):
        run(SMALL)
    # The guard's threads have done by then what they do at first.
    time.sleep(1.5)
    run(SMALL)
    gc.collect()
    return own_memory()


def import_of() -> float:
    """Milliseconds that `import duckward` takes after `import duckdb`, in a new process."""
    import duckdb

    duckdb.connect().close()
    began = time.perf_counter()
    import duckward

    took = (time.perf_counter() - began) * 1e3
    assert duckward.__version__
    return took


def wheel() -> tuple[str, float, bool]:
    """The name and the size in MB of the wheel, and True; without one, of what is packed here, and False."""
    root = pathlib.Path(__file__).resolve().parent.parent
    built = [file for place in ("dist", "target/wheels") for file in (root / place).glob("duckward-*.whl")]
    if built:
        newest = max(built, key=lambda file: file.stat().st_mtime)
        return newest.name, newest.stat().st_size / 1e6, True
    import duckward

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(pathlib.Path(duckward.__file__).parent.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.name)
    return "no wheel was built; the package's files, packed alike", packed.tell() / 1e6, False


def memory_rows(quick: bool) -> Iterator[Row]:
    """Memory of a guarded process over that of a plain one."""
    added: dict[str, list[float]] = {"anonymous": [], "resident": []}
    for pair in turns(3 if quick else 9):
        found = {kind: in_child(memory_of, kind=kind) for kind in pair}
        for index, sizes in enumerate(added.values()):
            sizes.append((found["guarded"][index] - found["plain"][index]) / 1e6)
    for what, sizes in added.items():
        yield Row(
            f"own memory, {what}",
            f"{spread(sizes, '.1f')} MB",
            "<= 10 MB",
            statistics.median(sizes) <= 10,
            "a process with a guarded connection over one with a plain connection, after the same queries"
            + (": resident counts the extension's own file" if what == "resident" else ""),
        )


def footprint(quick: bool) -> Iterator[Row]:
    """Own memory, time of the import, size of the wheel."""
    yield from memory_rows(quick)
    times = [in_child(import_of) for _ in range(5 if quick else 25)]
    yield Row(
        "import after import duckdb",
        f"{spread(times, '.1f')} ms",
        "<= 50 ms",
        statistics.median(times) <= 50,
        "new processes, files in the page cache",
    )
    name, size, real = wheel()
    yield Row("wheel", f"{size:.1f} MB", "<= 8 MB", size <= 8 if real else None, name)


# ---------------------------------------------------------------- a small query


def small_queries(rounds: int, size: int) -> dict[str, list[float]]:
    """Microseconds of a call, the mean of blocks of `size`, by what was called."""
    import duckdb

    import duckward

    # Two connections: what the guard sets on its own instance does not reach the other.
    con, own = duckdb.connect(), duckdb.connect()
    for one in (con, own):
        one.execute("set enable_progress_bar=false")
    ward = duckward.guard(own)
    calls: dict[str, Callable[[], Any]] = {
        "con.execute": lambda: con.execute("select 1"),
        "ward.sql": lambda: ward.sql("select 1"),
        "con.execute.fetchall": lambda: con.execute("select 1").fetchall(),
        "con.sql.fetchall": lambda: con.sql("select 1").fetchall(),
        "ward.sql.fetchall": lambda: ward.sql("select 1").fetchall(),
        "con.sql.to_arrow": lambda: con.sql("select 1").to_arrow_table(),
        "ward.sql.to_arrow": lambda: ward.sql("select 1").to_arrow(),
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name in calls if number % 2 else reversed(calls):
            call = calls[name]
            # An unfinished result of execute() is in the way of sql().
            con.execute("select 1").fetchall()
            began = time.perf_counter()
            for _ in range(size):
                call()
            took = (time.perf_counter() - began) / size * 1e6
            if number:
                found[name].append(took)
    ward.close()
    return found


def select_1(quick: bool) -> Iterator[Row]:
    """Microseconds that a guarded `select 1` takes over a plain one."""
    rounds, size = (10, 100) if quick else (40, 200)
    found = in_child(small_queries, rounds=rounds, size=size)
    middle = {name: statistics.median(times) for name, times in found.items()}
    # The last: the guard's own part, beside DuckDB's own way through a relation.
    for guarded, plain, promised in (
        ("ward.sql", "con.execute", True),
        ("ward.sql.fetchall", "con.execute.fetchall", True),
        ("ward.sql.fetchall", "con.sql.fetchall", False),
        ("ward.sql.to_arrow", "con.sql.to_arrow", False),
    ):
        added = [a - b for a, b in zip(found[guarded], found[plain], strict=True)]
        yield Row(
            f"select 1: {guarded.split('.', 1)[1]} over {plain.split('.', 1)[1]}",
            f"{spread(added, '+.0f')} us",
            "<= 50 us" if promised else "-",
            statistics.median(added) <= 50 if promised else None,
            f"{guarded} {middle[guarded]:.0f} us, {plain} {middle[plain]:.0f} us; blocks of {size} by turns"
            + ("; literals are neither bound nor run before they are read" if guarded == "ward.sql" else ""),
        )


# ---------------------------------------------------------------- the watching thread


class Threads:
    """The guard's threads, seen from outside: processor time in ns, and how often they went to sleep."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        for task in pathlib.Path("/proc/self/task").iterdir():
            # The kernel keeps 15 characters of a name.
            name = (task / "comm").read_text().strip()
            if name.startswith("duckward-"):
                self.found[name] = int(task.name)

    def cpu(self, name: str) -> int:
        """Nanoseconds of processor time; the clock of another thread is numbered so by the kernel."""
        return time.clock_gettime_ns((~self.found[name] << 3) | 0b110)

    def sleeps(self, name: str) -> int:
        """How often it went to sleep by itself: once per reading."""
        text = pathlib.Path(f"/proc/self/task/{self.found[name]}/status").read_text()
        return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def watch(memory: str, interval: str, seconds: float) -> dict[str, float]:
    """What the watcher takes in `seconds` in which nothing runs."""
    import duckdb

    import duckward

    con = duckdb.connect()
    ward = duckward.guard(con, memory=memory, interval_max=interval)
    ward.sql(SMALL).fetchall()
    # Beside it a thread that reads nothing and sleeps as often: what the system takes for that. What Python
    # takes for its loop is found out first, and taken off.
    bare, over, loop = [0, 0], threading.Event(), [0.0]

    def sleeper() -> None:
        poll = select.poll()
        began = time.thread_time_ns()
        for _ in range(2000):
            over.is_set()
            poll.poll(0)
            bare[1] = time.thread_time_ns()
        loop[0] = (time.thread_time_ns() - began) / 2000
        while not over.is_set():
            bare[0] += 1
            bare[1] = time.thread_time_ns()
            poll.poll(2)

    if interval == "2ms":
        threading.Thread(target=sleeper, daemon=True).start()
    time.sleep(2.0)
    threads = Threads()
    bare_before = list(bare)
    watcher = next(name for name in threads.found if name.startswith("duckward-watch"))
    before = {name: threads.cpu(name) for name in threads.found}
    sleeps, began = threads.sleeps(watcher), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    spent = {name: threads.cpu(name) - before[name] for name in threads.found}
    found = {
        "readings": threads.sleeps(watcher) - sleeps,
        "watcher": spent[watcher] / 1e9,
        "all": sum(spent.values()) / 1e9,
        "seconds": took,
    }
    if naps := bare[0] - bare_before[0]:
        found["bare"] = ((bare[1] - bare_before[1]) / naps - loop[0]) / 1e3
    over.set()
    ward.close()
    return found


def reading(quick: bool) -> Iterator[Row]:
    """Processor time of one reading, and of the guard's threads while nothing runs."""
    seconds, rounds = (2.0, 2) if quick else (5.0, 4)
    # So often that few of the readings are ones with the slow parts, and none of them waits for a cold cache.
    costs, naps, counted = [], [], 0
    for _ in range(rounds):
        found = in_child(watch, memory="auto", interval="2ms", seconds=seconds)
        costs.append(found["watcher"] / max(1, found["readings"]) * 1e6)
        naps.append(found["bare"])
        counted += int(found["readings"])
    own = [cost - nap for cost, nap in zip(costs, naps, strict=True)]
    yield Row(
        "a reading",
        f"{spread(own, '.1f')} us, waking apart",
        "<= 20 us",
        statistics.median(own) <= 20,
        f"processor time of the watching thread by the number of its sleeps, "
        f"{spread(costs, '.1f')} us in {counted} readings, less that of a thread that only sleeps as often, "
        f"{statistics.median(naps):.1f} us",
    )
    for memory in ("auto", "512MB"):
        shares, rates, each = [], [], []
        for _ in range(rounds):
            found = in_child(watch, memory=memory, interval="1s", seconds=seconds)
            shares.append(found["all"] / found["seconds"] * 100)
            rates.append(found["readings"] / found["seconds"])
            each.append(found["watcher"] / max(1, found["readings"]) * 1e6)
        yield Row(
            f"calm, budget {memory}",
            f"{spread(shares, '.3f')} % of a core",
            "<= 0.1 %",
            statistics.median(shares) <= 0.1,
            f"all threads of the guard; {statistics.median(rates):.1f} readings/s, "
            f"{statistics.median(each):.0f} us each: few, so with cold caches, and often the slow parts",
        )
