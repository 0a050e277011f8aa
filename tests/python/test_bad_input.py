"""Bad input: an error of the right class that names the value and what to do, and nothing is changed."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import duckward

Con = duckdb.DuckDBPyConnection
WATCHED = ("memory_limit", "threads", "temp_directory", "checkpoint_threshold", "preserve_insertion_order")


def settings_of(con: Con) -> tuple[Any, ...]:
    (row,) = con.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in WATCHED)).fetchall()
    return tuple(row)


@pytest.fixture(autouse=True)
def nothing_is_changed(con: Con) -> Iterator[None]:
    """Whatever was refused, DuckDB's settings are what they were."""
    before = settings_of(con)
    yield
    assert settings_of(con) == before


def refused(
    con: Any, *arguments: Any, error: type[Exception] = duckward.InvalidInputError, **settings: Any
) -> str:
    with pytest.raises(error) as caught:
        duckward.guard(con, *arguments, **settings)
    assert isinstance(caught.value, duckward.Error)
    return str(caught.value)


# ---------------------------------------------------------------- the connection


@pytest.mark.parametrize(
    ("thing", "kind"), [("analytics.duckdb", "str"), (None, "NoneType"), (duckdb, "module"), (3, "int")]
)
def test_what_is_not_a_connection_is_named(thing: object, kind: str) -> None:
    message = refused(thing)
    assert kind in message
    assert "duckdb.connect()" in message


def test_a_relation_is_not_a_connection(con: Con) -> None:
    assert "DuckDBPyRelation" in refused(con.sql("SELECT 1"))


def test_a_closed_connection_is_a_connection_error() -> None:
    closed = duckdb.connect()
    closed.close()
    message = refused(closed, "1GB", error=duckward.ConnectionError)
    assert "closed" in message


def test_a_query_that_is_none_is_named(ward: duckward.Ward) -> None:
    for query, named in (
        (None, "NoneType"),
        (42, "int"),
        (b"SELECT 1", "bytes"),
        ("", "no statement"),
        (" ; ", "no statement"),
    ):
        with pytest.raises(duckward.InvalidInputError, match=named) as caught:
            ward.sql(query)  # type: ignore[arg-type]
        assert "give SQL" in str(caught.value)


def test_connections_that_do_not_belong_to_the_ward_are_refused(ward: duckward.Ward) -> None:
    with pytest.raises(duckward.InvalidInputError, match="str"):
        ward.sql("SELECT 1", connection="con")  # type: ignore[arg-type]
    with duckdb.connect() as other:
        for call in (lambda: ward.sql("SELECT 1", connection=other), lambda: ward.cursor(other)):
            with pytest.raises(
                duckward.InvalidInputError, match=r"another database instance.*duckward\.guard"
            ):
                call()


def test_a_closed_cursor_is_called_closed(ward: duckward.Ward) -> None:
    cursor = ward.connection.cursor()
    cursor.close()
    with pytest.raises(duckward.ConnectionError, match="closed"):
        ward.cursor(cursor)


def test_a_priority_that_does_not_exist_is_named(ward: duckward.Ward) -> None:
    with pytest.raises(duckward.InvalidInputError, match=r'priority="urgent".*"high"'):
        ward.sql("SELECT 1", priority="urgent")


def test_a_callback_that_cannot_be_called_is_named(ward: duckward.Ward) -> None:
    with pytest.raises(duckward.InvalidInputError, match=r"int.*function of one argument"):
        ward.on(3)  # type: ignore[arg-type]


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("memory", "named"),
    [
        ("12 parsecs", '"12 parsecs"'),
        ("", '""'),
        ("MB", '"MB"'),
        ("-1", '"-1"'),
        ("101%", '"101%"'),
        ("1..5GB", '"1..5GB"'),
        (-1, "-1"),
        (0, "0"),
        (0.0, "0"),
        (2.5, "2.5"),
        (-0.5, "-0.5"),
        (float("nan"), "NaN"),
        (float("inf"), "inf"),
        (True, "true"),
        (10**30, str(10**30)),
        ([1], "list"),
    ],
)
def test_nonsense_sizes_are_named_with_what_is_accepted(con: Con, memory: object, named: str) -> None:
    message = refused(con, memory)
    assert f"memory={named}" in message or f"memory=<{named}>" in message
    assert "give" in message or "a number" in message


def test_a_budget_larger_than_the_machine_is_refused_with_the_largest(con: Con) -> None:
    message = refused(con, "999TB")
    assert "memory=" in message
    assert "larger than" in message
    assert "give" in message


@pytest.mark.parametrize("memory", [1, "1", "1MB", "1KiB"])
def test_a_budget_under_what_the_process_uses_is_refused_with_the_least(con: Con, memory: object) -> None:
    message = refused(con, memory)
    assert "this process already uses" in message
    assert "give at least" in message


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", -1),
        ("retries", "many"),
        ("wait", "soon"),
        ("wait", -1),
        ("batch_rows", 0),
        ("victim", "me"),
        ("caution", 1.5),
        ("row_cap", 0),
        ("query_timeout", 0),
        ("max_concurrent", 0),
        ("elastic", "maybe"),
        ("log", "loud="),
        ("answer_memory", "12 parsecs"),
        ("reserve", "-3MB"),
    ],
)
def test_a_bad_value_names_setting_value_and_what_is_accepted(con: Con, name: str, value: object) -> None:
    message = refused(con, "2GB", **{name: value})
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    assert f"{name}={shown}" in message
    assert "give" in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("memry", "memory"),
        ("timeout", "query_timeout"),
        ("tmp_directory", "temp_directory"),
        ("retry", "retries"),
    ],
)
def test_an_unknown_setting_comes_with_the_one_that_was_meant(con: Con, name: str, meant: str) -> None:
    message = refused(con, "2GB", **{name: 1})
    assert name in message
    assert f"did you mean `{meant}`" in message


