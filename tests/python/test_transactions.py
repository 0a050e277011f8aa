"""Transactions through a ward: nothing is committed, lost or run twice without being said."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import duckdb
import pytest

import duckward

Con = duckdb.DuckDBPyConnection


@pytest.fixture
def ward(db: Con) -> Iterator[duckward.Ward]:
    """A ward over a database file with one table, with short pauses between attempts."""
    db.execute("CREATE TABLE t (i INTEGER PRIMARY KEY, n INTEGER)")
    db.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    with duckward.guard(db, "2GB", backoff="1ms") as guarded:
        yield guarded


def rows(con: Con) -> list[tuple[int, int]]:
    """What others see."""
    return con.cursor().execute("SELECT i, n FROM t ORDER BY i").fetchall()


def fails_in_the_open_transaction(ward: duckward.Ward) -> None:
    with pytest.raises(duckdb.ConversionException):
        ward.sql("SELECT 'x'::INTEGER").fetchall()


@pytest.mark.parametrize("begin", ["sql", "con"])
@pytest.mark.parametrize("commit", ["sql", "con"])
def test_a_transaction_commits_whichever_way_it_began(ward: duckward.Ward, begin: str, commit: str) -> None:
    con = ward.connection
    ward.sql("BEGIN") if begin == "sql" else con.begin()
    ward.sql("UPDATE t SET n = 5 WHERE i = 1")
    con.execute("UPDATE t SET n = 6 WHERE i = 2")
    assert ward.sql("SELECT n FROM t ORDER BY i").fetchall() == [(5,), (6,)]
    assert rows(con) == [(1, 0), (2, 0)], "not committed yet"
    ward.sql("COMMIT") if commit == "sql" else con.commit()
    assert rows(con) == [(1, 5), (2, 6)]


@pytest.mark.parametrize("back", ["sql", "con"])
def test_a_rollback_undoes_everything(ward: duckward.Ward, back: str) -> None:
    ward.sql("BEGIN TRANSACTION; DELETE FROM t; CREATE TABLE other (i INTEGER)")
    ward.sql("ROLLBACK") if back == "sql" else ward.connection.rollback()
    assert rows(ward.connection) == [(1, 0), (2, 0)]
    with pytest.raises(duckdb.CatalogException):
        ward.sql("SELECT * FROM other")


def test_readers_in_a_transaction_see_one_snapshot(ward: duckward.Ward) -> None:
    other = ward.connection.cursor()
    ward.sql("BEGIN")
    assert ward.sql("SELECT sum(n) FROM t").fetchall() == [(0,)]
    other.execute("UPDATE t SET n = 9")
    assert ward.sql("SELECT sum(n) FROM t").fetchall() == [(0,)]
    answer = ward.sql("SELECT n FROM t")
    next(answer)
    ward.sql("COMMIT")
    assert ward.sql("SELECT sum(n) FROM t").fetchall() == [(18,)]


def test_a_failed_statement_is_not_retried_inside_a_transaction(ward: duckward.Ward) -> None:
    """A conflict in a transaction says ROLLBACK; outside, the same conflict would be tried again."""
    other = ward.connection.cursor()
    ward.sql("BEGIN")
    ward.sql("SELECT * FROM t").fetchall()
    other.execute("UPDATE t SET n = 7 WHERE i = 1")
    with pytest.raises(duckward.TransactionError, match="ROLLBACK") as caught:
        ward.sql("UPDATE t SET n = 8 WHERE i = 1")
    assert caught.value.report is not None
    assert len(caught.value.report.attempts) == 1
    ward.sql("ROLLBACK")
    assert rows(ward.connection)[0] == (1, 7)


def test_a_statement_after_an_error_names_rollback(ward: duckward.Ward) -> None:
    ward.sql("BEGIN")
    fails_in_the_open_transaction(ward)
    # DuckDB's own, where it refuses while it binds; it says the same.
    with pytest.raises(duckdb.TransactionException, match="ROLLBACK"):
        ward.sql("SELECT 1").fetchall()
    with pytest.raises(duckward.TransactionError, match="ROLLBACK"):
        ward.sql("INSERT INTO t VALUES (3, 3)")
    ward.sql("ROLLBACK")
    assert ward.sql("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "commit",
    ["COMMIT", "commit;", "END", "end transaction", "COMMIT WORK", "/* done */ COMMIT", "-- done\nCOMMIT"],
)
def test_a_commit_that_would_keep_nothing_is_refused(ward: duckward.Ward, commit: str) -> None:
    """DuckDB itself says success and rolls back."""
    ward.sql("BEGIN; UPDATE t SET n = 1")
    fails_in_the_open_transaction(ward)
    with pytest.raises(duckward.TransactionError, match=r"COMMIT would keep nothing.*rolled back"):
        ward.sql(commit)
    assert rows(ward.connection) == [(1, 0), (2, 0)]
    ward.sql("BEGIN; UPDATE t SET n = 2; COMMIT")
    assert rows(ward.connection) == [(1, 2), (2, 2)]


def test_a_commit_after_a_failed_direct_statement_is_refused_too(ward: duckward.Ward) -> None:
    con = ward.connection
    con.begin()
    con.execute("UPDATE t SET n = 1")
    with pytest.raises(duckdb.ConversionException):
        con.execute("SELECT 'x'::INTEGER").fetchall()
    with pytest.raises(duckward.TransactionError, match="would keep nothing"):
        ward.sql("COMMIT")
    assert rows(con) == [(1, 0), (2, 0)]


def test_commit_without_a_transaction_is_duckdbs_error(ward: duckward.Ward) -> None:
    with pytest.raises(duckdb.TransactionException, match="no transaction is active"):
        ward.sql("COMMIT")
    assert ward.sql("SELECT 1").fetchall() == [(1,)]


def test_an_error_outside_a_transaction_leaves_none_behind(ward: duckward.Ward) -> None:
    fails_in_the_open_transaction(ward)
    with pytest.raises(duckdb.ConstraintException):
        ward.sql("INSERT INTO t VALUES (1, 1)")
    ward.connection.begin()
    ward.connection.rollback()


def test_conflicts_are_tried_again_until_all_updates_are_in(ward: duckward.Ward) -> None:
    """Several threads count up one row; without a retry most of them would fail."""
    each, failures = 15, []
    barrier = threading.Barrier(4)

    def count(cursor: Con) -> None:
        barrier.wait(30)
        for _ in range(each):
            try:
                ward.sql("UPDATE t SET n = n + 1 WHERE i = 1", connection=cursor)
            except duckward.TransactionError:
                # Patience has an end; what matters is that nothing is counted that failed.
                failures.append(1)

    threads = [threading.Thread(target=count, args=(ward.cursor(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert rows(ward.connection)[0] == (1, 4 * each - len(failures))
    assert len(failures) < 2 * each


def test_a_conflict_is_retried_and_the_report_shows_it(ward: duckward.Ward) -> None:
    """The other transaction ends after the first attempt has failed."""
    other = ward.connection.cursor()
    other.begin()
    other.execute("UPDATE t SET n = 1 WHERE i = 1")

    def end(event: dict[str, object]) -> None:
        if event["event"] == "attempt_failed":
            other.commit()

    with_end = ward.on(end)
    answer = ward.sql("UPDATE t SET n = n + 10 WHERE i = 1")
    with_end.cancel()
    assert rows(ward.connection)[0] == (1, 11)
    assert len(answer.report.attempts) == 2
    assert answer.report.attempts[0]["failure"] == "conflict"


def test_a_conflict_that_lasts_is_told_with_the_number_of_attempts(db: Con) -> None:
    db.execute("CREATE TABLE t AS SELECT 1 AS i")
    other = db.cursor()
    other.begin()
    other.execute("UPDATE t SET i = 2")
    with duckward.guard(db, "2GB", retries=2, backoff="1ms") as ward:
        with pytest.raises(duckward.TransactionError, match="3 times in a row") as caught:
            ward.sql("UPDATE t SET i = 3")
        assert len(caught.value.report.attempts) == 3  # type: ignore[union-attr]
    other.rollback()


def test_an_interrupted_statement_aborts_only_its_own_transaction(ward: duckward.Ward) -> None:
    ward.sql("BEGIN; UPDATE t SET n = 1")
    cursor = ward.cursor()
    with pytest.raises(duckdb.CatalogException):
        ward.sql("SELECT * FROM nowhere", connection=cursor).fetchall()
    ward.sql("COMMIT")
    assert rows(ward.connection) == [(1, 1), (2, 1)]


def test_a_checkpoint_runs_and_is_not_interruptible(ward: duckward.Ward) -> None:
    ward.sql("CHECKPOINT")
    ward.sql("UPDATE t SET n = 3; FORCE CHECKPOINT")
    assert rows(ward.connection) == [(1, 3), (2, 3)]
