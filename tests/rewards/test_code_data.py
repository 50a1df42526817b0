"""Reference solutions, labelled samples and attacks, through worker processes."""

import gzip
import json
import os
from pathlib import Path

import pytest

from rlvr.rewards import code
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample
from tests.sandbox.programs import below, needs_locks

pytestmark = needs_locks


def rows(name):
    given = os.environ.get("RLVR_SHARED_DATA")
    path = (Path(given) if given else Path(__file__).parents[3] / "shared" / "data") / name
    if not path.exists():
        pytest.skip(f"no {path}; set RLVR_SHARED_DATA to the folder of the data")
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    if path.name.endswith(".json.gz"):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line]


def outcomes(samples, **options):
    faults = {code.fault(sample, code.Config(**options)) for sample in samples}
    assert faults == {None}
    with Scorer([{"code": options}], workers=2, batch_deadline=600) as scorer:
        return [item.verdict.outcome for item in scorer.score(samples)]


def wrongly_judged(rows, samples, expected, **options):
    found = outcomes(samples, **options)
    return [
        (row.get("id") or row.get("task_id"), outcome)
        for row, outcome, right in zip(rows, found, expected, strict=True)
        if outcome != ("correct" if right else "wrong")
    ]


@pytest.mark.parametrize(
    "tests", ["tests_assert", pytest.param("tests_io", marks=pytest.mark.slow), "tests_stdio"]
)
def test_attacks_get_nothing_and_their_benign_twins_do(tests):
    cases = [row for row in rows("hacks/code.dev.jsonl") if row[tests] and not row["policy"]]
    before = len(below(os.getpid()))
    samples = [
        Sample("p", row["code"], None, {"tests": row[tests], "entry_point": row["entry_point"]})
        for row in cases
    ]
    expected = [row["expected_reward"] == 1 for row in cases]
    assert wrongly_judged(cases, samples, expected, seconds=1) == []
    assert len(below(os.getpid())) == before


def test_attacks_on_types_get_nothing_where_types_are_strict():
    cases = [row for row in rows("hacks/code.dev.jsonl") if row["policy"] == "type_strict"]
    for tests in ("tests_assert", "tests_io"):
        samples = [
            Sample("p", row["code"], None, {"tests": row[tests], "entry_point": row["entry_point"]})
            for row in cases
        ]
        assert set(outcomes(samples, strict_types=True)) == {"wrong"}


def human_eval():
    return {row["task_id"]: row for row in rows("code_bench/HumanEval.jsonl.gz")}


def human_eval_row(problem):
    return {"tests": problem["test"], "entry_point": problem["entry_point"]}


@pytest.mark.slow
def test_reference_solutions_are_correct():
    problems = list(human_eval().values())
    samples = [
        Sample(
            "p", problem["prompt"] + problem["canonical_solution"], None, human_eval_row(problem)
        )
        for problem in problems
    ]
    assert wrongly_judged(problems, samples, [True] * len(problems)) == []
    problems = rows("code_bench/mbpp.jsonl.gz")
    samples = [
        Sample("p", row["code"], None, {"tests": row["test_list"], "setup": row["test_setup_code"]})
        for row in problems
    ]
    assert wrongly_judged(problems, samples, [True] * len(problems)) == []


@pytest.mark.slow
def test_samples_of_a_model_are_judged_as_labelled():
    problems, cases = human_eval(), rows("code_bench/codegen16b_humaneval.dev.jsonl.gz")
    samples = [
        Sample(
            "p",
            problems[row["task_id"]]["prompt"] + row["completion"],
            None,
            human_eval_row(problems[row["task_id"]]),
        )
        for row in cases
    ]
    assert wrongly_judged(cases, samples, [row["passed"] for row in cases], seconds=3) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["code_contests_test", "codeforces_test", "leetcode_test"])
def test_the_tests_of_real_sets_can_be_read_and_pass_for_what_they_expect(name):
    problems = rows(f"src/code_tests/{name}.json.gz")
    samples = [Sample("p", _solution(row), None, _row(row)) for row in problems]
    found = outcomes([sample for sample in samples if len(sample.completion) < 200_000])
    # one solution needs a package that programs may not import
    assert found.count("correct") >= len(found) - (name == "leetcode_test")


def _row(row):
    modules = "typing collections functools itertools math heapq bisect operator string"
    setup = "\n".join(f"from {name} import *\nimport {name}" for name in modules.split())
    return {"tests": row["tests"], "setup": setup if "solutions" in row else ""}


def _solution(row):
    """The reference, or else a program that knows what it must print."""
    if "solutions" in row:
        return row["solutions"]
    tests = row["tests"]
    if isinstance(tests, dict):
        pairs = dict(zip(tests["inputs"], tests["outputs"], strict=True))
    else:
        pairs = {test["input"]: test["output"] for test in tests}
    return f"```python\nimport sys\nprint({pairs!r}[sys.stdin.read()])\n```"
