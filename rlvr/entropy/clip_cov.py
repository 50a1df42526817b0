"""Clip-Cov: take the gradient of a few tokens with a high covariance of log-prob and advantage.

    cov_t = (A_t - mean A) (log π_t - mean log π)
    candidates: covariance_low < cov_t < covariance_high and not clipped by the surrogate
    weights_t <- 0 for max(int(fraction N), 1) candidates, picked uniformly at random

N counts the tokens of the policy loss. A picked token stays in the denominator. The surrogate's clip is
replaced by this control's, loose by design (1 / 1 in the authors' scripts), without dual clip.

Scope: update (all micro-batches, all processes, one shared random choice); `micro_batch` is the authors'.
Differs from the paper: the scope; advantages all equal have no candidate, as in the authors' code.
Paper: The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models https://arxiv.org/abs/2505.22617
Code: PRIME-RL/Entropy-Mechanism-of-RL@88505792; verl@b178a3cd `compute_policy_loss_clip_cov`
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import WHOLE_CLIP, EntropyControl, Scope, State, Stats, ratio


class Config(BaseModel):
    """Options of Clip-Cov."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fraction: float = Field(default=2e-4, ge=0, le=1)
    """Share of tokens detached; 2e-4 in the paper, 0 turns the method off (the clip stays)."""
    covariance_low: float = 1.0
    """Lower end of the candidate window; 1 in the authors' scripts."""
    covariance_high: float = 5.0
    """Upper end of the candidate window; 5 in the authors' scripts."""
    clip_low: float | None = Field(default=1.0, ge=0)
    """Clip distance below 1; 1 in the authors' scripts; null, with clip_high, keeps the recipe's clip."""
    clip_high: float | None = Field(default=1.0, ge=0)
    """Clip distance above 1; 1 in the authors' scripts; null, with clip_low, keeps the recipe's clip."""
    scope: Scope = "update"
    """Population of the statistics; `micro_batch` is the authors' code."""

    @model_validator(mode="after")
    def _clip_is_whole(self) -> Self:
        if (self.clip_low is None) != (self.clip_high is None):
            raise ValueError("set both clip_low and clip_high, or null for both")
        return self


OFF = Config(fraction=0.0, clip_low=None, clip_high=None)
"""Plain GRPO."""


def covariance(
    logprobs: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return each token's part of Cov(log π, A) over the masked tokens, 0 elsewhere.

    Example:
        >>> covariance(torch.tensor([[-1.0, -3.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[True, True]]))
        tensor([[1., 1.]])
    """
    count = mask.sum().clamp(min=1)
    centred_logprobs = logprobs - (logprobs * mask).sum() / count
    centred_advantages = advantages - (advantages * mask).sum() / count
    return torch.where(mask, centred_advantages * centred_logprobs, 0.0)


def candidates(
    batch: TokenBatch, cov: Float[Tensor, "B T"], config: Config, clip: tuple[float, float]
) -> Bool[Tensor, "B T"]:
    """Return the tokens whose covariance lies in the window and that the surrogate does not clip."""
    advantages = batch.advantages
    r = (batch.logprobs - batch.old_logprobs).exp()
    is_clipped = -advantages * r.clamp(1 - clip[0], 1 + clip[1]) > -advantages * r
    in_window = (cov > config.covariance_low) & (cov < config.covariance_high)
    return batch.mask & in_window & ~is_clipped


def detached_count(fraction: float, tokens: int) -> int:
    """Return how many tokens to detach: max(int(fraction N), 1), and none at fraction 0."""
    return max(int(fraction * tokens), 1) if fraction > 0 else 0


def pick(
    candidate: Bool[Tensor, "B T"],
    cov: Float[Tensor, "B T"],
    count: int,
    generator: torch.Generator,
) -> Bool[Tensor, "B T"]:
    """Return at most `count` of the candidates, uniformly at random.

    They are drawn from an order by covariance, so that the order of the sequences changes nothing.
    """
    places = candidate.flatten().nonzero().squeeze(-1)
    places = places[cov.flatten()[places].argsort(stable=True)]
    order = torch.randperm(len(places), generator=generator).to(places.device)
    chosen = torch.zeros_like(candidate.flatten())
    chosen[places[order[:count]]] = True
    return chosen.view_as(candidate)


def build(config: Config) -> EntropyControl:
    """Return the control."""
    replaces_clip = config.clip_low is not None
    clip = (
        math.inf if config.clip_low is None else config.clip_low,
        math.inf if config.clip_high is None else config.clip_high,
    )

    def measure(
        population: TokenBatch,
        state: State,  # noqa: ARG001
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        cov = covariance(population.logprobs, population.advantages, population.mask)
        candidate = candidates(population, cov, config, clip)
        count = detached_count(config.fraction, int(population.mask.sum()))
        return {"candidate": candidate, "detached": pick(candidate, cov, count, generator)}

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        stats = {
            "detached_fraction": ratio(marks["detached"].sum(), batch.mask.sum()),
            "candidate_fraction": ratio(marks["candidate"].sum(), batch.mask.sum()),
        }
        if replaces_clip:
            low, high = clip
            terms = replace(
                terms, clip_low=low, clip_high=high, dual_clip=None, log_ratio_limit=math.inf
            )
        return replace(terms, weights=terms.weights.masked_fill(marks["detached"], 0.0)), stats

    return EntropyControl(
        name="clip_cov",
        scope=config.scope,
        measures_current_policy=True,
        replaces_clip=WHOLE_CLIP if replaces_clip else frozenset(),
        idle="fraction is 0, so no token is detached" if config.fraction == 0 else None,
        measure=measure,
        apply=apply,
        scales_advantage=True,
    )
