"""The sql verifier: what is the same answer, where the query stands, which rows are usable."""

import sqlite3

import pytest

from rlvr.rewards import sql
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample

LOANS = "CREATE TABLE loan(id INTEGER PRIMARY KEY, book TEXT, days INTEGER, fee REAL);"
FIRST = LOANS + "INSERT INTO loan VALUES (1,'Emma',9,0.1),(2,'Ulysses',30,0.2),(3,'Emma',41,NULL);"
SECOND = LOANS + "INSERT INTO loan VALUES (1,'Dune',8,0.7),(2,'Emma',12,1.5),(3,'Dune',12,0.1);"
LONG = "SELECT book FROM loan WHERE days > 10"


def verdict(completion, gold=LONG, database=(FIRST, SECOND), order_matters=None, **options):
    row = {"database": list(database), "order_matters": order_matters}
    return sql.build(sql.Config(**options))(Sample("p", completion, gold, row))


def outcome(*arguments, **options):
    return verdict(*arguments, **options).outcome


def fault(answer, row):
    return sql.fault(Sample("p", "", answer, row), sql.Config())


@pytest.mark.parametrize(
    ("gold", "query"),
    [
        (LONG, "SELECT l.book AS title FROM loan l WHERE NOT l.days <= 10 ORDER BY id DESC"),
        (LONG, "/* first */ SELECT book -- then\nFROM loan WHERE days > 10 ; -- last"),
        (LONG, LONG + " AND book <> 'DROP TABLE loan; DELETE'"),
        ("SELECT count(*) FROM loan", "SELECT sum(1.0) FROM loan"),
        ("SELECT sum(fee) FROM loan", "SELECT sum(fee) FROM (SELECT fee FROM loan ORDER BY fee)"),
        ("SELECT max(days) FROM loan", "SELECT days FROM loan ORDER BY days DESC LIMIT 1"),
        (LONG, "WITH long AS (SELECT * FROM loan WHERE days > 10) SELECT book FROM long"),
        (LONG, LONG + " AND id IN (SELECT value FROM json_each('[1,2,3]'))"),
    ],
)
def test_another_query_with_the_same_result_is_correct(gold, query):
    assert outcome(query, gold) == "correct"


@pytest.mark.parametrize(
    ("gold", "query"),
    [
        (LONG, "SELECT book FROM loan WHERE days > 20"),
        ("SELECT DISTINCT book FROM loan", "SELECT book FROM loan"),
        (LONG, "SELECT * FROM loan WHERE days > 10"),
        ("SELECT book, days FROM loan", "SELECT days, book FROM loan"),
        ("SELECT book, days FROM loan", "SELECT book || '|' || days FROM loan"),
        ("SELECT sum(days) FROM loan", "SELECT CAST(sum(days) AS TEXT) FROM loan"),
        ("SELECT fee FROM loan", "SELECT coalesce(fee, 0) FROM loan"),
        (LONG, "SELECT 'Ulysses' UNION ALL SELECT 'Emma'"),
        (LONG, "SELECT book FROM loan WHERE 0"),
        (LONG, "SELECT NULL"),
        (LONG, "SELECT title FROM loan"),
        (LONG, LONG + "; SELECT 1"),
        (LONG, LONG + " AND random() IS NOT NULL"),
        (LONG, "WITH l AS (SELECT 1) DELETE FROM loan RETURNING book"),
        (LONG, "SELECT load_extension('x')"),
        (LONG, "SELECT * FROM pragma_table_info('loan')"),
        (LONG, "SELECT '\ud800'"),
        (LONG, "SELECT 'a\0b'"),
        (LONG, "SELECT CAST(x'ff' AS TEXT)"),
        (LONG, "SELECT ?"),
    ],
)
def test_another_result_and_an_error_are_wrong(gold, query):
    found = verdict(query, gold)
    assert found.outcome == "wrong"
    assert found.reason


