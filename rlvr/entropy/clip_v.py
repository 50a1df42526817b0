"""Clip_V: take out the few tokens whose punishment lowers the entropy most, judged against their own distribution.

    S_t = π_old,t (H_old,t + ln π_old,t),   N_t = Σ_v p_v² (H_old,t + ln p_v),   D_t = N_t - S_t
    violator: D_t > mu std D                       std of the population; D itself is compared, not D - mean
    dropped: the max(1, int(max_fraction M)) violators with A_t < 0 of the largest D_t, all of them if they are fewer

A dropped token leaves the loss and its denominator; advantages stay. N is the mean of S under the policy, and the
first-order entropy change of one token's update is A r D: with A < 0 and D > 0 it is a fall. M and std are over the
tokens of the policy loss; below a standard deviation of 1e-12 nothing is dropped.

form `sound` (default): only tokens with A < 0 are dropped.
form `authors`: violators with A = 0 are dropped too, and outside the limit. They have no policy gradient, but leave the
denominator and any KL or entropy term.

Scope: generation, once before it is cut into updates, with statistics of the policy that generated.
Paper: On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models https://arxiv.org/abs/2602.03392
Code: hiyuchang/Trinity-RFT@eedef4b5 `ClipVAdvantageFn`, `compute_N_from_logits` (a fork of agentscope-ai/Trinity-RFT)
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import RolloutBatch
from rlvr.entropy.clip_b import (
    SMALLEST_DEVIATION,
    dropped_stats,
    moments,
    tokens_of_the_loss,
)
from rlvr.entropy.control import EntropyControl, State, Stats, ratio
from rlvr.entropy_change import discriminator, expected_discriminator
from rlvr.kernels.statistics import statistic

_SUM_P2, _SUM_P2_LOGP = statistic("sum_p2"), statistic("sum_p2_logp")


class Config(BaseModel):
    """Options of Clip_V."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mu: float | None = Field(default=8.5, ge=0)
    """Standard deviations of D above 0 from which a token is a violator; 8.5 in the paper, null drops none."""
    max_fraction: float = Field(default=1e-4, ge=0, le=1)
    """Share of the generation's tokens dropped at most, but never fewer than one token; 1e-4 in the paper."""
    form: Literal["sound", "authors"] = "sound"
    """`authors` also drops violators with advantage 0, beyond `max_fraction`."""


OFF = Config(mu=None)
"""Plain GRPO."""


def largest(
    values: Float[Tensor, "B T"], candidate: Bool[Tensor, "B T"], count: int
) -> Bool[Tensor, "B T"]:
    """Return the `count` candidates with the largest values, all of them if they are fewer; ties go to the first.

    Example:
        >>> largest(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[True, False, True]]), 1)
        tensor([[False, False,  True]])
    """
    order = (
        values.masked_fill(~candidate, -torch.inf).flatten().argsort(descending=True, stable=True)
    )
    chosen = torch.zeros_like(candidate.flatten())
    chosen[order[:count]] = True
    return chosen.view_as(candidate) & candidate


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def shape(rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        if rollout.old_logprobs is None or rollout.old_entropies is None:
            raise ValueError("clip_v needs old_logprobs and old_entropies")
        mask = tokens_of_the_loss(rollout)
        found = rollout.old_statistics
        entropies = rollout.old_entropies.double()
        n = expected_discriminator(entropies, found[_SUM_P2].double(), found[_SUM_P2_LOGP].double())
        d = n - discriminator(rollout.old_logprobs.double(), entropies)
        _, deviation = moments(d, mask)
        negative = mask & (rollout.advantages < 0)
        dropped = torch.zeros_like(mask)
        if config.mu is not None and deviation >= SMALLEST_DEVIATION:
            violator = mask & (d > config.mu * deviation)
            most = max(int(config.max_fraction * int(mask.sum())), 1)
            dropped = largest(d, violator & negative, most)
            if config.form == "authors":
                dropped = dropped | (violator & (rollout.advantages == 0))
        stats = dropped_stats(dropped, negative, mask) | {
            "discriminator_gap_std": ratio(deviation, 1.0)
        }
        return replace(rollout, mask=rollout.mask & ~dropped), state, stats

    return EntropyControl(
        name="clip_v",
        needs=frozenset({"old_logprobs", "old_entropies"}),
        old_statistics=frozenset({_SUM_P2, _SUM_P2_LOGP}),
        idle="mu is null" if config.mu is None else None,
        shape=shape,
    )
