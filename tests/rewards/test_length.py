"""Length and repetition: punishments between -1 and 0."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.entropy import overlong as control
from rlvr.rewards import registry
from rlvr.rewards.length import overlong
from rlvr.rewards.repetition import repeated_share
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample


@given(st.integers(1, 50_000), st.data())
def test_the_slope_is_that_of_the_control(max_length, data):
    buffer = data.draw(st.integers(1, max_length))
    lengths = data.draw(st.lists(st.integers(0, 2 * max_length), min_size=1, max_size=20))
    config = control.Config(max_completion_length=max_length, buffer=buffer)
    expected = control.penalty(torch.tensor(lengths), config).tolist()
    assert [overlong(length, max_length, buffer) for length in lengths] == pytest.approx(expected)


def verdict(length, truncated=False, **options):
    sample = Sample("p", "text", None, {}, truncated=truncated, length=length)
    return registry.build("length", {"max_length": 100, "buffer": 20} | options)(sample)


@pytest.mark.parametrize(
    ("length", "value", "outcome"),
    [
        (0, 0.0, "correct"),
        (80, 0.0, "correct"),
        (85, -0.25, "partial"),
        (100, -1.0, "wrong"),
        (200, -1.0, "wrong"),
    ],
)
def test_the_last_fifth_is_punished_more_and_more(length, value, outcome):
    assert verdict(length).value == value
    assert verdict(length).outcome == outcome
    assert verdict(length, buffer=None) == verdict(length)


def test_a_length_that_is_not_known_is_not_guessed():
    assert verdict(None).outcome == "skipped"
    assert verdict(None, truncated=True).value == -1.0  # it was cut at the limit


def test_a_buffer_above_the_limit_is_refused():
    with pytest.raises(ValueError, match="the empty completion would be punished"):
        registry.configure("length", {"max_length": 100, "buffer": 101})


def test_punishments_are_added_to_right_and_wrong_answers_alike():
    listed = ["exact", {"length": {"max_length": 100, "buffer": 20, "weight": 0.5}}]
    with Scorer(listed) as scorer:
        right, wrong = scorer.score([Sample("p", text, "7", length=90) for text in ("7", "8")])
    assert (right.reward, wrong.reward) == (0.75, -0.25)


def test_ordinary_text_is_not_punished_and_loops_are():
    verify = registry.build("repetition", {})
    ordinary = " ".join(f"Step {i}: add {i} to {i * i} and get {i + i * i}." for i in range(50))
    assert verify(Sample("p", ordinary)).value == 0.0
    for loop in (ordinary * 20, "ha" * 5000, "嗯" * 500, "\n" * 5000, "= " * 500):
        assert verify(Sample("p", loop)).value < -0.9


def test_the_share_of_repeated_runs():
    assert repeated_share("a b a b a b", 2) == pytest.approx(0.6)  # ab ba ab ba ab: 2 of 5
    assert repeated_share("a b", 3) == 0.0
    assert repeated_share("", 1) == 0.0


@given(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(2, 5),
)
def test_a_text_said_again_repeats_all_but_its_first_saying(words, ngram, times):
    share = repeated_share(" ".join(words * times), ngram)
    runs = len(words) * times - ngram + 1
    # a run begins at one of the words, and runs that begin at the same word are the same
    assert 1 - len(words) / max(runs, 1) <= share < 1
