"""What `explain()` says would happen, that it runs nothing, and what reports and progress say of pieces."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import duckward

ROWS = 2_000_000
# What these keep is far above the budget, whatever DuckDB is left of it.
RISKY = "select g, list(s) as a, list(s || 'x') as b, string_agg(s) as c from t group by g"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database file with `ROWS` rows in 1000 groups."""
    file = str(tmp_path_factory.mktemp("explain") / "large.duckdb")
    with duckdb.connect(file) as con:
        con.execute(f"create table t as select i % 1000 as g, 'x' || i as s, i as v from range({ROWS}) r(i)")
    return file


@pytest.fixture
def small(large: str) -> Iterator[duckward.Ward]:
    """A ward over that database with little memory."""
    with duckdb.connect(large) as con, duckward.guard(con, memory="400MB") as ward:
        yield ward


def tables(con: duckdb.DuckDBPyConnection) -> list[Any]:
    return con.execute("select database_name, table_name from duckdb_tables() order by all").fetchall()


# ---------------------------------------------------------------- what it says


def test_a_risky_query_starts_in_pieces(small: duckward.Ward) -> None:
    told = small.explain(RISKY)
    assert told.rung == "in pieces"
    assert "would keep about" in told.why
    assert told.can_be_cut
    assert told.why_not is None
    assert told.learned is None
    [query] = told.queries
    assert query["keys"] == ["g"]
    assert query["rows"] == ROWS
    assert query["groups"] is not None
    assert 100 < query["groups"] < 10_000
    assert query["bytes"] is not None
    assert query["bytes"] > told.memory_limit
    assert query["pieces"] is not None
    assert query["pieces"] >= 2
    assert "string_agg" in query["sql"]
    assert told.budget == 400_000_000
    assert 0 < told.memory_limit < told.budget


def test_what_it_says_of_a_risky_query_is_what_happens(small: duckward.Ward) -> None:
    told = small.explain(RISKY)
    answer = small.sql(f"select count(*), sum(len(a)) from ({RISKY})")
    assert answer.fetchall() == [(1000, ROWS)]
    report = answer.report
    assert report.rung == told.rung == "in pieces"
    assert [attempt["rung"] for attempt in report.attempts] == ["in pieces"]
    assert len(report.pieces) >= 2


def test_a_harmless_query_starts_as_is(small: duckward.Ward) -> None:
    told = small.explain("select v + 1 from t where v < 10")
    assert told.rung == "as is"
    assert "calls no function" in told.why
    assert not told.can_be_cut
    assert told.why_not == "nothing in it has keys to cut by"
    assert told.queries == []


def test_a_query_that_fits_starts_as_is_and_can_be_cut_later(small: duckward.Ward) -> None:
    told = small.explain("select g, median(v) from t where v < 1000 group by g")
    assert told.rung == "as is"
    assert told.can_be_cut
    assert [query["keys"] for query in told.queries] == [["g"]]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("select g, list(v + random()) from t group by g", "random()"),
        ("select unnest(range(3))", "nothing in it has keys"),
        ("update t set v = 1", "not one SELECT"),
        ("checkpoint", "not one SELECT"),
        ("set threads = 2", "not one SELECT"),
    ],
)
@pytest.mark.parametrize("pieces", [None, 3])
def test_one_that_cannot_be_cut_says_why(small: duckward.Ward, query: str, why: str, pieces: Any) -> None:
    told = small.explain(query, pieces=pieces)
    assert not told.can_be_cut
    assert told.why_not is not None
    assert why in told.why_not
    assert told.queries == []
    # What was asked for is refused, and not done otherwise.
    assert (told.rung, "refused" in told.why) == (("as is", False) if pieces is None else ("in pieces", True))


def test_pieces_decide(small: duckward.Ward) -> None:
    told = small.explain(RISKY, pieces=7)
    assert (told.rung, told.why) == ("in pieces", "pieces=7 asks for it")
    assert [query["pieces"] for query in told.queries] == [7]
    told = small.explain(RISKY, pieces=False)
    assert (told.rung, told.can_be_cut) == ("as is", False)
    assert told.why_not == "pieces=False forbids it"
    assert small.explain(RISKY, pieces="auto").rung == "in pieces"


