"""Clip_V: a worked example, its limit, and what the authors' form drops besides."""

import math
from typing import Literal

import pytest
import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import clip_v
from rlvr.entropy.control import quotient
from tests.entropy.toy import look

COMMON, RARE = 0, 1
NAMES = ["sum_p2", "sum_p2_logp"]


def generation(
    probabilities: list[list[float]], tokens: list[int], advantages: list[float]
) -> RolloutBatch:
    """Return rows of one token each, sampled from these distributions."""
    table = torch.tensor(probabilities, dtype=torch.float64).log().unsqueeze(1)
    taken = torch.tensor(tokens).unsqueeze(-1)
    seen = look(table, taken, NAMES)
    mask = torch.ones_like(taken, dtype=torch.bool)
    return RolloutBatch(
        prompt_ids=taken,
        prompt_mask=mask,
        completion_ids=taken,
        completion_mask=mask,
        mask=mask,
        advantages=torch.tensor(advantages, dtype=torch.float64).unsqueeze(-1),
        rewards=torch.ones(len(taken)),
        group_ids=torch.zeros(len(taken), dtype=torch.long),
        origin=torch.full((len(taken),), Origin.POLICY),
        old_logprobs=seen.logprobs,
        old_entropies=seen.entropies,
        old_statistics=seen.statistics,
    )


def kept(
    rollout: RolloutBatch,
    mu: float | None,
    max_fraction: float = 1.0,
    form: Literal["sound", "authors"] = "sound",
) -> list[bool]:
    control = clip_v.build(clip_v.Config(mu=mu, max_fraction=max_fraction, form=form))
    assert control.shape is not None
    rows, _, stats = control.shape(rollout, {})
    assert torch.equal(rows.advantages, rollout.advantages)
    assert rows.completion_mask.all()
    assert quotient(stats["dropped_fraction"]) == pytest.approx(
        1 - rows.mask.double().mean().item()
    )
    return rows.mask.squeeze(-1).tolist()


def test_a_punished_token_far_above_zero_is_dropped():
    # p = 0.9 / 0.1: H = 0.3251, N = 0.81 (H - 0.1054) + 0.01 (H - 2.3026) = 0.1582, S = +-0.1978
    # D = -0.0396 (common), 0.3560 (rare); of four tokens: mean 0.0593, deviation 0.1713
    # rare: D / deviation = 2.078, where (D - mean) / deviation would be 1.732
    rollout = generation([[0.9, 0.1]] * 4, [COMMON, COMMON, COMMON, RARE], [-1.0] * 4)
    assert kept(rollout, 2.05) == [True, True, True, False]
    assert kept(rollout, 2.1) == [True] * 4


def test_a_rewarded_token_is_never_dropped():
    rollout = generation([[0.9, 0.1]] * 4, [COMMON, COMMON, COMMON, RARE], [-1.0, -1.0, -1.0, 1.0])
    assert kept(rollout, 0.5) == [True] * 4
    assert kept(rollout, 0.5, form="authors") == [True] * 4


RATES = [[0.9, 0.1], [0.95, 0.05], [0.8, 0.2], [0.7, 0.3]]
# D of the rare token = p_common (S_rare's distance): largest at 0.2 / 0.1, smallest at 0.05


def test_the_limit_keeps_the_largest_of_the_punished():
    rollout = generation(RATES, [RARE] * 4, [-1.0] * 4)
    seen = rollout.old_statistics
    assert rollout.old_entropies is not None
    assert rollout.old_logprobs is not None
    d = rollout.old_entropies * seen["sum_p2"] + seen["sum_p2_logp"]
    d = d - rollout.old_logprobs.exp() * (rollout.old_entropies + rollout.old_logprobs)
    largest = int(d.argmax())
    assert kept(rollout, 0.1) == [False] * 4
    # int(0.25 x 4) = 1, and at least one however small the share
    for share in (0.25, 1e-4, 0.0):
        assert kept(rollout, 0.1, max_fraction=share) == [place != largest for place in range(4)]


@pytest.mark.parametrize(
    ("form", "expected"),
    [("sound", [True, True, False]), ("authors", [False, True, False])],
)
def test_only_the_authors_form_drops_a_token_without_advantage(form, expected):
    rollout = generation([[0.9, 0.1]] * 3, [RARE, COMMON, RARE], [0.0, -1.0, -1.0])
    assert kept(rollout, 1.0, form=form) == expected
    # the limit of the authors' code is one of the punished tokens alone
    assert kept(rollout, 1.0, max_fraction=0.0, form=form) == expected


def test_without_a_threshold_it_is_plain_grpo():
    rollout = generation([[0.9, 0.1]] * 4, [COMMON, COMMON, COMMON, RARE], [-1.0] * 4)
    assert kept(rollout, None) == [True] * 4
    assert clip_v.build(clip_v.OFF).idle
    assert clip_v.build(clip_v.Config()).idle is None


def test_a_generation_of_equal_tokens_or_of_certain_ones_loses_nothing():
    assert kept(generation([[0.5, 0.5]] * 3, [0, 1, 0], [-1.0] * 3), 0.0) == [True] * 3
    certain = generation([[1.0 - 1e-12, 1e-12]] * 2, [COMMON] * 2, [-1.0] * 2)
    assert kept(certain, 0.0) == [True] * 2
    assert all(math.isfinite(v) for v in certain.old_statistics["sum_p2_logp"].flatten().tolist())
