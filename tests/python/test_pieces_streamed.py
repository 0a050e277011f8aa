"""An answer whose pieces are handed out one by one: none is lost or doubled, whatever is done in between."""

from __future__ import annotations

import gc
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import duckward
from pieces_fuzz import leftovers

Con = duckdb.DuckDBPyConnection

ROWS = "SELECT i AS id, i % 97 AS k, (i * 37) % 101 AS v FROM range(5000) AS r(i)"
SQL = "SELECT k, median(v) AS m, count(DISTINCT v) AS c FROM {} GROUP BY k"
# Where the pieces may read from, so that nothing can change between two of them.
SOURCES = {"written once": ("t", "spool"), "files": ("'rows.parquet'", "scan"), "read only": ("t", "scan")}


class Piecewise:
    """A ward over a source, and how many pieces were done so far."""

    def __init__(self, ward: duckward.Ward, source: str) -> None:
        self.ward, self.sql, self.done = ward, SQL.format(source), 0
        self.con = ward.connection
        self.want = sorted(self.con.execute(self.sql).fetchall())
        ward.on(self._count)

    def _count(self, event: dict[str, Any]) -> None:
        self.done += event["event"] == "piece_done"

    def answer(self, pieces: int = 5, **more: Any) -> duckward.Answer:
        return self.ward.sql(self.sql, pieces=pieces, **more)


