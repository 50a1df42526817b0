"""Entropy bonus: reward the mean entropy of the policy.

    L = L_policy - coef mean_t H_t

H is the full-vocabulary entropy of the current policy, with its gradient; the mean is over the tokens of the update's
policy loss, whatever the recipe's aggregate is. A positive coef raises the entropy, a negative one lowers it.

Scope: update; the weights of the mean come from the whole update, so parts add up.
Differs from the paper: its formula prints + coef H in a loss that is minimised; a bonus is meant. Most code takes the
mean over each micro-batch. Ring-lite, the source of the default, has no training code; the term is older than it.
Paper: Ring-lite: Scalable Reasoning via C3PO-Stabilized Reinforcement Learning for LLMs https://arxiv.org/abs/2506.14731
Code: inclusionAI/Ring@3b256cce (the report; coefficient 5e-4)
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.aggregate import token_mean
from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import Actuator, EntropyControl, State, Stats


class Config(BaseModel):
    """Options of the entropy bonus."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    coef: float = Field(default=5e-4, ge=-1, le=1)
    """Multiplier of the mean entropy, per nat; 5e-4 in Ring-lite, 1e-3 is verl's usual; below 0 a penalty, 0 is off."""


OFF = Config(coef=0.0)
"""Plain GRPO."""

ACTUATOR = Actuator(options=("coef",), least=-0.1, neutral=0.0, most=1.0, power=2.0)
"""How `entropy_budget` moves the bonus: finest around no bonus."""


def measure(
    population: TokenBatch,
    state: State,  # noqa: ARG001
    generator: torch.Generator,  # noqa: ARG001
) -> dict[str, Tensor]:
    """Return each token's weight in the mean over the update."""
    weights = token_mean(population.mask, population.is_policy_row)
    return {"weights": weights.to(population.logprobs.dtype)}


def part_of_mean(batch: TokenBatch, marks: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Return a micro-batch's part of the update's mean entropy, nats, with its gradient."""
    if batch.entropies is None:
        raise ValueError("an entropy bonus needs entropies")
    # where, not times 0: an entropy that is not finite elsewhere stays out
    return torch.where(batch.mask, marks["weights"] * batch.entropies, 0.0).sum()


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        return terms.regularize("entropy_bonus", -config.coef * part_of_mean(batch, marks)), {}

    return EntropyControl(
        name="entropy_bonus",
        needs=frozenset({"entropies"}) if config.coef else frozenset(),
        idle=None if config.coef else "coef is 0",
        measure=measure,
        apply=apply,
    )
