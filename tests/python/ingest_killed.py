"""Loads that are killed at random moments: `python tests/python/ingest_killed.py --seed S --count N`.

After each kill the database must have the records up to the load's position, each once, and no less than the
load had told to be committed. Then the load goes on by its token, up to its end, and another one begins.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

import duckward

# Of records that come `bad` apart, the one that is none.
BAD = 7


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is loaded, and how."""

    kind: str
    rows: int
    batch_rows: int
    batch_bytes: str | None = None
    # Rows that the source gives at once.
    chunk: int = 999
    # Every so many records one cannot be a row; 0: all can.
    bad: int = 0
    # Characters of a text.
    width: int = 7
    # Seconds that the source makes wait for a chunk, now and then.
    stall: float = 0.0

    def texts(self, rows: range) -> list[str]:
        return [f"t{row:0{self.width}d}" for row in rows]

    def chunks(self) -> Iterator[range]:
        for number, at in enumerate(range(0, self.rows, self.chunk)):
            if self.stall and number % 10 == 9:
                time.sleep(self.stall)
            yield range(at, min(at + self.chunk, self.rows))

    def is_bad(self, row: int) -> bool:
        return self.bad > 0 and row % self.bad == BAD

    def records(self) -> Iterator[dict[str, Any]]:
        for rows in self.chunks():
            for row, text in zip(rows, self.texts(rows), strict=True):
                yield {"id": "bad" if self.is_bad(row) else row, "text": text}

    def batches(self) -> Iterator[pa.RecordBatch]:
        for rows in self.chunks():
            ids = ["bad" if self.is_bad(row) else str(row) for row in rows] if self.bad else list(rows)
            yield pa.record_batch({"id": ids, "text": self.texts(rows)})


KINDS = ("records", "batches", "keyed")


