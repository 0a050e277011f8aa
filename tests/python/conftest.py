"""What the Python tests share: connections, a ward, and child processes in a memory cgroup of their own."""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb
import pytest

import duckward

# ---------------------------------------------------------------- connections


@pytest.fixture(autouse=True)
def _at_home_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """No settings of the developer's change a test, and what a test spills goes with its `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("DUCKWARD_", "DUCKDB_")):
            monkeypatch.delenv(name)


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a database in memory, with two threads on any machine."""
    with duckdb.connect(config={"threads": 2}) as connection:
        yield connection


@pytest.fixture
def db(tmp_path: pathlib.Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the database file `tmp_path / "test.duckdb"`."""
    with duckdb.connect(str(tmp_path / "test.duckdb")) as connection:
        yield connection


@pytest.fixture
def ward(con: duckdb.DuckDBPyConnection) -> Iterator[duckward.Ward]:
    """A ward over `con` with a budget that ordinary queries do not come near."""
    with duckward.guard(con, memory="2GB") as guarded:
        yield guarded


# ---------------------------------------------------------------- memory cgroups

V1 = pathlib.Path("/sys/fs/cgroup/memory")
V2 = pathlib.Path("/sys/fs/cgroup")
_numbers = itertools.count()


class Cgroup:
    """A memory cgroup of our own; as a context manager, removed at the end with whatever still runs in it."""

    def __init__(self, limit: int) -> None:
        v1 = (V1 / "memory.limit_in_bytes").exists()
        self.path = (V1 if v1 else V2) / f"duckward-test-{os.getpid()}-{next(_numbers)}"
        self.path.mkdir()
        try:
            self._set("memory.limit_in_bytes" if v1 else "memory.max", limit)
            # Without swap, so that the limit is the limit; kernels that do not count swap have no such file.
            swap = "memory.memsw.limit_in_bytes" if v1 else "memory.swap.max"
            if (self.path / swap).exists():
                self._set(swap, limit if v1 else 0)
        except OSError:
            self.path.rmdir()
            raise

    def _set(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value))

    def __enter__(self) -> Cgroup:
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + 10
        while True:
            for pid in self._read("cgroup.procs").split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            try:
                return self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _read(self, name: str) -> str:
        return (self.path / name).read_text()

    def command(self, *command: str) -> list[str]:
        """`command`, to be started inside this group."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *command]

    def peak(self) -> int | None:
        """The most bytes that the group has used, page cache included; none where the kernel does not say."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (self.path / name).exists():
                return int(self._read(name))
        return None


@functools.cache
def why_no_cgroup() -> str | None:
    """Why this process cannot make a memory cgroup, if it cannot."""
    try:
        with Cgroup(1 << 30):
            return None
    except OSError as error:
        return f"no memory cgroup can be made here ({error})"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_cgroup") and (reason := why_no_cgroup()):
        pytest.skip(reason)


@dataclass(frozen=True)
class Ended:
    """How a child process ended."""

    returncode: int
    stdout: str
    stderr: str
    peak: int | None

    @property
    def killed(self) -> bool:
        """Whether the kernel ended it."""
        return self.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


@pytest.fixture
def run_in_cgroup(tmp_path: pathlib.Path) -> Callable[..., Ended]:
    """Runs a Python script in a child process in a fresh memory cgroup; mark the test with `needs_cgroup`.

    `run_in_cgroup(script, *arguments, limit=512 << 20, timeout=60)`: the script finds the arguments in
    `sys.argv[1:]`, and `tmp_path` is its working directory.
    """

    def run(script: str, *arguments: object, limit: int = 512 << 20, timeout: float = 60) -> Ended:
        with Cgroup(limit) as group:
            command = group.command(sys.executable, "-c", textwrap.dedent(script), *map(str, arguments))
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)
            return Ended(done.returncode, done.stdout, done.stderr, group.peak())

    return run


@pytest.fixture(autouse=True)
def handler_of_ctrl_c() -> Iterator[None]:
    """After each test Ctrl-C is handled as before: by Python's own handler."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before
