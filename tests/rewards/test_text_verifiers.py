"""Format, exact and reasoning-gym."""

import json

import pytest

from rlvr.rewards import registry
from rlvr.rewards.verdict import Sample


def outcome(verifier, text, answer=None, row=None, **options):
    return registry.build(verifier, options)(Sample("p", text, answer, row or {})).outcome


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>7</answer>", "correct"),
        ("<think>a</think>\n\n<answer>7</answer>\n", "correct"),
        ("<answer>7</answer><think>a</think>", "wrong"),
        ("<think>a</think><answer></answer>", "wrong"),
        ("junk <think>a</think><answer>7</answer>", "wrong"),
        ("<think>a</think><answer>7</answer> junk", "wrong"),
        ("<THINK>a</THINK><answer>7</answer>", "wrong"),
        ("<think>a</think><answer>7</answer><answer>8</answer>", "wrong"),
        ("<think>a</think><think>b</think><answer>8</answer>", "wrong"),
        ("<think>a<answer>7</answer>", "wrong"),
        ("<think><answer>7</answer></think>", "wrong"),
        ("", "wrong"),
    ],
)
def test_format_is_one_thought_and_one_answer(text, expected):
    assert outcome("format", text) == expected


def test_format_options_choose_what_follows_the_thought():
    assert outcome("format", r"<think>a</think>So \boxed{7}.", answer=None) == "wrong"
    boxed = registry.build("format", {"answer": "boxed"})
    assert boxed(Sample("p", r"<think>a</think>So \boxed{7}.")).outcome == "correct"
    opened = registry.build("format", {"think_in_prompt": True})
    assert opened(Sample("p", "a</think><answer>7</answer>")).outcome == "correct"


@pytest.mark.parametrize(
    ("text", "gold", "options", "expected"),
    [
        (" Paris\n", "Paris", {}, "correct"),
        ("a  b", "a b", {}, "correct"),
        ("paris", "Paris", {}, "wrong"),
        ("paris", "Paris", {"case_sensitive": False}, "correct"),
        (" Paris", "Paris", {"strip": False}, "wrong"),
        ("It is <answer>Paris</answer>.", "Paris", {"tag": "answer"}, "correct"),
        ("Paris", "Paris", {"tag": "answer"}, "unparsable"),
        ("<think>Rome</think>Paris", "Paris", {}, "correct"),
        ("<think>Paris", "Paris", {}, "unparsable"),
        ("caf\u00e9", "cafe\u0301", {}, "correct"),
        ("7", 7, {}, "correct"),
        ("", "", {}, "skipped"),
        ("None", None, {}, "skipped"),
    ],
)
def test_exact_compares_normalised_text(text, gold, options, expected):
    assert registry.build("exact", options)(Sample("p", text, gold)).outcome == expected


def test_reasoning_gym_tasks_score_their_own_answers():
    reasoning_gym = pytest.importorskip("reasoning_gym")
    verify = registry.build("reasoning_gym", {})
    for task in ("leg_counting", "basic_arithmetic"):
        entry = reasoning_gym.create_dataset(task, size=1, seed=3)[0]
        for row in ({"entry": json.dumps(entry)}, {"entry": entry}):
            right = Sample("p", f"<think>hm</think><answer>{entry['answer']}</answer>", None, row)
            assert verify(right).outcome == "correct"
            assert verify(Sample("p", "<answer>nonsense</answer>", None, row)).fraction < 0.1
    assert verify(Sample("p", "7", None, {"entry": "{}"})).outcome == "skipped"
