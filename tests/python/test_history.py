"""What is learnt of queries, kept for the next process where `history` says so."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import duckward

AGAIN = 'this shape of query was answered on the rung "in pieces" the last time'
GROUPS = "SELECT k, median(v) FROM t WHERE v <> {} GROUP BY k"


@pytest.fixture
def database(tmp_path: pathlib.Path) -> pathlib.Path:
    """A database file with a table to group, which nobody has open."""
    path = tmp_path / "data.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE t AS SELECT i % 10 AS k, i AS v FROM range(1000) r(i)")
    return path


@pytest.fixture
def beside(database: pathlib.Path) -> pathlib.Path:
    """Where the history of `database` is kept."""
    return database.with_name("data.duckdb.duckward.json")


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(child: subprocess.Popen[str]) -> Any:
    """What the child printed, as JSON."""
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err[-2000:]
    return json.loads(out)


def kept(file: pathlib.Path) -> list[dict[str, Any]]:
    written = json.loads(file.read_text())
    assert written["version"] == 1
    queries: list[dict[str, Any]] = written["queries"]
    return queries


def in_pieces(database: pathlib.Path, history: object, value: int = 1) -> duckward.Report:
    """Runs the query over groups in two pieces, under a ward that keeps its history."""
    with (
        duckdb.connect(str(database)) as con,
        duckward.guard(con, "2GB", history=history) as ward,  # type: ignore[arg-type]
    ):
        answer = ward.sql(GROUPS.format(value), pieces=2)
        answer.fetchall()
        return answer.report


# ---------------------------------------------------------------- from one process to the next


def test_what_one_process_learns_the_next_one_begins_with(
    database: pathlib.Path, beside: pathlib.Path
) -> None:
    # Nobody closes: the end of the interpreter does.
    learn = f"""
        import sys, duckdb, duckward
        con = duckdb.connect(sys.argv[1])
        ward = duckward.guard(con, "2GB", history="beside")
        print(len(ward.sql({GROUPS.format(17)!r}, pieces=2).fetchall()))
    """
    use = f"""
        import json, sys, duckdb, duckward
        con = duckdb.connect(sys.argv[1])
        with duckward.guard(con, "2GB", history="beside") as ward:
            sql = {GROUPS.format(4321)!r}
            explained = ward.explain(sql).to_dict()
            answer = ward.sql(sql)
            rows = len(answer.fetchall())
            print(json.dumps([rows, answer.report.why, explained["rung"], explained["learned"]["rung"]]))
    """
    assert end(start(learn, database)) == 10
    assert [line["rung"] for line in kept(beside)] == ["in pieces"]
    assert end(start(use, database)) == [10, AGAIN, "in pieces", "in pieces"]


def test_the_command_line_keeps_it_too(database: pathlib.Path, beside: pathlib.Path) -> None:
    def run(*more: str) -> str:
        command = [sys.executable, "-m", "duckward", "run", "--history", "beside", "--memory", "2GB"]
        command += ["--report", *more, str(database), GROUPS.format(1)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert AGAIN not in run("--pieces", "2")
    assert len(kept(beside)) == 1
    assert AGAIN in run()


def test_the_status_of_the_command_line_shows_every_place(tmp_path: pathlib.Path) -> None:
    for place in ("beside", "none", str(tmp_path / "mine.json")):
        command = [sys.executable, "-m", "duckward", "status", "--json", "--history", place]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["settings"]["history"] == place
    assert list(tmp_path.iterdir()) == []


def test_a_larger_budget_begins_anew(database: pathlib.Path) -> None:
    in_pieces(database, "beside")
    with duckdb.connect(str(database)) as con, duckward.guard(con, "3GB", history="beside") as ward:
        answer = ward.sql(GROUPS.format(2))
        answer.fetchall()
        assert answer.report.why == ""
        assert answer.report.rung == "as is"


def test_two_processes_at_once_lose_nothing_and_leave_a_whole_file(
    database: pathlib.Path, beside: pathlib.Path
) -> None:
    script = """
        import sys, duckdb, duckward
        for number in range(10):
            con = duckdb.connect(sys.argv[1], read_only=True)
            with duckward.guard(con, "2GB", history="beside") as ward:
                ward.sql(f"SELECT k AS {sys.argv[2]}_{number} FROM t").fetchall()
            con.close()
        print(1)
    """
    children = [start(script, database, name) for name in "ab"]
    assert [end(child) for child in children] == [1, 1]
    assert len(kept(beside)) == 20
    assert sorted(path.name for path in database.parent.iterdir()) == [database.name, beside.name]


def test_a_forked_child_writes_nothing(database: pathlib.Path, beside: pathlib.Path) -> None:
    script = """
        import json, os, sys, duckdb, duckward
        con = duckdb.connect(sys.argv[1])
        ward = duckward.guard(con, "2GB", history="beside")
        ward.sql("SELECT k FROM t").fetchall()
        child = os.fork()
        if child == 0:
            ward.close()
            sys.exit(0)
        os.waitpid(child, 0)
        written = os.path.exists(sys.argv[2])
        ward.close()
        print(json.dumps([written, os.path.exists(sys.argv[2])]))
    """
    assert end(start(script, database, beside)) == [False, True]
    assert len(kept(beside)) == 1


# ---------------------------------------------------------------- the place


def test_by_default_nothing_is_kept(database: pathlib.Path) -> None:
    for history in (None, "none", ""):
        in_pieces(database, history)
        assert [path.name for path in database.parent.iterdir()] == [database.name]


def test_a_file_that_is_named_serves_any_database(database: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "mine.json"
    in_pieces(database, file)
    assert len(kept(file)) == 1
    with duckdb.connect() as con:
        con.execute("CREATE TABLE t AS SELECT 1 AS k, 2 AS v")
        with duckward.guard(con, "2GB", history="mine.json") as ward:
            answer = ward.sql(GROUPS.format(3))
            assert answer.fetchall() == [(1, 2.0)]
            assert answer.report.why == AGAIN
            assert ward.status()["settings"]["history"] == "mine.json"


def test_a_read_only_database_keeps_its_history(database: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for history in ("beside", tmp_path / "mine.json"):
        with (
            duckdb.connect(str(database), read_only=True) as con,
            duckward.guard(con, "2GB", history=history) as ward,
        ):
            ward.sql("SELECT k FROM t").fetchall()
    assert len(kept(tmp_path / "mine.json")) == len(kept(tmp_path / "data.duckdb.duckward.json")) == 1


def test_a_working_directory_that_changes_does_not_move_the_file(
    database: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    with duckdb.connect() as con, duckward.guard(con, "2GB", history="mine.json") as ward:
        monkeypatch.chdir(tmp_path / "elsewhere")
        ward.sql("SELECT k FROM range(3) r(k)").fetchall()
    assert len(kept(tmp_path / "mine.json")) == 1


def test_the_database_is_the_one_that_was_opened(database: pathlib.Path, beside: pathlib.Path) -> None:
    with duckdb.connect(str(database)) as con:
        con.execute("ATTACH 'another.duckdb' AS another")
        con.execute("USE another")
        with duckward.guard(con, "2GB", history="beside") as ward:
            ward.sql("SELECT k FROM data.t").fetchall()
    assert len(kept(beside)) == 1


@pytest.mark.parametrize("name", [":memory:", ":memory:named"])
def test_a_database_in_memory_has_nothing_beside_it(name: str, tmp_path: pathlib.Path) -> None:
    with duckdb.connect(name) as con:
        limit = con.sql("SELECT current_setting('memory_limit')").fetchall()
        with pytest.raises(duckward.InvalidInputError, match=r'history="beside".* in memory.*give the path'):
            duckward.guard(con, "2GB", history="beside")
        assert con.sql("SELECT current_setting('memory_limit')").fetchall() == limit
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_disk_error_and_changes_nothing(
    con: duckdb.DuckDBPyConnection, tmp_path: pathlib.Path
) -> None:
    limit = con.sql("SELECT current_setting('memory_limit')").fetchall()
    (tmp_path / "directory.json").mkdir()
    for place in (tmp_path / "missing" / "x.json", pathlib.Path("/proc/x.json"), tmp_path / "directory.json"):
        with pytest.raises(duckward.DiskError, match="give the path of a file in a directory") as caught:
            duckward.guard(con, "2GB", history=place)
        assert str(place) in str(caught.value)
    assert con.sql("SELECT current_setting('memory_limit')").fetchall() == limit
    assert [path.name for path in tmp_path.iterdir()] == ["directory.json"]


def test_a_database_is_not_taken_for_a_history(tmp_path: pathlib.Path) -> None:
    with duckdb.connect(str(tmp_path / "data.json")) as con:
        with pytest.raises(duckward.InvalidInputError, match="not a database"):
            duckward.guard(con, "2GB", history=tmp_path / "data.json")
        with pytest.raises(duckward.InvalidInputError, match=r"ends in \.json"):
            duckward.guard(con, "2GB", history=tmp_path / "data.duckdb")
        con.execute("CREATE TABLE t AS SELECT 1 AS k")
    # Its lock was not dropped by us, nor its bytes moved.
    with duckdb.connect(str(tmp_path / "data.json")) as con:
        assert con.sql("FROM t").fetchall() == [(1,)]


# ---------------------------------------------------------------- what is in it


def test_neither_texts_nor_values_are_kept(database: pathlib.Path, beside: pathlib.Path) -> None:
    with duckdb.connect(str(database)) as con, duckward.guard(con, "2GB", history="beside") as ward:
        ward.sql("SELECT 'secret', k, 987654321 AS hidden FROM t WHERE v > ?", [123456789]).fetchall()
    text = beside.read_text()
    for word in ("secret", "987654321", "hidden", "123456789", "SELECT", "data"):
        assert word.lower() not in text.lower()
    assert set(kept(beside)[0]) == {"fingerprint", "rung", "growth", "spilled", "took", "budget"}


@pytest.fixture
def told(con: duckdb.DuckDBPyConnection) -> Iterator[list[dict[str, Any]]]:
    """What happens in this process."""
    with duckward.guard(con, "2GB") as ward:
        events: list[dict[str, Any]] = []
        ward.on(lambda event: events.append(dict(event)))
        yield events


def of_history(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of the history; they come through a thread of the subscription."""
    deadline = time.monotonic() + 10
    while True:
        found = [event for event in told if event["event"].startswith("history_")]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "not a history"), ('{"version": 1, "quer', "not a history"), ('{"version": 2}', "version 2")],
)
def test_a_broken_or_newer_file_is_moved_aside_and_told(
    database: pathlib.Path, beside: pathlib.Path, told: list[dict[str, Any]], text: str, why: str
) -> None:
    beside.write_text(text)
    in_pieces(database, "beside")
    aside = beside.with_name(beside.name + ".broken")
    assert aside.read_text() == text
    assert len(kept(beside)) == 1
    [event] = of_history(told)
    assert event["event"] == "history_moved_aside"
    assert event["path"] == str(beside)
    assert event["to"] == str(aside)
    assert why in event["reason"]


def test_a_place_that_goes_away_is_told_and_nothing_fails(
    database: pathlib.Path, told: list[dict[str, Any]]
) -> None:
    place = database.parent / "place"
    place.mkdir()
    with duckdb.connect(str(database)) as con, duckward.guard(con, "2GB", history=place / "x.json") as ward:
        place.rmdir()
        assert len(ward.sql("SELECT k FROM t").fetchall()) == 1000
    assert not place.exists()
    [event] = of_history(told)
    assert (event["event"], event["path"]) == ("history_not_kept", str(place / "x.json"))
