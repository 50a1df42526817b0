"""Procedural tasks: every built-in one keeps the same promises."""

import json

import pytest

from rlvr.data.task import check_task, generate_task, task_names
from rlvr.data.tasks import countdown, subset_sum
from rlvr.rewards import countdown as countdown_verifier
from rlvr.rewards import subset_sum as subset_sum_verifier
from rlvr.rewards.verdict import Outcome, Sample

VERIFIERS = {"countdown": countdown_verifier, "subset_sum": subset_sum_verifier}


def problem(row):
    return tuple(sorted(row["numbers"])), row["target"]


def verdict(name, row, completion):
    verifier = VERIFIERS[name]
    verify = verifier.build(verifier.Config())
    return verify(Sample(row["prompt"], completion, row["answer"], row)).outcome


def test_every_task_file_is_found():
    assert task_names() == sorted(VERIFIERS)


@pytest.mark.parametrize("name", task_names())
def test_same_seed_gives_same_rows_and_another_seed_others(name):
    rows = generate_task(name, {}, size=30, seed=5)
    assert rows == generate_task(name, {}, size=30, seed=5)
    assert rows[:10] == generate_task(name, {}, size=10, seed=5)
    assert rows != generate_task(name, {}, size=30, seed=6)


@pytest.mark.parametrize("name", task_names())
def test_no_problem_occurs_twice_or_in_both_splits(name):
    train = [problem(row) for row in generate_task(name, {}, size=1500, seed=0)]
    test = [problem(row) for row in generate_task(name, {}, size=200, seed=1, split="test")]
    assert len(set(train)) == len(train)
    assert len(set(test)) == len(test)
    assert not set(train) & set(test)


@pytest.mark.parametrize("style", ["compact", "words"])
@pytest.mark.parametrize("name", task_names())
def test_the_answer_of_each_row_is_right_by_the_verifier(name, style):
    for row in generate_task(name, {"style": style}, size=100, seed=2):
        assert verdict(name, row, row["answer"]) is Outcome.CORRECT
        assert verdict(name, row, row["answer"] + "+1") is Outcome.WRONG
        json.dumps(row)


def test_solutions_of_countdown_counts_the_expressions_that_the_verifier_accepts():
    import itertools

    for row in generate_task("countdown", {"numbers": 3}, size=15, seed=3):
        expressions = {
            f"{a}{s}{b}{t}{c}"
            for a, b, c in itertools.permutations(row["numbers"])
            for s, t in itertools.product("+-*", repeat=2)
        }
        right = [e for e in expressions if verdict("countdown", row, e) is Outcome.CORRECT]
        assert row["solutions"] == len(right)


def test_solutions_of_subset_sum_counts_the_right_selections():
    import itertools

    for row in generate_task("subset_sum", {}, size=15, seed=3):
        numbers = row["numbers"]
        selections = itertools.product([0, 1], repeat=len(numbers))
        sums = [sum(n for n, is_in in zip(numbers, s, strict=True) if is_in) for s in selections]
        assert row["solutions"] == sums.count(row["target"])


def test_chains_are_evaluated_with_the_usual_precedence():
    assert countdown.evaluate_chain([2, 3, 4, 5], "+*-") == 9  # 2 + 12 - 5
    assert countdown.evaluate_chain([9, 2, 3], "-*") == 3  # 9 - 6
    assert countdown.evaluate_chain([2, 3, 4], "**") == 24


def test_operators_that_are_not_allowed_do_not_occur():
    rows = generate_task("countdown", {"operators": "+-"}, size=50, seed=0)
    assert all("*" not in row["answer"] for row in rows)


def test_more_problems_than_there_are_is_an_error_that_says_how_many():
    options = {"numbers": 2, "max_number": 3}
    with pytest.raises(ValueError, match=r"countdown: only \d+ different problems .* 500 were"):
        generate_task("countdown", options, size=500, seed=0)
    with pytest.raises(ValueError, match=r"subset_sum: only \d+ different problems .* 500 were"):
        generate_task("subset_sum", {"numbers": 3, "max_number": 3}, size=500, seed=0)


@pytest.mark.parametrize(
    ("name", "options", "split", "message"),
    [
        ("cuontdown", {}, "train", "Did you mean 'countdown'"),
        ("countdown", {"number": 3}, "train", "Did you mean 'numbers'"),
        ("countdown", {"numbers": 60}, "train", r"task_options\.numbers is 60"),
        ("countdown", {"operators": "+/"}, "train", r"task_options\.operators is '\+/'"),
        ("countdown", {"split": "test"}, "train", "set split beside task"),
        ("countdown", {}, "validation", "procedural tasks have train and test"),
        ("subset_sum", {"numbers": 20, "max_number": 10}, "train", "raise max_number"),
        ("subset_sum", {"numbers": 4, "min_chosen": 4}, "train", "min_chosen must be below"),
    ],
)
def test_wrong_names_options_and_splits_are_refused_before_anything_is_made(
    name, options, split, message
):
    with pytest.raises(ValueError, match=message):
        check_task(name, options, split=split)


def test_configs_cannot_be_changed():
    for module in (countdown, subset_sum):
        with pytest.raises(ValueError, match="frozen"):
            module.Config().split = "test"


def test_reasoning_gym_tasks_have_disjoint_splits_and_an_entry_for_the_verifier():
    pytest.importorskip("reasoning_gym")
    name = "reasoning_gym/chain_sum"
    train = generate_task(name, {"max_terms": 3}, size=40, seed=0)
    test = generate_task(name, {"max_terms": 3}, size=20, seed=0, split="test")
    assert train == generate_task(name, {"max_terms": 3}, size=40, seed=0)
    prompts = {row["prompt"] for row in train}
    assert len(prompts) == 40
    assert not prompts & {row["prompt"] for row in test}
    assert all(json.loads(row["entry"])["answer"] == row["answer"] for row in train)
    assert {row["task"] for row in train} == {name}


def test_wrong_reasoning_gym_names_and_options_are_errors():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match="Did you mean 'chain_sum'"):
        generate_task("reasoning_gym/chainsum", {}, size=2, seed=0)
    with pytest.raises(ValueError, match="terms"):
        generate_task("reasoning_gym/chain_sum", {"terms": 3}, size=2, seed=0)
