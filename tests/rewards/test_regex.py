"""Regex: where the pattern is looked for, and patterns that are none or take for ever."""

import pytest

from rlvr.rewards import registry
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample

DATE = r"\d{4}-\d{2}-\d{2}"


def outcome(text, gold=DATE, **options):
    return registry.build("regex", options)(Sample("p", text, gold)).outcome


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("2024-02-29", {}, "correct"),
        (" 2024-02-29\n", {}, "correct"),
        (r"It is \boxed{2024-02-29}.", {}, "correct"),
        ("The answer is **2024-02-29**. That was a leap year.", {}, "correct"),
        ("<answer>2024-02-29</answer>", {}, "correct"),
        ("<think>2024-02-28?</think>2024-02-29", {}, "correct"),
        ("<think>2024-02-29</think>Never.", {}, "wrong"),
        ("<think>2024-02-29", {}, "unparsable"),
        ("On 2024-02-29, I think", {}, "wrong"),
        ("On 2024-02-29, I think", {"full": False}, "correct"),
        ("<date>2024-02-29</date> or <answer>x</answer>", {"tag": "date"}, "correct"),
        ("2024-02-29", {"tag": "date"}, "unparsable"),
        ("The answer is 2024-02-29", {"where": "text"}, "wrong"),
        ("<think>2024-02-29</think>x", {"where": "completion", "full": False}, "correct"),
    ],
)
def test_the_pattern_is_matched_where_the_options_say(text, options, expected):
    assert outcome(text, **options) == expected


def test_the_pattern_may_be_an_option_and_ignore_case():
    assert outcome("YES", None, pattern="yes|no", ignore_case=True) == "correct"
    assert outcome("YES", "no", pattern="yes|no") == "wrong"


@pytest.mark.parametrize(
    ("gold", "options"),
    [
        (None, {}),
        ("", {}),
        (7, {}),
        ("(", {}),
        ("a{999999999999}", {}),
        ("a" * 10_001, {}),
        (".*", {"full": False}),  # matches every text
    ],
)
def test_a_pattern_that_cannot_be_used_is_a_fault_of_the_row(gold, options):
    module = registry.load("regex")
    assert module.fault(Sample("p", "", gold), module.Config(**options))
    assert registry.build("regex", options)(Sample("p", "a", gold)).outcome == "skipped"


def test_a_wrong_pattern_or_two_places_are_refused_at_the_start():
    with pytest.raises(ValueError, match="pattern is '\\('"):
        registry.configure("regex", {"pattern": "("})
    with pytest.raises(ValueError, match="leave out tag or where"):
        registry.configure("regex", {"tag": "answer", "where": "text"})


def test_a_pattern_that_takes_for_ever_is_stopped_while_the_others_are_scored():
    samples = [Sample("p", "a" * 50, "(a+)+b"), Sample("p", "aab", "(a+)+b")]
    with Scorer(["regex"], deadline=0.5, workers=2) as scorer:
        late, right = scorer.score(samples)
    assert (late.verdict.outcome, right.verdict.outcome) == ("timeout", "correct")
