"""A process that is killed while a statement runs in pieces leaves the database as it was, or with all."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap

import duckdb
import pytest

GROUPS = 200_000
QUERY = f"SELECT id % {GROUPS} AS k, median(v) AS m, list(s ORDER BY id) AS t FROM source GROUP BY ALL"
# Says where it is, and waits to be killed at the piece it is given; without such a one it runs to its end.
CHILD = """
import sys, time
import duckdb, duckward
con = duckdb.connect("killed.duckdb")
ward = duckward.guard(con, memory="1GB")
def told(event):
    if event["event"] == "piece_done" and event["piece"] == int(sys.argv[2]):
        print("here", flush=True)
        time.sleep(60)
ward.on(told)
ward.sql(sys.argv[1], pieces=6)
"""


def child(directory: pathlib.Path, statement: str, piece: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), statement, str(piece)]
    return subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    """With a database that has a source and an empty target."""
    with duckdb.connect(str(tmp_path / "killed.duckdb")) as con:
        con.execute(
            "CREATE TABLE source AS SELECT i AS id, i * 7 % 1000 AS v, 's' || i AS s FROM range(400000) r(i)"
        )
        con.execute("CREATE TABLE target (k BIGINT, m DOUBLE, t VARCHAR[])")
    return tmp_path


@pytest.mark.parametrize("piece", [1, 4, 6, 99])
@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO target {QUERY}",
        f"CREATE OR REPLACE TABLE target AS {QUERY}",
        f"COPY ({QUERY}) TO 'out.parquet'",
    ],
)
def test_killed_in_the_middle(directory: pathlib.Path, statement: str, piece: int) -> None:
    process = child(directory, statement, piece)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said == ("here\n" if piece <= 6 else "")
    finally:
        process.kill()
        process.wait()
        process.communicate()
    # All of it only where nobody was killed before the end.
    expected = GROUPS if piece > 6 else 0
    with duckdb.connect(str(directory / "killed.duckdb")) as con:
        names = con.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()
        assert names == [("source",), ("target",)]
        assert con.execute("SELECT count(*) FROM source").fetchall() == [(400_000,)]
        rows = con.execute("SELECT count(*) FROM target").fetchall()
        if not statement.startswith("COPY"):
            assert rows == [(expected,)]
        elif (directory / "out.parquet").exists():
            assert con.execute("SELECT count(*) FROM 'out.parquet'").fetchall() == [(expected,)]
        else:
            assert expected == 0
    # The next one works, over whatever the dead one left on the disk.
    process = child(directory, statement, 99)
    process.communicate(timeout=60)
    assert process.returncode == 0
