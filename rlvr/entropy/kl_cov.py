"""KL-Cov: pull the tokens with the highest covariance of log-prob and advantage back to the old policy.

    cov_t = (A_t - mean A) (log π_t - mean log π)
    selected: the max(1, int(fraction N)) tokens with the largest cov_t
    loss_t = -A_t r_t + kl_coef |log π_t - log π_old,t| where selected

N counts the tokens of the policy loss. No ratio clip and no dual clip anywhere: this control replaces them.
With one update per rollout the old policy is the current one, |log π - log π_old| is 0 and so is its gradient:
the method does nothing, and a recipe that asks for it is refused.

Scope: update (all micro-batches, all processes); `micro_batch` is the authors'.
Differs from the paper: the scope; when all advantages are equal the covariance is 0 everywhere and nothing is
selected (the authors' top-k picks arbitrary tokens there; `when_all_equal: select` reproduces it).
Paper: The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models https://arxiv.org/abs/2505.22617
Code: PRIME-RL/Entropy-Mechanism-of-RL@88505792 (its `k_percent` is 100 x fraction); verl@b178a3cd
`compute_policy_loss_kl_cov`
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.clip_cov import covariance
from rlvr.entropy.control import WHOLE_CLIP, Actuator, EntropyControl, Scope, State, Stats, ratio


class Config(BaseModel):
    """Options of KL-Cov."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fraction: float = Field(default=2e-4, ge=0, le=1)
    """Share of tokens selected; 2e-3 (7B) and 2e-4 (32B) in the paper, 0 selects none."""
    kl_coef: float = Field(default=1.0, ge=0)
    """Multiplier of |log π - log π_old|, per nat; 1 in the paper, 0 is no pull."""
    replace_clip: bool = True
    """Whether the surrogate's clip is taken away, as in the paper."""
    when_all_equal: Literal["skip", "select"] = "skip"
    """With all advantages equal: select nothing, or as many tokens as ever (the authors' code)."""
    scope: Scope = "update"
    """Population of the statistics; `micro_batch` is the authors' code."""


OFF = Config(fraction=0.0, replace_clip=False)
"""Plain GRPO."""

ACTUATOR = Actuator(
    options=("fraction",),
    least=0.0,
    neutral=0.0,
    most=0.3,
    power=3.0,
    fixed={"replace_clip": False},
)
"""How `entropy_budget` moves the share; finest near none (level 0.1: 3e-4). It cannot lower the entropy."""


def select(
    cov: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], fraction: float
) -> Bool[Tensor, "B T"]:
    """Return the max(1, int(fraction N)) masked tokens with the largest covariance; none at fraction 0."""
    tokens = int(mask.sum())
    count = min(max(1, int(fraction * tokens)), tokens) if fraction > 0 else 0
    flat = cov.masked_fill(~mask, -torch.inf).flatten()
    # a stable sort: ties go to the first tokens, on every device and process
    order = flat.argsort(descending=True, stable=True)
    selected = torch.zeros_like(mask.flatten())
    selected[order[:count]] = True
    return selected.view_as(mask)


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def measure(
        population: TokenBatch,
        state: State,  # noqa: ARG001
        generator: torch.Generator,  # noqa: ARG001
    ) -> dict[str, Tensor]:
        mask = population.mask
        cov = covariance(population.logprobs, population.advantages, mask)
        advantages = population.advantages[mask]
        if config.when_all_equal == "skip" and (advantages == advantages[:1]).all():
            return {"selected": torch.zeros_like(mask)}
        return {"selected": select(cov, mask, config.fraction)}

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        selected = marks["selected"]
        distance = (batch.logprobs - batch.old_logprobs).abs()
        if config.replace_clip:
            terms = replace(
                terms,
                clip_low=math.inf,
                clip_high=math.inf,
                dual_clip=None,
                log_ratio_limit=math.inf,
            )
        stats = {
            "selected_fraction": ratio(selected.sum(), batch.mask.sum()),
            "selected_distance": ratio((distance * selected).sum(), selected.sum()),
        }
        penalty = terms.penalty + torch.where(selected, config.kl_coef * distance, 0.0)
        return replace(terms, penalty=penalty), stats

    return EntropyControl(
        name="kl_cov",
        scope=config.scope,
        measures_current_policy=True,
        replaces_clip=WHOLE_CLIP if config.replace_clip else frozenset(),
        idle="fraction or kl_coef is 0, so no token is pulled back"
        if config.fraction == 0 or config.kl_coef == 0
        else None,
        idle_on_policy="the policy has not moved since the rollout, so |log π - log π_old| and its gradient are 0",
        measure=measure,
        apply=apply,
    )
