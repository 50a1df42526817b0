"""Adaptive entropy: an entropy bonus whose coefficient grows while the entropy is below a target.

    L_k = L_policy - c_k [H_{k-1} < target] mean_t H_t
    c_{k+1} = clip(c_k + delta, coef_min, coef_max) if H_k < target else clip(c_k - delta, coef_min, coef_max)

H_t is the full-vocabulary entropy of the current policy, with its gradient; the mean is over the tokens of the update's
policy loss. H_k is the entropy that update k measured; the bonus of update k is switched and weighed by the ones before,
and the first update counts as below the target. It never pushes the entropy down.

form `sound` (default): H_k is the full-vocabulary entropy over every token that the policy sampled.
form `authors`: H_k is the mean surprisal (-log π) of the sampled tokens, which estimates it with noise.

Scope: update. State: coefficient and switch.
Differs from the authors' code: it steps once a rollout, this once an update; the same with one update per rollout.
Paper: Skywork Open Reasoner 1 Technical Report https://arxiv.org/abs/2505.22312
Code: SkyworkAI/Skywork-OR1@64e96afa `EntController`
"""

import math
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import EntropyControl, State, Stats, ratio, regulated_entropy
from rlvr.entropy.entropy_bonus import measure, part_of_mean


class Config(BaseModel):
    """Options of adaptive entropy."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    target: float = Field(default=0.2, ge=0)
    """Entropy below which the bonus acts, nats; 0.2 in the authors' code."""
    delta: float = Field(default=1e-4, ge=0)
    """Change of the coefficient in an update, per nat; 1e-4 in the authors' code."""
    coef_init: float = Field(default=0.0, ge=0, le=1)
    """Coefficient of the first update; 0 in the authors' code."""
    coef_min: float = Field(default=0.0, ge=0, le=1)
    """Least coefficient; 0 in the authors' code."""
    coef_max: float = Field(default=0.005, ge=0, le=1)
    """Greatest coefficient; 0.005 in the authors' code; 0 turns the method off."""
    form: Literal["sound", "authors"] = "sound"
    """Which entropy is compared with the target."""

    @model_validator(mode="after")
    def _init_is_between_the_bounds(self) -> Self:
        if not self.coef_min <= self.coef_init <= self.coef_max:
            raise ValueError(
                f"coef_init {self.coef_init} is not between coef_min {self.coef_min} and coef_max {self.coef_max}"
            )
        return self


OFF = Config(coef_max=0.0)
"""Plain GRPO."""


def coefficient(state: State) -> float:
    """Return the coefficient that acts in the next update."""
    return state["coef"] if state["is_below"] else 0.0


def next_state(state: State, entropy: float, config: Config) -> State:
    """Return the state after an update with this entropy, nats."""
    is_below = entropy < config.target
    moved = state["coef"] + (config.delta if is_below else -config.delta)
    return {"coef": min(max(moved, config.coef_min), config.coef_max), "is_below": is_below}


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,
    ) -> tuple[LossTerms, Stats]:
        coef = coefficient(state)
        tokens = batch.mask.sum().double()
        stats = {"coef": ratio(coef * tokens, tokens)}
        return terms.regularize("adaptive_entropy", -coef * part_of_mean(batch, marks)), stats

    def step(state: State, stats: Mapping[str, float]) -> State:
        measured = regulated_entropy(stats, config.form)
        return state if math.isnan(measured) else next_state(state, measured, config)

    return EntropyControl(
        name="adaptive_entropy",
        needs=frozenset({"entropies"}),
        idle=_idle(config),
        init=lambda: {"coef": config.coef_init, "is_below": True},
        measure=measure,
        apply=apply,
        step=step,
    )


def _idle(config: Config) -> str | None:
    if config.coef_max == 0:
        return "coef_max is 0"
    if config.delta == 0 and config.coef_init == 0:
        return "delta is 0, so the coefficient stays at coef_init, 0"
    if config.target == 0:
        return "no entropy is below a target of 0"
    return None
