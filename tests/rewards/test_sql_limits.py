"""Guarded SQLite: whatever a query asks for, it gets an error in bounded time and memory."""

import resource
import time

import pytest

from rlvr.rewards.database.sqlite import MAX_HEAP, Limits, OutOfTime, QueryError, limit_memory, run

SCRIPT = """CREATE TABLE t(a INTEGER, b TEXT); INSERT INTO t VALUES (1,'x'),(2,'y'),(3,'z');
CREATE VIEW v AS SELECT a FROM t; CREATE VIRTUAL TABLE f USING fts5(body);
INSERT INTO f VALUES ('a hidden word');"""
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


def answer(query, *, rows=100, steps=1_000_000, seconds=5.0, database=SCRIPT):
    return run(query, database, Limits(rows, steps, time.monotonic() + seconds))


@pytest.mark.parametrize(
    "query",
    [
        f"{ENDLESS} SELECT count(*) FROM n",
        f"{ENDLESS} SELECT group_concat(i) FROM n",
        f"{ENDLESS} SELECT max(i) OVER (ORDER BY i) FROM n",
        f"{ENDLESS} SELECT i FROM n ORDER BY i DESC",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "SELECT count(*) FROM " + ", ".join(f"t t{i}" for i in range(20)),
        "SELECT a FROM t WHERE (SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i,"
        " t j, t k, t l, t m, t n) > t.a",
    ],
    ids=range(7),
)  # fmt: skip
def test_an_endless_query_ends_at_its_steps(query):
    with pytest.raises(QueryError, match="1,000,000 steps"):
        answer(query)


def test_an_endless_query_ends_at_its_time():
    with pytest.raises(OutOfTime):
        answer(f"{ENDLESS} SELECT count(*) FROM n", steps=10**12, seconds=0.1)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (f"{ENDLESS} SELECT i FROM n", "more than 100 rows"),
        (f"{ENDLESS} SELECT hex(zeroblob(400000)) FROM n", "more than 16 MiB"),
        ("SELECT zeroblob(2000000000)", "too big"),
        ("SELECT hex(zeroblob(900000))", "too big"),
        ("SELECT hex(randomblob(500000000))", "randomblob"),
        ("SELECT random()", "random"),
        ("SELECT fts3_tokenizer('simple', x'41')", "fts3_tokenizer"),
        ("SELECT load_extension('/x.so')", "load_extension"),
        ("SELECT 'a' LIKE '" + "%a" * 200 + "'", "LIKE"),
        ("SELECT " + "+".join("1" * 300), "depth"),
        (" UNION ".join(["SELECT 1"] * 60), "compound"),
        ("SELECT '" + "a" * 30_000 + "'", "too large"),
        ("INSERT INTO t VALUES (4, 'w')", "authorized"),
        ("UPDATE t SET a = 0 RETURNING a", "authorized"),
        ("CREATE TEMP TABLE u(a)", "authorized"),
        ("DROP TABLE t", "authorized"),
        ("ATTACH ':memory:' AS m", "authorized"),
        ("PRAGMA writable_schema=ON", "authorized"),
        ("UPDATE sqlite_master SET sql = ''", "may not be modified|readonly|authorized"),
        ("BEGIN IMMEDIATE", "authorized"),
        ("SAVEPOINT s", "authorized"),
        ("REINDEX", "authorized|no rows"),
        ("VACUUM", "."),
        ("", "no rows"),
    ],
)  # fmt: skip
def test_what_is_forbidden_or_too_large_is_an_error(query, words):
    with pytest.raises(QueryError, match=words):
        answer(query)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT a FROM v", [(1,), (2,), (3,)]),
        ("SELECT body FROM f WHERE f MATCH 'hidden'", [("a hidden word",)]),
        ("SELECT value FROM json_each('[1, 2]')", [(1,), (2,)]),
        ("SELECT count(*) FROM sqlite_master WHERE name = 't'", [(1,)]),
        ("VALUES (1, x'00', NULL, 1.5, 'é')", [(1, b"\0", None, 1.5, "é")]),
        ("SELECT CAST(x'ff' AS TEXT)", [("\udcff",)]),
        ("SELECT round(avg(a) OVER (), 1) FROM t LIMIT 1", [(2.0,)]),
    ],
)
def test_an_ordinary_query_has_its_rows(query, rows):
    assert answer(query).rows == rows


def test_a_query_reads_where_it_names_a_table_or_view_of_the_database():
    for query in (
        "SELECT count(*) FROM t",
        "SELECT 1 FROM v",
        "SELECT 1 WHERE 1 IN (SELECT a FROM t)",
    ):
        assert answer(query).reads
    for query in ("SELECT 1", "SELECT * FROM sqlite_master", "SELECT * FROM json_each('[1]')"):
        assert not answer(query).reads


@pytest.mark.parametrize(
    "query",
    [
        # each name is written out in full wherever it is used: 2 to the power of 40
        "WITH a0 AS (SELECT 1)"
        + "".join(f", a{i} AS (SELECT 1 FROM a{i - 1} p, a{i - 1} q)" for i in range(1, 41))
        + " SELECT count(*) FROM a40",
        "WITH RECURSIVE n(i, s) AS (SELECT 1, '' UNION SELECT i + 1, printf('%0900000d', i) FROM n)"
        " SELECT count(*) FROM n",
    ],
    ids=["prepared", "running"],
)
def test_memory_has_a_limit_and_the_next_query_works(query):
    limit_memory()  # of this process
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    with pytest.raises(QueryError, match="memory"):
        answer(query, steps=10**9, seconds=30)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * MAX_HEAP >> 10
    assert answer("SELECT a FROM t").rows == [(1,), (2,), (3,)]


def test_a_script_is_built_anew_for_each_query_and_cannot_reach_files(tmp_path):
    assert answer("SELECT count(*) FROM t").rows == answer("SELECT count(*) FROM t").rows == [(3,)]
    for reach in (f"ATTACH '{tmp_path}/a' AS a;", f"VACUUM INTO '{tmp_path}/b';"):
        with pytest.raises(QueryError):
            answer("SELECT 1", database=SCRIPT + reach)
    assert list(tmp_path.iterdir()) == []


def test_a_dump_with_pragmas_and_an_open_transaction_is_a_database():
    dump = (
        "PRAGMA foreign_keys=OFF; BEGIN TRANSACTION; CREATE TABLE u(a); INSERT INTO u VALUES (7);"
    )
    assert answer("SELECT a FROM u", database="-- a dump\n" + dump).rows == [(7,)]
