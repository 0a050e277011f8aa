"""Partitioning by several workers: threads, processes, a cluster. The result is the same."""

from __future__ import annotations

import multiprocessing
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import duckdb
import pytest

import duckward
from duckward._workers import Session, Site, write


@pytest.fixture
def database(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "a b.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute(
            "CREATE SCHEMA s; CREATE TABLE s.t AS SELECT range AS id, TIMESTAMPTZ '2024-01-01 00:00:00+00' + "
            "INTERVAL (range) MINUTE AS ts, CASE WHEN range % 11 = 0 THEN NULL ELSE range % 7 END AS k "
            "FROM range(60000)"
        )
    return path


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


def same(ward: duckward.Ward, done: duckward.Partitioning, source: str) -> None:
    assert bool(done.validation)
    assert done.check() == []
    assert ward.validate(source, done).ok
    beside = pathlib.Path(done.path).parent.iterdir()
    assert [entry.name for entry in beside if entry.name.startswith(".duckward")] == []


def test_threads_see_what_is_committed(tmp_path: pathlib.Path) -> None:
    with duckdb.connect(config={"threads": 2}) as con, duckward.guard(con, memory="1GB") as ward:
        con.execute("CREATE TABLE t AS SELECT range AS id, range % 40 AS k FROM range(50000)")
        told: list[Any] = []
        ward.on(lambda event: told.append(event) if event["event"] == "share_written" else None)
        alone = ward.partition(ward.plan("t", by="k", value=True), tmp_path / "alone")
        assert len(told) == 1
        done = ward.partition(alone.plan, tmp_path / "three", workers=3)
        same(ward, done, "t")
        assert len(told) == 1 + 6
        digests = [
            [(piece["name"], piece["rows"], piece["digest"]) for piece in one.pieces] for one in (alone, done)
        ]
        assert digests[0] == digests[1]
        with ThreadPoolExecutor(2) as pool:
            same(ward, ward.partition(alone.plan, tmp_path / "pool", executor=pool, sort="id"), "t")
            pool.submit(int).result()
        same(ward, ward.partition(alone.plan, tmp_path / "one", workers=1), "t")


def test_processes_read_the_source_themselves(
    database: pathlib.Path, processes: Executor, tmp_path: pathlib.Path
) -> None:
    with (
        duckdb.connect(str(database), read_only=True) as con,
        duckward.guard(con, memory="1GB") as ward,
    ):
        con.execute("USE s")
        con.execute("SET TimeZone = 'Asia/Tokyo'")
        con.execute(f"COPY t TO '{tmp_path}/t.parquet'")
        for number, (source, how) in enumerate(
            (
                ("t", {"by": "ts", "every": "month", "zone": "Europe/Berlin"}),
                ("SELECT *, ts::DATE AS day FROM t", {"by": "day", "pieces": 9}),
                (f"{tmp_path}/t.parquet", {"by": ["k", "id"], "value": True, "hash": 3}),
                (f"{tmp_path}/t.parquet", {"by": "id", "pieces": 150}),
            )
        ):
            done = ward.partition(
                ward.plan(source, **how),
                tmp_path / "lake" / str(number),
                executor=processes,  # type: ignore[arg-type]
            )
            same(ward, done, source)


def test_what_workers_cannot_see_is_said(processes: Executor, tmp_path: pathlib.Path) -> None:
    with duckdb.connect() as con, duckward.guard(con, memory="1GB") as ward:
        con.execute("CREATE TABLE t AS SELECT range AS id FROM range(1000)")
        plan = ward.plan("t", by="id", pieces=5)
        for arguments, message in (
            ({"executor": processes}, "open the database so, or give workers= without executor="),
            ({"workers": 0}, "workers=0 is not accepted: give 1 or more"),
            ({"executor": 5}, "give a concurrent.futures.Executor"),
        ):
            with pytest.raises(duckward.InvalidInputError, match=message):
                ward.partition(plan, tmp_path / "t", **arguments)  # type: ignore[arg-type]
        # Of one that fails nothing is left, and the others have ended.
        con.execute("CREATE TABLE u AS SELECT range AS id FROM range(100)")
        plan = ward.plan("u", by="id", pieces=5)
        con.execute("DROP TABLE u")
        con.execute("CREATE VIEW u AS SELECT CASE WHEN id < 99 THEN id ELSE error('no') END AS id FROM t")
        with pytest.raises(duckdb.Error, match="no"):
            ward.partition(plan, tmp_path / "t", workers=2)
        assert list(tmp_path.iterdir()) == []


def test_what_takes_too_long_is_tried_again_smaller(tmp_path: pathlib.Path) -> None:
    late: list[int] = []

    def slow_twice(value: int) -> int:
        if value == 7 and len(late) < 2:
            late.append(value)
            time.sleep(3.5)
        return value

    with duckdb.connect(config={"threads": 2}) as con:
        con.create_function("slow_twice", slow_twice, ["BIGINT"], "BIGINT", side_effects=True)
        con.execute("CREATE TABLE t AS SELECT range AS id FROM range(20)")
        source = "SELECT CASE WHEN id = 7 THEN slow_twice(id) ELSE id END AS id FROM t"
        with duckward.guard(con, memory="1GB") as ward:
            late.extend([0, 0])
            plan = ward.plan(source, by="id", hash=16)
            late.clear()
        told: list[Any] = []
        with duckward.guard(con, memory="1GB", query_timeout="2s") as ward:
            ward.on(lambda event: told.append(event["shares"]) if event["event"] == "share_written" else None)
            done = ward.partition(plan, tmp_path / "t", workers=2)
            same(ward, done, "t")
        # Two shares for each worker at first; those that wait after a failure have half as many pieces.
        assert told[0] == 4
        assert told[-1] > 4
        assert 1 in {attempt["attempt"] for attempt in done.attempts}
        assert {attempt["response"] for attempt in done.attempts} == {"half the pieces at once"}


def test_an_error_comes_back_from_another_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCKWARD_QUERY_TIMEOUT", "1s")
    site = Site((), Session("memory", "main", None), "1GB", 100)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        endless = pool.submit(
            write, site, "SELECT sum(a.range * b.range) FROM range(10000000) a, range(100000) b"
        )
        assert type(endless.exception()) is duckward.TimeoutError


def test_a_cluster_of_dask_writes_pieces(database: pathlib.Path, tmp_path: pathlib.Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        duckdb.connect(str(database), read_only=True) as con,
        duckward.guard(con, memory="1GB") as ward,
    ):
        plan = ward.plan("s.t", by="ts", every="day")
        done = ward.partition(
            plan, tmp_path / "lake", executor=client.get_executor(), workers=2, worker_memory="300MB"
        )
        same(ward, done, "s.t")
        assert len({worker for workers in client.who_has().values() for worker in workers}) <= 2