def test_several_queries_in_order(ward: duckward.Ward) -> None:
    ward.sql("create table t as select i % 7 as k, i as v from range(1000) r(i)")
    told = ward.explain(
        """select lower(x.n) as m, list(x.v) from
           (select 'N' || k as n, v from t order by v limit 500) x group by m having count(*) > 1""",
        pieces=4,
    )
    once, cut = told.queries
    assert (once["pieces"], once["keys"], once["bytes"]) == (None, [], None)
    assert "LIMIT 500" in once["sql"]
    assert (cut["pieces"], cut["keys"]) == (4, ["lower(x.n)"])


def test_what_was_learnt(ward: duckward.Ward) -> None:
    query = "select i % 10 as k, median(i) from range(1000) r(i) group by k"
    assert ward.explain(query).learned is None
    assert len(ward.sql(query, pieces=3).fetchall()) == 10
    told = ward.explain(query)
    assert told.learned is not None
    assert told.learned["rung"] == "in pieces"
    assert told.learned["seconds"] > 0
    assert told.rung == "in pieces"
    assert "the last time" in told.why
    told = ward.explain(query, pieces=False)
    assert told.rung == "as is"


def test_an_object_of_the_program_cannot_be_cut(ward: duckward.Ward) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"k": [1, 2], "v": [3, 4]})
    told = ward.explain("select k, median(v) from frame group by k", pieces=2)
    assert told.why_not is not None
    assert "reads frame" in told.why_not
    assert len(frame) == 2


# ---------------------------------------------------------------- that it runs nothing


def test_it_runs_nothing_and_leaves_nothing(ward: duckward.Ward, con: duckdb.DuckDBPyConnection) -> None:
    con.execute("create table t as select i % 10 as k, i as v from range(1000) r(i)")
    calls: list[int] = []

    def seen(value: int) -> int:
        calls.append(value)
        return value

    con.create_function("seen", seen, ["BIGINT"], "BIGINT")
    before = tables(con)
    for query in (
        "select k, median(seen(v)) from t group by k",
        "insert into t select k, max(seen(v)) from t group by k",
        "create table u as select k, list(seen(v)) from t group by k",
        "delete from t",
        "drop table t",
    ):
        ward.explain(query)
        ward.explain(query, pieces=3)
    assert calls == []
    assert tables(con) == before
    assert con.execute("select count(*) from t").fetchall() == [(1000,)]
    assert ward.status()["running"] == 0


def test_in_a_transaction(ward: duckward.Ward, con: duckdb.DuckDBPyConnection) -> None:
    con.begin()
    con.execute("create table t as select i % 10 as k, i as v from range(100) r(i)")
    assert ward.explain("select k, median(v) from t group by k").can_be_cut
    con.rollback()
    assert tables(con) == []


def test_parameters_are_taken(ward: duckward.Ward, con: duckdb.DuckDBPyConnection) -> None:
    con.execute("create table t as select i % 10 as k, i as v from range(100) r(i)")
    assert ward.explain("select k from t where v = ?", [3]).rung == "as is"
    told = ward.explain("select k, median(v) from t where v < ? group by k", [50])
    assert told.can_be_cut
    assert [query["keys"] for query in told.queries] == [["k"]]
    assert "50" in told.queries[0]["sql"]
    assert ward.explain("insert into t values ($a, $b)", {"a": 1, "b": 2}).rung == "as is"
    assert con.execute("select count(*) from t").fetchall() == [(100,)]


def test_on_a_cursor(ward: duckward.Ward) -> None:
    cursor = ward.cursor()
    cursor.execute("create temp table t as select i % 10 as k, i as v from range(100) r(i)")
    assert ward.explain("select k, median(v) from t group by k", connection=cursor).can_be_cut
    with pytest.raises(duckdb.CatalogException):
        ward.explain("select k, median(v) from t group by k")


def test_an_answer_that_is_being_read_goes_on(ward: duckward.Ward) -> None:
    answer = ward.sql("select i from range(500_000) r(i) order by i")
    first = next(answer).num_rows
    assert ward.explain("select 1").rung == "as is"
    assert first + sum(batch.num_rows for batch in answer) == 500_000


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "query",
    [
        "selec 1",
        "select nope from t",
        "with x as (select 1 as a) select b from x",
        "insert into nope values (1)",
        "insert into t select nope from t",
        "create table u as select nope from t",
    ],
)
def test_bad_sql_is_duckdbs_own_error(
    ward: duckward.Ward, con: duckdb.DuckDBPyConnection, query: str
) -> None:
    con.execute("create table t as select i % 10 as k, i as v from range(100) r(i)")
    with pytest.raises(duckdb.Error) as own:
        con.execute(query)
    with pytest.raises(type(own.value)) as caught:
        ward.explain(query)
    # In an EXPLAIN the place in the line is another one.
    assert str(caught.value).splitlines()[0] == str(own.value).splitlines()[0]
    assert ward.sql("select 1").fetchall() == [(1,)]


