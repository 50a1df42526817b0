"""Entropy advantage: tokens sampled where the policy was uncertain are worth more.

    A'_t = A_t + min(alpha sg(H_t), |A_t| / kappa)

H_t is the full-vocabulary entropy of the current policy at the token, without gradient. The bonus is computed anew in
every update from the advantage of the generation and never accumulates. With kappa > 1 it is less than |A|, so no
advantage changes its sign; with kappa = 1 a negative one becomes 0 wherever alpha H >= |A|, and the token is not trained
on. A token of advantage 0 stays at 0. Every advantage grows, so right answers are pushed up harder and wrong ones down
less: the entropy is not held, and may fall faster than without.

Scope: token, so any.
Differs from the paper: no official code was found. Ports that add the bonus in place accumulate it over the updates of a
rollout. kappa is 2 in the paper and 1 in SIREN's port.
Paper: Reasoning with Exploration: An Entropy Perspective https://arxiv.org/abs/2506.14758
Code: Linn3a/siren@fa59a8df `update_policy` (a port, as a baseline)
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import EntropyControl, State, Stats, ratio


class Config(BaseModel):
    """Options of the entropy advantage."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    alpha: float = Field(default=0.4, ge=0)
    """Advantage per nat of entropy; 0.4 with GRPO, 0.1 with PPO in the paper; 0 turns it off."""
    kappa: float = Field(default=2.0, ge=1)
    """The bonus is at most |A| / kappa; 2 in the paper."""


OFF = Config(alpha=0.0)
"""Plain GRPO."""


def bonus(
    advantages: Float[Tensor, "B T"], entropies: Float[Tensor, "B T"], config: Config
) -> Float[Tensor, "B T"]:
    """Return min(alpha H, |A| / kappa)."""
    return torch.minimum(config.alpha * entropies, advantages.abs() / config.kappa)


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],  # noqa: ARG001
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        if batch.entropies is None:
            raise ValueError("entropy_advantage needs entropies")
        entropies = batch.entropies.detach()
        added = torch.where(batch.mask, bonus(terms.advantages, entropies, config), 0.0)
        is_limited = batch.mask & (config.alpha * entropies > added)
        tokens = batch.mask.sum()
        stats = {
            "bonus": ratio(added.sum(dtype=torch.float64), tokens),
            "limited_fraction": ratio(is_limited.sum(), tokens),
        }
        return replace(terms, advantages=terms.advantages + added), stats

    return EntropyControl(
        name="entropy_advantage",
        idle=None if config.alpha else "alpha is 0",
        apply=apply,
    )
