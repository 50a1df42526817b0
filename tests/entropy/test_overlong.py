"""Soft overlong punishment: worked examples, and what it leaves alone."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlvr.advantage import group_mean
from rlvr.check.methods import check_methods
from rlvr.entropy.control import build_control, quotient
from rlvr.entropy.overlong import Config, penalty
from rlvr.recipe import load_recipe
from rlvr.recipe_error import RecipeError
from tests.entropy import toy


def added(lengths: list[int], **options: Any) -> list[float]:
    return penalty(torch.tensor(lengths), Config(**options)).tolist()


def test_the_paper_s_slope_from_16384_to_20480_tokens() -> None:
    # (18432 - 16384) / 4096 = 1/2
    lengths = [0, 16384, 16385, 18432, 20480]
    expected = [0, 0, -1 / 4096, -0.5, -1]
    assert added(lengths, max_completion_length=20480) == pytest.approx(expected)


def test_past_the_limit_the_paper_stays_and_the_authors_code_goes_on() -> None:
    options: dict[str, Any] = {"max_completion_length": 100, "buffer": 20, "factor": 0.5}
    assert added([105], **options) == [-0.5]
    assert added([105], **options, form="authors") == [-0.625]


@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=8),
    st.integers(1, 40),
    st.floats(0.1, 3),
)
def test_the_longer_the_lower_and_never_below_minus_factor(lengths, buffer, factor):
    values = added(sorted(lengths), max_completion_length=40, buffer=buffer, factor=factor)
    assert values == sorted(values, reverse=True)
    assert all(-factor <= value <= 0 for value in values)


def test_rewards_fall_by_the_penalty_and_what_is_left_out_stays_so() -> None:
    rollout = replace(
        toy.generation(), rewards=torch.tensor([1.0, 0.0, math.nan] + [1.0] * 13).double()
    )
    control = build_control("overlong", {"max_completion_length": 6, "buffer": 4, "factor": 2.0})
    assert control.reward is not None
    rewards, _, stats = control.reward(rollout, {})
    lengths = rollout.completion_mask.sum(-1)
    assert lengths[0] == 6
    assert rewards[0] == 1 - 2  # at the limit
    assert lengths[1] == 0
    assert rewards[1] == 0  # an empty completion
    assert rewards[2].isnan()
    falls = (rollout.rewards - rewards)[~rewards.isnan()]
    assert quotient(stats["penalty"]) == pytest.approx(-falls.mean().item())
    assert quotient(stats["punished_fraction"]) == pytest.approx((falls > 0).double().mean().item())


def test_of_two_right_answers_the_long_one_is_pushed_down() -> None:
    lengths, rewards = torch.tensor([10, 19]), torch.ones(2)
    lowered = rewards + penalty(lengths, Config(max_completion_length=20, buffer=10))
    assert (group_mean(rewards, torch.zeros(2).long()) == 0).all()
    assert group_mean(lowered, torch.zeros(2).long()).tolist() == pytest.approx([0.45, -0.45])


def test_a_buffer_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match="buffer 30 is above max_completion_length 20"):
        Config(max_completion_length=20, buffer=30)


def test_without_a_limit_nothing_can_be_said() -> None:
    with pytest.raises(ValueError, match="max_completion_length"):
        penalty(torch.tensor([3]), Config())


def test_a_recipe_gives_its_own_limit() -> None:
    recipe, origins = load_recipe("demo", overrides=["entropy=[{overlong: {buffer: 8}}]"])
    check_methods(recipe, origins)
    recipe, origins = load_recipe("demo", overrides=["entropy=[overlong]"])
    with pytest.raises(RecipeError, match="above max_completion_length 8"):
        check_methods(recipe, origins)
