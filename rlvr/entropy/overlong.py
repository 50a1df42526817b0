"""Soft overlong punishment: lower the reward of completions that near the length limit.

    penalty = -factor min(1, max(0, length - (limit - buffer)) / buffer)
    reward = reward + penalty                   before advantages are computed

A completion that is cut at the limit earns nothing by being long, but the verdict on it is noise; the slope before the
limit says so earlier. Lengths are in tokens, the end token included. A reward that is left out of its group stays so.
A threshold of `pass_at_k` or `psr_nsr` is compared with the lowered reward.

Scope: generation, each completion by itself; policy rows and tempered rows.
Differs from the authors' code: it has no bound, so past the limit the penalty goes on falling (`form: authors`); up to
the limit, where generation stops, both are the same.
Paper: DAPO: An Open-Source LLM Reinforcement Learning System at Scale https://arxiv.org/abs/2503.14476
Code: verl@b178a3cd `DAPORewardManager`
"""

from typing import Literal, Self

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from rlvr.batch import RolloutBatch
from rlvr.entropy.control import EntropyControl, State, Stats, ratio


class Config(BaseModel):
    """Options of the soft overlong punishment."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_completion_length: int | None = Field(default=None, ge=1)
    """The limit, tokens; recipes take that of `rollout`. 20480 in the paper."""
    buffer: int = Field(default=4096, ge=0)
    """Tokens before the limit on which the penalty grows; 4096 in the paper, 0 is off."""
    factor: float = Field(default=1.0, ge=0)
    """Penalty at the limit, in units of reward; 1 in the paper, 0 is off."""
    form: Literal["sound", "authors"] = "sound"
    """Past the limit: the penalty stays at -factor (the paper), or goes on falling (the authors' code)."""

    @model_validator(mode="after")
    def _buffer_is_within_the_limit(self) -> Self:
        limit = self.max_completion_length
        if limit is not None and self.buffer > limit:
            raise ValueError(
                f"buffer {self.buffer} is above max_completion_length {limit}, so the empty completion would be "
                "punished; a fifth of it is the paper's"
            )
        return self


OFF = Config(factor=0.0)
"""Plain GRPO."""


def penalty(lengths: Int[Tensor, " B"], config: Config) -> Float[Tensor, " B"]:
    """Return what each length, in tokens, adds to the reward: 0 or less.

    Raises:
        ValueError: If there is no limit.
    """
    if config.max_completion_length is None:
        raise ValueError("overlong needs max_completion_length; recipes take that of rollout")
    exceeded = lengths - (config.max_completion_length - config.buffer)
    share = exceeded.double().clamp(min=0) / max(config.buffer, 1)
    if config.form == "sound":
        share = share.clamp(max=1)
    return -config.factor * share if config.buffer else torch.zeros_like(share)


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def reward(rollout: RolloutBatch, state: State) -> tuple[Tensor, State, Stats]:
        added = penalty(rollout.completion_mask.sum(-1), config)
        counted = rollout.is_scored
        stats = {
            "penalty": ratio(torch.where(counted, added, 0.0).sum(), counted.sum()),
            "punished_fraction": ratio((counted & (added < 0)).sum(), counted.sum()),
        }
        return (rollout.rewards + added).to(rollout.rewards.dtype), state, stats

    is_off = config.buffer == 0 or config.factor == 0
    return EntropyControl(
        name="overlong",
        idle="buffer or factor is 0, so no completion is punished" if is_off else None,
        reward=None if is_off else reward,
    )
