"""Partitioning: the files have every row of the source once; they are published whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import duckward
from samples import TYPES


def rows(con: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    return sorted(con.execute(query).fetchall(), key=repr)


def check(
    con: duckdb.DuckDBPyConnection,
    ward: duckward.Ward,
    done: duckward.Partitioning,
    source: str,
    fresh: bool = True,
) -> None:
    """The directory has what its manifest says, and that is the source."""
    path = pathlib.Path(done.path)
    manifest = json.loads((path / "_duckward.json").read_text())
    assert manifest == done.to_dict()
    named = {file["path"] for piece in done.pieces for file in piece["files"]}
    found = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert found == named | {"_duckward.json"}
    for piece in done.pieces:
        for file in piece["files"]:
            content = (path / file["path"]).read_bytes()
            assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        files = [str(path / file["path"]) for file in piece["files"]]
        read = f"read_parquet({files!r}, hive_partitioning = false)"
        # Rows have no numbers in files.
        condition = "true" if "rowid" in piece["condition"] else piece["condition"]
        counted = con.execute(f"SELECT count(*), count(*) FILTER (WHERE {condition}) FROM {read}").fetchall()
        assert counted == [(piece["rows"], piece["rows"])]
    assert bool(done.validation) == fresh
    assert done.check() == []
    assert ward.validate(source, done).ok
    assert duckward.Partitioning.load(done.path).to_dict() == done.to_dict()
    assert sorted(entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")) == []


def test_a_month_is_a_directory(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute(
        "CREATE TABLE events AS SELECT range id, TIMESTAMP '2024-01-15' + INTERVAL (range) HOUR ts, "
        "['DE', 'FR', NULL][range % 3 + 1] country FROM range(2000)"
    )
    done = ward.partition(ward.plan("events", by="ts", every="month"), tmp_path / "lake" / "events")
    check(con, ward, done, "events")
    assert sorted(entry.name for entry in (tmp_path / "lake/events").iterdir()) == [
        "_duckward.json", "ts_month=2024-01", "ts_month=2024-02", "ts_month=2024-03", "ts_month=2024-04"
    ]  # fmt: skip
    assert len(done) == 4
    assert done.rows == 2000
    assert "every row of events is there once" in str(done)
    # What others read there: all files, by their pattern.
    everything = f"SELECT id, ts, country FROM '{tmp_path}/lake/events/**/*.parquet'"
    assert rows(con, everything) == rows(con, "FROM events")


@pytest.mark.parametrize("kind", [kind for kind in TYPES if not kind.endswith("HUGEINT")])
def test_every_type_comes_back(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path, kind: str) -> None:
    try:
        con.execute(f"CREATE TABLE t (id INTEGER, v {kind})")
    except duckdb.Error:
        pytest.skip(f"no {kind} in this version")
    for number, value in enumerate([*TYPES[kind], None]):
        con.execute(f"INSERT INTO t VALUES ({number}, ?::{kind})", [value])
    plan = ward.plan("t", by="id", hash=3)
    old = duckdb.__version__ < "2"
    if kind in ("INTERVAL", "TIMETZ") or (kind == "TIMESTAMP_S" and old):
        # What Parquet cannot keep is said, and nothing is there.
        lost = r"negative intervals|column v has other values|Could not convert Timestamp\(S\)"
        with pytest.raises((duckward.Error, duckdb.Error), match=lost):
            ward.partition(plan, tmp_path / "t")
        assert list(tmp_path.iterdir()) == []
        return
    done = ward.partition(plan, tmp_path / "t")
    assert done.validation
    assert rows(con, f"SELECT id, v::VARCHAR FROM ({done.query})") == rows(
        con, "SELECT id, v::VARCHAR FROM t"
    )


def test_a_type_that_parquet_would_round_is_refused(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute('CREATE TABLE t AS SELECT range AS i, range::HUGEINT AS "h ""h" FROM range(10)')
    with pytest.raises(duckward.InvalidInputError, match="which Parquet keeps as DOUBLE, with a loss"):
        ward.partition(ward.plan("t", by="i", hash=2), tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_many_pieces_are_parted_in_bundles(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT range AS id, range * 7919 % 321 AS k, 's' || range AS s FROM range(20000)"
    )
    done = ward.partition(ward.plan("t", by="id", hash=1500), tmp_path / "t")
    assert len(done) > 1400
    check(con, ward, done, "t")
    con.execute(f"COPY t TO '{tmp_path}/one.parquet'")
    # A small budget, in a process that has little of its own, and few files: fewer pieces at once.
    script = f"""
        import resource, duckdb, duckward
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        ward = duckward.guard(duckdb.connect(config={{"threads": 1}}), memory="200MiB")
        source = "SELECT id, k, s FROM '{tmp_path}/one.parquet'"
        print(len(ward.partition(ward.plan(source, by="k", value=True), "{tmp_path}/u")))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    # DuckDB may draw a bar besides.
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["321"]), done.stderr
    check(con, ward, duckward.Partitioning.load(tmp_path / "u"), "t", fresh=False)


