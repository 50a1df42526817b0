"""Clip-Higher: let the ratio rise further than it may fall, so that unlikely tokens can gain probability.

    loss_t = max(-A_t r_t, -A_t clip(r_t, 1 - clip_low, 1 + clip_high))        clip_high > clip_low

A token of probability p keeps a gradient upwards until p (1 + clip_high): 0.2 holds 0.01 at 0.012, but lets 0.9 rise to
1. These are `algorithm.clip_low` and `algorithm.clip_high`: with constant values this control is another place to write
them. It exists to be moved by `entropy_budget` and to stand beside the other controls in `rlvr replay`. The surrogate
decides what the distances mean (gspo, gmpo); the dual clip stays the recipe's.

Language models keep more entropy with a wider clip_high (the paper; arXiv 2509.26114 of both sides). It
is no law: where every state has parameters of its own, as on the bandit of the tests, a wider one lets the policy move
further in each rollout, and it loses entropy faster.

With one update per rollout the ratio is 1, no distance is reached, and a recipe that asks for it is refused.

Scope: token.
Paper: DAPO: An Open-Source LLM Reinforcement Learning System at Scale https://arxiv.org/abs/2503.14476
Code: verl@b178a3cd `compute_policy_loss_vanilla`
"""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import Actuator, ClipKey, EntropyControl, State, Stats


class Config(BaseModel):
    """Options of Clip-Higher."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    clip_low: float | None = Field(default=None, ge=0)
    """Clip distance below 1; 0.2 in the paper; null keeps the recipe's."""
    clip_high: float | None = Field(default=0.28, ge=0)
    """Clip distance above 1; 0.28 in the paper; null keeps the recipe's, and with clip_low turns the method off."""


OFF = Config(clip_low=None, clip_high=None)
"""Plain GRPO."""

ACTUATOR = Actuator(options=("clip_high",), least=0.05, neutral=0.2, most=1.0)
"""How `entropy_budget` moves the upper distance, in the direction seen in language models; the lower one stays."""


def build(config: Config) -> EntropyControl:
    """Return the control."""
    keys: tuple[ClipKey, ...] = ("clip_low", "clip_high")
    sets = frozenset(key for key in keys if getattr(config, key) is not None)

    def apply(
        terms: LossTerms,
        batch: TokenBatch,  # noqa: ARG001
        marks: Mapping[str, Tensor],  # noqa: ARG001
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        low = terms.clip_low if config.clip_low is None else config.clip_low
        high = terms.clip_high if config.clip_high is None else config.clip_high
        return replace(terms, clip_low=low, clip_high=high), {}

    return EntropyControl(
        name="clip_higher",
        replaces_clip=sets,
        idle_on_policy="the ratio is 1, which no clip distance reaches",
        idle=None if sets else "clip_low and clip_high are null",
        apply=apply,
        scales_advantage=True,
    )
