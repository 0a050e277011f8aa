"""Partitionings killed at random moments: `python tests/python/partition_killed.py --seed S --count N`.

A random table is cut by a random plan into files or tables: anew, over an earlier partitioning, or as a
rebalancing. The same is done again and again and killed each time; what is found then must be the old state
or the new one, whole. A second call must bring the new one, and leave nothing else behind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb

import duckward

Con = duckdb.DuckDBPyConnection

# ---------------------------------------------------------------- the process that is killed


def act(job: dict[str, Any]) -> dict[str, Any]:
    """Does what is to be killed."""
    try:
        with (
            duckdb.connect(job["database"], config={"threads": 2}) as con,
            duckward.guard(con, memory=job["memory"]) as ward,
        ):
            if job["rows"] is None:
                plan = duckward.Plan.load(job["plan"])
                done = ward.partition(plan, job["into"], **job["options"])
            else:
                done = ward.rebalance(ward.partitioning(job["into"]), target_rows=job["rows"])
            return {"resumed": done.resumed, "error": None}
    except (duckdb.Error, duckward.Error) as error:
        return {"resumed": 0, "error": f"{type(error).__name__}: {error}"}


def serve() -> None:
    """Forks a process for each job, which so needs no time to import anything."""
    # What DuckDB draws on the standard output goes elsewhere.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            print(json.dumps({"child": os.getpid()}), file=answers, flush=True)
            done = act(json.loads(line))
            print(json.dumps(done), file=answers, flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": status}), file=answers, flush=True)


class Server:
    """Processes for jobs, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def heard(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server has ended"
        return json.loads(line)

    def run(self, job: dict[str, Any], kill: float | None = None) -> tuple[dict[str, Any] | None, float]:
        """What became of a job that is killed after so many seconds, None if it was; and what it took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        child = self.heard()["child"]
        begun = time.monotonic()
        if kill is not None and not select.select([self.process.stdout], [], [], kill)[0]:
            # It may end just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        done = None
        while "status" not in (heard := self.heard()):
            done = heard
        if kill is None and done is None:
            raise AssertionError(f"the process ended with {heard} by itself")
        return done, time.monotonic() - begun

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


# ---------------------------------------------------------------- what is cut

NAMES = ['a"b', "it's", "Mixed", "group", "ü", "a b", "x", "c0", "p", "s", "file"]
NUMBERS = {
    "BIGINT": "(h % 1000)::BIGINT * 3000000007",
    "INTEGER": "(h % 70000)::INTEGER - 35000",
    "DOUBLE": "CASE WHEN h % 50 = 0 THEN 'nan' WHEN h % 51 = 0 THEN '-0.0' ELSE (h % 9999) / 8 END::DOUBLE",
    "DECIMAL(12,2)": "((h % 100000) / 100)::DECIMAL(12,2)",
    "VARCHAR": "md5((h % 5000)::VARCHAR)",
}
TIMES = {
    "DATE": "DATE '2023-11-05' + (h % 400)::INTEGER",
    "TIMESTAMP": "TIMESTAMP '1969-06-01' + INTERVAL (h % 40000000) SECOND",
    "TIMESTAMPTZ": "TIMESTAMPTZ '2024-01-01 00:00:00+00' + INTERVAL (h % 900000) MINUTE",
}
FEW = {
    "VARCHAR": "(['a', 'A', 'it''s', 'a\"b', 'a/b', '../up', '', ' ', 'ü', 'n=1'])[1 + (h % 10)::INTEGER]",
    "SMALLINT": "(h % 7)::SMALLINT",
    "BOOLEAN": "h % 3 = 0",
}
OTHERS = {
    "VARCHAR": "CASE WHEN h % 9 = 0 THEN '' ELSE repeat('long ', (h % 9)::INTEGER) || h END",
    "BLOB": "encode(h::VARCHAR)",
    "UUID": "md5(h::VARCHAR)::UUID",
    "INTEGER[]": "[h % 5, NULL, h % 3]::INTEGER[]",
    "STRUCT(a INTEGER, b VARCHAR)": "{'a': (h % 100)::INTEGER, 'b': (h % 10)::VARCHAR}",
    "FLOAT": "((h % 1000) / 7)::FLOAT",
    "TIME": "TIME '00:00:00' + INTERVAL (h % 86400) SECOND",
    "UBIGINT": "h",
}


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Scenario:
    """What is cut, how, and into what."""

    table: str  # a SELECT
    plan: dict[str, Any]
    tables: bool
    # What is there before: nothing, the pieces of another table, or the same rows cut in another way.
    before: str  # "nothing", "other", "itself", "balance"
    options: dict[str, Any]
    # What the pieces of a rebalancing are to have.
    rows: int | None
    memory: str

    def __str__(self) -> str:
        target = "tables" if self.tables else "files"
        how = f"{self.plan}, {self.options}, rows={self.rows}, {self.memory}"
        return f"{target} over {self.before}, {how}: {self.table}"


def random_scenario(rng: random.Random) -> Scenario:
    count = int(20000 * 10 ** rng.random())
    names = rng.sample(NAMES, 3 + rng.randint(0, 2))
    kinds = [rng.choice(list(kinds.items())) for kinds in (NUMBERS, TIMES, FEW)]
    kinds += [rng.choice(list(OTHERS.items())) for _ in names[3:]]
    columns = []
    for at, (name, (kind, sql)) in enumerate(zip(names, kinds, strict=True)):
        number = f"hash(range + {at + 10 * rng.randint(0, 99)})"
        value = re.sub(r"\bh\b", number, sql)
        if rng.random() < 0.5:
            value = f"CASE WHEN {number} % {rng.choice([2, 10, 500])} = 1 THEN NULL ELSE {value} END"
        columns.append(f"({value})::{kind} AS {quoted(name)}")
    # Rows in no order, in that of a key, or of few values that come one after the other.
    order = rng.choice(["", "", f" ORDER BY {quoted(names[rng.randint(0, 2)])}"])
    table = f"SELECT {', '.join(columns)} FROM range({count}){order}"
    number, moment, few = names[:3]
    every = rng.choice(["month", "quarter", "week"] if kinds[1][0] != "TIMESTAMP" else ["month", "quarter"])
    before = rng.choice(["nothing", "nothing", "other", "other", "itself", "balance", "balance"])
    many = rng.choice([2, 5, 20, 60])
    plans: list[dict[str, Any]] = [
        {"by": moment, "every": every},
        {"by": number, "pieces": many},
        {"by": number, "rows": max(500, count // many)},
        {"by": rng.choice(names[:3]), "hash": many},
    ]
    if before != "balance":
        plans += [
            {"by": few, "value": True},
            {"by": [few, number], "value": True, "hash": 3},
            {"by": [moment, number], "every": "quarter", "pieces": 3},
        ]
    if before in ("nothing", "other"):
        plans.append({"rows": max(500, count // many)})
    tables = rng.random() < 0.4
    options: dict[str, Any] = {"replace": True} if before in ("other", "itself") else {}
    if not tables and rng.random() < 0.5:
        options["batch_rows"] = count // rng.randint(2, 6)
    if not tables and rng.random() < 0.2:
        options["sort"] = rng.choice(names[:3])
    if before == "balance":
        options = {}
    rows = int(count / many * rng.choice([0.3, 4])) if before == "balance" else None
    return Scenario(table, rng.choice(plans), tables, before, options, rows, rng.choice(["1GB", "400MB"]))


# ---------------------------------------------------------------- what must be true

# What a state is: the pieces with their rows, digests and conditions; and the rows, by DuckDB alone.
State = tuple[list[tuple[str, int, str, str]], tuple[Any, ...]]


class Trial:
    """A scenario on the disk, in `directory`."""

    def __init__(self, scenario: Scenario, directory: pathlib.Path, server: Server) -> None:
        self.scenario, self.server = scenario, server
        self.work, self.kept = directory / "work", directory / "kept"
        self.database, self.target = self.work / "t.duckdb", self.work / "lake"
        self.into = "part.p_{piece}" if scenario.tables else str(self.target)
        self.work.mkdir()
        with self.connected() as (con, ward):
            con.execute(f"CREATE TABLE t AS {scenario.table}")
            names = [name for name, *_ in con.execute("DESCRIBE t").fetchall()]
            self.columns = f"[{', '.join(f'{quoted(name)}::VARCHAR' for name in names)}]"
            con.execute("CREATE TABLE u AS FROM t WHERE random() < 0.7 ORDER BY random()")
            source = "t"
            if scenario.before == "other":
                ward.partition(ward.plan("u", by=names[0], hash=7), self.into)
            elif scenario.before == "itself":
                first = ward.partition(ward.plan("t", by=names[0], hash=7), self.into)
                source = first.query
            plan = ward.plan(source, **scenario.plan)
            plan.save(directory / "plan.json")
            if scenario.before == "balance":
                ward.partition(plan, self.into)
        self.job = {
            "database": str(self.database),
            "memory": scenario.memory,
            "plan": str(directory / "plan.json"),
            "into": self.into,
            "options": scenario.options,
            "rows": scenario.rows,
        }
        shutil.copytree(self.work, self.kept)
        self.old = self.found()
        assert (self.old is None) == (scenario.before == "nothing")
        done, self.took = server.run(self.job)
        assert done == {"resumed": 0, "error": None}, done
        self.new = self.found()
        assert self.new is not None
        assert not self.orphans(), self.orphans()
        assert self.new[1] == self.source()

    @contextlib.contextmanager
    def connected(self) -> Iterator[tuple[Con, duckward.Ward]]:
        with (
            duckdb.connect(str(self.database), config={"threads": 2}) as con,
            duckward.guard(con, memory="2GB") as ward,
        ):
            yield con, ward

    def rows(self, con: Con, relation: str) -> tuple[Any, ...]:
        """Rows and a sum of their hashes, by DuckDB alone."""
        return con.execute(f"SELECT count(*), sum(hash({self.columns})) FROM {relation}").fetchall()[0]

    def source(self) -> tuple[Any, ...]:
        with self.connected() as (con, _):
            return self.rows(con, "t")

    def found(self) -> State | None:
        """The state that a reader finds; None of none."""
        with self.connected() as (con, ward):
            if self.scenario.tables:
                here = "database_name = 't' AND schema_name NOT IN ('information_schema', 'pg_catalog')"
                names = con.execute(
                    f"SELECT schema_name, table_name FROM duckdb_tables() WHERE {here}"
                ).fetchall()
                schemas = con.execute(f"SELECT schema_name FROM duckdb_schemas() WHERE {here}").fetchall()
                ours = {name for schema, name in names if schema == "part"}
                assert {name for schema, name in names if schema != "part"} == {"t", "u"}, names
                assert {name for (name,) in schemas} == {"main"} | ({"part"} if ours else set()), schemas
                if not ours:
                    return None
                done = ward.partitioning(self.into)
                assert ours == {"duckward_partitionings"} | {piece["table"] for piece in done.pieces}, ours
                assert con.execute("SELECT count(*) FROM part.duckward_partitionings").fetchall() == [(1,)]
            else:
                if not self.target.exists():
                    return None
                done = ward.partitioning(self.target)
                named = {file["path"] for piece in done.pieces for file in piece["files"]}
                there = {str(at.relative_to(self.target)) for at in self.target.rglob("*") if at.is_file()}
                assert there == named | {"_duckward.json"}, there ^ named
            # Every file by its SHA-256, every table by its digest.
            assert done.check() == [], done.check()
            pieces = [
                (piece["name"], piece["rows"], piece["digest"], piece["condition"]) for piece in done.pieces
            ]
            rows = self.rows(con, f"({done.query})")
            assert rows[0] == done.rows == sum(count for _, count, *_ in pieces), (rows, done.rows)
            return pieces, rows

    def orphans(self) -> list[str]:
        """What neither belongs to a state nor to the source."""
        expected = {"t.duckdb", "t.duckdb.wal"} | (set() if self.scenario.tables else {"lake"})
        return sorted(entry.name for entry in self.work.iterdir() if entry.name not in expected)

    def kill(self, moment: float) -> str:
        """Kills it after that share of its time, and calls it again; what was found in between."""
        shutil.rmtree(self.work)
        shutil.copytree(self.kept, self.work)
        ended, _ = self.server.run(self.job, moment * self.took)
        try:
            journal = json.loads((self.work / ".duckward-lake" / "journal.json").read_text())
            written = sum(journal["done"])
        except FileNotFoundError:
            written = 0
        state = self.found()
        assert state in (self.old, self.new), "neither the old state nor the new one"
        assert ended is None or (ended["error"] is None and state == self.new), ended
        what = "ended" if ended else "new" if state == self.new else "old" if state else "nothing"
        again, _ = self.server.run(self.job)
        assert again is not None
        if state == self.new and self.scenario.before == "nothing":
            assert "it is there already" in str(again["error"]), again
        elif state == self.new and self.scenario.before == "itself" and self.scenario.tables:
            # The plan reads tables that are replaced.
            assert again["error"] is None or "does not exist" in again["error"], again
        else:
            assert again == {"resumed": written, "error": None}, (again, written)
        assert self.found() == self.new, "a second call has not brought the new state"
        assert not self.orphans(), f"left behind after {what}: {self.orphans()}"
        return f"resumed after {what}" if written else what


@dataclass
class Tally:
    """How kills went."""

    found: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: list[str] = field(default_factory=list)

    def text(self) -> str:
        found = ", ".join(f"{count} {what}" for what, count in sorted(self.found.items()))
        return f"{sum(self.found.values())} kills: {found}; {len(self.bad)} bad"


def run(seed: int, count: int, say: Callable[[str], object] = print, per_scenario: int = 6) -> Tally:
    """`count` kills from `seed` on."""
    tally = Tally()
    server = Server()
    try:
        for first in range(0, count, per_scenario):
            here = seed + first
            rng = random.Random(here)
            scenario = random_scenario(rng)
            with tempfile.TemporaryDirectory() as directory:
                try:
                    trial = Trial(scenario, pathlib.Path(directory), server)
                    for _ in range(min(per_scenario, count - first)):
                        # Publication is at the end.
                        moment = rng.random() if rng.random() < 0.5 else 0.7 + 0.4 * rng.random()
                        tally.found[trial.kill(moment)] += 1
                except (AssertionError, duckdb.Error, duckward.Error) as error:
                    report = f"seed {here}: {scenario}\n  {type(error).__name__}: {error}"
                    tally.bad.append(report)
                    say(report)
    finally:
        server.close()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return 0
    tally = run(given.seed, given.count)
    print(f"DuckDB {duckdb.__version__}, seed {given.seed}: {tally.text()}")
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
