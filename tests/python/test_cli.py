"""The command line: every exit code, every output, and the texts that people read."""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import functools
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

import duckward
from duckward import cli

MANY = 300_000


def run(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command with `arguments` in a process of its own."""
    command = [sys.executable, "-m", "duckward", *map(str, arguments)]
    more = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 100} | more
    return subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, **more)


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Asserts that the command ended with `code`, and told why on standard error without a traceback."""
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    for word in words:
        assert word in done.stderr


# ---------------------------------------------------------------- printing


def test_prints_a_table() -> None:
    done = run(
        "run", ":memory:", "select 42 as answer, 'été' as word, null::integer as nothing, [1, 2] as list"
    )
    assert done.returncode == cli.OK, done.stderr
    assert done.stdout == (
        "┌─────────┬─────────┬─────────┬───────────┐\n"
        "│ answer  │  word   │ nothing │   list    │\n"
        "│ integer │ varchar │ integer │ integer[] │\n"
        "├─────────┼─────────┼─────────┼───────────┤\n"
        "│      42 │ été     │    NULL │ [1, 2]    │\n"
        "└─────────┴─────────┴─────────┴───────────┘\n"
        "1 row\n"
    )
    assert done.stderr == ""


def test_says_how_many_rows_it_does_not_show() -> None:
    done = run("run", ":memory:", f"from range({MANY})", "--rows", 3)
    assert done.returncode == cli.OK, done.stderr
    assert [line.strip("│ ") for line in done.stdout.splitlines()[4:7]] == ["0", "1", "2"]
    assert "the first 3 of 300,000 rows; 299,997 more are not shown" in done.stdout
    unseen = run("run", ":memory:", f"from range({MANY})")
    assert f"the first {cli.ROWS_UNSEEN} of 300,000 rows" in unseen.stdout


def test_no_rows_still_have_names() -> None:
    done = run("run", ":memory:", "select 1 as a where false")
    assert "│    a    │" in done.stdout
    assert done.stdout.endswith("0 rows\n")


def test_reads_the_statement_from_standard_input() -> None:
    done = run("run", ":memory:", "-", input="select 7 as seven")
    assert done.returncode == cli.OK, done.stderr
    assert "seven" in done.stdout


def test_data_cannot_drive_the_terminal() -> None:
    done = run("run", ":memory:", "select chr(27) || '[31mred' as a, chr(10) as b")
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred" in done.stdout
    assert "\\n" in done.stdout


def test_changes_the_database(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "new.duckdb"
    assert run("run", file, "create table t as from range(5)").returncode == cli.OK
    assert "5" in run("run", file, "select count(*) from t", "--read-only").stdout


def test_report_goes_to_standard_error() -> None:
    done = run("run", ":memory:", "select 1 as a", "--report")
    assert done.returncode == cli.OK
    assert done.stderr.strip()
    assert done.stdout == run("run", ":memory:", "select 1 as a").stdout


def test_report_as_json() -> None:
    done = run("run", ":memory:", "select 1 as a", "--report", "--json")
    assert json.loads(done.stdout) == {"a": 1}
    assert json.loads(done.stderr)["rows"] == 1


def test_a_reader_that_stops_is_no_error() -> None:
    command = [sys.executable, "-m", "duckward", "run", ":memory:", f"from range({MANY})", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == '{"range": 0}\n'
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == cli.OK


# ---------------------------------------------------------------- JSON


def test_json_prints_every_row() -> None:
    done = run("run", ":memory:", "select i, i::varchar as s from range(1000) r(i)", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"i": i, "s": str(i)} for i in range(1000)
    ]


def test_json_keeps_what_json_has_no_word_for() -> None:
    query = """
        select 'nan'::double as n, '-inf'::double as i, 1.50::decimal(9, 2) as d,
               12345678901234567890123.45::decimal(30, 2) as long, date '2024-02-29' as day,
               'infinity'::timestamp as never, 'a\\xFF'::blob as bytes, {'x': [1, null]} as nested,
               interval '1 year 2 days 03:04:05.5' as span
    """
    assert json.loads(run("run", ":memory:", query, "--json").stdout) == {
        "n": "NaN",
        "i": "-Infinity",
        "d": 1.5,
        "long": "12345678901234567890123.45",
        "day": "2024-02-29",
        "never": "infinity",
        "bytes": "a\\xFF",
        "nested": {"x": [1, None]},
        "span": "1 year 2 days 03:04:05.5",
    }


# ---------------------------------------------------------------- files


def read(file: pathlib.Path) -> list[int]:
    """The first column of a file that the command wrote."""
    if file.suffix == ".parquet":
        return pa.parquet.read_table(file).column(0).to_pylist()
    if file.suffix == ".arrow":
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all().column(0).to_pylist()
    with open(file, newline="") as text:
        return [int(row[0]) for row in list(csv.reader(text))[1:]]


@pytest.mark.parametrize("ending", ["parquet", "csv", "arrow"])
def test_output(tmp_path: pathlib.Path, ending: str) -> None:
    file = tmp_path / f"answer.{ending}"
    done = run("run", ":memory:", f"select i, 'x' as s from range({MANY}) r(i) order by i", "--output", file)
    assert done.returncode == cli.OK, done.stderr
    assert f"wrote 300,000 rows to {file}" in done.stderr
    assert done.stdout == ""
    assert read(file) == list(range(MANY))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_output_in_few_row_groups(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "answer.parquet"
    run("run", ":memory:", f"from range({MANY})", "--output", file)
    assert pa.parquet.ParquetFile(file).num_row_groups <= MANY // cli.GROUP_ROWS + 1


@pytest.mark.parametrize("ending", ["parquet", "csv", "arrow"])
def test_output_of_no_rows(tmp_path: pathlib.Path, ending: str) -> None:
    file = tmp_path / f"answer.{ending}"
    assert run("run", ":memory:", "select 1 as a where false", "--output", file).returncode == cli.OK
    assert read(file) == []


def test_output_exists(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "answer.csv"
    file.write_text("precious")
    refused(run("run", ":memory:", "select 1", "--output", file), cli.USAGE, str(file), "--force")
    assert file.read_text() == "precious"
    assert run("run", ":memory:", "select 1", "--output", file, "--force").returncode == cli.OK
    assert read(file) == [1]


def test_output_as_json(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "answer.csv"
    found = json.loads(run("run", ":memory:", "from range(3)", "--output", file, "--json").stdout)
    assert found == {"output": str(file), "rows": 3, "bytes": file.stat().st_size}


@pytest.mark.parametrize("name", ["answer.xlsx", "answer", "missing/answer.csv", "folder.csv"])
def test_output_that_cannot_be(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    refused(run("run", ":memory:", "select 1", "--output", tmp_path / name), cli.USAGE, name)


@pytest.mark.parametrize("ending", ["parquet", "csv", "arrow"])
def test_a_query_that_fails_leaves_no_file(tmp_path: pathlib.Path, ending: str) -> None:
    query = (
        f"select case when i = {MANY - 1} then error('too late') else 'x' end as c from range({MANY}) r(i)"
    )
    refused(run("run", ":memory:", query, "--output", tmp_path / f"answer.{ending}"), cli.FAILED, "too late")
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_fails_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "answer.csv"
    file.write_text("precious")
    refused(run("run", ":memory:", "select error('no')", "--output", file, "--force"), cli.FAILED)
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    ("ending", "query"), [("csv", "select [1] as c"), ("parquet", "select interval 1 day as c")]
)
def test_a_format_that_cannot_hold_the_answer(tmp_path: pathlib.Path, ending: str, query: str) -> None:
    refused(run("run", ":memory:", query, "--output", tmp_path / f"answer.{ending}"), cli.FAILED, ".arrow")
    assert list(tmp_path.iterdir()) == []


def test_csv_loses_nothing(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "answer.csv"
    query = """
        select 'infinity'::timestamp as never, '-infinity'::date as before, 'a\\xFF'::blob as bytes,
               'b'::enum ('a', 'b') as word, 'say "x", é' as quoted, null::integer as nothing
    """
    done = run("run", ":memory:", query, "--output", file)
    assert done.returncode == cli.OK, done.stderr
    rows = list(csv.reader(io.StringIO(file.read_text("utf-8"))))
    assert rows[1] == ["infinity", "-infinity", "a\\xFF", "b", 'say "x", é', ""]


def test_csv_refuses_a_year_that_it_would_write_wrongly(tmp_path: pathlib.Path) -> None:
    query = "select '290000-01-01'::timestamp as far"
    refused(run("run", ":memory:", query, "--output", tmp_path / "answer.csv"), cli.FAILED, "varchar")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", ":memory:"],
        ["run", ":memory:", "  "],
        ["run", ":memory:", "select 1", "--rows", "many"],
        ["run", ":memory:", "select 1", "--colour"],
        ["run", ":memory:", "select 1", "--pieces", "many"],
        ["run", ":memory:", "select 1", "--pieces", "0"],
        ["run", ":memory:", "select 1", "--pieces", "1025"],
        ["run", ":memory:", "select 1", "--pieces", "3"],
        ["run", ":memory:", "select 1", "--verify", "all"],
        ["explain", ":memory:", "select 1", "--verify", "full"],
        ["explain", ":memory:"],
        ["explain", ":memory:", "  "],
        ["explain", ":memory:", "select 1; select 2"],
        ["explain", ":memory:", "select 1", "--memory", "12 parsecs"],
        ["profile", ":memory:"],
        ["profile", ":memory:", "  "],
        ["profile", ":memory:", "select 1; select 2"],
        ["profile", ":memory:", "select 1 as a", "b"],
        ["profile", ":memory:", "select 1", "--pieces", "3"],
        ["run", ":memory:", "select 1", "--memory", "12 parsecs"],
        ["run", ":memory:", "select 1", "--settings", "missing.toml"],
        ["run", ":memory:", "select 1", "--profile", "no such profile"],
        ["demo", "--memory", "12 parsecs"],
        ["demo", "--memory", "1MB"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str]) -> None:
    refused(run(*arguments), cli.USAGE)


def test_wrong_usage_names_the_value() -> None:
    refused(run("run", ":memory:", "select 1", "--memory", "12 parsecs"), cli.USAGE, "12 parsecs")
    refused(run("demo", "--memory", "1MB"), cli.USAGE, "1MB", "200 MiB")


def test_a_wrong_statement_keeps_its_own_error() -> None:
    refused(run("run", ":memory:", "selec 1"), cli.FAILED, "Parser Error", "LINE 1: selec 1")
    refused(run("run", ":memory:", "from nowhere"), cli.FAILED, "nowhere")


def test_not_a_database(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "text.duckdb"
    file.write_text("this is no database " * 1000)
    refused(run("run", file, "select 1"), cli.FAILED, "text.duckdb")
    refused(run("run", tmp_path / "missing.duckdb", "select 1", "--read-only"), cli.FAILED, "missing.duckdb")
    refused(run("run", tmp_path / "missing" / "x.duckdb", "select 1"), cli.FAILED)


def test_read_only(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "test.duckdb"
    duckdb.connect(str(file)).close()
    refused(run("run", file, "create table t (i int)", "--read-only"), cli.FAILED, "read-only")


def test_out_of_memory() -> None:
    query = "select len(list(i)) from range(200_000_000) r(i)"
    refused(run("run", ":memory:", query, "--memory", "400MB"), cli.REFUSED)


def test_out_of_memory_leaves_no_file(tmp_path: pathlib.Path) -> None:
    query = "select len(list(i)) as n from range(200_000_000) r(i)"
    file = tmp_path / "answer.parquet"
    refused(run("run", ":memory:", query, "--memory", "400MB", "--output", file), cli.REFUSED)
    assert not list(tmp_path.glob("*answer*"))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "query",
    [
        "select max(sqrt(a.range * b.range)) from range(300_000) a, range(300_000) b",
        "select a.range * b.range as n from range(300_000) a, range(300_000) b",
    ],
    ids=["before the first row", "while rows come"],
)
def test_cancelled(tmp_path: pathlib.Path, query: str, number: int) -> None:
    command = [
        sys.executable,
        "-m",
        "duckward",
        "run",
        ":memory:",
        query,
        "--output",
        str(tmp_path / "a.parquet"),
    ]
    # A shell's background job begins with Ctrl-C ignored, and its children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        assert process.stderr
        time.sleep(3)
        process.send_signal(number)
        sent = time.monotonic()
        try:
            _, text = process.communicate(timeout=30)
        finally:
            process.kill()
        # Generous: it says that the query was interrupted, and not waited for.
        assert time.monotonic() - sent < 10
    assert process.returncode == cli.CANCELLED
    assert text.startswith("duckward: ")
    assert "Traceback" not in text
    assert not list(tmp_path.glob("*a.parquet*"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (cli.UsageError("x"), cli.USAGE),
        (duckward.InvalidInputError("x"), cli.USAGE),
        (cli.OutputError("x"), cli.FAILED),
        (duckdb.ParserException("x"), cli.FAILED),
        (duckward.TimeoutError("x"), cli.FAILED),
        (duckward.InternalError("x"), cli.FAILED),
        (OSError(errno.EACCES, "x"), cli.FAILED),
        (OSError(errno.ENOSPC, "x"), cli.REFUSED),
        (duckward.DiskError("x"), cli.REFUSED),
        (duckward.OutOfMemoryError("x"), cli.REFUSED),
        (duckdb.OutOfMemoryException("x"), cli.REFUSED),
        (MemoryError(), cli.REFUSED),
        (duckward.CancelledError("x"), cli.CANCELLED),
        (KeyboardInterrupt(), cli.CANCELLED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert cli.expected(error)
    assert cli.exit_code(error) == code
    assert cli.paragraph(error)


def test_a_defect_keeps_its_traceback() -> None:
    assert not cli.expected(TypeError("a defect"))


# ---------------------------------------------------------------- in pieces

MEDIANS = "select i % 10 as k, median(i) as m from range(10_000) r(i) group by k order by k"


@pytest.mark.parametrize(("pieces", "count"), [("4", 4), ("no", 0), ("auto", 0)])
def test_run_in_pieces(pieces: str, count: int) -> None:
    done = run("run", ":memory:", MEDIANS, "--pieces", pieces, "--json", "--report")
    assert done.returncode == cli.OK, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == [{"k": k, "m": 4995.0 + k} for k in range(10)]
    found = json.loads(done.stderr)["pieces"]
    assert len(found) == count
    assert sum(piece["rows"] for piece in found) == (10_000 if count else 0)


@pytest.mark.parametrize(("arguments", "proved"), [((), "counts"), (("--verify", "full"), "full")])
def test_run_tells_what_was_proved(arguments: tuple[str, ...], proved: str) -> None:
    done = run("run", ":memory:", MEDIANS, "--pieces", "3", *arguments, "--json", "--report")
    assert done.returncode == cli.OK, done.stderr
    assert json.loads(done.stderr)["verified"] == proved


def test_a_proof_that_is_none_names_those_that_are() -> None:
    refused(run("run", ":memory:", "select 1", "--verify", "all"), cli.USAGE, "'counts', 'full'")


def test_explain(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "test.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute("create table t as select i % 10 as k, i as v from range(1000) r(i)")
    done = run("explain", file, "insert into t select k, median(v) from t group by k", "--memory", "1GB")
    assert done.returncode == cli.OK, done.stderr
    for words in ("starts         as is", "yes, if it does not fit", "pieces by k", "memory_limit", "budget"):
        assert words in done.stdout
    assert "1000" in run("run", file, "select count(*) from t", "--read-only").stdout, "nothing was run"


def test_explain_as_json() -> None:
    done = run("explain", ":memory:", "-", "--json", "--pieces", "5", "--memory", "1GiB", input=MEDIANS)
    found = json.loads(done.stdout)
    assert (found["rung"], found["can_be_cut"], found["budget"]) == ("in pieces", True, 1 << 30)
    assert [query["pieces"] for query in found["queries"]] == [5]


def test_validate(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "kept.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute("create table t as select i, i % 7 as k from range(1000) as r(i)")
        con.execute(f"copy (from t where i <> 500) to '{tmp_path / 'most.parquet'}'")
    done = run("validate", file, "t", "from t order by k", "--read-only")
    assert done.returncode == cli.OK, done
    assert done.stdout.splitlines()[0].split(maxsplit=1) == ["verdict", "the same"]
    done = run("validate", file, "t", tmp_path / "most.parquet", "--on", "i", "--json")
    assert done.returncode == cli.DIFFERENT, done
    told = json.loads(done.stdout)
    assert (told["left_rows"], told["right_rows"]) == (1000, 999)
    assert [finding["kind"] for finding in told["findings"]] == ["row_count", "missing_rows"]
    assert told["findings"][1]["examples"] == [{"i": "500", "rows left": "1", "rows right": "0"}]
    refused(run("validate", file, "t", "t", "--on", "nosuch"), cli.USAGE, "nosuch", "both have i, k")
    refused(run("validate", file, "t", "nosuch"), cli.FAILED, "nosuch")


def test_validate_pieces_keys_references_and_gaps(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "kept.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute("create table users as select i as id, i as org from range(5) r(i)")
        con.execute("create table t as select i as id, i % 5 as u, i % 5 as o from range(100) r(i)")
        con.execute("create table t_1 as from t where id < 40; create table t_2 as from t where id >= 40")
    whole = (
        "--on",
        "id",
        "--references",
        "u=users.id",
        "--references",
        "u, o=users(id, org)",
        "--gaps",
        "id",
    )
    done = run("validate", file, "t", *whole, "--read-only")
    assert done.returncode == cli.OK, done
    assert done.stdout.splitlines()[:2] == ["verdict        nothing found", "checked        t: 100 rows"]
    assert run("validate", file, "--pieces", "t_1", "t_2", "--source", "t", *whole).returncode == cli.OK
    with duckdb.connect(str(file)) as con:
        con.execute("insert into t_2 from t_1 where id = 7; delete from t_1 where id = 3")
        con.execute("delete from users where id = 4")
    done = run("validate", file, "--pieces", "t_1", "t_2", *whole, "--json")
    assert done.returncode == cli.DIFFERENT, done
    told = json.loads(done.stdout)
    assert [(one["kind"], one["piece"]) for one in told["findings"]] == [
        ("overlap", "t_2"),
        ("missing_parents", "t_1"),
        ("missing_parents", "t_2"),
        ("missing_parents", "t_1"),
        ("missing_parents", "t_2"),
        ("gap", "t_1"),
    ]
    assert told["overlaps"] == [{"piece": "t_1", "other": "t_2", "keys": 1, "rows": 1, "other_rows": 1}]
    assert (
        run("partition", file, "t", "--by", "id", "--pieces", "3", "--into", tmp_path / "lake").returncode
        == cli.OK
    )
    assert run("validate", file, "t", tmp_path / "lake", "--on", "id").returncode == cli.OK
    next((tmp_path / "lake").rglob("*.parquet")).unlink()
    assert run("validate", file, "t", tmp_path / "lake").returncode == cli.DIFFERENT
    refused(run("validate", file, "t"), cli.USAGE, "nothing to compare t with")
    refused(run("validate", file, "t", "t", "t"), cli.USAGE, "--pieces")
    refused(run("validate", file, "t", "--source", "t"), cli.USAGE, "--source")
    refused(run("validate", file, "t", "--references", "u"), cli.USAGE, "COLUMN=TABLE.COLUMN")


def test_explain_of_a_wrong_statement_keeps_its_own_error() -> None:
    refused(run("explain", ":memory:", "selec 1"), cli.FAILED, "Parser Error", "LINE 1: selec 1")
    refused(run("explain", ":memory:", "from nowhere"), cli.FAILED, "nowhere")


# ---------------------------------------------------------------- profile


def test_profile(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "test.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute("create table t as select i % 10 as k, i as v from range(1000) r(i)")
    done = run("profile", file, "t", "K", "--read-only", "--memory", "1GB")
    assert done.returncode == cli.OK, done.stderr
    assert done.stdout == (
        "column         k BIGINT\n"
        "rows           1000\n"
        "NULL           0\n"
        "from, to       '0', '9'\n"
        "values         10\n"
        "most frequent  '0': 10.0 % of the rows\n"
        "can be cut by  range, hash, value\n"
        "advice         by value: it has 10 values, and none has more than half of the rows\n"
    )
    whole = run("profile", file, "t")
    assert [line for line in whole.stdout.splitlines() if line.startswith("column")] == [
        "column         k BIGINT",
        "column         v BIGINT",
    ]


def test_profile_as_json() -> None:
    query = "select i % 3 as k, 'a' as s from range(9) r(i)"
    found = json.loads(run("profile", ":memory:", query, "k", "--json").stdout)
    assert (found["name"], found["type"], found["distinct"]) == ("k", "BIGINT", 3)
    found = json.loads(run("profile", ":memory:", query, "--json").stdout)
    assert [column["cut"] for column in found] == ["value", None]


def test_profile_of_what_is_not_there() -> None:
    refused(run("profile", ":memory:", "nowhere"), cli.FAILED, "Catalog Error", "nowhere")
    refused(run("profile", ":memory:", "select 1 as a", "b"), cli.USAGE, '"b"', "the columns a")


# ---------------------------------------------------------------- partition


def test_partition(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "test.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute(
            "create table t as select range as id, date '2024-01-01' + range::int as d from range(100)"
        )
    month = ("partition", file, "t", "--by", "d", "--every", "month", "--read-only", "--memory", "1GB")
    plan = run(*month)
    assert plan.returncode == cli.OK, plan.stderr
    assert "cut            d by time, every month" in plan.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["test.duckdb"]
    done = run(*month, "--into", tmp_path / "lake")
    assert done.returncode == cli.OK, done.stderr
    assert "pieces         4" in done.stdout.splitlines()
    assert (tmp_path / "lake" / "d_month=2024-04").is_dir()
    refused(run(*month, "--into", tmp_path / "lake"), cli.USAGE, "it is there already", "replace=True")
    by = ("--by", "id", "--by", "d", "--pieces", "2", "--hash", "3")
    again = run("partition", file, "t", *by, "--into", tmp_path / "lake", "--replace", "--json")
    assert len(json.loads(again.stdout)["pieces"]) == 6
    same = run("validate", file, "t", f"select id, d from '{tmp_path}/lake/**/*.parquet'")
    assert same.returncode == cli.OK, same.stdout


def test_partition_into_tables(tmp_path: pathlib.Path) -> None:
    file = str(tmp_path / "t.duckdb")
    with duckdb.connect(file) as con:
        con.execute("CREATE TABLE t AS SELECT range AS id FROM range(1000)")
    cut = ("partition", file, "t", "--by", "id", "--pieces", "4", "--into", "parts.t_{piece}")
    done = run(*cut)
    assert done.returncode == cli.OK, done.stderr
    assert "parts.t_{piece}" in done.stdout
    refused(run(*cut), cli.USAGE, "it is there already")
    again = run(*cut, "--replace", "--json")
    assert json.loads(again.stdout)["pieces"][3]["table"] == "t_3"
    refused(run(*cut, "--replace", "--read-only"), cli.USAGE, "the database t is read-only")
    with duckdb.connect(file) as con:
        assert con.execute("SELECT count(*) FROM parts.t_3").fetchall() == [(250,)]


def test_partition_by_a_kept_plan(tmp_path: pathlib.Path) -> None:
    file, plan, lake = tmp_path / "t.duckdb", tmp_path / "plan.json", tmp_path / "lake"
    with duckdb.connect(str(file)) as con:
        con.execute("CREATE TABLE t AS SELECT range AS id, random() AS r FROM range(300000)")
    cut = ("partition", file, "t", "--read-only", "--by", "r", "--pieces", "5", "--plan", plan)
    # Without --into it is made, kept and shown; the bounds are of a sample, so another would differ.
    made = run(*cut)
    assert made.returncode == cli.OK, made.stderr
    assert "cut            r by range" in made.stdout
    assert made.stderr == f"the plan is kept in {plan}: the same command goes by it\n"
    kept = plan.read_bytes()
    assert json.loads(run(*cut, "--json").stdout) == json.loads(kept)
    done = run(*cut, "--into", lake, "--json")
    assert done.returncode == cli.OK, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert (found["plan"], found["resumed"]) == (json.loads(kept), 0)
    # What is left out is as it is in the file, tables too.
    tables = run("partition", file, "t", "--plan", plan, "--into", "t_{piece}", "--json")
    assert json.loads(tables.stdout)["plan"] == json.loads(kept)
    for words, more in (
        (("hash=4", "was made without it"), ("--hash", "4")),
        (("pieces=6", "was made with pieces=5", str(plan)), ("--pieces", "6")),
    ):
        refused(run(*cut, *more, "--into", tmp_path / "other"), cli.USAGE, *words)
    refused(run("partition", file, "t_0", "--plan", plan), cli.USAGE, 'is of "t"', "give that source")
    assert plan.read_bytes() == kept
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lake", "plan.json", "t.duckdb"]


def test_partition_by_a_plan_that_cannot_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "directory.json").mkdir()
    (tmp_path / "broken.json").write_text('{"version": 1')
    source = ("partition", ":memory:", "select range as id from range(100)")
    by = ("--by", "id", "--hash", "2")
    for name, code, word in (
        ("nowhere/plan.json", cli.USAGE, "there is no directory"),
        ("directory.json", cli.USAGE, "this is a directory"),
        ("broken.json", cli.USAGE, "broken.json: this is no plan"),
    ):
        refused(run(*source, *by, "--plan", tmp_path / name, "--into", tmp_path / "lake"), code, word)
    # A name that was mistyped is not taken for a wish to be advised.
    mistyped = run(*source, "--plan", tmp_path / "paln.json", "--into", tmp_path / "lake")
    refused(mistyped, cli.USAGE, "paln.json: there is no such file", "say how to cut", "leave out --into")
    unused = run(*source, *by, "--replace", "--batch-rows", "5")
    refused(unused, cli.USAGE, "--replace, --batch-rows", "give --into PLACE")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["broken.json", "directory.json"]
    # A plan that was made stays when what it was made for fails.
    failed = run(*source, *by, "--plan", tmp_path / "plan.json", "--into", "/proc/lake")
    refused(failed, cli.REFUSED, "plan.json: the same command goes by it", "/proc")
    again = run(*source, *by, "--plan", tmp_path / "plan.json", "--into", tmp_path / "lake")
    assert again.returncode == cli.OK, again.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_partition_goes_on_after_a_kill(tmp_path: pathlib.Path) -> None:
    file, plan, lake = tmp_path / "t.duckdb", tmp_path / "plan.json", tmp_path / "lake"
    with duckdb.connect(str(file)) as con:
        con.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(300000)")
    cut: list[object] = ["partition", file, "t", "--read-only", "--by", "s", "--pieces", 4]
    cut += ["--batch-rows", 7500, "--plan", plan, "--into", lake, "--json"]
    command = [sys.executable, "-m", "duckward", *map(str, cut)]
    journal = tmp_path / ".duckward-lake" / "journal.json"

    def written() -> int:
        try:
            return sum(json.loads(journal.read_text())["done"])
        except FileNotFoundError:
            return 0

    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None and written() < 2:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not lake.exists()
    before, kept = written(), plan.read_bytes()
    assert before >= 2
    done = run(*cut)
    assert done.returncode == cli.OK, done.stderr
    found = json.loads(done.stdout)
    assert (found["resumed"], found["plan"]) == (before, json.loads(kept))
    assert sum(piece["rows"] for piece in found["pieces"]) == 300000
    same = run("validate", file, "t", lake)
    assert same.returncode == cli.OK, same.stdout
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lake", "plan.json", "t.duckdb"]


@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
@pytest.mark.parametrize("shown", [True, False])
def test_partition_shows_progress_on_a_terminal(tmp_path: pathlib.Path, shown: bool) -> None:
    # A line is drawn after half a second; each of these rows takes a while.
    source = "select range as id, md5(repeat(range::varchar, 3000)) as s from range(20000)"
    command = [sys.executable, "-m", "duckward", "partition", ":memory:", source, "--by", "id", "--hash", "4"]
    command += ["--into", str(tmp_path / "lake"), *([] if shown else ["--no-progress"])]
    master, terminal = os.openpty()
    text = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        with contextlib.suppress(OSError):
            while chunk := os.read(master, 4096):
                text += chunk
        assert process.wait(60) == cli.OK, text
    os.close(master)
    # It is over all of it, so it never falls, and is gone in the end.
    shares = [int(share) for share in re.findall(rb"\] +(\d+)% ", text)]
    assert shares == sorted(shares)
    assert bool(shares) == shown
    assert text.endswith(b"\r\x1b[K") == shown


def test_partition_of_what_cannot_be_cut() -> None:
    refused(run("partition", ":memory:", "nowhere", "--by", "x"), cli.FAILED, "Catalog Error", "nowhere")
    refused(run("partition", ":memory:", "select 1 as a", "--by", "b"), cli.USAGE, '"b"', "the columns a")
    refused(run("partition", ":memory:", "select 1 as a", "--by", "a", "--hash", "0"), cli.USAGE, "hash=0")


# ---------------------------------------------------------------- status and help


def test_status() -> None:
    done = run("status")
    assert done.returncode == cli.OK, done.stderr
    for word in ("level", "budget", "used", "settings", "memory"):
        assert word in done.stdout


def test_status_as_json() -> None:
    found = json.loads(run("status", "--json", "--memory", "1GiB").stdout)
    assert {"level", "budget", "used", "settings", "sources"} <= found.keys()
    assert found["budget"] == 1 << 30


def test_status_text() -> None:
    found = {
        "level": "normal",
        "budget": 512 << 20,
        "share": 0.156,
        "limit": None,
        "changed": [["memory_limit", "18.8 GiB", "1073741824B"]],
        "actions": [],
        "settings": {"wait": "5min", "row_cap": "none"},
        "sources": {"wait": "environment", "row_cap": "default"},
    }
    assert cli.status_text(found).splitlines() == [
        "level    normal",
        "budget   512.0 MiB",
        "share    15.6%",
        "limit    none",
        "changed  memory_limit from 18.8 GiB to 1.0 GiB",
        "actions  none",
        "",
        "settings",
        "  wait     5min  (environment)",
        "  row_cap  none  (default)",
    ]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.OK
    assert "exit codes" in capsys.readouterr().out
    assert cli.main(["run", "--help"]) == cli.OK
    assert "--output" in capsys.readouterr().out
    assert cli.main(["--version"]) == cli.OK
    assert f"duckdb {duckdb.__version__}" in capsys.readouterr().out


# ---------------------------------------------------------------- the notebook's magic


class Shell:
    """As much of IPython's shell as the magic uses."""

    def __init__(self, **variables: Any) -> None:
        self.user_ns: dict[str, Any] = variables
        self.magic: Any = None

    def register_magic_function(self, function: Any, kind: str, name: str) -> None:
        assert (kind, name) == ("line_cell", "duckward")
        self.magic = function


@pytest.fixture
def shell(con: duckdb.DuckDBPyConnection) -> Shell:
    """A shell with the magic, the connection `con` and the data frame `numbers`."""
    pytest.importorskip("IPython")
    made = Shell(con=con, numbers=pa.table({"n": range(100)}))
    duckward.load_ipython_extension(made)
    return made


def test_magic_shows_the_first_rows(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.magic("select n from numbers order by n")
    assert "the first 20 of 100 rows" in capsys.readouterr().out
    shell.magic("", "select 42 as answer")
    assert "42" in capsys.readouterr().out


def test_magic_keeps_the_answer(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.magic("big <<", "from range(1000) -- << is no part of it")
    assert shell.user_ns["big"].num_rows == 1000
    assert "big holds them" in capsys.readouterr().out


def test_magic_takes_another_budget(shell: Shell) -> None:
    shell.magic("--memory 1GB select 1")
    shell.magic("select 1")
    shell.magic("--memory 2GB select 1")


def test_magic_leaves_a_ward_of_the_user_alone(shell: Shell, con: duckdb.DuckDBPyConnection) -> None:
    with duckward.guard(con, "1GB") as ward:
        shell.user_ns["ward"] = ward
        shell.magic("select 1")
        shell.magic("--connection con --memory 1GB select 1")
        with pytest.raises(Exception, match="2GB"):
            shell.magic("--connection con --memory 2GB select 1")
        assert ward.sql("select 1").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no SQL"),
        ("--bogus 1 select 1", "--bogus"),
        ("--connection nope select 1", "nope"),
        ("x <<", "no SQL"),
    ],
)
def test_magic_refuses(shell: Shell, line: str, words: str) -> None:
    with pytest.raises(Exception, match=words) as caught:
        shell.magic(line)
    assert type(caught.value).__name__ == "UsageError"


def test_magic_hands_on_the_error_of_a_statement(shell: Shell) -> None:
    with pytest.raises(duckdb.ParserException):
        shell.magic("selec 1")
    shell.magic("select 1")


# ---------------------------------------------------------------- the pure parts


def test_box_leaves_out_columns_that_do_not_fit() -> None:
    names = [f"column{i}" for i in range(10)]
    text = cli.box(names, ["varchar"] * 10, [["x"] * 10], [False] * 10, 1, room=40)
    assert max(map(len, text.splitlines()[:-1])) <= 40
    assert "3 of 10 columns" in text


def test_box_marks_values_that_it_cuts() -> None:
    text = cli.box(["a"], ["varchar"], [["x" * 300]], [False], 1, room=80)
    assert "x…" in text
    assert "values that end in … are longer" in text
    plain = cli.box(["a"], ["varchar"], [["x" * 300]], [False], 1, room=80, utf8=False)
    assert plain.isascii()


def test_box_counts_wide_characters() -> None:
    lines = cli.box(["a"], ["varchar"], [["日本"], ["e\u0301"], ["abcd"]], [False], 3).splitlines()
    assert {cli.width(line) for line in lines[:-1]} == {11}


@pytest.mark.parametrize("room", [2, 3, 4, 5, 9])
def test_fit(room: int) -> None:
    assert cli.width(cli.fit("日本語 text", room)) <= room
    assert cli.fit("ab", room) == "ab"


@pytest.mark.parametrize(
    ("months", "days", "nanoseconds", "text"),
    [
        (0, 0, 0, "00:00:00"),
        (14, 3, 0, "1 year 2 months 3 days"),
        (-14, -1, -1_500_000_000, "-1 year -2 months -1 day -00:00:01.5"),
        (0, 0, 90_061_000_001_000, "25:01:01.000001"),
    ],
)
def test_interval(months: int, days: int, nanoseconds: int, text: str) -> None:
    assert cli.interval(months, days, nanoseconds) == text


def test_bar() -> None:
    assert (
        cli.bar(0.5, 3.2, 80 << 20, 512 << 20, 200)
        == "[##########..........]  50%   3 s   80.0 MiB of 512.0 MiB"
    )
    assert cli.bar(None, 3.2, None, None, 200) == "3 s"
    assert len(cli.bar(0.5, 3.2, 80 << 20, 512 << 20, 20)) < 20
    assert cli.bar(7.0, 0, None, None, 200).startswith("[####################]")


def test_can_draw() -> None:
    assert cli.can_draw("utf-8")
    assert not cli.can_draw("ascii")
    assert not cli.can_draw(None)


def test_pieces_number() -> None:
    assert [cli.pieces_number(text) for text in ("auto", "no", "7")] == ["auto", False, 7]
    for text in ("0", "-1", "1.5", "yes", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.pieces_number(text)


def test_rows_number() -> None:
    assert cli.rows_number("0") == 0
    with pytest.raises(argparse.ArgumentTypeError):
        cli.rows_number("-1")