def test_random_tables_and_plans(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    chance = random.Random(5)
    for number in range(12):
        count, values = chance.choice([1, 50, 3000]), chance.choice([2, 7, 300])
        con.execute(
            f'CREATE OR REPLACE TABLE t AS SELECT range % {values} AS "k/ \'k", range AS id, '
            f"CASE WHEN random() < 0.2 THEN NULL ELSE (random() * 50)::INTEGER END AS n, random() AS f, "
            f"['a', 'b/c', '..', NULL, '', 'null'][1 + range % 6] AS s FROM range({count})"
        )
        how = chance.choice(
            [
                {"by": "k/ 'k", "value": True},
                {"by": "id", "pieces": 120},
                {"by": "n", "hash": 5},
                {"by": ["s", "id"], "value": True, "pieces": 3},
                {"by": ["k/ 'k", "s"], "value": True, "hash": 3},
            ]
        )
        if count == 1 and "pieces" in how:
            continue
        done = ward.partition(ward.plan("t", **how), tmp_path / str(number))
        check(con, ward, done, "t")


def test_values_of_any_kind_name_directories(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    values = [
        "..",
        ".",
        "a/b",
        "a%2Fb",
        "it's",
        "日本",
        "",
        " ",
        "x" * 300,
        "x" * 299 + "y",
        "null",
        "other",
        "*",
        "[a]",
    ]
    con.execute("CREATE TABLE t (v VARCHAR)")
    con.executemany("INSERT INTO t VALUES (?)", [[value] for value in [*values, None]])
    done = ward.partition(ward.plan("t", by="v", value=True), tmp_path / "it's [a] *lake*")
    check(con, ward, done, "t")
    assert len(done) == len(values) + 1


def test_replacing_is_asked_for_and_whole(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(1000)")
    target = tmp_path / "t"
    first = ward.partition(ward.plan("t", by="id", pieces=3), target)
    with pytest.raises(duckward.InvalidInputError, match=r"it is there already; .* or replace=True"):
        ward.partition(ward.plan("t", by="id", pieces=3), target)
    con.execute("INSERT INTO t SELECT range + 1000 FROM range(500)")
    second = ward.partition(ward.plan("t", by="id", pieces=5), target, replace=True)
    check(con, ward, second, "t")
    assert (first.rows, second.rows, len(second)) == (1000, 1500, 5)
    # An empty directory is no obstacle.
    (tmp_path / "empty").mkdir()
    check(con, ward, ward.partition(ward.plan("t", by="id", pieces=2), tmp_path / "empty"), "t")


def test_what_is_no_partitioning_is_never_replaced(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(10)")
    plan = ward.plan("t", by="id", hash=2)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for target, expected in (
        ("home", "it has files that no partitioning has written"),
        ("file", "it is a file"),
        ("s3://bucket/x", "give the path of a directory on this machine"),
        ("", "give the path of a directory on this machine"),
        ("/", "give a directory below the root"),
    ):
        where = tmp_path / target if "/" not in target and target else target
        with pytest.raises(duckward.InvalidInputError, match=expected):
            ward.partition(plan, where, replace=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "home"]


def test_a_plan_for_another_table_is_refused(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(10)")
    plan = ward.plan("t", by="id", hash=2)
    con.execute("ALTER TABLE t ADD COLUMN more INTEGER")
    with pytest.raises(
        duckward.InvalidInputError, match="the plan was made for another form of t: it has 2 columns"
    ):
        ward.partition(plan, tmp_path / "t")
    con.execute("DROP TABLE t")
    with pytest.raises(duckdb.CatalogException):
        ward.partition(plan, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_came_after_the_plan_are_in_a_piece(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT DATE '2024-03-01' + (range)::INTEGER AS d, 'a' AS s FROM range(90)")
    plan = ward.plan("t", by=["d", "s"], every="month", value=True)
    con.execute(
        "INSERT INTO t VALUES ('1900-01-01', 'a'), ('2100-01-01', 'new'), ('infinity', NULL), (NULL, 'x')"
    )
    done = ward.partition(plan, tmp_path / "t")
    check(con, ward, done, "t")
    assert done.rows == 94


def test_a_source_that_changes_meanwhile_is_not_published(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    plan = ward.plan("SELECT range AS id, random() AS r FROM range(1000)", by="id", pieces=2)
    with pytest.raises(
        duckward.TransactionError, match=r"what was written is not what .* has, and was removed: piece 0 has"
    ):
        ward.partition(plan, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_target_below_hive_directories_or_behind_a_link(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, 'x' || range AS v FROM range(100)")
    plan = ward.plan("t", by="id", pieces=3)
    check(con, ward, ward.partition(plan, tmp_path / "v=1" / "id=2" / "t"), "t")
    (tmp_path / "other disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other disk")
    done = ward.partition(plan, tmp_path / "link")
    check(con, ward, done, "t")
    assert (tmp_path / "link").is_symlink()
    check(con, ward, ward.partition(plan, tmp_path / "link", replace=True), "t")
    assert (tmp_path / "other disk" / "_duckward.json").is_file()


def test_columns_that_would_be_taken_for_ours_are_refused(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute('CREATE TABLE t AS SELECT range AS id, 1 AS "Duckward_bundle" FROM range(10)')
    with pytest.raises(duckward.InvalidInputError, match="has a column Duckward_bundle"):
        ward.partition(ward.plan("t", by="id", hash=2), tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_one_at_a_time_writes_a_directory(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(10)")
    plan = ward.plan("t", by="id", hash=2)
    (tmp_path / ".duckward-t").mkdir()
    held = os.open(tmp_path / ".duckward-t", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(duckward.StateError, match="is being written by another partitioning"):
        ward.partition(plan, tmp_path / "t")
    os.close(held)
    check(con, ward, ward.partition(plan, tmp_path / "t"), "t")


def test_whatever_happens_to_a_file_is_found_and_located(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(3000)")
    made = ward.partition(ward.plan("t", by="id", pieces=12), tmp_path / "t")
    files = [(piece["name"], file["path"]) for piece in made.pieces for file in piece["files"]]
    done = duckward.Partitioning.load(tmp_path / "t")
    assert done.validation is None
    assert "validated" in str(made)
    assert "validated" not in str(done)
    chance = random.Random(2)
    for _ in range(400):
        name, path = chance.choice(files)
        file = tmp_path / "t" / path
        before = file.read_bytes()
        kind = chance.choice(["truncate", "flip", "remove", "grow", "add", "swap", "rewrite"])
        expected = {("changed_file", name, path)}
        if kind == "truncate":
            file.write_bytes(before[: chance.randrange(len(before))])
        elif kind == "flip":
            changed = bytearray(before)
            changed[chance.randrange(len(before))] ^= 1 << chance.randrange(8)
            file.write_bytes(changed)
        elif kind == "grow":
            file.write_bytes(before + b"x")
        elif kind == "remove":
            file.unlink()
            expected = {("missing_file", name, path)}
        elif kind == "add":
            (file.parent / "extra.parquet").write_bytes(before)
            expected = {("extra_file", None, str(pathlib.Path(path).parent / "extra.parquet"))}
        elif kind == "swap":
            other_name, other_path = chance.choice([one for one in files if one[1] != path])
            other = tmp_path / "t" / other_path
            after = other.read_bytes()
            file.write_bytes(after)
            other.write_bytes(before)
            expected.add(("changed_file", other_name, other_path))
        else:
            rewrite = "id, if(id % 97 = 5, s || 'x', s) AS s"
            con.execute(f"COPY (SELECT {rewrite} FROM '{file}') TO '{tmp_path}/new.parquet'")
            file.write_bytes((tmp_path / "new.parquet").read_bytes())
        found = done.check()
        assert {(one["kind"], one["piece"], one["message"].split()[1]) for one in found} == expected
        file.write_bytes(before)
        if kind == "add":
            (file.parent / "extra.parquet").unlink()
        elif kind == "swap":
            other.write_bytes(after)
    assert done.check() == []
    file.write_bytes(before[:100])
    verdict = ward.validate("t", done)
    assert not verdict.ok
    assert [one["kind"] for one in verdict.findings] == ["changed_file"]


def test_an_edited_manifest_and_another_directory_are_refused(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(100)")
    done = ward.partition(ward.plan("t", by="id", pieces=3), tmp_path / "t")
    manifest = tmp_path / "t" / "_duckward.json"
    text = manifest.read_text()
    digest = done.pieces[0]["digest"]
    for before, after in ((digest, digest[::-1]), ('"rows": 100', '"rows": 101'), ("range=0/", "range=1/")):
        assert before in text
        manifest.write_text(text.replace(before, after, 1))
        with pytest.raises(duckward.InvalidInputError, match="somebody has edited it"):
            duckward.Partitioning.load(tmp_path / "t")
    manifest.write_text(text[:50])
    with pytest.raises(duckward.InvalidInputError, match="is no manifest"):
        duckward.Partitioning.load(tmp_path / "t")
    with pytest.raises(duckward.InvalidInputError, match="is no partitioning"):
        duckward.Partitioning.load(tmp_path)
    with pytest.raises(duckward.InvalidInputError, match="is no partitioning"):
        duckward.Partitioning.load(tmp_path / "nowhere")


def test_there_may_be_more_files_than_may_be_open(tmp_path: pathlib.Path) -> None:
    script = f"""
        import resource, duckdb, duckward
        con = duckdb.connect(config={{"threads": 2}})
        con.execute("CREATE TABLE t AS SELECT range AS id, id % 120 AS k, 'n' || id AS s FROM range(20000)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with duckward.guard(con, memory="1GB") as ward:
            first = ward.partition(ward.plan("t", by="k", value=True), "{tmp_path}/first")
            assert len(first) == 120
            # Many files are read to plan, to write, to prove and to balance.
            for number, how in enumerate(({{"hash": 80}}, {{"pieces": 90}})):
                plan = ward.plan(first.query, by="id", **how)
                done = ward.partition(plan, f"{tmp_path}/{{number}}", sort="s" if number else None)
                assert len(done) == (80, 90)[number] and done.attempts == []
            more = ward.rebalance(done, target_rows=500)
            assert len(more) < len(done)
            assert ward.validate("t", more).ok and more.check() == []
            keyed = f"SELECT k % 9 AS g, list(s ORDER BY id) AS l FROM ({{first.query}}) GROUP BY g"
            assert len(ward.sql(keyed, pieces=3).fetchall()) == 9
            assert len(con.execute(f"{{first.query}} LIMIT (SELECT 70000)").fetchall()) == 20000
        print("done")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    # DuckDB may draw a bar besides.
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["done"]), done.stderr


@contextlib.contextmanager
def disk_of(size: str, place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of its own at `place`, with so much room."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(200000)")
    con.execute("CREATE TABLE few AS FROM t LIMIT 1000")
    plan = ward.plan("t", by="id", pieces=3)
    told: list[Any] = []
    ward.on(told.append)
    with disk_of("4m", tmp_path / "small") as small:
        no_room = (
            r"small.* has no room for the pieces of t, about 1\d\.\d MiB in memory: .* free space, or give"
        )
        for how in ({}, {"sort": "s"}, {"workers": 2}):
            with pytest.raises(duckward.DiskError, match=no_room):
                ward.partition(plan, small / "a" / "t", **how)  # type: ignore[arg-type]
        assert list(small.iterdir()) == []
        con.execute(f"ATTACH '{small}/d.duckdb' AS d")
        no_room = r"d\.parts\.t_\{piece\} has no room .* or the path of a directory"
        with pytest.raises(duckward.DiskError, match=no_room):
            ward.partition(plan, "d.parts.t_{piece}")
        assert con.execute("FROM duckdb_schemas() WHERE schema_name = 'parts'").fetchall() == []
        assert not [event for event in told if event["event"] in ("share_written", "partition_published")]
        # What fits there is written there.
        check(con, ward, ward.partition(ward.plan("few", by="id", pieces=3), small / "few"), "few")
        assert len(ward.partition(ward.plan("few", by="id", pieces=3), "d.parts.few_{piece}")) == 3
        con.execute("DETACH d")


def test_a_disk_that_gets_full_leaves_nothing(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(1300000)")
    plan = ward.plan("t", by="id", pieces=3)
    told: list[str] = []
    ward.on(lambda event: told.append(event["event"]))
    with disk_of("17m", tmp_path / "small") as small:
        for how in ({}, {"batch_rows": 200000}, {"workers": 2}):
            # What meets it first is DuckDB, or the journal.
            full = r"No space left on device.*free space there"
            with pytest.raises(duckward.DiskError, match=full):
                ward.partition(plan, small / "a" / "t", **how)  # type: ignore[arg-type]
            assert list(small.iterdir()) == []
        assert "share_written" in told
        assert "partition_published" not in told


def test_a_disk_without_room_leaves_what_a_killed_process_has_written(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    database = tmp_path / "t.duckdb"
    with duckdb.connect(str(database)) as made:
        made.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(400000)")
    con.execute(f"ATTACH '{database}' AS d (READ_ONLY); USE d")
    plan = ward.plan("t", by="id", pieces=3)
    plan.save(tmp_path / "plan.json")
    with disk_of("64m", tmp_path / "small") as small:
        script = f"""
            import os, duckdb, duckward
            ward = duckward.guard(duckdb.connect({str(database)!r}, read_only=True), "1GB")
            ward.on(lambda event: os.kill(os.getpid(), 9) if event.get("written") == 2 else None)
            plan = duckward.Plan.load({str(tmp_path / "plan.json")!r})
            ward.partition(plan, {str(small / "t")!r}, batch_rows=50000)
        """
        ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
        assert ended.returncode == -signal.SIGKILL
        left = sorted(small.rglob("*"))
        free = os.statvfs(small)
        (small / "else").write_bytes(b"x" * (free.f_bavail * free.f_frsize - (2 << 20)))
        with pytest.raises(duckward.DiskError, match="has no room"):
            ward.partition(plan, small / "t", batch_rows=50000)
        assert sorted(small.rglob("*")) == sorted([*left, small / "else"])
        (small / "else").unlink()
        done = ward.partition(plan, small / "t", batch_rows=50000)
        assert done.resumed == 2
        assert "2 shares of the source had been written before" in str(done)
        check(con, ward, done, "t")


def test_directories_above_go_with_a_partitioning_that_failed(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(100)")
    good = ward.plan("t", by="id", pieces=2)
    bad = ward.plan("SELECT range AS id, random() AS r FROM range(1000)", by="id", pieces=2)
    with pytest.raises(duckward.TransactionError):
        ward.partition(bad, tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []
    # What was there stays, and so does what others put there meanwhile.
    (tmp_path / "a").mkdir()
    with pytest.raises(duckward.TransactionError):
        ward.partition(bad, tmp_path / "a" / "b" / "c")
    assert [*tmp_path.rglob("*")] == [tmp_path / "a"]
    other = tmp_path / "a" / "b" / "other"
    puts = ward.on(lambda event: event["event"] == "share_written" and other.mkdir())
    with pytest.raises(duckward.TransactionError):
        ward.partition(bad, tmp_path / "a" / "b" / "c" / "d")
    puts.cancel()
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "b", other]
    check(con, ward, ward.partition(good, tmp_path / "e" / "f"), "t")


def test_progress_is_over_all_of_it(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, range % 9 AS k FROM range(40000)")
    plan = ward.plan("t", by="id", pieces=4)
    seen: list[float | None] = []
    ward.on(
        lambda event: (
            seen.append(ward.progress())
            if event["event"] in ("share_written", "attempt_started", "partition_published")
            else None
        )
    )
    hows: list[tuple[str, dict[str, Any]]] = [
        (str(tmp_path / "a"), {}),
        (str(tmp_path / "b"), {"batch_rows": 10000}),
        (str(tmp_path / "c"), {"sort": "k"}),
        (str(tmp_path / "d"), {"workers": 2}),
        ("t_{piece}", {}),
    ]
    for into, how in hows:
        seen.clear()
        done = ward.partition(plan, into, **how)
        shares = [share for share in seen if share is not None]
        # The last one tells that it is published; only what comes before the first stage has no share.
        assert shares == sorted(shares)
        assert 0 <= shares[0] < 0.2
        assert 0.9 < shares[-1] <= 1
        assert len(set(shares)) >= 3
        assert ward.progress() is None
        assert len(ward.rebalance(done, target_rows=40000)) < len(done)
        assert ward.progress() is None
    bad = ward.plan("SELECT range AS id, random() AS r FROM range(1000)", by="id", pieces=2)
    with pytest.raises(duckward.TransactionError):
        ward.partition(bad, tmp_path / "bad")
    assert ward.progress() is None


def test_a_kill_leaves_the_old_state_or_the_new_one(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    database, target = tmp_path / "t.duckdb", tmp_path / "lake" / "t"
    with duckdb.connect(str(database)) as made:
        made.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(150000)")
        made.execute("CREATE TABLE u AS SELECT range + 7 AS id, 'u' || range AS s FROM range(100000)")
    script = f"""
        import sys, duckdb, duckward
        con = duckdb.connect({str(database)!r}, read_only=True)
        ward = duckward.guard(con, "1GB")
        plans = [ward.plan(table, by="id", pieces=pieces) for table, pieces in (("t", 120), ("u", 5))]
        for number in range(1000):
            ward.partition(plans[number % 2], {str(target)!r}, replace=True)
            print("round", number, flush=True)
    """
    con.execute(f"ATTACH '{database}' AS d (READ_ONLY)")
    chance = random.Random(3)
    seen = set()
    for _ in range(15):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        # After a first round there is something to replace. DuckDB may draw a bar besides.
        assert any(line.strip().endswith("round 0") for line in process.stdout)
        time.sleep(chance.random() * 1.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        manifest = json.loads((target / "_duckward.json").read_text())
        table = manifest["plan"]["source"]
        seen.add(table)
        found = {str(file.relative_to(target)) for file in target.rglob("*.parquet")}
        assert found == {file["path"] for piece in manifest["pieces"] for file in piece["files"]}
        written = f"SELECT id, s FROM read_parquet('{target}/**/*.parquet', hive_partitioning = false)"
        assert ward.validate(f"d.main.{table}", written).ok
    assert seen == {"t", "u"}
    # The next one finds nothing in its way, and leaves nothing besides.
    con.execute("CREATE TABLE t AS FROM d.main.t")
    check(con, ward, ward.partition(ward.plan("t", by="id", pieces=4), target, replace=True), "t")


def test_a_table_is_written_by_shares(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, range % 7 AS k FROM range(10000)")
    con.execute("DELETE FROM t WHERE id BETWEEN 2000 AND 5999")
    con.execute("CREATE VIEW v AS FROM t")
    con.execute("CREATE TABLE r AS SELECT id AS rowid, k FROM t")
    told: list[dict[str, Any]] = []
    ward.on(told.append)
    for source, shares in (("t", 4), ("v", 1), ("r", 1), ("FROM t", 1)):
        told.clear()
        plan = ward.plan(source, by="k", value=True)
        done = ward.partition(plan, tmp_path / source, batch_rows=2500)
        check(con, ward, done, source)
        ours = [event for event in told if event["event"] in ("share_written", "partition_published")]
        assert [(event.get("written"), event.get("shares")) for event in ours] == [
            *((share, shares) for share in range(1, shares + 1)),
            (None, None),
        ]
        assert (ours[-1]["path"], ours[-1]["pieces"], ours[-1]["rows"]) == (done.path, 7, 6000)
        assert (done.resumed, done.attempts) == (0, [])
    # Rows that an open transaction has added have numbers far above all others.
    con.execute("BEGIN")
    con.execute("INSERT INTO t SELECT range, 3 FROM range(50)")
    done = ward.partition(ward.plan("t", by="k", value=True), tmp_path / "open", batch_rows=2500)
    assert done.rows == 6050
    con.execute("ROLLBACK")


def test_pieces_by_row_number(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute("CREATE TABLE t AS SELECT 3 * range AS id, range % 7 AS k FROM range(20000)")
    con.execute("DELETE FROM t WHERE id % 5 = 1")
    for size in (4000, 100):
        plan = ward.plan("t", rows=size)
        for number, how in enumerate(({}, {"sort": "k"}, {"workers": 2}, {"batch_rows": 3000})):
            done = ward.partition(plan, tmp_path / str(size) / str(number), **how)  # type: ignore[arg-type]
            assert bool(done.validation)
            assert [piece["rows"] for piece in done.pieces] == [
                piece["rows"] for piece in plan.pieces if piece["rows"] > 0
            ]
            for piece in done.pieces[::17]:
                files = [f"{done.path}/{file['path']}" for file in piece["files"]]
                one = f"SELECT id FROM read_parquet({files!r}, hive_partitioning = false)"
                assert rows(con, one) == rows(con, f"SELECT id FROM t WHERE {piece['condition']}")
            assert ward.validate("t", done).ok


def test_a_directory_is_balanced(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT range AS id, (range * range) % 9000 AS v, "
        "CASE WHEN range % 50 = 0 THEN NULL ELSE DATE '2024-01-01' + (sqrt(range) * 3)::INTEGER END AS d, "
        "['a', 'b'][1 + range % 2] AS e FROM range(20000)"
    )
    hows: list[dict[str, Any]] = [
        {"by": "d", "every": "month"},
        {"by": "v", "pieces": 30},
        {"by": "id", "pieces": 2},
        {"by": "id", "hash": 2},
    ]
    for number, how in enumerate(hows):
        done = ward.partition(ward.plan("t", **how), tmp_path / str(number))
        more = ward.rebalance(done, target_rows=2000)
        assert len(more) != len(done)
        assert more.plan.source == "t"
        check(con, ward, more, "t")
        assert ward.rebalance(more, target_rows=2000).to_dict() == more.to_dict()
        with pytest.raises(duckward.InvalidInputError, match="another partitioning took its place"):
            ward.rebalance(done, target_rows=10)
    # A value is not split.
    done = ward.partition(ward.plan("t", by="e", value=True), tmp_path / "e")
    assert ward.rebalance(done, target_rows=10).to_dict() == done.to_dict()
    (tmp_path / "0" / "more.parquet").write_bytes(b"")
    with pytest.raises(duckward.InvalidInputError, match=r"file more\.parquet belongs to no piece"):
        ward.rebalance(duckward.Partitioning.load(tmp_path / "0"), target_rows=10)


def inodes(done: duckward.Partitioning) -> dict[str, list[int]]:
    """By the digest of each piece which files it has, whatever they are called."""
    path = pathlib.Path(done.path)
    return {
        piece["digest"]: sorted((path / file["path"]).stat().st_ino for file in piece["files"])
        for piece in done.pieces
    }


def test_balancing_takes_over_what_needs_no_change(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id, range // 100 AS v, range % 3 AS k FROM range(7000)")
    hows: list[tuple[dict[str, Any], int, int]] = [
        # The first pieces are too large by now; the numbers of those above it change.
        ({"by": "id", "pieces": 12}, 600, 10),
        ({"by": "v", "pieces": 7}, 1000, 6),
        ({"by": ["id", "k"], "pieces": 7, "value": True}, 333, 18),
        ({"rows": 1000}, 2200, 1),
        ({"by": "v", "value": True}, 300, 10),
        ({"by": "id", "hash": 4}, 1000, 0),
    ]
    plans = [ward.plan("t", **how) for how, _, _ in hows]
    con.execute("INSERT INTO t SELECT range % 1000, range % 1000 // 100, 1 FROM range(2000)")
    for number, (how, target, least) in enumerate(hows):
        done = ward.partition(plans[number], tmp_path / str(number))
        before, files = inodes(done), [one for piece in done.pieces for one in piece["files"]]
        first = (pathlib.Path(done.path) / files[0]["path"]).open("rb")
        more = ward.rebalance(done, target_rows=target)
        after = inodes(more)
        kept = [digest for digest in after if before.get(digest) == after[digest]]
        assert len(kept) >= least, how
        assert len(more) != len(done)
        check(con, ward, more, "t")
        assert ward.validate("t", more).ok
        assert ward.rebalance(more, target_rows=target).to_dict() == more.to_dict()
        # Who reads the old state goes on with it.
        assert hashlib.sha256(first.read()).hexdigest() == files[0]["sha256"]
        first.close()


def test_values_are_put_together_and_taken_apart(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute(
        "CREATE TABLE t AS SELECT range AS id, CASE WHEN range < 5000 THEN 'much' WHEN range < 5900 "
        "THEN 'some' ELSE 'v' || range % 40 END AS s FROM range(7000)"
    )
    con.execute("INSERT INTO t VALUES (1, NULL), (2, '=v1=2')")
    done = ward.partition(ward.plan("t", by="s", value=True), tmp_path / "p")
    assert len(done) == 44
    before = inodes(done)
    few = ward.rebalance(done, target_rows=600)
    check(con, ward, few, "t")
    sizes = {piece["name"]: piece["rows"] for piece in few.pieces}
    assert (sizes.pop("much"), sizes.pop("some"), sizes.pop("null")) == (5000, 900, 1)
    assert all(name.startswith("=") and 200 < rows <= 600 for name, rows in sizes.items())
    assert [one["value"] for one in few.plan.heavy] == ["much"]
    # Those that were alone before and now have the files that they had.
    after = inodes(few)
    assert sum(before.get(digest) == files for digest, files in after.items()) == 3
    many = ward.rebalance(few, target_rows=60)
    check(con, ward, many, "t")
    assert max(piece["rows"] for piece in many.pieces if piece["name"] not in ("much", "some")) <= 60
    assert ward.validate("t", many).ok
    assert duckward.Plan.from_json(many.plan.to_json()) == many.plan


def test_random_directories_are_balanced(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    chance = random.Random(11)
    hows: list[dict[str, Any]] = [
        {"by": "n", "pieces": 9}, {"by": "s", "value": True}, {"by": "id", "hash": 5},
        {"by": "ts", "every": "month"}, {"by": ["ts", "id"], "every": "quarter", "hash": 2},
        {"by": ["s", "n"], "value": True, "pieces": 4}, {"by": ["s", "id"], "value": True, "hash": 2},
        {"rows": 80}, {"by": "n", "pieces": 90}, {"by": "n", "value": True},
    ]  # fmt: skip
    for number, how in enumerate(hows):
        con.execute(
            f"CREATE OR REPLACE TABLE t AS SELECT range AS id, (random() * random() * 300)::INTEGER AS n, "
            f"TIMESTAMP '2024-01-01' + INTERVAL (random() * random() * 9000) HOUR AS ts, "
            f"nullif(chr(65 + (random() * random() * 20)::INTEGER), 'C') AS s "
            f"FROM range({chance.choice([400, 900])})"
        )
        done = ward.partition(ward.plan("t", **how), tmp_path / str(number))
        for target in chance.sample([40, 150, 333, 5000], 2):
            if "rows" in how and target < 150:
                with pytest.raises(duckward.InvalidInputError, match="put together and not split"):
                    ward.rebalance(done, target_rows=target // 2)
                continue
            same = done
            done = ward.rebalance(done, target_rows=target)
            check(con, ward, done, "t", fresh=done is not same or same.validation is not None)
            assert ward.validate("t", done).ok
            # Where ranges are split is found in a sample of values, which may be few.
            if "ts" not in how.get("by", "") and "pieces" not in how:
                assert ward.rebalance(done, target_rows=target).to_dict() == done.to_dict()


def test_a_balanced_directory_is_rid_of_what_a_kill_left(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(1000)")
    done = ward.partition(ward.plan("t", by="id", pieces=4), tmp_path / "t")
    left = tmp_path / ".duckward-t"
    # The old state, killed between its exchange for the new one and its removal.
    shutil.copytree(tmp_path / "t", left)
    held = os.open(left, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert ward.rebalance(done, target_rows=250).to_dict() == done.to_dict()
    assert left.exists(), "somebody is writing there"
    os.close(held)
    (left / "journal.json").write_text("{}")
    assert ward.rebalance(done, target_rows=250).to_dict() == done.to_dict()
    assert left.exists(), "somebody may go on with it"
    (left / "journal.json").unlink()
    (left / "_duckward.json").unlink()
    assert ward.rebalance(done, target_rows=250).to_dict() == done.to_dict()
    check(con, ward, done, "t")


def test_pieces_are_sorted(con: Any, ward: duckward.Ward, tmp_path: pathlib.Path) -> None:
    con.execute(
        'CREATE TABLE t AS SELECT hash(range) % 5 AS k, hash(range * 3) % 1000 AS "o \'x", range AS id '
        "FROM range(9000)"
    )
    plan = ward.plan("t", by="k", value=True)
    done = ward.partition(plan, tmp_path / "t", sort=["O 'x", "id"], batch_rows=2000)
    check(con, ward, done, "t")
    for piece in done.pieces:
        (file,) = piece["files"]
        order = con.execute(f"SELECT \"o 'x\", id FROM '{tmp_path}/t/{file['path']}'").fetchall()
        assert order == sorted(order)
    for arguments, message in (
        ({"sort": "nothing"}, "t has the columns k, o 'x, id"),
        ({"batch_rows": 0}, "batch_rows=0"),
    ):
        with pytest.raises(duckward.InvalidInputError, match=message):
            ward.partition(plan, tmp_path / "u", **arguments)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_a_share_that_takes_too_long_is_tried_again(con: Any, tmp_path: pathlib.Path) -> None:
    calls: list[int] = []

    def late(value: int) -> int:
        calls.append(value)
        if calls.count(-1) < 2 and value == 7:
            calls.append(-1)
            time.sleep(3.5)
        return value

    def always_late(value: int) -> int:
        time.sleep(3)
        return value

    con.create_function("late", late, ["BIGINT"], "BIGINT", side_effects=True)
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(20)")
    with duckward.guard(con, memory="2GB") as ward:
        plan = ward.plan("SELECT CASE WHEN id = 7 THEN late(id) ELSE id END AS id FROM t", by="id", hash=3)
    calls.clear()
    with duckward.guard(con, memory="2GB", query_timeout="2s") as ward:
        done = ward.partition(plan, tmp_path / "t")
        assert done.rows == 20
        assert [(attempt["share"], attempt["attempt"]) for attempt in done.attempts] == [(0, 1), (0, 2)]
        assert {attempt["response"] for attempt in done.attempts} == {"half the pieces at once"}
        calls.clear()
        con.remove_function("late")
        con.create_function("late", always_late, ["BIGINT"], "BIGINT", side_effects=True)
        with pytest.raises(duckward.TimeoutError):
            ward.partition(plan, tmp_path / "u")
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_what_a_killed_process_has_written_is_not_written_again(
    con: Any, ward: duckward.Ward, tmp_path: pathlib.Path
) -> None:
    database, target = tmp_path / "t.duckdb", tmp_path / "lake"
    with duckdb.connect(str(database)) as made:
        made.execute("CREATE TABLE t AS SELECT range AS id, md5(range::VARCHAR) AS s FROM range(400000)")
        made.execute("CREATE TABLE u AS FROM t WHERE id % 2 = 0")
    con.execute(f"ATTACH '{database}' AS d (READ_ONLY)")
    con.execute("USE d")
    plan = ward.plan("t", by="s", pieces=5)
    plan.save(tmp_path / "plan.json")
    script = f"""
        import sys, duckdb, duckward
        con = duckdb.connect({str(database)!r}, read_only=True)
        ward = duckward.guard(con, "1GB")
        ward.on(lambda event: print(event, flush=True) if event["event"] == "share_written" else None)
        plan = duckward.Plan.load({str(tmp_path / "plan.json")!r})
        ward.partition(plan, {str(target)!r}, batch_rows=20000)
    """
    chance = random.Random(4)
    for kill in range(8):
        before = 0
        # Killed again and again, it gets further each time.
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            for line in process.stdout:
                if "share_written" in line:
                    break
            time.sleep(chance.random() * 0.2)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            if target.exists():
                break
            kept = tmp_path / ".duckward-lake" / "journal.json"
            if not kept.exists():
                # All was written, and was being put in its place: that begins anew.
                before = 0
                break
            journal = json.loads(kept.read_text())
            assert sum(journal["done"]) > before
            before = sum(journal["done"])
        if target.exists():
            check(con, ward, duckward.Partitioning.load(target), "t", fresh=False)
        elif kill % 4 == 3:
            # Another plan begins anew.
            done = ward.partition(ward.plan("u", by="id", pieces=3), target, batch_rows=20000)
            assert done.resumed == 0
            check(con, ward, done, "u")
        else:
            # What is left is written in shares as they were, however many there would be now.
            done = ward.partition(plan, target, batch_rows=None if kill % 4 == 2 else 20000)
            assert done.resumed == before
            check(con, ward, done, "t")
        for path in sorted(target.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        target.rmdir()
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".duckward")]