@pytest.mark.parametrize(
    "text",
    ["", ";", "I cannot say.", f"The answer is {LONG}", "DROP TABLE loan", "PRAGMA query_only=OFF",
     f"EXPLAIN {LONG}", f"BEGIN; {LONG}", f"```sql\n{LONG}", f"```python\n{LONG}\n```", "-- SELECT",
     f"<think>{LONG}", f"<think>```sql\n{LONG}\n```</think>I do not know."],
)  # fmt: skip
def test_without_a_query_nothing_is_found(text):
    assert outcome(text) == "unparsable"


@pytest.mark.parametrize(
    "text",
    [
        f"<think>SELECT 1</think>Here it is:\n```sql\n{LONG};\n```\nIt filters by days.",
        f"```sql\nSELECT 1\n```\nNo, rather:\n```SQL\n{LONG}\n```",
        f"```sql\n{LONG}\n```\nIt returns\n```\nUlysses\nEmma\n```",
        f"Thus: ```sql\n{LONG}```",
        f"```sql {LONG}```",
        f"```{LONG}```",
        f"~~~\n{LONG}\n~~~",
        f"so <answer>{LONG}</answer>",
        f"<answer>\n```sqlite\r\n{LONG}\r\n```\r\n</answer>",
    ],
)
def test_the_query_is_the_last_block_or_the_tag_or_the_text(text):
    assert outcome(text) == "correct"


@pytest.mark.parametrize(
    "text", [LONG, f"```\n{LONG}\n```", f"a <think>b</think>{LONG};", "no", "```"]
)
def test_the_part_that_decides_gets_the_same_verdict(text):
    part = sql.answer_text(Sample("p", text), sql.Config())
    assert outcome(part) == outcome(text)


def test_order_counts_where_the_row_or_else_the_gold_says_so():
    ordered, other = "SELECT id FROM loan ORDER BY id", "SELECT id FROM loan ORDER BY id DESC"
    assert outcome(other, ordered) == "wrong"
    assert "order" in verdict(other, ordered).reason
    assert outcome(other, ordered, order_matters=False) == "correct"
    assert outcome(other, "SELECT id FROM loan", order_matters=True) == "wrong"
    assert outcome(other, f"SELECT * FROM ({ordered})") == "correct"
    assert outcome(other, ordered, rows="bag") == "correct"
    assert outcome("SELECT id FROM loan UNION ALL SELECT 1", ordered, rows="set") == "correct"


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("select a from t order\n by a", True),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER -- by\n BY 1", True),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT ' ORDER BY (' FROM t", False),
        ("SELECT a FROM t /* ORDER BY a */", False),
        ('SELECT "order" by FROM t', False),
        ("SELECT ')' FROM (SELECT 1 ORDER BY 1)", False),
    ],
)
def test_only_an_order_by_of_the_query_itself_orders_it(query, ordered):
    assert sql.is_ordered(query) is ordered


def test_columns_may_be_asked_for_in_any_order():
    gold, swapped = "SELECT book, days FROM loan", "SELECT days, book FROM loan"
    assert outcome(swapped, gold, columns="any") == "correct"
    assert outcome("SELECT days, days FROM loan", gold, columns="any") == "wrong"


def test_a_query_that_reads_nothing_does_not_pass_even_on_one_database():
    gold = "SELECT max(days) FROM loan"
    assert outcome("SELECT 41", gold, database=[FIRST]) == "wrong"
    assert outcome("SELECT value FROM json_each('[41]')", gold, database=[FIRST]) == "wrong"
    assert outcome("SELECT 41", "SELECT 40 + 1", database=[FIRST]) == "correct"


def test_one_of_several_golds_must_agree_on_all_databases():
    golds = ["SELECT max(days) FROM loan", "SELECT max(id) FROM loan"]
    assert outcome(golds[1], golds) == "correct"
    # 41 is the first gold's on the first database, 3 is the second gold's on the second
    mixed = "SELECT CASE WHEN max(days) > 40 THEN max(days) ELSE max(id) END FROM loan"
    assert outcome(mixed, golds) == "wrong"


def test_a_gold_that_fails_is_left_out_while_another_works():
    assert fault(["SELECT nothing FROM loan", LONG], {"database": FIRST}) is None
    assert outcome(LONG, ["SELECT nothing FROM loan", LONG]) == "correct"


