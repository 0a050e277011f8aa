"""In a real memory cgroup: what would get the process killed ends in an answer or a clear refusal."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]
pytestmark = pytest.mark.needs_cgroup

# Child: runs `body`, and says what came of it and that the process and the connection can still be used.
FRAME = """
import json, os, sys, time
import duckdb, duckward
con = duckdb.connect("test.duckdb")
con.execute("SET threads = 2")
ward = duckward.guard(con, "auto")
said = {{}}
try:
{body}
except Exception as error:
    said["error"] = type(error).__name__
    said["classes"] = [each.__name__ for each in type(error).__mro__]
    said["message"] = str(error)
    error = None
said["alive"] = con.execute("SELECT 42").fetchall() == [(42,)]
# While memory falls, new queries are refused; that passes.
for turn in range(100):
    try:
        said["guarded"] = ward.sql("SELECT 43").fetchall() == [(43,)]
        break
    except duckward.OutOfMemoryError as error:
        said["guarded"] = str(error)
        time.sleep(0.1)
ward.close()
said["files"] = [name for _, _, names in os.walk(".") for name in names if name.endswith(".arrow")]
# On a line of its own: DuckDB's progress bar may stand on this one.
print()
print(json.dumps(said))
"""


def said(run_in_cgroup: Run, body: str, limit: int = 400 << 20, timeout: float = 90) -> dict[str, Any]:
    """What the child says of itself; it must not have been killed."""
    script = FRAME.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    ended = run_in_cgroup(script, limit=limit, timeout=timeout)
    assert not ended.killed, ended.stderr[-1000:]
    assert ended.returncode == 0, ended.stderr[-2000:]
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert told["alive"], told
    assert told["guarded"] is True, told
    assert not told["files"], told
    return told


def is_refused(told: dict[str, Any]) -> None:
    assert told.get("error") == "OutOfMemoryError", told
    assert "OutOfMemoryException" in told["classes"]
    assert "memory" in told["message"]


@pytest.mark.parametrize(
    "aggregate",
    [
        "length(string_agg(range || 'a long tail', ',' ORDER BY range % 1000))",
        "len(list(range || 'a tail that is not inlined' ORDER BY range % 1000))",
    ],
)
def test_an_aggregate_that_cannot_spill_is_refused(run_in_cgroup: Run, aggregate: str) -> None:
    told = said(run_in_cgroup, f'ward.sql("SELECT {aggregate} FROM range(40000000)").fetchall()')
    is_refused(told)
    assert "raise memory=" in told["message"]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        ("COPY ({}) TO 't.parquet'", "'t.parquet'"),
        # Others may write to it, so all pieces share one transaction.
        ("ATTACH 'writable.duckdb' AS w; CREATE TABLE w.t AS {}", "w.t"),
    ],
    ids=["file", "table"],
)
def test_one_group_larger_than_memory_is_named_with_its_size(
    run_in_cgroup: Run, make: str, name: str
) -> None:
    """The others could be computed; an answer without it would be shorter than it should be."""
    rows = """SELECT CASE WHEN i % 50 > 0 THEN 'the large one' ELSE 'k' || i % 300 END AS k,
        md5(i::VARCHAR) AS s, i FROM range(6_000_000) r(i)"""
    told = said(
        run_in_cgroup,
        f"""
        con.execute({make.format(rows)!r})
        sum(batch.num_rows for batch in ward.sql("SELECT k, list(s ORDER BY i) FROM {name} GROUP BY k"))
        """,
        limit=300 << 20,
    )
    is_refused(told)
    assert re.search(
        r"one group does not fit .* the key the large one, whose 5880000 rows .* in about [\d.]+ [MG]iB",
        told["message"],
    ), told["message"]


def test_to_arrow_of_an_answer_larger_than_memory_comes_from_disk(run_in_cgroup: Run) -> None:
    told = said(
        run_in_cgroup,
        """
        answer = ward.sql("SELECT range AS r, hash(range) AS h, range * 2 AS d FROM range(20000000)")
        table = answer.to_arrow()
        said["rows"], said["bytes"], said["spooled"] = table.num_rows, table.nbytes, answer.report.spooled
        import pyarrow.compute as pc
        said["sum"] = pc.sum(table["r"]).as_py()
        said["mapped"] = sum("(deleted)" in line for line in open("/proc/self/maps"))
        del table, answer
        said["left"] = sum("duckward" in line and "deleted" in line for line in open("/proc/self/maps"))
        """,
    )
    assert told.get("error") is None, told
    assert told["rows"] == 20_000_000
    assert told["sum"] == 20_000_000 * 19_999_999 // 2
    assert told["bytes"] > 400 << 20
    assert told["spooled"] >= told["bytes"] * 0.9
    assert told["left"] == 0


def test_an_answer_larger_than_memory_streams(run_in_cgroup: Run) -> None:
    told = said(
        run_in_cgroup,
        """
        answer = ward.sql("SELECT range AS r, hash(range) AS h, range * 2 AS d FROM range(20000000)")
        said["rows"] = sum(batch.num_rows for batch in answer)
        """,
    )
    assert told.get("rows") == 20_000_000, told


@pytest.mark.parametrize("shape", ["fetchall", "df"])
def test_a_shape_that_needs_the_whole_answer_in_memory_is_refused(run_in_cgroup: Run, shape: str) -> None:
    body = f"""
        if "{shape}" == "df":
            import pandas
        ward.sql("SELECT range AS r, 'a text of a row ' || range AS s FROM range(30000000)").{shape}()
    """
    told = said(run_in_cgroup, body)
    is_refused(told)
    assert "to_arrow()" in told["message"]


def test_growth_that_duckdb_cannot_interrupt_is_refused(run_in_cgroup: Run) -> None:
    """One expression over one vector: no interrupt is looked at, and no limit of DuckDB's counts it."""
    told = said(
        run_in_cgroup,
        """
        con.execute("CREATE TABLE t AS SELECT repeat('x', 40000) AS s FROM range(2000)")
        wild = "SELECT sum(length(repeat(s, 200))) FROM t"
        # Again: by then DuckDB's allocator keeps more mapped than the process may use.
        for _ in range(2):
            try:
                ward.sql(wild).fetchall()
            except duckward.OutOfMemoryError:
                pass
        ward.sql(wild).fetchall()
        """,
    )
    is_refused(told)


