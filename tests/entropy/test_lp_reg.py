"""Lp-Reg: a worked example, who is selected, and where each form clamps."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from rlvr.batch import TokenBatch
from rlvr.entropy import lp_reg
from rlvr.entropy.control import chain
from rlvr.kernels.statistics import FILTERED
from rlvr.loss import Decision
from tests.entropy import toy

NAME = "min_p_logprob:0.02"


def tokens(
    logprobs: list[float], target: list[float], advantages: list[float], ratios: list[float]
) -> TokenBatch:
    """Return one sequence."""
    own = torch.tensor([logprobs], dtype=torch.float64)
    mask = torch.ones_like(own, dtype=torch.bool)
    return TokenBatch(
        logprobs=own,
        old_logprobs=own - torch.tensor([ratios], dtype=torch.float64).log(),
        advantages=torch.tensor([advantages], dtype=torch.float64),
        mask=mask,
        rehearsal_mask=~mask,
        origin=torch.zeros(1, dtype=torch.long),
        old_statistics={NAME: torch.tensor([target], dtype=torch.float64)},
    )


def decided(batch: TokenBatch, config: lp_reg.Config, **changes: object) -> tuple[float, Decision]:
    objective = toy.objective(chain(lp_reg.build(config)), **changes)
    decision = objective.decide(batch, [torch.arange(1)], {"lp_reg": {}}, seed=0)
    return objective.loss(batch, decision)[0].item(), decision


def selected(batch: TokenBatch, **options: float) -> list[bool]:
    config = lp_reg.Config(**options)  # type: ignore[arg-type]
    return decided(batch, config)[1].marks["lp_reg"]["selected"][0].tolist()


def test_a_selected_token_is_pulled_up_to_its_target_and_not_clipped():
    # candidates: int(0.5 x 4) = 2 tokens, -4 and -3; only -4 lies below its target
    batch = tokens(
        [-1.0, -4.0, -3.0, -2.0], [-0.5, -3.5, -3.2, -1.0], [-1.0] * 4, [0.2, 0.2, 0.2, 1.0]
    )
    loss, decision = decided(batch, lp_reg.Config(fraction=0.5, coef=2.0, clip_low=0.5))
    assert decision.marks["lp_reg"]["selected"].tolist() == [[False, True, False, False]]
    # clipped at 0.5: 0.5, 0.5, 1; selected: 0.2 + 2 (e^0.5 - 0.5 - 1)
    expected = (0.5 + 0.5 + 1.0 + 0.2 + 2 * (math.exp(0.5) - 1.5)) / 4
    assert loss == pytest.approx(expected)


def test_the_lowest_are_ranked_among_the_punished_alone():
    batch = tokens(
        [-9.0, -8.0, -3.0, -2.0, -4.0, -1.0],
        [0.0] * 6,
        [1.0, 0.0, -1.0, -1.0, -1.0, -1.0],
        [1.0] * 6,
    )
    assert selected(batch, fraction=0.5) == [False, False, True, False, True, False]


def test_one_candidate_is_left_alone():
    batch = tokens([-3.0, -2.0, -1.0], [0.0] * 3, [-1.0] * 3, [1.0] * 3)
    assert not any(selected(batch, fraction=0.6))  # int(0.6 x 3) = 1
    assert selected(batch, fraction=0.7) == [True, True, False]  # int(2.1) = 2


def test_rewarded_tokens_are_selected_only_where_asked_for():
    batch = tokens([-3.0, -2.0, -1.0, -5.0], [0.0] * 4, [1.0, 1.0, 1.0, -1.0], [1.0] * 4)
    assert not any(selected(batch, fraction=0.9))
    assert selected(batch, fraction=0.0, positive_fraction=0.7) == [True, True, False, False]


def test_a_token_that_min_p_takes_out_is_never_pulled():
    batch = tokens([-9.0, -8.0], [FILTERED, -7.0], [-1.0, -1.0], [1.0, 1.0])
    assert selected(batch, fraction=1.0) == [False, True]


def pull(gap: float, form: Literal["sound", "authors"]) -> tuple[float, float]:
    """Return value and gradient of k3 at ln(target / π) = gap."""
    logprobs: Tensor = torch.tensor([[-1.0 - gap]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[-1.0]], dtype=torch.float64)
    value = lp_reg.distance(logprobs, target, lp_reg.Config(form=form)).sum()
    value.backward()
    assert logprobs.grad is not None
    return value.item(), logprobs.grad.item()


def test_the_forms_agree_until_the_value_reaches_ten():
    for gap in (0.1, 1.0, 2.5):
        expected = math.exp(gap) - gap - 1
        for form in ("sound", "authors"):
            assert pull(gap, form) == pytest.approx((expected, 1 - math.exp(gap)))


def test_only_the_sound_form_pulls_a_token_that_fell_far():
    assert pull(5.0, "authors") == (10.0, 0.0)
    assert pull(5.0, "sound") == pytest.approx((math.exp(5) - 6, 1 - math.exp(5)))


@pytest.mark.parametrize("form", ["sound", "authors"])
def test_a_token_that_all_but_vanished_is_finite(form):
    assert all(math.isfinite(number) for number in pull(5000.0, form))


def test_it_acts_on_policy_where_min_p_takes_something_out():
    # target above π by -ln(kept mass): 0.02 here
    batch = tokens([-3.0, -2.0], [-2.98, -1.98], [-1.0, -1.0], [1.0, 1.0])
    loss, _ = decided(batch, lp_reg.Config(fraction=1.0))
    assert loss == pytest.approx(1 + math.exp(0.02) - 0.02 - 1)
    assert lp_reg.build(lp_reg.Config()).idle_on_policy is None


def test_a_null_clip_keeps_the_recipes_and_frees_the_selected():
    # A < 0, r = 0.2 below 1 - 0.2: the recipe's clip gives 0.8, the selected token 0.2; r = 30 meets the dual clip 10
    batch = tokens(
        [-4.0, -3.0, -1.0, -1.0], [-4.0 + 1e-9, -3.0, -9.0, -9.0], [-1.0] * 4, [0.2, 0.2, 0.2, 30.0]
    )
    config = lp_reg.Config(fraction=0.5, coef=0.0, clip_low=None, clip_high=None)
    loss, decision = decided(batch, config, dual_clip=10.0)
    assert decision.marks["lp_reg"]["selected"].tolist() == [[True, False, False, False]]
    assert loss == pytest.approx((0.2 + 0.8 + 0.8 + 10.0) / 4)
    assert not lp_reg.build(config).replaces_clip


def test_options_that_contradict_or_do_nothing_are_told():
    with pytest.raises(ValueError, match="set both clip_low and clip_high"):
        lp_reg.Config(clip_low=None)
    assert lp_reg.build(lp_reg.OFF).idle
    assert lp_reg.build(lp_reg.Config()).idle is None
