"""Settings through Python: arguments over environment over file over profile over defaults."""

from __future__ import annotations

import pathlib
from typing import Any

import duckdb
import pytest

import duckward


def in_force(con: duckdb.DuckDBPyConnection, *arguments: Any, **settings: Any) -> dict[str, tuple[str, str]]:
    """Value and source of every setting that a ward of these arguments has."""
    with duckward.guard(con, *arguments, **settings) as ward:
        status = ward.status()
        return {name: (value, status["sources"].get(name)) for name, value in status["settings"].items()}


def test_the_table_of_settings_explains_each(con: duckdb.DuckDBPyConnection) -> None:
    table = duckward.settings()
    assert {"memory", "retries", "temp_directory", "query_timeout", "log"} <= set(table)
    for name, row in table.items():
        assert set(row) == {"default", "accepts", "about"}, name
        assert row["accepts"].startswith("give"), name
        assert row["about"].endswith((".", ")")), name
    assert set(in_force(con, "2GB")) == set(table)


def test_every_default_is_accepted_as_an_argument(con: duckdb.DuckDBPyConnection) -> None:
    defaults = {name: row["default"] for name, row in duckward.settings().items()}
    expected = {name: value for name, (value, _) in in_force(con).items()}
    given = in_force(con, **defaults)
    assert {name: value for name, (value, _) in given.items()} == expected == defaults
    assert {source for _, source in given.values()} == {"argument"}


def test_a_default_says_so(con: duckdb.DuckDBPyConnection) -> None:
    assert in_force(con, "2GB")["retries"] == (duckward.settings()["retries"]["default"], "default")


def test_each_layer_wins_over_the_one_below(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    default, _ = in_force(con, "2GB")["max_concurrent"]
    assert in_force(con, "2GB", profile="container-small")["max_concurrent"] == (
        "2",
        "profile container-small",
    )
    file = tmp_path / "mine.toml"
    file.write_text('profile = "container-small"\nmax_concurrent = 5\nwait = "7s"\n')
    seen = in_force(con, "2GB", settings_file=file)
    assert seen["max_concurrent"] == ("5", f"file {file}")
    assert seen["answer_memory"] == ("32MiB", "profile container-small")
    monkeypatch.setenv("DUCKWARD_MAX_CONCURRENT", "6")
    seen = in_force(con, "2GB", settings_file=file)
    assert seen["max_concurrent"] == ("6", "environment variable DUCKWARD_MAX_CONCURRENT")
    assert seen["wait"] == ("7s", f"file {file}")
    seen = in_force(con, "2GB", settings_file=file, max_concurrent=7, profile="notebook")
    assert seen["max_concurrent"] == ("7", "argument")
    assert seen["answer_memory"] == ("256MiB", "profile notebook")
    assert default not in ("2", "5", "6", "7")


def test_the_file_in_the_working_directory_and_the_one_in_the_environment(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "duckward.toml").write_text("retries = 1\n")
    assert in_force(con, "2GB")["retries"][0] == "1"
    assert in_force(con, "2GB", settings_file="none")["retries"][1] == "default"
    other = tmp_path / "other.toml"
    other.write_text("retries = 2\n")
    monkeypatch.setenv("DUCKWARD_SETTINGS", str(other))
    assert in_force(con, "2GB")["retries"][0] == "2"


def test_the_environment_alone_is_enough(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUCKWARD_MEMORY", "1500MB")
    monkeypatch.setenv("DUCKWARD_ELASTIC", "off")
    with duckward.guard(con) as ward:
        status = ward.status()
        assert status["budget"] == 1_500_000_000
        assert status["settings"]["elastic"] == "false"


@pytest.mark.parametrize(
    ("memory", "bytes_"),
    [("1GB", 10**9), ("1GiB", 1 << 30), (10**9, 10**9), ("1.5 gb", 1_500_000_000)],
)
def test_the_ways_to_write_a_budget(con: duckdb.DuckDBPyConnection, memory: object, bytes_: int) -> None:
    with duckward.guard(con, memory) as ward:  # type: ignore[arg-type]
        assert ward.status()["budget"] == bytes_


def test_a_share_is_of_what_there_is(con: duckdb.DuckDBPyConnection) -> None:
    budgets = []
    for memory in ("auto", 1.0, 0.5, "50%"):
        with duckward.guard(con, memory) as ward:  # type: ignore[arg-type]
            budgets.append(ward.status()["budget"])
    auto, whole, half, percent = budgets
    assert half == percent
    assert auto == whole
    assert abs(half - whole / 2) < 2


def test_values_of_every_python_type(con: duckdb.DuckDBPyConnection, tmp_path: pathlib.Path) -> None:
    seen = in_force(
        con,
        "2GB",
        query_timeout=2.5,
        wait=3,
        elastic=False,
        row_cap=None,
        temp_directory=tmp_path,
        caution="60%",
    )
    assert [seen[name][0] for name in ("query_timeout", "wait", "elastic", "row_cap", "caution")] == [
        "2.5s",
        "3s",
        "false",
        "none",
        "0.6",
    ]
    assert seen["temp_directory"][0] == str(tmp_path)