def random_plan(seed: str) -> Plan:
    """Whatever a seed gives: batches of a few rows to more than a row group, clean sources and others."""
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    rows = chance.choice([60_000, 200_000, 400_000] if kind == "records" else [300_000, 1_000_000, 2_000_000])
    return Plan(
        kind,
        rows,
        batch_rows=chance.choice([rows // 200, rows // 40, rows // 12, 100_000, 130_000, 1_000_000]),
        batch_bytes=chance.choice([None, None, "1MB", "8MB"]),
        chunk=chance.choice([999, 5000, 50_000]),
        bad=chance.choice([0, 0, 1000, rows // 3]),
        width=chance.choice([7, 7, 60]),
        stall=chance.choice([0.0, 0.0, 0.05]),
    )


def load(path: str, plan: Plan) -> None:
    """Loads in this process, and prints the position of each batch that is committed."""
    key = " PRIMARY KEY" if plan.kind == "keyed" else ""
    con = duckdb.connect(path, config={"threads": 2})
    con.execute(f"CREATE TABLE IF NOT EXISTS events (id BIGINT{key}, text VARCHAR)")
    ward = duckward.guard(con, memory="1GB")
    ward.on(lambda event: event["event"] == "batch_committed" and print(event["position"], flush=True))
    print("begins", flush=True)
    done = ward.ingest(
        plan.records() if plan.kind == "records" else plan.batches(),
        "events",
        batch_rows=plan.batch_rows,
        batch_bytes=plan.batch_bytes,
        token="killed",
        rejects="bad" if plan.bad else None,
    )
    print(f"ends {done.total_rows} {done.total_rejected}", flush=True)


@dataclasses.dataclass(frozen=True)
class Found:
    """What the database says of the load."""

    position: int = 0
    finished: bool = False
    wrong: str = ""


def look(path: pathlib.Path, plan: Plan, told: int) -> Found:
    """Opens the database, which replays its log, and compares it with the source."""
    with duckdb.connect(str(path), config={"threads": 2}) as con:
        tables = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if "events" not in tables:
            return Found(wrong=f"{told} records were told, and there is no table" if told else "")
        if "duckward_ingests" not in tables:
            rows = con.execute("SELECT count(*) FROM events").fetchall()[0][0]
            return Found(wrong=f"no position, {rows} rows, {told} told" if rows or told else "")
        (position, inserted, rejected, finished) = con.execute(
            "SELECT position, inserted, rejected, finished FROM duckward_ingests"
        ).fetchall()[0]
        bad = sum(plan.is_bad(row) for row in range(position))
        other = f"id % {plan.bad} = {BAD}" if plan.bad else "false"
        rows = con.execute(
            "SELECT count(*), count(DISTINCT id), coalesce(sum((id IS NULL OR id < 0 OR id >= $position "
            f"OR {other} OR text <> 't' || lpad(id::VARCHAR, $width, '0'))::INT), 0) FROM events",
            {"position": position, "width": plan.width},
        ).fetchall()[0]
        aside = (0, 0, 0)
        if "bad" in tables:
            aside = con.execute(
                "SELECT count(*), count(DISTINCT source_row), coalesce(sum((source_row > $position OR "
                "(source_row - 1) % $bad <> $at)::INT), 0) FROM bad",
                {"position": position, "bad": plan.bad, "at": BAD},
            ).fetchall()[0]
    expected = {
        "rows": (rows, (position - bad, position - bad, 0)),
        "rejected records": (aside, (bad, bad, 0)),
        "counts": ((inserted, rejected), (position - bad, bad)),
        "told position": (max(told, position), position),
        "last position": (position, plan.rows if finished else position),
    }
    wrong = [f"{what}: {got}, not {want}" for what, (got, want) in expected.items() if got != want]
    return Found(position, finished, "; ".join(wrong))


@dataclasses.dataclass
class Tally:
    """What became of the kills."""

    kills: int = 0
    loads: int = 0
    # Where the load was: before its first commit, in the middle, or at its end.
    moments: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    # Kills after which DuckDB had a log to replay.
    logs: int = 0
    # Kills between a commit and its being told.
    untold: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        moments = ", ".join(f"{count} {moment}" for moment, count in self.moments.most_common())
        return (
            f"{self.kills} kills in {self.loads} loads ({moments}; {self.logs} with a log to replay, "
            f"{self.untold} after a commit that was not told): {len(self.wrong)} wrong"
        )


def one(path: pathlib.Path, plan: Plan, chance: random.Random, tally: Tally, most: int) -> None:
    """One load from its beginning to its end, killed on the way up to `most` times."""
    tally.loads += 1
    before = Found()
    for attempt in itertools.count():
        command = [sys.executable, __file__, "--child", str(path), json.dumps(dataclasses.asdict(plan))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            lines: list[str] = []
            # Some moments are just after a commit was told, the others anywhere. The longer the more often it
            # was killed, so that it comes to an end.
            batches = -(-(plan.rows - before.position) // plan.batch_rows)
            wait_for = 1 + (chance.randrange(batches + 1) if chance.random() < 0.5 else 0)
            while len(lines) < wait_for and (line := child.stdout.readline()):
                lines.append(line)
            time.sleep(chance.random() * (0.03 if wait_for > 1 else 0.4 * (1 + attempt / 4)))
            killed = attempt < most and child.poll() is None
            if killed:
                child.send_signal(signal.SIGKILL)
            lines += child.communicate()[0].splitlines()
        if child.returncode not in (0, -signal.SIGKILL):
            tally.wrong.append(f"it ended by itself with {child.returncode}: {plan}")
            return
        told = max([int(line) for line in lines if line.strip().isdigit()], default=before.position)
        log = path.with_name(f"{path.name}.wal").exists()
        found = look(path, plan, told)
        if killed:
            tally.kills += 1
            tally.logs += log
            tally.untold += found.position > told
            if not found.position:
                tally.moments["before the first commit"] += 1
            else:
                tally.moments["at the end" if found.finished else "in the middle"] += 1
        if found.position < before.position:
            tally.wrong.append(f"{found.position} after {before.position}: {plan}")
        if found.wrong:
            tally.wrong.append(f"{found.wrong}: {plan}, kill {attempt + 1}")
            return
        if found.finished:
            return
        before = found


def run(seed: int, count: int) -> Tally:
    """Loads of random plans, until there were `count` kills."""
    tally = Tally()
    while tally.kills < count and not tally.wrong:
        name = f"{seed}/{tally.loads}"
        with tempfile.TemporaryDirectory(prefix="duckward-killed-") as folder:
            path = pathlib.Path(folder, "test.duckdb")
            one(path, random_plan(name), random.Random(name), tally, count - tally.kills)
        print(f"{name}: {tally.text()}", flush=True)
    return tally


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        load(sys.argv[2], Plan(**json.loads(sys.argv[3])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="kills")
    options = parser.parse_args()
    tally = run(options.seed, options.count)
    print(f"\nDuckDB {duckdb.__version__}, seed {options.seed}: {tally.text()}")
    for wrong in tally.wrong:
        print(f"  {wrong}")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
