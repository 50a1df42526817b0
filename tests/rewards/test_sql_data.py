"""Labelled queries and attacks on the sql verifier, through worker processes."""

import json
import os
from pathlib import Path

import pytest

from rlvr.rewards import sql
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample


def data(name):
    given = os.environ.get("RLVR_SHARED_DATA")
    path = (Path(given) if given else Path(__file__).parents[3] / "shared" / "data") / name
    if not path.exists():
        pytest.skip(f"no {path}; set RLVR_SHARED_DATA to the folder of the data")
    return path


def lines(name):
    return [json.loads(line) for line in data(name).read_text(encoding="utf-8").splitlines()]


def outcomes(samples, **options):
    faults = {sql.fault(sample, sql.Config(**options)) for sample in samples}
    assert faults == {None}
    with Scorer([{"sql": options}], workers=2) as scorer:
        return [item.verdict.outcome for item in scorer.score(samples)]


def test_labelled_queries_are_judged_as_labelled():
    rows = lines("sql_bench/dev.jsonl")
    scripts = {
        name: ";\n".join(statements) + ";"
        for name, statements in json.loads(data("sql_bench/databases.json").read_text()).items()
    }
    samples = [
        Sample(
            "p",
            f"<think>Which tables?</think>Here it is.\n```sql\n{row['candidate_sql']}\n```",
            row["gold_alternatives"],
            {"database": scripts[row["db"]], "order_matters": row["order_matters"]},
        )
        for row in rows
    ]
    found = outcomes(samples)
    pairs = list(zip(rows, found, strict=True))
    assert [r["id"] for r, o in pairs if (o == "correct") != bool(r["label"])] == []
    assert set(found) == {"correct", "wrong"}


def test_attacks_get_nothing_and_their_benign_twins_do():
    rows = lines("hacks/sql.dev.jsonl")
    markers = {
        row["must_not"].removesuffix(" exists") for row in rows if "exists" in row["must_not"]
    }
    there = {marker for marker in markers if Path(marker).exists()}
    samples = [
        Sample(
            "p",
            row["sql"],
            row["gold_sql"],
            {"database": row["databases"], "order_matters": row["order_matters"]},
        )
        for row in rows
    ]
    found = outcomes(samples)
    pairs = list(zip(rows, found, strict=True))
    assert [r["id"] for r, o in pairs if (o == "correct") != (r["expected_reward"] == 1)] == []
    assert "crashed" not in found
    assert {marker for marker in markers if Path(marker).exists()} == there


def test_a_database_file_answers_questions_about_itself():
    path = data("src/spider/department_store.sqlite")
    before = path.read_bytes()
    golds = [
        "SELECT count(*) FROM Customers",
        "SELECT product_name FROM Products ORDER BY product_price DESC, product_id LIMIT 5",
        "SELECT s.supplier_name, count(*) FROM Suppliers s JOIN Product_Suppliers USING (supplier_id)"
        " GROUP BY 1",
    ]
    where = str(path.parent / "{database}.sqlite")
    row = {"database": path.stem}
    texts = [
        *golds,
        *(f"SELECT * FROM ({gold})" for gold in golds),
        "SELECT 15",
        "SELECT 1 FROM nothing",
    ]
    samples = [Sample("p", text, gold, row) for gold in golds for text in texts]
    found = outcomes(samples, path=where)
    right = {(gold, text) for gold in golds for text in (gold, f"SELECT * FROM ({gold})")}
    for sample, outcome in zip(samples, found, strict=True):
        assert (outcome == "correct") == ((sample.answer, sample.completion) in right)
    assert path.read_bytes() == before