def rows_of(*batches: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


@pytest.fixture(params=SOURCES)
def piecewise(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Piecewise]:
    source, feed = SOURCES[request.param]
    with duckdb.connect(str(tmp_path / "t.duckdb")) as con:
        con.execute(f"CREATE TABLE t AS {ROWS}; COPY t TO 'rows.parquet'")
    with (
        duckdb.connect(str(tmp_path / "t.duckdb"), read_only=request.param == "read only") as con,
        duckward.guard(con, memory="2GB", feed=feed) as ward,
    ):
        yield Piecewise(ward, source)
        assert leftovers(con) == []


@pytest.fixture
def written(tmp_path: pathlib.Path) -> Iterator[Piecewise]:
    """What the pieces read is written once; the database can be written to."""
    with duckdb.connect(str(tmp_path / "t.duckdb")) as con:
        con.execute(f"CREATE TABLE t AS {ROWS}")
        with duckward.guard(con, memory="2GB", feed="spool") as ward:
            yield Piecewise(ward, "t")
            assert leftovers(con) == []


# ---------------------------------------------------------------- one after the other


@pytest.mark.parametrize("verify", ["counts", "full"])
def test_rows_come_as_soon_as_their_piece_is_done(piecewise: Piecewise, verify: str) -> None:
    answer = piecewise.answer(verify=verify)
    seen, done = [], []
    for batch in answer:
        seen.append(batch)
        done.append(len(answer.report.pieces))
        assert answer.report.outcome == "running"
    assert done == [1, 2, 3, 4, 5]
    assert sorted(rows_of(*seen)) == piecewise.want
    report = answer.report
    assert (report.outcome, report.rows, report.verified) == ("answered", 97, verify)
    assert sum(piece["rows"] for piece in report.to_dict()["pieces"]) == 5000
    assert len(report.attempts) == 1


def test_a_piece_without_rows_is_no_end(written: Piecewise) -> None:
    sql = "SELECT k, median(v) FROM t WHERE k IN (3, 50) GROUP BY k HAVING median(v) > 0"
    want = written.con.execute(sql).fetchall()
    assert sorted(rows_of(*written.ward.sql(sql, pieces=40))) == sorted(want)


def test_nothing_at_all_has_a_schema(written: Piecewise) -> None:
    answer = written.ward.sql("SELECT k, median(v) AS m FROM t WHERE k < 0 GROUP BY k", pieces=3)
    assert pa.table(answer).schema.names == ["k", "m"]
    assert list(written.ward.sql("SELECT k, median(v) FROM t WHERE k < 0 GROUP BY k", pieces=3)) == []


@pytest.mark.parametrize(
    "sql",
    [
        f"{SQL.format('t')} ORDER BY k",
        f"{SQL.format('t')} LIMIT 50",
        f"SELECT sum(m) FROM ({SQL.format('t')})",
        f"{SQL.format('t')} UNION ALL {SQL.format('t')}",
    ],
)
def test_where_order_or_the_rest_needs_all_pieces_they_come_first(written: Piecewise, sql: str) -> None:
    answer = written.ward.sql(sql, pieces=5)
    next(iter(answer))
    assert len(answer.report.pieces) in (5, 10)
    rows_of(*answer)
    assert answer.report.verified == "counts"


def test_a_table_that_others_may_write_to_is_read_in_one_snapshot(tmp_path: pathlib.Path) -> None:
    with duckdb.connect(str(tmp_path / "t.duckdb")) as con:
        con.execute(f"CREATE TABLE t AS {ROWS}")
        with duckward.guard(con, memory="2GB", feed="scan") as ward:
            answer = ward.sql(SQL.format("t"), pieces=5)
            first = next(iter(answer))
            assert len(answer.report.pieces) == 5
            con.execute("DELETE FROM t")
            assert len(rows_of(first, *answer)) == 97


def test_a_row_cap_counts_all_rows(written: Piecewise) -> None:
    written.ward.close()
    with duckward.guard(written.con, memory="2GB", feed="spool", row_cap=10) as ward:
        assert len(rows_of(*ward.sql(written.sql, pieces=5))) <= 97
        assert leftovers(written.con) == []


# ---------------------------------------------------------------- what is done in between


def test_another_statement_of_the_ward_takes_the_rest_first(piecewise: Piecewise) -> None:
    answer = piecewise.answer()
    first = next(answer)
    assert piecewise.ward.sql("SELECT 40 + i FROM range(3) r(i)").fetchall() == [(40,), (41,), (42,)]
    assert len(answer.report.pieces) == 5
    assert sorted(rows_of(first, *answer)) == piecewise.want
    assert answer.report.outcome == "answered"


def test_what_the_user_writes_in_between_is_there_and_changes_no_answer(written: Piecewise) -> None:
    answer = written.answer()
    seen = []
    for number, batch in enumerate(answer):
        seen.append(batch)
        written.con.execute(f"INSERT INTO t SELECT {number}, 1000 + {number}, 5 FROM range(50)")
    assert sorted(rows_of(*seen)) == written.want
    assert written.con.execute("SELECT count(*) FROM t WHERE k >= 1000").fetchall() == [(250,)]


def test_another_cursor_works_in_between(written: Piecewise) -> None:
    cursor = written.ward.cursor()
    answer, seen = written.answer(), []
    for batch in answer:
        seen.append(batch)
        assert written.ward.sql("SELECT count(*) FROM t", connection=cursor).fetchall() == [(5000,)]
    assert sorted(rows_of(*seen)) == written.want


def test_two_answers_in_turn(written: Piecewise) -> None:
    one, other = written.answer(), written.answer()
    seen: tuple[list[Any], list[Any]] = ([], [])
    for pair in zip(one, other, strict=True):
        for batches, batch in zip(seen, pair, strict=True):
            batches.append(batch)
    for batches in seen:
        assert sorted(rows_of(*batches)) == written.want


def test_a_transaction_that_is_begun_in_between_is_not_touched(written: Piecewise) -> None:
    answer = written.answer()
    next(answer)
    written.con.execute("BEGIN")
    written.con.execute("INSERT INTO t VALUES (-1, -1, -1)")
    with pytest.raises(duckward.TransactionError, match="a transaction was begun on the connection"):
        next(answer)
    written.con.execute("COMMIT")
    assert written.con.execute("SELECT count(*) FROM t WHERE id = -1").fetchall() == [(1,)]
    with pytest.raises(duckward.TransactionError, match="a transaction was begun"):
        next(answer)


@pytest.mark.parametrize(
    "change",
    [
        "SET TimeZone = 'Asia/Tokyo'",
        "SET default_null_order = 'nulls_first'",
        "CREATE TEMP TABLE t AS SELECT 1 AS k, 2 AS v",
        "CREATE TEMP VIEW k AS SELECT 1",
    ],
)
def test_a_session_that_was_changed_in_between_gives_no_more(piecewise: Piecewise, change: str) -> None:
    piecewise.con.execute("SET TimeZone = 'UTC'")
    answer = piecewise.answer()
    next(answer)
    piecewise.con.execute(change)
    with pytest.raises(duckward.TransactionError, match="of the connection was changed while") as raised:
        next(answer)
    assert raised.value.report is not None
    assert raised.value.report.outcome == "failed: transaction"
    assert leftovers(piecewise.con) == []


def test_what_the_guard_itself_changes_in_between_is_no_change(written: Piecewise) -> None:
    """DuckDB derives other settings from the limit that the guard moves."""
    answer, seen = written.answer(), []
    for number, batch in enumerate(answer):
        seen.append(batch)
        written.con.execute(f"SET memory_limit = '{900 - number}MB'; SET threads = {1 + number % 2}")
    assert sorted(rows_of(*seen)) == written.want


def test_a_file_that_is_replaced_in_between_is_found(tmp_path: pathlib.Path) -> None:
    with duckdb.connect() as con, duckward.guard(con, memory="2GB", feed="scan") as ward:
        con.execute(f"COPY ({ROWS}) TO 'rows.parquet'")
        con.execute(f"COPY (SELECT id, k, v + 1 AS v FROM ({ROWS})) TO 'other.parquet'")
        answer = ward.sql(SQL.format("'rows.parquet'"), pieces=5)
        next(answer)
        (tmp_path / "other.parquet").replace(tmp_path / "rows.parquet")
        with pytest.raises(duckward.TransactionError, match=r"rows\.parquet was changed or replaced"):
            next(answer)
        assert leftovers(con) == []


def test_a_closed_connection_gives_no_more(con: Con) -> None:
    con.execute(f"CREATE TABLE t AS {ROWS}")
    with duckward.guard(con, memory="2GB", feed="spool") as ward:
        answer = ward.sql(SQL.format("t"), pieces=5)
        next(answer)
        con.close()
        with pytest.raises(duckward.ConnectionError):
            next(answer)


def test_a_closed_ward_gives_no_more(written: Piecewise) -> None:
    answer = written.answer()
    next(answer)
    written.ward.close()
    with pytest.raises(duckward.StateError, match="this ward is closed"):
        next(answer)
    assert leftovers(written.con) == []


# ---------------------------------------------------------------- an end before the end


def test_an_answer_that_is_closed_leaves_nothing(piecewise: Piecewise) -> None:
    for batches in range(3):
        answer = piecewise.answer()
        for _ in range(batches):
            next(answer)
        answer.close()
        assert leftovers(piecewise.con) == []
        with pytest.raises(duckward.StateError, match="this answer is closed"):
            next(answer)


def test_an_answer_that_nobody_holds_leaves_nothing_to_the_next_statement(written: Piecewise) -> None:
    answer = written.answer()
    for _ in answer:
        break
    del answer
    gc.collect()
    assert written.ward.sql("SELECT i FROM range(1) r(i)").fetchall() == [(0,)]
    assert leftovers(written.con) == []
    answer = written.answer()
    next(answer)
    del answer
    gc.collect()
    written.ward.close()
    assert leftovers(written.con) == []


def test_a_failure_in_a_later_piece_ends_it(written: Piecewise) -> None:
    calls = {"left": 2}

    def fails(event: dict[str, Any]) -> None:
        if event["event"] == "piece_done":
            calls["left"] -= 1
            if calls["left"] == 0:
                thread = threading.Thread(target=written.ward.cancel)
                thread.start()
                thread.join()

    answer = written.answer()
    subscription = written.ward.on(fails)
    seen = []
    with pytest.raises(duckward.CancelledError):
        seen.extend(answer)
    subscription.cancel()
    assert leftovers(written.con) == []
    with pytest.raises(duckward.CancelledError):
        next(answer)
    assert sorted(rows_of(*written.answer())) == written.want


def test_a_proof_that_fails_in_a_later_piece_withholds_it(tmp_path: pathlib.Path) -> None:
    done: list[int] = []

    def other(value: int) -> int:
        return value + (len(done) > 2)

    with duckdb.connect() as con, duckward.guard(con, memory="2GB", feed="scan") as ward:
        con.execute(f"COPY ({ROWS}) TO 'rows.parquet'")
        ward.on(lambda event: done.append(1) if event["event"] == "piece_done" else None)
        # DuckDB is told nothing of what makes it give another value after a while.
        con.create_function("other", other, ["BIGINT"], "BIGINT")
        sql = "SELECT k, max(x) FROM (SELECT k, other(v) AS x FROM 'rows.parquet') GROUP BY k"
        answer, seen = ward.sql(sql, pieces=5, verify="full"), []
        with pytest.raises(duckward.InternalError, match="withheld"):
            seen.extend(answer)
        assert 0 < len(rows_of(*seen)) < 97
        assert leftovers(con) == []


# ---------------------------------------------------------------- the rest in another shape


def test_the_rest_as_a_table(piecewise: Piecewise) -> None:
    answer = piecewise.answer()
    first = next(answer)
    assert sorted(rows_of(first, answer.to_arrow())) == piecewise.want
    assert answer.report.outcome == "answered"


def test_the_rest_as_a_stream_is_taken_at_once(piecewise: Piecewise) -> None:
    answer = piecewise.answer()
    first = next(answer)
    reader = pa.RecordBatchReader.from_stream(answer)
    assert len(answer.report.pieces) == 5
    assert sorted(rows_of(first, *reader)) == piecewise.want


def test_a_whole_stream_is_computed_before_it_is_read(written: Piecewise) -> None:
    """Who reads it may hold the connection meanwhile."""
    answer = written.answer()
    reader = pa.RecordBatchReader.from_stream(answer)
    assert len(answer.report.pieces) == 5
    written.con.register("taken", reader)
    got = written.con.execute("SELECT * FROM taken").fetchall()
    written.con.unregister("taken")
    assert sorted(got) == written.want