def test_a_query_on_the_connection_itself_is_stopped_too(run_in_cgroup: Run) -> None:
    told = said(
        run_in_cgroup,
        """
        what = "len(list(range || 'a tail that is not inlined' ORDER BY range % 1000))"
        con.execute(f"SELECT {what} FROM range(40000000)").fetchall()
        """,
    )
    assert {"OutOfMemoryException", "InterruptException", "MemoryError"} & set(told.get("classes", [])), told


def test_a_sort_larger_than_memory_is_whole_or_refused(run_in_cgroup: Run) -> None:
    told = said(
        run_in_cgroup,
        """
        answer = ward.sql("SELECT hash(range) AS h, range || 'text' AS s FROM range(12000000) ORDER BY h")
        last, rows = -1, 0
        for batch in answer:
            first = batch.column(0)[0].as_py()
            assert first >= last
            last, rows = batch.column(0)[-1].as_py(), rows + batch.num_rows
        said["rows"], said["spill"] = rows, answer.report.spill
        """,
    )
    if "error" in told:
        is_refused(told)
    else:
        assert told["rows"] == 12_000_000, told


def test_two_tables_are_compared_in_little_memory(run_in_cgroup: Run) -> None:
    told = said(
        run_in_cgroup,
        """
        con.execute("CREATE TABLE a AS SELECT i, hash(i) AS h, md5(i::VARCHAR) AS s FROM range(2000000) r(i)")
        con.execute("CREATE TABLE b AS FROM a WHERE i <> 1234567 ORDER BY h")
        for on in (None, "i"):
            found = ward.validate("a", "b", on=on)
            said[str(on)] = [(one["kind"], one["rows"], one["examples"]) for one in found.findings][1]
        """,
        limit=400 << 20,
    )
    assert "error" not in told, told
    assert told["None"][:2] == ["missing_rows", 1]
    assert told["None"][2][0]["i"] == "1234567"
    assert told["i"] == ["missing_rows", 1, [{"i": "1234567", "rows left": "1", "rows right": "0"}]]
