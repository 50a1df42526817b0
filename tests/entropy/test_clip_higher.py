"""Clip-Higher: a worked example, and that it is the recipe's own clip in another place."""

import math

import pytest
import torch

from rlvr.batch import TokenBatch
from rlvr.entropy import clip_higher
from rlvr.entropy.control import Chain, build_control, chain
from tests.entropy import toy


def loss_of(
    ratio: float, advantage: float, controls: Chain | None = None, **changes: object
) -> float:
    logprobs = torch.full((1, 1), -2.0, dtype=torch.float64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    batch = TokenBatch(
        logprobs=logprobs,
        old_logprobs=logprobs - math.log(ratio),
        advantages=torch.full((1, 1), advantage, dtype=torch.float64),
        mask=mask,
        rehearsal_mask=~mask,
        origin=torch.zeros(1, dtype=torch.long),
    )
    objective = toy.objective(controls, **changes)
    decision = objective.decide(batch, [torch.arange(1)], objective.chain.init(), seed=0)
    return objective.loss(batch, decision)[0].item()


def control(**options: float | None) -> Chain:
    return chain(build_control("clip_higher", options))


def test_the_ratio_counts_up_to_each_distance():
    # r = 1.25, A = 1: min(1.25, 1 + clip_high); r = 0.5, A = -1: max(0.5, 1 - clip_low)
    for high, expected in ((0.05, 1.05), (0.2, 1.2), (0.28, 1.25)):
        assert loss_of(1.25, 1.0, control(clip_high=high)) == pytest.approx(-expected)
    for low, expected in ((0.05, 0.95), (0.2, 0.8), (0.9, 0.5)):
        assert loss_of(0.5, -1.0, control(clip_low=low)) == pytest.approx(expected)


def test_a_null_distance_and_the_dual_clip_stay_the_recipes():
    recipe = {"clip_low": 0.1, "clip_high": 0.1, "dual_clip": 3.0}
    assert loss_of(0.5, -1.0, control(clip_high=0.5), **recipe) == pytest.approx(0.9)
    assert loss_of(1.4, 1.0, control(clip_high=None, clip_low=0.5), **recipe) == pytest.approx(-1.1)
    assert loss_of(9.0, -1.0, control(clip_high=0.5), **recipe) == pytest.approx(3.0)


def test_it_is_the_recipes_own_clip():
    update = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    controlled = toy.objective(control(clip_low=0.15, clip_high=0.4), clip_low=0.3, clip_high=0.1)
    loss, gradient, _, stats = toy.loss_and_gradient(controlled, *update)
    plain = toy.objective(clip_low=0.15, clip_high=0.4)
    expected, expected_gradient, _, expected_stats = toy.loss_and_gradient(plain, *update)
    assert loss == expected
    assert torch.equal(gradient, expected_gradient)
    torch.testing.assert_close(stats, expected_stats, rtol=0, atol=0)


def test_it_replaces_the_clip_unless_it_sets_none():
    assert build_control("clip_higher", {}).replaces_clip == {"clip_high"}
    assert build_control("clip_higher", {}).idle_on_policy
    off = clip_higher.build(clip_higher.OFF)
    assert off.idle == "clip_low and clip_high are null"
    assert not off.replaces_clip
