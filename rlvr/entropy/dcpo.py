"""DCPO: hold the entropy near a target with REINFORCE on the right answers, reweighted to another temperature.

    T = temperature_high if H ≤ target else temperature_low
    b = min(|target - H|, gap_max) / (share of the rows that are right),   a = b / (1 + b)
    A_t <- (1 - a) A_t + a 1[right] π^T(y_t) / π(y_t)

H is the entropy of the last update, π the policy that generated, π^T the same at temperature T: importance weights take
the place of AEPO's second rollout. A row is right when its reward is above `reward_threshold`. (1 - a) scales every
row, right or wrong: it mixes two objectives, and a group's advantages keep their sum of zero. At the target a is 0.
Tempered rows and rows left out of their group stay as they are. Without a right row there is no answer to reinforce and
a is 0; the authors' code divides by zero there and trains on NaN, so that is in neither form.

form `sound` (default): H is the full-vocabulary entropy of the policy's own rows.
form `authors`: H is the mean surprisal (-log π) of the rows trained on.

Scope: generation (the share is over all rows of all processes). State: H, in nats; 0 before the first update.
Paper: Arbitrary Entropy Policy Optimization https://arxiv.org/abs/2510.08141 (DCPO comes with its code)
Code: 597358816/AEPO@b353a054 `RayPPOTrainer.fit`
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy.control import EntropyControl, State, Stats, ratio, regulated_entropy
from rlvr.kernels.statistics import statistic


class Config(BaseModel):
    """Options of DCPO."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    target: float = Field(default=0.5, ge=0)
    """Entropy to hold, nats; 0.5 in the authors' script."""
    temperature_high: float = Field(default=1.2, gt=0)
    """Of π^T while the entropy is at or below the target; 1.2 in the authors' code."""
    temperature_low: float = Field(default=0.8, gt=0)
    """Of π^T while the entropy is above the target; 0.8 in the authors' code."""
    gap_max: float = Field(default=0.1, ge=0)
    """Bound of the distance to the target, nats; 0.1 in the authors' code, 0 turns the method off."""
    reward_threshold: float = 0.05
    """A completion above this reward is right; 0.05 in the authors' code."""
    form: Literal["sound", "authors"] = "sound"
    """`authors` regulates the mean surprisal."""


OFF = Config(gap_max=0.0)
"""Plain GRPO."""


def mixing_share(gap: float, share_right: float, gap_max: float) -> float:
    """Return a, the share of REINFORCE in the objective: in [0, 1), 0 without a right row.

    Args:
        gap: Entropy minus target, or the reverse, nats.
        share_right: Of the rows, 0..1.
        gap_max: Bound of the gap, nats.

    Example:
        >>> mixing_share(0.05, 0.5, gap_max=0.1), mixing_share(3.0, 0.0, gap_max=0.1)
        (0.09090909090909091, 0.0)
    """
    if share_right == 0:
        return 0.0
    b = min(abs(gap), gap_max) / share_right
    return b / (1 + b)


def mixed_advantages(
    advantages: Float[Tensor, "B T"],
    is_right: Bool[Tensor, " B"],
    weights: Float[Tensor, "B T"],
    share: float,
) -> Float[Tensor, "B T"]:
    """Return (1 - a) A + a w for right rows, (1 - a) A for wrong ones, with a the share of REINFORCE."""
    reinforced = torch.where(is_right.unsqueeze(-1), weights, 0.0)
    return (1 - share) * advantages + share * reinforced


def build(config: Config) -> EntropyControl:
    """Return the control."""
    names = {
        temperature: statistic("tempered_logprob", temperature)
        for temperature in (config.temperature_high, config.temperature_low)
    }

    def shape(rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        gap = state["entropy"] - config.target
        temperature = config.temperature_high if gap <= 0 else config.temperature_low
        rows = (rollout.origin == Origin.POLICY) & rollout.is_scored
        is_right = rows & (rollout.rewards > config.reward_threshold)
        count = int(rows.sum())
        share = mixing_share(gap, int(is_right.sum()) / max(count, 1), config.gap_max)
        stats = {
            "share": ratio(torch.tensor(share, dtype=torch.float64), 1.0),
            "right_fraction": ratio(is_right.sum(), count),
            "temperature": ratio(torch.tensor(temperature, dtype=torch.float64), 1.0),
        }
        if share == 0:
            return rollout, state, stats
        if rollout.old_logprobs is None:
            raise ValueError("dcpo needs old_logprobs")
        tempered = rollout.old_statistics[names[temperature]]
        chosen = rows.unsqueeze(-1) & rollout.mask
        weights = torch.where(chosen, (tempered - rollout.old_logprobs).exp(), 0.0)
        mixed = mixed_advantages(rollout.advantages, is_right, weights, share)
        advantages = torch.where(chosen, mixed.to(rollout.advantages.dtype), rollout.advantages)
        reinforced = chosen & is_right.unsqueeze(-1)
        stats["weight"] = ratio((weights * reinforced).sum(), reinforced.sum())
        return replace(rollout, advantages=advantages), state, stats

    def step(state: State, stats: Mapping[str, float]) -> State:
        measured = regulated_entropy(stats, config.form)
        return state if math.isnan(measured) else {"entropy": measured}

    is_off = config.gap_max == 0
    return EntropyControl(
        name="dcpo",
        needs=frozenset() if is_off else frozenset({"old_logprobs"}),
        old_statistics=frozenset() if is_off else frozenset(names.values()),
        idle="gap_max is 0" if is_off else None,
        init=lambda: {"entropy": 0.0},
        shape=shape,
        step=step,
    )
