"""Lp-Reg: hold up the least likely punished tokens that the old policy, freed of its noise, still wanted.

    target_t = ln π_old,t after tokens of p < proxy_min_p max p are taken out and the others renormalised
    candidates: of the n tokens with A_t < 0 the int(fraction n) with the lowest ln π_t; none if that is below 2
    selected: candidates with ln π_t < target_t
    loss_t = -A_t r_t + coef k3(ln π_t, target_t) where selected;  elsewhere PPO, clipped at 1 - clip_low, 1 + clip_high

k3 = u - ln u - 1 with u = target / π. A token that min-p takes out has no target and is never selected. Selected
tokens are not clipped; there is no dual clip and no bound of the log-ratio anywhere: this control replaces the clip,
loosely (1 / 9 in the authors' scripts). With one update per rollout the target is still above π wherever min-p takes
tokens out, so the method acts. `positive_fraction` selects in the same way among the tokens with A_t > 0; it is 0 in
all of the authors' scripts.

form `sound` (default): ln u is clamped to at most `log_ratio_limit`, the value is not clamped.
form `authors`: k3 is clamped to 10; beyond it (π below 1/13 of its target) the pull has no gradient, just where a
token is pushed down most.

Scope: update (all micro-batches, all processes); `micro_batch` is the authors'.
Paper: Low-probability Tokens Sustain Exploration in Reinforcement Learning with Verifiable Reward
https://arxiv.org/abs/2510.03222
Code: CarlanLark/Lp-Reg-dev@33b27e27 `compute_policy_loss_lp_reg`, `apply_min_p`
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.divergence import k3
from rlvr.entropy.control import WHOLE_CLIP, EntropyControl, Scope, State, Stats, ratio
from rlvr.kernels.statistics import statistic

_AUTHORS_VALUE_LIMIT = 10.0
_AUTHORS_LOG_LIMIT = (
    20.0  # far beyond the value limit: changes no number, keeps the exponential finite
)


class Config(BaseModel):
    """Options of Lp-Reg."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of the tokens of negative advantage that are candidates; 0.01 (14B) and 0.005 (32B) in the paper, 0 is none."""
    positive_fraction: float = Field(default=0.0, ge=0, le=1)
    """The same share of the tokens of positive advantage; 0 in the paper."""
    proxy_min_p: float = Field(default=0.02, ge=0, lt=1)
    """Tokens less likely than this share of the likeliest are taken out of the target; 0.02 in the paper."""
    coef: float = Field(default=1.0, ge=0)
    """Multiplier of k3, per nat; 1 in the paper, 0 leaves only the selected tokens unclipped."""
    clip_low: float | None = Field(default=1.0, ge=0)
    """Clip distance below 1 elsewhere; 1 in the authors' scripts; null, with clip_high, keeps the recipe's clip."""
    clip_high: float | None = Field(default=9.0, ge=0)
    """Clip distance above 1 elsewhere; 9 in the authors' scripts; null, with clip_low, keeps the recipe's clip."""
    log_ratio_limit: float = Field(default=20.0, gt=0)
    """Largest ln(target / π), nats, in the sound form."""
    form: Literal["sound", "authors"] = "sound"
    """Whether k3 (authors) or its log-ratio (sound) is clamped."""
    scope: Scope = "update"
    """Population that candidates are ranked in; `micro_batch` is the authors' code."""

    @model_validator(mode="after")
    def _clip_is_whole(self) -> Self:
        if (self.clip_low is None) != (self.clip_high is None):
            raise ValueError("set both clip_low and clip_high, or null for both")
        return self


OFF = Config(fraction=0.0, clip_low=None, clip_high=None)
"""Plain GRPO."""


def lowest(
    logprobs: Float[Tensor, "B T"], among: Bool[Tensor, "B T"], fraction: float
) -> Bool[Tensor, "B T"]:
    """Return the int(fraction n) of the n tokens `among` with the lowest log-probs; none if that is below 2.

    Example:
        >>> among = torch.tensor([[True, True, False, True, True]])
        >>> lowest(torch.tensor([[-1.0, -5.0, -9.0, -3.0, -2.0]]), among, 0.5)
        tensor([[False,  True, False,  True, False]])
    """
    count = int(int(among.sum()) * fraction)
    chosen = torch.zeros_like(among.flatten())
    if count >= 2:  # authors' code: a single candidate is left alone
        order = logprobs.masked_fill(~among, torch.inf).flatten().argsort(stable=True)
        chosen[order[:count]] = True
    return chosen.view_as(among)


def distance(
    logprobs: Float[Tensor, "B T"], target: Float[Tensor, "B T"], config: Config
) -> Float[Tensor, "B T"]:
    """Return k3 = u - ln u - 1 with u = target / π, clamped as this form does."""
    is_sound = config.form == "sound"
    limit = config.log_ratio_limit if is_sound else _AUTHORS_LOG_LIMIT
    value = k3(torch.maximum(logprobs, target - limit), target)
    return value if is_sound else value.clamp(-_AUTHORS_VALUE_LIMIT, _AUTHORS_VALUE_LIMIT)


def _unbounded_where(selected: Tensor, bound: Tensor | float, like: Tensor) -> Tensor:
    everywhere = torch.as_tensor(bound, dtype=like.dtype, device=like.device)
    return torch.where(selected, math.inf, everywhere)


def build(config: Config) -> EntropyControl:
    """Return the control."""
    name = statistic("min_p_logprob", config.proxy_min_p)
    replaces_clip = config.clip_low is not None

    def measure(
        population: TokenBatch,
        state: State,  # noqa: ARG001
        generator: torch.Generator,  # noqa: ARG001
    ) -> dict[str, Tensor]:
        logprobs, mask = population.logprobs, population.mask
        negative = mask & (population.advantages < 0)
        positive = mask & (population.advantages > 0)
        candidate = lowest(logprobs, negative, config.fraction)
        candidate = candidate | lowest(logprobs, positive, config.positive_fraction)
        return {"selected": candidate & (logprobs < population.old_statistics[name])}

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        selected = marks["selected"]
        pull = torch.where(
            selected, distance(batch.logprobs, batch.old_statistics[name], config), 0.0
        )
        stats = {
            "selected_fraction": ratio(selected.sum(), batch.mask.sum()),
            "selected_distance": ratio(pull.sum(), selected.sum()),
        }
        low, high = terms.clip_low, terms.clip_high
        if config.clip_low is not None and config.clip_high is not None:
            low, high = config.clip_low, config.clip_high
            terms = replace(terms, dual_clip=None, log_ratio_limit=math.inf)
        like = batch.logprobs
        terms = replace(
            terms,
            clip_low=_unbounded_where(selected, low, like),
            clip_high=_unbounded_where(selected, high, like),
            penalty=terms.penalty + config.coef * pull,
        )
        return terms, stats

    selects = config.fraction > 0 or config.positive_fraction > 0
    return EntropyControl(
        name="lp_reg",
        old_statistics=frozenset({name}),
        scope=config.scope,
        measures_current_policy=True,
        replaces_clip=WHOLE_CLIP if replaces_clip else frozenset(),
        idle=None
        if selects or replaces_clip
        else "it selects no token (fraction and positive_fraction are 0) and sets no clip",
        measure=measure,
        apply=apply,
    )
