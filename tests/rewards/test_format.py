"""Format: one thought, one answer, in this spelling, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards import registry
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample

GOOD = "<think>a</think><answer>7</answer>"


def outcome(text, **options):
    return registry.build("format", options)(Sample("p", text)).outcome


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "\n<think>\na\n</think>\n\n<answer>\n7\n</answer>\n",
        "<think>a <b>bold</b> thought, 1 < 2</think><answer>x > 3</answer>",
        "<think>思考</think><answer>七</answer>",
        r"<think>\boxed{6}?</think><answer>\boxed{7}</answer>",
    ],
)
def test_one_thought_and_one_answer_are_the_format(text):
    assert outcome(text) == "correct"


@pytest.mark.parametrize(
    "text",
    [
        "<answer>7</answer><think>a</think>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> \u200b\n</answer>",
        "<think>a</think><answer>...</answer>",
        "<think></think><answer>7</answer>",
        "<think> \u200b </think><answer>7</answer>",
        "<think>...</think><answer>7</answer>",
        "junk " + GOOD,
        GOOD + " junk",
        "<think>a</think> so <answer>7</answer>",
        f"```\n{GOOD}\n```",
        "<THINK>a</THINK><ANSWER>7</ANSWER>",
        "<think >a</think><answer>7</answer>",
        '<think kind="deep">a</think><answer>7</answer>',
        "<thi\u200bnk>a</think><answer>7</answer>",
        "＜think＞a＜/think＞<answer>7</answer>",
        GOOD + GOOD,
        GOOD + "<answer>8</answer>",
        "<think>a</think><think>b</think><answer>7</answer>",
        "<think><think>a</think></think><answer>7</answer>",
        "<think>a<answer>6</answer></think><answer>7</answer>",
        "<think>a</think><answer>7<answer></answer></answer>",
        "<think>a</think><answer>7</Answer><answer>8</answer>",
        "<think>a</think><answer>7<\u200b/answer>8</answer>",
        "<think>a</think><answer>7<think></answer>",
        "<think>a<answer>7</answer>",
        "<think>a</think>7",
        "<think>a</think><answer>7",
        "</think><answer>7</answer>",
        "",
    ],
)
def test_every_other_form_is_wrong(text):
    assert outcome(text) == "wrong"


def test_options_choose_what_follows_the_thought():
    assert outcome(r"<think>a</think>So \boxed{7}.") == "wrong"
    assert outcome(r"<think>a</think>So \boxed{7}.", answer="boxed") == "correct"
    assert outcome(r"<think>a</think><answer>\boxed{7}</answer>", answer="boxed") == "correct"
    assert outcome(r"<think>a</think>So \boxed{7} or \boxed{8}.", answer="boxed") == "wrong"
    assert outcome(r"<think>\boxed{7}</think>So.", answer="boxed") == "wrong"
    assert outcome("<think>a</think>So.", answer="any") == "correct"
    assert outcome("<think>a</think> ", answer="any") == "wrong"


def test_the_thought_may_begin_in_the_prompt():
    assert outcome("a</think><answer>7</answer>", think_in_prompt=True) == "correct"
    assert outcome(GOOD, think_in_prompt=True) == "wrong"


def test_the_thought_has_a_least_length():
    assert outcome(GOOD, min_thought=2) == "wrong"
    assert outcome("<think></think><answer>7</answer>", min_thought=0) == "correct"


def test_the_form_of_a_wrong_answer_earns_nothing():
    with Scorer(["exact", {"format": {"weight": 0.5}}]) as scorer:
        right, wrong, other = scorer.score(
            [Sample("p", GOOD, "7"), Sample("p", GOOD, "8"), Sample("p", "7", "7")]
        )
    assert (right.reward, wrong.reward, other.reward) == (1.5, 0.0, 1.0)


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n"]),
        max_size=9,
    )
)
def test_no_other_order_of_the_tags_is_the_format(pieces):
    text = "".join(pieces)
    tags = [piece for piece in pieces if piece.startswith("<")]
    if outcome(text) == "correct":
        assert tags == ["<think>", "</think>", "<answer>", "</answer>"]
        assert text.strip().startswith("<think>")
        assert text.strip().endswith("</answer>")