@pytest.mark.parametrize(
    ("answer", "row", "words"),
    [
        (LONG, {"database": "shop/missing.sqlite"}, ["shop/missing.sqlite", "no file"]),
        (LONG, {}, ["database", "None"]),
        (LONG, {"database": []}, ["database"]),
        (LONG, {"database": [FIRST, 3]}, ["database"]),
        (LONG, {"database": "CREATE TABLE loan(; "}, ["gold query fails", "syntax error"]),
        (LONG, {"database": FIRST, "order_matters": "perhaps"}, ["order_matters", "perhaps"]),
        (None, {"database": FIRST}, ["gold query", "None"]),
        ("", {"database": FIRST}, ["gold query"]),
        ("SELECT title FROM loan", {"database": FIRST}, ["no such column: title"]),
        ("SELECT book FROM loan WHERE 0", {"database": [FIRST, SECOND]}, ["returns no rows"]),
        ("SELECT random()", {"database": FIRST}, ["random"]),
        ("DELETE FROM loan", {"database": FIRST}, ["not authorized"]),
        ("SELECT 1 FROM loan a, loan b, loan c, loan d, loan e, loan f, loan g, loan h, loan i",
         {"database": FIRST}, ["10,000 rows"]),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_judged_says_why_and_is_skipped(answer, row, words):
    reason = fault(answer, row)
    assert all(word in reason for word in words)
    assert sql.build(sql.Config())(Sample("p", LONG, answer, row)).outcome == "skipped"


def test_a_database_file_is_found_by_its_name_read_in_place_and_left_as_it_was(tmp_path):
    path = tmp_path / "with ?#% library" / "loans.sqlite"
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(FIRST)
    connection.close()
    before = path.read_bytes(), sorted(tmp_path.rglob("*"))
    where = str(tmp_path / "with ?#% library" / "{database}.sqlite")
    for query, expected in ((LONG, "correct"), ("WITH a AS (SELECT 1) DELETE FROM loan", "wrong")):
        assert outcome(query, database=["loans"], path=where) == expected
    assert (path.read_bytes(), sorted(tmp_path.rglob("*"))) == before


def test_a_file_that_is_no_database_is_a_fault(tmp_path):
    path = tmp_path / "notes.sqlite"
    path.write_text("not a database" * 100)
    assert "not a database" in fault(LONG, {"database": str(path)})
    assert "no file" in fault(LONG, {"database": str(tmp_path)})


def test_nothing_is_written_to_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    queries = [
        f"VACUUM INTO '{tmp_path}/a'",
        f"ATTACH '{tmp_path}/b' AS b",
        "SELECT writefile('c', 1)",
    ]
    for query in queries:
        assert outcome(query) in ("wrong", "unparsable")
        assert fault(query, {"database": FIRST}) is not None
        assert fault(LONG, {"database": f"{FIRST}{query};"}) is not None
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_cannot_be_stopped_costs_its_worker_and_no_other_sample():
    # one step of SQLite that compares half a megabyte with half a megabyte at every place
    searched = "replace(hex(zeroblob(500000)), '0', 'a')"
    bomb = f"SELECT instr({searched}, replace(hex(zeroblob(240000)), '0', 'a') || 'b') FROM loan"
    row = {"database": [FIRST, SECOND]}
    samples = [Sample("p", text, LONG, row) for text in (bomb, LONG, bomb + " ", "SELECT 1")]
    with Scorer([{"sql": {"seconds": 0.2}}], workers=1) as scorer:
        scored = scorer.score(samples)
    outcomes = [item.verdict.outcome for item in scored]
    assert outcomes == ["timeout", "correct", "timeout", "wrong"]


def test_a_gold_that_asks_for_the_time_is_asked_each_time():
    gold = "SELECT strftime('%Y', 'now'), count(*) FROM loan"
    assert outcome("SELECT strftime('%Y', current_date), 3 FROM loan LIMIT 1", gold) == "correct"


@pytest.mark.parametrize("database", ["a" * 100_000, "a\0b", "\ud800", "/", "../*"])
def test_a_path_that_cannot_be_one_is_a_fault(database):
    assert "no file" in fault(LONG, {"database": database})
