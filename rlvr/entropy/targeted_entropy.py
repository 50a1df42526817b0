"""Targeted entropy: hold the mean entropy of the policy at a target, from both sides.

    L = L_policy + coef |H - target|,   H = mean_t H_t

H_t is the full-vocabulary entropy of the current policy, with its gradient; the mean is over the tokens of the update's
policy loss. The force is +-coef whatever the distance, and 0 at the target: it gives way where the policy gradient pulls
harder, and H swings around the target where it does not.

Scope: update. |.| of a mean over parts is not the sum over the parts: `measure` finds H of the whole update, and each
token adds w_t (|H - target| + sign(H - target) (H_t - H)), which adds up to the value and the gradient of |H - target|.
Differs from the paper: it does not say over which tokens H is; it uses the term in its first stage only
(`until_update`), without a number of updates.
Paper: Confucius3-Math: A Lightweight High-Performance Reasoning LLM for Chinese K-12 Mathematics Learning
https://arxiv.org/abs/2506.18330
Code: netease-youdao/Confucius3-Math@83426dad (the report, section 6.1; no training code)
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.aggregate import token_mean
from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import EntropyControl, State, Stats


class Config(BaseModel):
    """Options of targeted entropy."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    target: float = Field(default=0.55, ge=0)
    """Entropy to hold, nats; 0.55 in the paper."""
    coef: float = Field(default=0.001, ge=0)
    """Multiplier of the distance, per nat; 0.001 in the paper, 0 turns it off."""
    until_update: int | None = Field(default=None, ge=1)
    """Updates after which the term is left out (the paper: its first stage); null: never."""


OFF = Config(coef=0.0)
"""Plain GRPO."""


def distance_per_token(
    entropies: Float[Tensor, "B T"], mean: Float[Tensor, "B T"], target: float
) -> Float[Tensor, "B T"]:
    """Return |mean - target|, linear in each token's entropy; its mean has the value and the gradient of the whole."""
    away = mean - target
    return away.abs() + away.sign() * (entropies - mean)


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def measure(
        population: TokenBatch,
        state: State,  # noqa: ARG001
        generator: torch.Generator,  # noqa: ARG001
    ) -> dict[str, Tensor]:
        weights = token_mean(population.mask, population.is_policy_row)
        weights = weights.to(population.logprobs.dtype)
        entropies = _entropies(population)
        mean = torch.where(population.mask, weights * entropies, 0.0).sum()
        return {"weights": weights, "mean": mean.expand(weights.shape).clone()}

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,
    ) -> tuple[LossTerms, Stats]:
        if config.until_update is not None and state["updates"] >= config.until_update:
            return terms, {}
        distance = distance_per_token(_entropies(batch), marks["mean"], config.target)
        whole = torch.where(batch.mask, marks["weights"] * distance, 0.0).sum()
        return terms.regularize("targeted_entropy", config.coef * whole), {}

    def step(state: State, stats: Mapping[str, float]) -> State:  # noqa: ARG001
        return {"updates": state["updates"] + 1}

    return EntropyControl(
        name="targeted_entropy",
        needs=frozenset({"entropies"}),
        measures_current_policy=True,
        idle=None if config.coef else "coef is 0",
        init=lambda: {"updates": 0},
        measure=measure,
        apply=apply,
        step=step,
    )


def _entropies(batch: TokenBatch) -> Tensor:
    if batch.entropies is None:
        raise ValueError("targeted_entropy needs entropies")
    return batch.entropies
