"""How verdicts become rewards: weights, gates, scores, and errors in the recipe's words."""

import math

import pytest

from rlvr.rewards import registry
from rlvr.rewards.calling import as_judge
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Outcome, Sample, Verdict

ROW = {"numbers": [3, 5, 7], "target": 8}
RIGHT = "<think>3*5 is 15</think><answer>3*5-7</answer>"
BARE = "3*5-7"
WRONG = "<think>3+5 is 8</think><answer>3+5+7</answer>"


def score(verifiers, *texts, row=ROW, answer=None, **options):
    with Scorer(verifiers, **options) as scorer:
        return scorer.score([Sample("p", text, answer, row) for text in texts])


def test_the_reward_is_the_weighted_sum_of_the_parts():
    verifiers = ["countdown", {"format": {"weight": 0.5, "when_correct": False}}]
    scored = score(verifiers, RIGHT, BARE, WRONG)
    assert [item.reward for item in scored] == [1.5, 1.0, 0.5]
    assert [item.parts for item in scored] == [
        {"countdown": 1.0, "format": 0.5},
        {"countdown": 1.0, "format": 0.0},
        {"countdown": 0.0, "format": 0.5},
    ]


def test_format_counts_only_where_the_first_verifier_says_correct():
    scored = score(["countdown", {"format": {"weight": 0.5}}], RIGHT, BARE, WRONG)
    assert [item.reward for item in scored] == [1.5, 1.0, 0.0]
    assert "format" not in scored[2].verdicts


def test_format_as_the_only_verifier_has_no_gate():
    assert [item.reward for item in score(["format"], RIGHT, BARE)] == [1.0, 0.0]


def test_scores_replace_the_defaults_and_drop_leaves_out():
    scores = {"correct": 2, "wrong": -1, "unparsable": "drop"}
    scored = score(["countdown"], BARE, "3+5+7", "no idea", scores=scores)
    assert [item.reward for item in scored[:2]] == [2.0, -1.0]
    assert math.isnan(scored[2].reward)


def test_a_partial_verdict_is_its_fraction_of_the_correct_score(tmp_path):
    path = tmp_path / "half.py"
    path.write_text(
        "from rlvr.rewards.verdict import *\n"
        "def reward(sample): return Verdict(Outcome.PARTIAL, fraction=0.25)\n"
    )
    assert score([f"{path}:reward"], "x", scores={"correct": 4}, workers=1)[0].reward == 1.0


def test_a_first_verifier_without_a_usable_row_drops_the_completion():
    (scored,) = score(["countdown", "format"], RIGHT, row={"numbers": [], "target": 8})
    assert scored.verdict.outcome is Outcome.SKIPPED
    assert math.isnan(scored.reward)


def test_a_later_verifier_that_says_nothing_is_left_out_of_the_sum():
    (scored,) = score(["countdown", "exact"], BARE, answer=None)
    assert scored.reward == 1.0
    assert math.isnan(scored.parts["exact"])


def test_a_later_verifier_that_crashes_drops_the_completion(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def reward(sample): raise OSError('gone')\n")
    (scored,) = score(["countdown", f"{path}:reward"], BARE, workers=1)
    assert math.isnan(scored.reward)
    assert scored.verdict.outcome is Outcome.CORRECT
    assert "gone" in scored.verdicts["reward"].reason


def test_verifiers_of_one_name_have_parts_of_their_own():
    scored = score([{"exact": {}}, {"exact": {"case_sensitive": False}}], "A", answer="a")
    assert scored[0].parts == {"exact": 0.0, "exact_2": 1.0}


def test_columns_of_all_verifiers_are_known_before_anything_runs():
    assert Scorer(["countdown", "math"]).columns == ("numbers", "target", "answer")


def test_verdicts_say_how_long_they_took():
    assert score(["countdown"], BARE)[0].verdict.seconds > 0


def test_no_samples_give_no_rewards():
    assert score(["math"]) == []


@pytest.mark.parametrize(
    ("verifiers", "options", "message"),
    [
        (["maths"], {}, "unknown verifier 'maths'. Did you mean 'math'?"),
        (["pool"], {}, "unknown verifier 'pool'"),
        ([{"exact": {"case_sensitve": True}}], {}, "Did you mean 'case_sensitive'?"),
        ([{"exact": {"wieght": 2}}], {}, "Did you mean 'weight'?"),
        ([{"exact": {"strip": "perhaps"}}], {}, "strip is 'perhaps'"),
        ([{"countdown": {"operators": "+^"}}], {}, "selection of + - * /"),
        ([{"math": {"weight": "much"}}], {}, "weight is 'much'"),
        ([{"format": {"when_correct": True}}], {}, "first verifier"),
        ([{"math": {}, "format": {}}], {}, "is not a verifier"),
        ([], {}, "at least one verifier"),
        ("math", {}, "must be a list"),
        (["math"], {"scores": {"corect": 1}}, "Did you mean 'correct'?"),
        (["math"], {"scores": {"wrong": "zero"}}, "a number, or drop"),
        (["math"], {"scores": {"correct": "drop"}}, "must be a number"),
        (["math"], {"scores": {"wrong": math.nan}}, "a number, or drop"),
        (["math"], {"scores": {"partial": 1}}, "fraction x correct"),
        (["math"], {"deadline": 0}, "deadline is 0"),
        (["math"], {"workers": 0}, "workers is 0"),
    ],
)
def test_a_recipe_error_says_what_is_wrong_and_what_is_allowed(verifiers, options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared below
        Scorer(verifiers, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("name", registry.names())
def test_every_verifier_file_keeps_the_contract(name):
    try:
        module = registry.load(name)
        verify = registry.build(name, {})
    except ValueError as error:
        pytest.skip(str(error))  # needs a package that is an extra, or an option
    assert isinstance(module.COLUMNS, tuple)
    assert isinstance(module.BOUNDED, bool)
    assert module.__doc__
    samples = [Sample("p", ""), Sample([], "x" * 5000, 3, {"numbers": "?", "entry": 1})]
    assert all(isinstance(verdict, Verdict) for verdict in as_judge(verify, 5.0)(samples))


def test_helper_files_are_no_verifiers():
    assert {"math", "countdown", "subset_sum", "format", "exact"} <= set(registry.names())
    assert not {"pool", "worker", "scorer", "verdict", "plugin"} & set(registry.names())
