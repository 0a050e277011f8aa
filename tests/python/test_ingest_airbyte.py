"""Loading what the real PyAirbyte gives, of its faker source: `make test-airbyte`, where PyAirbyte is."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import duckward

# Nothing is told to anyone, and no registry is asked.
os.environ.update(DO_NOT_TRACK="1", AIRBYTE_OFFLINE_MODE="1")
airbyte = pytest.importorskip("airbyte", reason="PyAirbyte has an environment of its own: make test-airbyte")

FAKER = pathlib.Path(sys.prefix) / "faker" / "bin" / "source-faker"
USERS = 3000
# Of a library that is not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not FAKER.exists(), reason=f"the faker source is not installed at {FAKER}"),
]


@pytest.fixture
def source() -> Any:
    found = airbyte.get_source(
        "source-faker", local_executable=FAKER, config={"count": USERS, "seed": 7, "parallelism": 1}
    )
    found.select_streams(["users"])
    return found


@pytest.fixture
def con(tmp_path: pathlib.Path) -> Iterator[Any]:
    with duckdb.connect(str(tmp_path / "target.duckdb")) as connection:
        connection.execute(
            """CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR, email VARCHAR, age INTEGER,
            gender VARCHAR, height DOUBLE, weight DOUBLE, language VARCHAR, nationality VARCHAR,
            title VARCHAR, telephone VARCHAR, academic_degree VARCHAR, occupation VARCHAR, blood_type VARCHAR,
            address JSON, created_at TIMESTAMPTZ, updated_at TIMESTAMPTZ)"""
        )
        yield connection


def check(con: Any) -> None:
    assert con.execute(
        "SELECT count(*), min(id), max(id), count(name), count(created_at) FROM users"
    ).fetchall() == [(USERS, 1, USERS, USERS, USERS)]


def test_records_go_in_and_go_on_after_a_failure(con: Any, source: Any) -> None:
    with duckward.guard(con, memory="2GB") as ward:

        def broken() -> Iterator[Any]:
            # PyAirbyte ends the sync when nobody holds the data set.
            held = source.get_records("users")
            for number, record in enumerate(held):
                if number == 2500:
                    raise OSError("the line is dead")
                yield record

        with pytest.raises(duckward.TransactionError, match="the line is dead"):
            ward.ingest(broken(), "users", batch_rows=1000, token="faker")
        assert con.execute("SELECT count(*) FROM users").fetchall() == [(2000,)]
        # The data set itself: nobody else holds it.
        done = ward.ingest(source.get_records("users"), "users", batch_rows=1000, token="faker")
    assert (done.rows, done.resumed_from) == (1000, 2000)
    check(con)


def test_what_was_read_into_a_cache_goes_in(con: Any, source: Any, tmp_path: pathlib.Path) -> None:
    result = source.read(cache=airbyte.DuckDBCache(db_path=tmp_path / "cache.duckdb"))
    with duckward.guard(con, memory="2GB") as ward:
        ward.ingest(result, "users", batch_rows=1000)
        check(con)
        ward.ingest(result["users"], "copy", create=True)
    assert con.execute("SELECT count(DISTINCT id) FROM copy").fetchall() == [(USERS,)]
