"""The guard around queries: settings put back, events, threads, cancelling, Ctrl-C, forks, admission."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import duckward

Con = duckdb.DuckDBPyConnection
HOLDS = hasattr(Con, "complete")

# Runs for hours, with hardly any memory, and can be interrupted at any time.
LONG = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE (a.range * 7 + b.range) % 11 = 3"
# Hang protection, not a measurement: DuckDB's own reaction to Ctrl-C took 10 to 40 seconds.
PROMPTLY = 5.0


def setting(con: Con, name: str = "memory_limit") -> str:
    return str(con.execute(f"SELECT current_setting('{name}')").fetchall()[0][0])


def all_settings(con: Con) -> list[tuple[Any, ...]]:
    # DuckDB itself prints `max_temp_directory_size` in another way once it has spilled.
    return con.execute(
        "SELECT name, value FROM duckdb_settings() WHERE name <> 'max_temp_directory_size' ORDER BY name"
    ).fetchall()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not come about within 30 s"
        time.sleep(0.005)


# ---------------------------------------------------------------- what is changed is put back


def test_the_limit_is_lowered_and_put_back(con: Con) -> None:
    before = all_settings(con)
    with duckward.guard(con, "1GB") as ward:
        status = ward.status()
        assert status["memory_limit"] < 1_000_000_000
        assert [change[0] for change in status["changed"]] == ["memory_limit"]
        assert setting(con) != dict(before)["memory_limit"]
    assert all_settings(con) == before


def test_the_default_limit_is_put_back_every_time(con: Con) -> None:
    """A default that is printed, rounded and set again would shrink from ward to ward."""
    before = setting(con)
    for _ in range(40):
        with duckward.guard(con, "1GB") as ward:
            ward.sql("SELECT 1").fetchall()
        assert setting(con) == before


def test_a_limit_of_the_users_own_is_put_back_exactly(con: Con) -> None:
    rng = random.Random(4)
    for _ in range(25):
        con.execute(f"SET memory_limit = '{rng.randrange(200 << 20, 6 << 30)}B'")
        before = setting(con)
        with duckward.guard(con, "1GB"):
            pass
        assert setting(con) == before


def test_a_limit_below_the_budget_is_never_raised(con: Con) -> None:
    con.execute("SET memory_limit = '200MiB'")
    with duckward.guard(con, "2GB") as ward:
        ward.sql("SELECT count(*) FROM range(1000000)").fetchall()
        assert ward.status()["memory_limit"] <= 200 << 20
    assert setting(con) == "200.0 MiB"


def test_everything_is_put_back_when_the_ward_is_dropped(con: Con) -> None:
    before = all_settings(con)
    ward = duckward.guard(con, "1GB")
    ward.sql("SELECT 1").fetchall()
    del ward
    gc.collect()
    assert all_settings(con) == before


def test_a_callback_that_is_being_collected_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    def used() -> None:
        con = duckdb.connect()
        ward = duckward.guard(con, memory="2GB")
        ward.on(lambda event: told.append((event["event"], ward.level)))

    used()
    told.clear()
    # By then its variables are gone, and perhaps its globals.
    gc.collect()
    assert told == []


def test_a_callback_that_knows_its_ward_does_not_keep_it_alive() -> None:
    """In a process of its own: a ward that is left over would share its settings with every other test."""
    script = """
        import gc, duckdb, duckward
        con = duckdb.connect()
        limit = lambda: con.execute("SELECT current_setting('memory_limit')").fetchall()
        before = limit()
        ward = duckward.guard(con, "1GB")
        ward.on(lambda event, ward=ward: None)
        del ward
        gc.collect()
        print(limit() == before)
    """
    assert run_child(script) == "True"


def test_everything_is_put_back_after_an_error_in_the_block(con: Con) -> None:
    before = all_settings(con)
    with pytest.raises(ZeroDivisionError), duckward.guard(con, "1GB"):
        raise ZeroDivisionError
    assert all_settings(con) == before


def test_everything_is_put_back_after_pressure(con: Con) -> None:
    """With thresholds this low the guard does everything it can, on and on."""
    before = all_settings(con)
    con.execute("CREATE TABLE t AS SELECT range AS r, repeat('x', 100) AS s FROM range(200000)")
    low = {"caution": 0.001, "warning": 0.002, "critical": 0.003, "emergency": 0.99, "hysteresis": 0.0005}
    with duckward.guard(con, "2GB", wait="100ms", **low) as ward:
        wait_until(lambda: ward.level == "critical")
        assert ward.sql("SELECT count(*) FROM t").fetchall() == [(200000,)]
    con.execute("DROP TABLE t")
    assert all_settings(con) == before


def test_the_degraded_rung_puts_its_settings_back(con: Con) -> None:
    before = all_settings(con)
    with duckward.guard(con, "600MB") as ward:
        with pytest.raises(duckward.OutOfMemoryError, match="tried: as is, degraded") as caught:
            ward.sql(
                "SELECT list(range || 'a long tail that is not inlined') FROM range(30000000)"
            ).fetchall()
        assert caught.value.report is not None
        assert {"memory_limit"} == {change[0] for change in ward.status()["changed"]}
        assert "budget of" in str(caught.value)
        assert ward.sql("SELECT 1").fetchall() == [(1,)]
    assert all_settings(con) == before


def test_a_connection_that_is_closed_first_leaves_the_others_whole(tmp_path: Any) -> None:
    """Two connections share one instance, and so one limit; it is put back whichever goes first."""
    path = str(tmp_path / "shared.duckdb")
    first, second = duckdb.connect(path), duckdb.connect(path)
    before = setting(second)
    one, two = duckward.guard(first, "1GB"), duckward.guard(second, "1GB")
    first.close()
    one.close()
    assert two.sql("SELECT 1").fetchall() == [(1,)]
    two.close()
    assert setting(second) == before
    second.close()


# ---------------------------------------------------------------- several wards, cursors


def test_wards_of_one_process_share_the_strictest_budget(con: Con) -> None:
    with duckdb.connect() as other, duckward.guard(con, "2GB") as large:
        assert large.status()["budget"] == 2_000_000_000
        with duckward.guard(other, "1GB") as small:
            assert large.status()["budget"] == small.status()["budget"] == 1_000_000_000
            assert small.status()["wards"] == 2
            limits = [ward.status()["memory_limit"] for ward in (large, small)]
            assert sum(limits) <= 1_000_000_000
        assert large.status()["budget"] == 2_000_000_000


def test_wards_of_one_instance_share_its_limit(con: Con) -> None:
    before = setting(con)
    cursor = con.cursor()
    with duckward.guard(con, "2GB") as one, duckward.guard(cursor, "1GB") as two:
        assert one.status()["memory_limit"] == two.status()["memory_limit"]
        one.close()
        assert setting(con) != before, "the other ward still guards it"
        assert two.sql("SELECT 1").fetchall() == [(1,)]
    assert setting(con) == before


def test_cursors_made_and_handed_in_run_queries(ward: duckward.Ward) -> None:
    ward.sql("CREATE TABLE t AS SELECT 42 AS v")
    made = ward.cursor()
    own = ward.connection.cursor()
    assert isinstance(made, Con)
    assert ward.cursor(own) is own
    for cursor in (made, own, ward.connection):
        assert ward.sql("SELECT v FROM t", connection=cursor).fetchall() == [(42,)]
    made.execute("CREATE TEMP TABLE mine AS SELECT 1 AS i")
    assert ward.sql("SELECT i FROM mine", connection=made).fetchall() == [(1,)]
    with pytest.raises(duckdb.CatalogException):
        ward.sql("SELECT i FROM mine")


def test_cursors_that_are_dropped_are_let_go(ward: duckward.Ward) -> None:
    def connections() -> int:
        return int(ward.sql("FROM duckdb_connection_count()").fetchall()[0][0])

    try:
        before = connections()
    except duckdb.CatalogException:
        pytest.skip("this DuckDB does not count its connections")
    for _ in range(50):
        ward.sql("SELECT 1", connection=ward.cursor()).fetchall()
    gc.collect()
    assert connections() <= before + 5


def test_an_answer_on_a_cursor_does_not_hold_the_connection(ward: duckward.Ward) -> None:
    answer = ward.sql("SELECT * FROM range(1000000)", connection=ward.cursor())
    rows = next(answer).num_rows
    assert ward.connection.execute("SELECT 1").fetchall() == [(1,)]
    assert rows + sum(batch.num_rows for batch in answer) == 1000000


# ---------------------------------------------------------------- status, level, events


def test_status_tells_what_is_seen_and_done(ward: duckward.Ward) -> None:
    status = ward.status()
    assert set(status) >= {
        "level",
        "budget",
        "budget_source",
        "used",
        "limit",
        "share",
        "bound",
        "memory_limit",
        "tracked",
        "spilled",
        "running",
        "waiting",
        "wards",
        "changed",
        "actions",
        "settings",
        "sources",
    }
    assert status["level"] == ward.level == "normal"
    assert 0 < status["used"] < status["limit"] <= status["budget"] == 2_000_000_000
    assert (status["running"], status["waiting"], status["wards"], status["actions"]) == (0, 0, 1, [])
    assert "normal" in repr(ward)


def test_a_budget_that_is_nearly_used_up_raises_the_level(con: Con) -> None:
    with duckward.guard(con, "2GB", caution=0.0001, warning=0.5, hysteresis=0.00001) as ward:
        wait_until(lambda: ward.level == "caution")
        assert ward.status()["actions"] == ["clean_up"] or ward.status()["actions"] == []


def test_a_connection_can_be_closed_right_after_its_ward() -> None:
    # The guard is in the middle of a clean-up on a connection of its own, made from this one.
    for _ in range(100):
        con = duckdb.connect()
        ward = duckward.guard(con, "2GB", caution=0.0001, warning=0.5, hysteresis=0.00001)
        ward.close()
        con.close()


def test_events_of_a_query_come_in_order(ward: duckward.Ward) -> None:
    events: list[dict[str, Any]] = []
    ward.on(events.append)
    ward.sql("SELECT * FROM range(10)").fetchall()
    names = [event["event"] for event in events if "query" in event]
    assert names == ["attempt_started", "query_ended"]
    started, ended = (event for event in events if "query" in event)
    assert started["query"] == ended["query"]
    assert (ended["rows"], ended["attempts"], ended["error"]) == (10, 1, None)
    assert all(isinstance(event["unix_ms"], int) for event in events)


def test_events_of_a_failure_name_it(ward: duckward.Ward) -> None:
    events: list[dict[str, Any]] = []
    ward.on(events.append)
    with pytest.raises(duckdb.ConversionException):
        ward.sql("SELECT 'x'::INTEGER").fetchall()
    names = [event["event"] for event in events if "query" in event]
    assert names == ["attempt_started", "attempt_failed", "query_ended"]
    assert "Conversion" in events[-2]["message"]
    assert events[-1]["error"] == "query"


def test_closing_tells_the_last_events(con: Con) -> None:
    events: list[dict[str, Any]] = []
    ward = duckward.guard(con, "2GB")
    ward.on(events.append)
    ward.close()
    assert [event["event"] for event in events][-1] == "guard_stopped"
    assert events[-1]["left"] == []


def test_a_callback_that_raises_is_reported_and_disturbs_nothing(
    ward: duckward.Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)

    def broken(event: dict[str, Any]) -> None:
        raise ValueError("my callback is broken")

    failing = ward.on(broken)
    ward.on(events.append)
    assert ward.sql("SELECT 42").fetchall() == [(42,)]
    failing.cancel()
    assert seen
    assert "my callback is broken" in str(seen[0].exc_value)
    failed = [event for event in events if event["event"] == "callback_failed"]
    assert failed
    assert "my callback is broken" in failed[0]["message"]
    seen.clear()
    assert ward.sql("SELECT 43").fetchall() == [(43,)]
    assert not seen


def test_a_callback_may_use_the_ward(ward: duckward.Ward) -> None:
    levels = []
    using = ward.on(lambda event: levels.append((ward.level, ward.status()["budget"])))
    assert ward.sql("SELECT 42").fetchall() == [(42,)]
    assert levels
    using.cancel()


def test_a_cancelled_subscription_hears_nothing_more(ward: duckward.Ward) -> None:
    events: list[dict[str, Any]] = []
    subscription = ward.on(events.append)
    ward.sql("SELECT 1").fetchall()
    subscription.cancel()
    subscription.cancel()
    heard = len(events)
    assert heard
    ward.sql("SELECT 1").fetchall()
    assert len(events) == heard
    assert "cancelled" in repr(subscription)


# ---------------------------------------------------------------- threads, cancelling, time limits


def test_threads_each_with_a_cursor_get_their_own_answers(ward: duckward.Ward) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            cursor = ward.cursor()
            for turn in range(15):
                sql = f"SELECT range * {number} AS r FROM range(3000)"
                expected = [(i * number,) for i in range(3000)]
                if turn % 3 == 0:
                    assert ward.sql(sql, connection=cursor).fetchall() == expected
                elif turn % 3 == 1:
                    rows = [r for b in ward.sql(sql, connection=cursor) for r in b.column(0).to_pylist()]
                    assert rows == [row[0] for row in expected]
                else:
                    table = ward.sql(sql, connection=cursor).to_arrow()
                    assert table.column(0).to_pylist() == [row[0] for row in expected]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert ward.status()["running"] == 0


def test_a_connection_in_use_by_another_thread_is_refused_or_waits(ward: duckward.Ward) -> None:
    outcomes: list[Any] = []
    begun = threading.Event()
    ward.on(lambda event: begun.set() if event["event"] == "attempt_started" else None)

    def run() -> None:
        try:
            ward.sql(LONG).fetchall()
        except duckward.CancelledError:
            outcomes.append("cancelled")

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    if HOLDS:
        with pytest.raises(duckdb.Error):
            ward.sql("SELECT 1").fetchall()
    wait_until(lambda: ward.cancel() or outcomes)
    thread.join(30)
    assert outcomes == ["cancelled"]


SHAPES: dict[str, Callable[[duckward.Answer], Any]] = {
    "fetchall": lambda a: a.fetchall(),
    "fetchone": lambda a: a.fetchone(),
    "to_arrow": lambda a: a.to_arrow(),
    "df": lambda a: a.df(),
    "iteration": lambda a: list(a),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_cancel_from_another_thread_ends_a_query(ward: duckward.Ward, shape: str) -> None:
    cancelled: list[int] = []

    def cancel() -> None:
        wait_until(lambda: cancelled.append(ward.cancel()) or cancelled[-1])

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(duckward.CancelledError, match="can be used") as caught:
        SHAPES[shape](ward.sql(LONG))
    thread.join(30)
    assert cancelled[-1] == 1
    assert isinstance(caught.value, duckdb.InterruptException)
    assert caught.value.report is not None
    assert len(caught.value.report.attempts) == 1, "never retried"
    assert ward.sql("SELECT 42").fetchall() == [(42,)]
    assert ward.connection.execute("SELECT 43").fetchall() == [(43,)]


def test_cancel_with_nothing_running_does_nothing_to_the_next_query(ward: duckward.Ward) -> None:
    for _ in range(20):
        assert ward.cancel() == 0
        assert ward.sql("SELECT count(*) FROM range(10000)").fetchall() == [(10000,)]


def test_a_query_over_its_time_limit_ends_as_a_timeout(con: Con) -> None:
    with duckward.guard(con, "2GB", query_timeout="200ms") as ward:
        for read in SHAPES.values():
            with pytest.raises(duckward.TimeoutError, match="query_timeout") as caught:
                read(ward.sql(LONG))
            assert isinstance(caught.value, TimeoutError)
        assert ward.sql("SELECT 42").fetchall() == [(42,)]


def test_one_at_a_time_queues_the_second(con: Con) -> None:
    events: list[dict[str, Any]] = []
    with duckward.guard(con, "2GB", max_concurrent=1) as ward:
        ward.on(events.append)
        ended: list[BaseException] = []
        answers: list[Any] = []

        def hold() -> None:
            try:
                ward.sql(LONG, connection=cursor).fetchall()
            except duckward.CancelledError as error:
                ended.append(error)

        cursor = ward.cursor()
        first = threading.Thread(target=hold)
        first.start()
        wait_until(lambda: ward.status()["running"] == 1)
        second = threading.Thread(target=lambda: answers.extend(ward.sql("SELECT 42").fetchall()))
        second.start()
        wait_until(lambda: ward.status()["waiting"] == 1)
        assert not answers
        wait_until(lambda: cursor.interrupt() or ended)
        first.join(30)
        second.join(30)
        assert answers == [(42,)]
        assert len(ended) == 1
        queued = [event for event in events if event["event"] == "query_queued"]
        assert len(queued) == 1
        assert queued[0]["ahead"] == 0


def test_a_wait_that_is_too_long_is_a_timeout(con: Con) -> None:
    with duckward.guard(con, "2GB", max_concurrent=1, wait="50ms") as ward:
        held = ward.sql("SELECT * FROM range(10000000)", connection=ward.cursor())
        if HOLDS:
            next(held)
            with pytest.raises(duckward.TimeoutError, match="wait"):
                ward.sql("SELECT 42").fetchall()
            held.close()
        assert ward.sql("SELECT 42").fetchall() == [(42,)]


def test_a_higher_priority_goes_first(con: Con) -> None:
    events: list[dict[str, Any]] = []
    with duckward.guard(con, "2GB", max_concurrent=1) as ward:
        ward.on(events.append)

        def run(name: str, sql: str, cursor: Con) -> None:
            with contextlib.suppress(duckward.CancelledError):
                ward.sql(sql, connection=cursor, priority=name).fetchall()

        holder = ward.cursor()
        threads = [threading.Thread(target=run, args=("normal", LONG, holder))]
        threads[0].start()
        wait_until(lambda: ward.status()["running"] == 1)
        for waiting, name in enumerate(("low", "normal", "high"), start=1):
            threads.append(threading.Thread(target=run, args=(name, "SELECT 1", ward.cursor())))
            threads[-1].start()
            wait_until(lambda waiting=waiting: ward.status()["waiting"] == waiting)
        # Not `ward.cancel()`, which is for those that wait too.
        wait_until(lambda: holder.interrupt() or not threads[0].is_alive())
        for thread in threads:
            thread.join(30)
    low, normal, high = (event["query"] for event in events if event["event"] == "query_queued")
    started = [event["query"] for event in events if event["event"] == "attempt_started"]
    assert started[1:] == [high, normal, low]


# A share of the budget that every process has used, so that the level is always warning.
PRESSED = {"caution": 0.0001, "warning": 0.0002, "hysteresis": 0.00005, "row_cap": 100}


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ("fetchall", lambda a: len(a.fetchall())),
        ("to_arrow", lambda a: a.to_arrow().num_rows),
        ("df", lambda a: len(a.df())),
        ("pl", lambda a: len(a.pl())),
        ("fetchnumpy", lambda a: len(a.fetchnumpy()["r"])),
        ("iteration", lambda a: sum(b.num_rows for b in a)),
        ("stream", lambda a: pa.table(a).num_rows),
    ],
)
def test_a_row_cap_cuts_and_says_so(con: Con, shape: str, count: Callable[[duckward.Answer], int]) -> None:
    with duckward.guard(con, "2GB", **PRESSED) as ward:  # type: ignore[arg-type]
        wait_until(lambda: ward.level == "warning" and "cap_rows" in str(ward.status()["actions"]))
        answer = ward.sql("SELECT range AS r FROM range(10000)")
        assert count(answer) == 100, shape
        assert answer.report.truncated
        assert answer.report.rows == 100
        assert "truncated" in str(answer.report)
        whole = ward.sql("SELECT range AS r FROM range(100)")
        assert count(whole) == 100
        assert not whole.report.truncated, "exactly as many as the cap is not cut"


def test_without_a_row_cap_nothing_is_ever_cut(con: Con) -> None:
    with duckward.guard(con, "2GB", **{**PRESSED, "row_cap": None}) as ward:  # type: ignore[arg-type]
        wait_until(lambda: ward.level == "warning")
        assert len(ward.sql("SELECT * FROM range(10000)").fetchall()) == 10000


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize(
    "read",
    [
        "ward.sql(LONG).fetchall()",
        "ward.sql(LONG).fetchone()",
        "ward.sql(LONG).fetchnumpy()",
        "ward.sql(LONG).to_arrow()",
        "ward.sql(LONG).df()",
        "ward.sql(LONG).pl()",
        "list(ward.sql(LONG))",
        "pa.table(ward.sql(LONG))",
        "ward.sql('CREATE TABLE t AS ' + LONG)",
    ],
)
def test_ctrl_c_ends_a_query_at_once(read: str) -> None:
    """In a process of its own, because nothing else would end a query that does not hear it.

    pandas and polars are imported before: a signal in the middle of DuckDB's own import of them is lost.
    """
    script = f"""
        import os, signal, threading, time
        import duckdb, duckward, pandas, polars, pyarrow as pa, pyarrow.dataset
        LONG = {LONG!r}
        con = duckdb.connect(config={{"threads": 2}})
        ward = duckward.guard(con, "2GB")
        events, sent = [], []
        ward.on(lambda event: events.append(event["event"]))

        def send():
            while ward.status()["running"] == 0:
                time.sleep(0.01)
            time.sleep(0.1)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=send).start()
        try:
            {read}
        except KeyboardInterrupt:
            assert time.monotonic() - sent[0] < {PROMPTLY}
            assert events.count("attempt_started") == 1, "never retried"
            assert ward.sql("SELECT 42").fetchall() == [(42,)]
            assert signal.set_wakeup_fd(-1) == -1, "the wake-up descriptor is put back"
            print("interrupted")
    """
    assert run_child(script, timeout=15) == "interrupted"


@pytest.mark.skipif(not HOLDS, reason="before DuckDB 2.0 an answer is taken whole at its first reading")
@pytest.mark.parametrize(
    "read",
    [
        "list(answer)",
        pytest.param(
            "pa.table(answer)",
            marks=pytest.mark.xfail(
                strict=True,
                reason="a stream passes on a text: pyarrow raises its own error, KeyboardInterrupt follows",
            ),
        ),
        "ward.sql('SELECT 42').fetchall()",
    ],
)
def test_ctrl_c_in_the_middle_of_an_answer(read: str) -> None:
    """In a process of its own, because nothing else would end a query that does not hear it."""
    script = f"""
        import os, signal, threading, time
        import duckdb, duckward, pyarrow as pa
        con = duckdb.connect()
        ward = duckward.guard(con, "2GB")
        # Its first rows come at once, and then none for a long time.
        answer = ward.sql("SELECT range AS r FROM range(100000000000) WHERE range < 10000 OR hash(range) = 5")
        assert next(answer).num_rows > 0
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            {read}
        except KeyboardInterrupt:
            answer.close()
            print(ward.sql("SELECT 42").fetchall() == [(42,)])
    """
    assert run_child(script, timeout=15) == "True"


def test_an_event_loops_own_wakeup_descriptor_is_kept(ward: duckward.Ward) -> None:
    async def work() -> list[Any]:
        before = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(before)
        rows = ward.sql("SELECT 42").fetchall()
        rows += [batch.num_rows for batch in ward.sql("SELECT * FROM range(10)")]
        after = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(after)
        assert before >= 0
        assert after == before
        return rows

    async def with_handler() -> list[Any]:
        # A handler of the loop's is what makes it use the descriptor.
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: None)
        return await work()

    assert asyncio.run(with_handler()) == [(42,), 10]


# ---------------------------------------------------------------- fork


def test_a_forked_child_is_told_and_the_parent_goes_on() -> None:
    """The watching thread does not come along into a child; whatever the child does, it ends."""
    script = """
        import os, sys, duckdb, duckward
        con = duckdb.connect()
        ward = duckward.guard(con, "2GB")
        child = os.fork()
        if child == 0:
            told = 0
            for use in (lambda: ward.sql("SELECT 1"), lambda: ward.status(), lambda: ward.level,
                        lambda: ward.cursor(), lambda: ward.cancel()):
                try:
                    use()
                except duckward.StateError as error:
                    told += "fork" in str(error) and "spawn" in str(error)
            ward.close()
            os._exit(told)
        _, status = os.waitpid(child, 0)
        assert ward.sql("SELECT 42").fetchall() == [(42,)]
        assert ward.status()["memory_limit"] < 2_000_000_000, "the child put nothing back here"
        ward.close()
        print(os.waitstatus_to_exitcode(status))
    """
    assert run_child(script) == "5"


def test_a_forked_child_cannot_read_an_answer_of_its_parent() -> None:
    script = """
        import os, duckdb, duckward
        con = duckdb.connect(config={"threads": 1})
        ward = duckward.guard(con, "2GB")
        unread = ward.sql("SELECT 1")
        child = os.fork()
        if child == 0:
            try:
                unread.fetchall()
            except duckward.StateError as error:
                os._exit(3 if "fork" in str(error) else 4)
            os._exit(5)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    """
    assert run_child(script) == "3"


def test_a_forked_child_ends_as_usual() -> None:
    script = """
        import os, sys, duckdb, duckward
        con = duckdb.connect()
        ward = duckward.guard(con, "2GB")
        ward.on(lambda event: None)
        child = os.fork()
        if child == 0:
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    """
    assert run_child(script) == "7"


def test_a_forked_child_can_guard_a_connection_of_its_own() -> None:
    # The new threads of the child lie where those of the parent lay: nothing may still point there.
    script = """
        import os, sys, threading, duckdb, duckward
        con = duckdb.connect()
        ward = duckward.guard(con, "2GB")
        ward.sql("SELECT 1").fetchall()
        child = os.fork()
        if child == 0:
            threads = [threading.Thread(target=lambda: None) for _ in range(8)]
            [thread.start() for thread in threads] and [thread.join() for thread in threads]
            answers = []
            def ask(number):
                own = duckdb.connect(config={"threads": 1})
                with duckward.guard(own, "1GB", max_concurrent=1) as mine:
                    answers.append(mine.sql(f"SELECT {number}").fetchall())
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
            [thread.start() for thread in threads] and [thread.join() for thread in threads]
            ok = sorted(answers) == [[(number,)] for number in range(8)]
            os._exit(3 if ok else 4)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    """
    assert run_child(script) == "3"


def test_a_process_ends_cleanly_with_everything_open() -> None:
    script = """
        import duckdb, duckward
        con = duckdb.connect()
        ward = duckward.guard(con, "2GB")
        ward.on(lambda event: None)
        answer = ward.sql("SELECT * FROM range(1000000)")
        print(next(answer).num_rows > 0)
    """
    assert run_child(script) == "True"


# A shell's background job, as a test run may be, begins with Ctrl-C ignored, and its children inherit that.
HEED = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


def run_child(script: str, timeout: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HEED + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
