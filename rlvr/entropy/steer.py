"""STEER: damp the tokens that would change the entropy most.

    Ω_t = (A_t / π_old,t) π_t (1 - π_t) (ln π_t + H_old,t),   u_t = |Ω_t|
    exponential: w_t = clip(exp(-k u_t), weight_min, 1),  k = -ln(weight_min) / max(max u, 0.02)
    linear:      w_t = weight_max - (u_t - min u) (weight_max - weight_min) / (max u - min u)
    loss_t = w_t surrogate_t                    the denominator is that of the unweighted loss

H_old is the entropy of the policy that generated. Ω is the authors' code: next to the first-order entropy change
A r π (1 - π) (ln π + H) it lacks a factor π, and published numbers come from it. |Ω| is symmetric: tokens that
raise the entropy are damped like those that lower it.

Scope: update (minimum and maximum over all micro-batches and processes); `micro_batch` is the authors'.
Differs from the paper: the scope; the floor 0.02 of the exponential map is the code's, not the paper's.
Paper: Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective https://arxiv.org/abs/2510.10150
Code: zz-haooo/STEER@b31df716 `compute_token_weights`, `compute_policy_loss_with_entropy`
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Self

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import Actuator, EntropyControl, Scope, State, Stats, ratio

_LEAST_MAXIMUM = 0.02  # authors' code: below it the exponential map is not stretched further
_SMALLEST_PROB = 1e-8  # authors' code: keeps 1 / π_old finite


class Config(BaseModel):
    """Options of STEER."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mapping: Literal["exponential", "linear"] = "exponential"
    """From |Ω| to a weight; the paper's headline is exponential, `run_linear.sh` is linear."""
    weight_min: float = Field(default=0.8, gt=0)
    """Weight at the largest |Ω|; 0.8 in the authors' scripts. 1, with weight_max 1, turns the method off."""
    weight_max: float = Field(default=1.0, gt=0)
    """Weight at the smallest |Ω|; 1.0 exponential (always), 1.2 linear in the authors' scripts."""
    scope: Scope = "update"
    """Population of minimum and maximum; `micro_batch` is the authors' code."""

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.weight_min > self.weight_max:
            raise ValueError(f"weight_min {self.weight_min} is above weight_max {self.weight_max}")
        if self.mapping == "exponential" and self.weight_max != 1:
            raise ValueError("the exponential mapping starts at weight 1; leave weight_max at 1")
        return self


OFF = Config(weight_min=1.0)
"""Plain GRPO."""

ACTUATOR = Actuator(
    options=("weight_min",),
    least=1.0,
    neutral=1.0,
    most=0.05,
    fixed={"mapping": "exponential", "weight_max": 1.0},
)
"""How `entropy_budget` moves the least weight. It can slow a fall of the entropy, not turn it, nor lower the entropy."""


def entropy_change(batch: TokenBatch) -> Float[Tensor, "B T"]:
    """Return Ω, the signed estimate of each token's effect on the entropy; 0 at padding and where not finite."""
    if batch.old_entropies is None:
        raise ValueError("steer needs old_entropies")
    prob = batch.logprobs.exp().clamp(_SMALLEST_PROB, 1 - _SMALLEST_PROB)
    old_prob = batch.old_logprobs.exp().clamp(_SMALLEST_PROB, 1)
    change = batch.advantages / old_prob * prob * (1 - prob) * (prob.log() + batch.old_entropies)
    return torch.where(batch.mask & change.isfinite(), change, 0.0)


def token_weights(batch: TokenBatch, config: Config) -> Float[Tensor, "B T"]:
    """Return the weight of each token, 0 at padding."""
    size = entropy_change(batch).abs()
    valid = size[batch.mask]
    if len(valid) == 0:
        return torch.zeros_like(size)
    low, high = config.weight_min, config.weight_max
    if config.mapping == "exponential":
        steepness = -math.log(low) / valid.max().clamp(min=_LEAST_MAXIMUM)
        weights = (-steepness * size).exp().clamp(low, 1.0)
    elif valid.max() == valid.min():
        weights = torch.full_like(size, (low + high) / 2)
    else:
        slope = (high - low) / (valid.max() - valid.min())
        weights = (high - (size - valid.min()) * slope).clamp(low, high)
    return torch.where(batch.mask, weights, 0.0)


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def measure(
        population: TokenBatch,
        state: State,  # noqa: ARG001
        generator: torch.Generator,  # noqa: ARG001
    ) -> dict[str, Tensor]:
        return {"weights": token_weights(population, config)}

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        weights = marks["weights"]
        damped = batch.mask & (weights < (1 + config.weight_min) / 2)
        tokens = batch.mask.sum()
        stats = {
            "damped_fraction": ratio(damped.sum(), tokens),
            "weight": ratio(weights.sum(), tokens),
        }
        return replace(terms, weights=terms.weights * weights), stats

    return EntropyControl(
        name="steer",
        needs=frozenset({"old_entropies"}),
        scope=config.scope,
        measures_current_policy=True,
        idle="every token's weight is 1" if config.weight_min == config.weight_max == 1 else None,
        measure=measure,
        apply=apply,
        scales_advantage=True,
    )
