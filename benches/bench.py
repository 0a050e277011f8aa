"""What the benchmarks share: rows of the table, medians, child processes.

Nothing here judges by the clock alone: two things are compared by running them in turns, A B B A, so that
whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
MARK = "BENCH "


@dataclasses.dataclass(frozen=True)
class Row:
    """A measured figure, what was promised, and what was compared with what."""

    name: str
    measured: str
    promised: str = "-"
    kept: bool | None = None
    compared: str = ""

    @property
    def verdict(self) -> str:
        """The promise's fate; "-" where nothing is promised."""
        return {True: "kept", False: "MISSED", None: "-"}[self.kept]


class BenchError(Exception):
    """A benchmark could not be run, or its answers were wrong. The message says why."""


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; of few, the 99th percentile is the largest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float], form: str) -> str:
    """The median, and where the middle eight tenths lie."""
    low, middle, high = quantile(values, 0.1), statistics.median(values), quantile(values, 0.9)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def turns(rounds: int) -> Iterator[tuple[str, str]]:
    """A B, B A, A B ...: each a pair, to be compared with each other."""
    for number in range(rounds):
        yield ("plain", "guarded") if number % 2 == 0 else ("guarded", "plain")


def command(function: Callable[..., Any], arguments: dict[str, Any]) -> list[str]:
    """The command that runs `function` of a module here in a process of its own."""
    name = f"{pathlib.Path(function.__code__.co_filename).stem}:{function.__name__}"
    return [sys.executable, str(HERE / "run.py"), "--child", name, json.dumps(arguments)]


def in_child(function: Callable[..., Any], *, patience: float = 600.0, **arguments: Any) -> Any:
    """What `function(**arguments)` returns in a new process.

    Raises:
        BenchError: it died, or took longer than `patience` seconds.
    """
    try:
        done = subprocess.run(
            command(function, arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{function.__name__} took more than {patience:.0f} s") from error
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not found:
        raise BenchError(f"{function.__name__} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
    return json.loads(found[-1][len(MARK) :])


def own_memory() -> tuple[int, int]:
    """This process's anonymous and resident memory in bytes."""
    with open("/proc/self/smaps_rollup") as file:
        sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file if line.endswith("kB\n")}
    return sizes["Anonymous"], sizes["Rss"]