@pytest.mark.parametrize("pieces", [0, -1, 1025, 2.5, True, "no", "3", [1]])
def test_bad_pieces(ward: duckward.Ward, pieces: Any) -> None:
    with pytest.raises(duckward.InvalidInputError, match=r"pieces=.*give"):
        ward.explain("select 1", pieces=pieces)


@pytest.mark.parametrize("query", ["", "  ", "select 1; select 2", 7, None])
def test_bad_statements(ward: duckward.Ward, query: Any) -> None:
    with pytest.raises(duckward.InvalidInputError, match="give"):
        ward.explain(query)


def test_bad_connections(ward: duckward.Ward) -> None:
    with pytest.raises(duckward.InvalidInputError):
        ward.explain("select 1", connection="x")  # type: ignore[arg-type]
    with duckdb.connect() as other, pytest.raises(duckward.InvalidInputError, match="another database"):
        ward.explain("select 1", connection=other)


# ---------------------------------------------------------------- its forms


def test_forms(small: duckward.Ward) -> None:
    told = small.explain(RISKY)
    data = told.to_dict()
    assert json.loads(json.dumps(data)) == data
    for name, value in data.items():
        assert getattr(told, name) == value
    text = str(told)
    assert text.startswith("starts         in pieces\nwhy ")
    assert "pieces by g" in text
    assert "<table>" in told._repr_html_()
    assert repr(told) == "<duckward.Explanation: starts in pieces>"
    with pytest.raises(AttributeError):
        told.rung = "as is"  # type: ignore[misc]


# ---------------------------------------------------------------- reports and progress


def test_a_report_has_the_pieces(ward: duckward.Ward) -> None:
    answer = ward.sql("select i % 10 as k, median(i) from range(1000) r(i) group by k", pieces=4)
    assert answer.report.pieces == []
    assert answer.report.verified is None
    assert len(answer.fetchall()) == 10
    assert answer.report.verified == "counts"
    pieces = answer.report.pieces
    assert len(pieces) == 4
    for piece in pieces:
        assert piece.keys() == {"rows", "seconds", "splits", "spooled"}
        assert piece["seconds"] > 0
        assert piece["splits"] == 0
    assert sum(piece["rows"] or 0 for piece in pieces) == 1000
    assert answer.report.to_dict()["pieces"] == pieces
    assert answer.report.why_not is None


def test_a_report_says_why_not(con: duckdb.DuckDBPyConnection) -> None:
    # In so little memory the plan alone does not say that it fits.
    con.execute("set memory_limit = '96MiB'")
    with duckward.guard(con) as ward:
        answer = ward.sql("select i % 10 as k, median(i + random()) from range(1000000) r(i) group by k")
        assert len(answer.fetchall()) == 10
    assert answer.report.pieces == []
    assert answer.report.why_not is not None
    assert "random()" in answer.report.why_not


def test_what_surely_fits_is_not_looked_at(ward: duckward.Ward) -> None:
    answer = ward.sql("select i % 10 as k, median(i + random()) from range(1000) r(i) group by k")
    assert len(answer.fetchall()) == 10
    assert answer.report.pieces == []
    assert answer.report.why_not is None


def test_progress_is_over_all_pieces(ward: duckward.Ward) -> None:
    seen: list[tuple[float, float | None]] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "piece_done":
            seen.append((event["share"], ward.progress()))

    ward.on(note)
    query = "select i % 1000 as k, median(i) from range(100_000) r(i) group by k"
    assert len(ward.sql(query, pieces=5).fetchall()) == 1000
    shares = [share for share, _ in seen]
    assert len(shares) == 5
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] == pytest.approx(1)
    assert [told for _, told in seen] == pytest.approx(shares)
    assert ward.progress() is None


def test_progress_can_be_asked_from_another_thread(ward: duckward.Ward) -> None:
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            if (share := ward.progress()) is not None:
                seen.append(share)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        query = "select i % 10_000 as k, median(i) from range(1_000_000) r(i) group by k"
        assert len(ward.sql(query, pieces=20).fetchall()) == 10_000
    finally:
        done.set()
        watcher.join()
    assert seen
    assert seen == sorted(seen)
    assert all(0 <= share <= 1 for share in seen)