def test_settings_that_contradict_each_other_are_both_named(con: Con) -> None:
    message = refused(con, "2GB", caution=0.99)
    assert "caution=0.99" in message
    assert "warning=0.8" in message


def test_an_unknown_profile_is_named_with_all_there_are(con: Con) -> None:
    message = refused(con, "2GB", profile="noteboko")
    assert '"noteboko"' in message
    assert 'did you mean "notebook"' in message
    assert "production" in message


@pytest.mark.parametrize(("name", "value"), [("DUCKWARD_MEMORY", "12 parsecs"), ("DUCKWARD_RETRIES", "x")])
def test_a_bad_environment_variable_is_named(
    con: Con, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    message = refused(con)
    assert name in message
    assert value in message
    assert "give" in message


def test_an_unknown_environment_variable_is_named(con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCKWARD_MEMRY", "1GB")
    message = refused(con)
    assert "DUCKWARD_MEMRY" in message
    assert "memory" in message.lower().replace("memry", "")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('memory = "12 parsecs"', "12 parsecs"),
        ("memry = 1", "memry"),
        ("retries = -1", "-1"),
        ("memory = [", "mine.toml"),
        ("[guard]\nretries = 1", "guard"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(
    con: Con, tmp_path: pathlib.Path, text: str, named: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    message = refused(con, settings_file=file)
    assert named in message
    assert "mine.toml" in message


def test_a_settings_file_that_is_not_there_is_named(con: Con, tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "missing.toml"
    message = refused(con, settings_file=missing)
    assert str(missing) in message
    assert "give the path" in message


# ---------------------------------------------------------------- directories and disks


def test_a_temp_directory_that_cannot_be_written_is_a_disk_error(con: Con, tmp_path: pathlib.Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    for directory in (in_the_way, in_the_way / "below", pathlib.Path("/proc/nowhere")):
        message = refused(con, "2GB", temp_directory=directory, error=duckward.DiskError)
        assert f"temp_directory={directory}" in message
        assert "name a directory" in message
    assert in_the_way.read_text() == ""


@pytest.fixture
def tiny_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "duckward-test", str(place)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("read", ["to_arrow", "iteration"])
def test_an_answer_that_does_not_fit_on_the_disk_is_a_disk_error(
    con: Con, tiny_disk: pathlib.Path, read: str
) -> None:
    with duckward.guard(con, "2GB", temp_directory=tiny_disk, answer_memory="1MB") as ward:
        answer = ward.sql("SELECT range AS r, range::VARCHAR || 'x' AS s FROM range(3000000)")
        if read == "iteration":
            # The rest of an answer goes to disk when the connection is wanted for another statement.
            if not hasattr(con, "complete"):
                pytest.skip("before DuckDB 2.0 the answer is taken at its first reading")
            next(answer)
            assert ward.sql("SELECT 42").fetchall() == [(42,)], "the other statement goes on"
        with pytest.raises(duckward.DiskError) as caught:
            answer.to_arrow() if read == "to_arrow" else list(answer)
        message = str(caught.value)
        assert str(tiny_disk) in message
        assert "temp_directory" in message
        assert not [file for file in tiny_disk.rglob("*") if file.is_file()], "no file is left"
        assert ward.sql("SELECT 42").fetchall() == [(42,)]


# ---------------------------------------------------------------- twice, and too late


def test_guarding_twice_gives_the_same_ward_or_names_the_difference(con: Con) -> None:
    with duckward.guard(con, "2GB") as ward:
        assert duckward.guard(con, "2GB") is ward
        assert duckward.guard(con, memory=2_000_000_000) is ward
        message = refused(con, "1GB")
        assert "memory=1GB (it has 2GB)" in message
        assert "close()" in message
        assert "retries=7" in refused(con, "2GB", retries=7)
        assert ward.sql("SELECT 1").fetchall() == [(1,)]
    with duckward.guard(con, "1GB") as again:
        assert again is not ward


def test_a_closed_ward_says_so_whatever_is_asked(con: Con) -> None:
    ward = duckward.guard(con, "2GB")
    ward.close()
    ward.close()
    for use in (
        lambda: ward.sql("SELECT 1"),
        lambda: ward.explain("SELECT 1"),
        lambda: ward.level,
        lambda: ward.status(),
        lambda: ward.cursor(),
        lambda: ward.on(print),
        lambda: ward.cancel(),
        lambda: ward.progress(),
        lambda: ward.__enter__(),
    ):
        with pytest.raises(duckward.StateError, match=r"closed; guard the connection again"):
            use()
    assert "closed" in repr(ward)
    assert ward.connection is con
    assert con.sql("SELECT 1").fetchall() == [(1,)]


def test_an_unread_answer_of_a_closed_ward_does_not_run_unguarded(con: Con) -> None:
    ward = duckward.guard(con, "2GB")
    unread = ward.sql("SELECT 1")
    ward.close()
    with pytest.raises(duckward.StateError, match="closed"):
        unread.fetchall()
