"""Clip_B: a worked example, and which tokens it can take out."""

import math
from dataclasses import replace

import pytest
import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import clip_b
from rlvr.entropy.control import quotient

PROB = 0.5


def generation(discriminators: list[list[float]], advantages: list[float]) -> RolloutBatch:
    """Return rows whose tokens have these S; NaN is padding."""
    s = torch.tensor(discriminators, dtype=torch.float64)
    mask = ~s.isnan()
    # S = p (H + ln p)  =>  H = S / p - ln p
    ids = torch.zeros_like(mask, dtype=torch.long)
    return RolloutBatch(
        prompt_ids=ids[:, :1],
        prompt_mask=torch.ones_like(mask[:, :1]),
        completion_ids=ids,
        completion_mask=mask,
        mask=mask,
        advantages=torch.tensor(advantages, dtype=torch.float64).unsqueeze(-1).expand_as(s).clone(),
        rewards=torch.ones(len(s)),
        group_ids=torch.zeros(len(s), dtype=torch.long),
        origin=torch.full((len(s),), Origin.POLICY),
        old_logprobs=torch.full_like(s, math.log(PROB)).masked_fill(~mask, math.nan),
        old_entropies=s / PROB - math.log(PROB),
    )


def shaped(rollout: RolloutBatch, mu: float | None) -> tuple[RolloutBatch, dict[str, float]]:
    control = clip_b.build(clip_b.Config(mu=mu))
    assert control.shape is not None
    rows, state, stats = control.shape(rollout, {})
    assert state == {}
    return rows, {name: quotient(pair) for name, pair in stats.items()}


def test_a_punished_token_far_below_the_mean_is_dropped():
    # mean 0.3, deviation sqrt((3 x 0.01 + 0.09) / 4) = 0.1732; the last token is 1.732 deviations below
    rollout = generation([[0.4, 0.4, 0.4, 0.0]], [-1.0])
    rows, stats = shaped(rollout, 1.7)
    assert rows.mask.tolist() == [[True, True, True, False]]
    assert math.isclose(stats["discriminator"], 0.3)
    assert math.isclose(stats["discriminator_std"], math.sqrt(0.03))
    assert stats["dropped_fraction"] == stats["dropped_negative_fraction"] == 0.25
    assert shaped(rollout, 1.75)[0].mask.all()


def test_only_the_mask_changes_and_the_token_still_exists():
    rollout = generation([[0.4, 0.4, 0.4, 0.0]], [-1.0])
    rows, _ = shaped(rollout, 1.0)
    assert rows.completion_mask.all()
    assert torch.equal(rows.advantages, rollout.advantages)
    assert rollout.mask.all()


def test_tokens_without_a_negative_advantage_stay():
    rollout = generation([[0.4, 0.0], [0.4, 0.0], [0.4, 0.0]], [1.0, 0.0, -1.0])
    rows, _ = shaped(rollout, 0.5)
    assert rows.mask.tolist() == [[True, True], [True, True], [True, False]]


def test_padding_and_rehearsal_rows_have_no_part_in_the_statistics():
    plain = generation([[0.4, 0.4, 0.4, 0.0]], [-1.0])
    nan = math.nan
    wide = generation(
        [[0.4, 0.4, 0.4, 0.0, nan], [-9.0, 9.0, 9.0, 9.0, 9.0]],
        [-1.0, -1.0],
    )
    origin = torch.tensor([int(Origin.POLICY), int(Origin.REHEARSAL)])
    rows, stats = shaped(replace(wide, origin=origin), 1.7)
    assert rows.mask.tolist() == [[True, True, True, False, False], [True] * 5]
    assert stats == pytest.approx(shaped(plain, 1.7)[1])


def test_a_generation_of_one_value_or_none_loses_nothing():
    assert shaped(generation([[0.4, 0.4]], [-1.0]), 0.0)[0].mask.all()
    empty = generation([[math.nan, math.nan]], [-1.0])
    assert not shaped(empty, 2.5)[0].mask.any()


def test_without_a_threshold_it_is_plain_grpo():
    rollout = generation([[0.4, 0.4, 0.4, -5.0]], [-1.0])
    assert shaped(rollout, None)[0].mask.all()
    assert clip_b.build(clip_b.OFF).idle
    assert clip_b.build(clip_b.Config()).idle is None
