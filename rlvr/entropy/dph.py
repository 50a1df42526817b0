"""DPH-RL: rehearse the initial policy's own correct answers under an f-divergence.

    L = L_policy + coef mean_rehearsal f(u),   u = π / π_0 at tokens sampled from the initial policy π_0
    forward   KL(π_0 || π)             f = u - ln u - 1
    js        generator form           f = u ln u - (u + 1) ln((u + 1) / 2)
    alpha     a in (0, 1)              f = (u^(1-a) - (1-a) u - a) / (a (a - 1))
    js_mixture definition form         f = k3(π_0 -> M), M = (π_0 + π) / 2, and on policy rows k3(π -> M)

Every f has f(1) = f'(1) = 0: a policy that has not moved feels no force (plain SFT on the rows would push).
Rehearsal rows are completions of π_0 that are right on prompts it masters, with their log-probs stored once.
They have their own mean over tokens and no part in the policy loss.

form `sound` (default): ln u is clamped to +- `log_ratio_limit` in every f, the value is not clamped; the on-policy
half of `js_mixture` is always on, times its probability.
form `authors`: f of `forward` and k3 are also clamped to +-10 (no gradient beyond), the others not at all; the
on-policy half is drawn once an update.

Scope: update; token sums over fixed denominators add up in any layout.
Paper: The Choice of Divergence: A Neglected Key to Mitigating Diversity Collapse in RLVR https://arxiv.org/abs/2509.07430
Code: seamoke/DPH-RL@139a9b22 `dp_actor.update_policy`, `alpha_divergence_f`, `js_low_var`
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import (
    EntropyControl,
    Need,
    Rehearsal,
    RolloutPlan,
    State,
    Stats,
    ratio,
)

_AUTHORS_LOG_LIMIT = 20.0
_AUTHORS_VALUE_LIMIT = 10.0


class Config(BaseModel):
    """Options of DPH-RL."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    divergence: Literal["forward", "js", "alpha", "js_mixture"] = "forward"
    """The f; the authors' `js_low_var` is `js`, their `js` is `js_mixture`."""
    coef: float = Field(default=0.01, ge=0)
    """Multiplier of the mean over rehearsal tokens; 0.01 to 0.05, JS 0.05 to 0.2 in the paper; 0 turns it off."""
    alpha: float = Field(default=0.2, gt=0, lt=1)
    """a of `alpha`; 0.2 in the paper."""
    on_policy_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of updates in which the authors add the on-policy half of `js_mixture`; 1/10."""
    rows_per_update: int = Field(default=16, ge=1)
    """Rehearsal rows that join each update; the authors add 256 or 512 rows to a step of two updates."""
    samples: int = Field(default=8, ge=1)
    """Completions of the initial policy per prompt when the buffer is made; 8 in the paper."""
    min_pass_rate: float = Field(default=1.0, gt=0, le=1)
    """A prompt is rehearsed when at least this share of them is right; 8 of 8 in the paper."""
    buffer_rows: int = Field(default=256, ge=1)
    """Rows of the buffer when it is made, at most; sampling stops there."""
    buffer: str | None = None
    """Buffer file of an earlier run on this model; null: made before the first update."""
    log_ratio_limit: float = Field(default=20.0, gt=0)
    """Clamp of ln u, nats, in the sound form; 20 in the authors' forward form."""
    form: Literal["sound", "authors"] = "sound"
    """Where values are clamped, and how the on-policy half is drawn."""


OFF = Config(coef=0.0)
"""Plain GRPO."""


def forward(log_u: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return u - ln u - 1, the integrand of KL(π_0 || π); its derivative by log π is u - 1."""
    return log_u.exp() - log_u - 1


def js(log_u: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return u ln u - (u + 1) ln((u + 1) / 2), the generator of JS without its factor 1/2."""
    u = log_u.exp()
    return u * log_u - (u + 1) * ((u + 1) / 2).log()


def alpha_divergence(log_u: Float[Tensor, "B T"], alpha: float) -> Float[Tensor, "B T"]:
    """Return (u^(1-a) - (1-a) u - a) / (a (a - 1)); tends to `forward` as a tends to 1."""
    u = log_u.exp()
    return (((1 - alpha) * log_u).exp() - (1 - alpha) * u - alpha) / (alpha * (alpha - 1))


def log_mixture(
    logprobs: Float[Tensor, "B T"], other_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return log((π + π_other) / 2)."""
    return torch.logaddexp(logprobs, other_logprobs) - math.log(2.0)


def toward(
    logprobs: Float[Tensor, "B T"], other_logprobs: Float[Tensor, "B T"], config: Config
) -> Float[Tensor, "B T"]:
    """Return k3 of KL(π || π_other) with this form's clamps."""
    authors = config.form == "authors"
    limit = _AUTHORS_LOG_LIMIT if authors else config.log_ratio_limit
    value = forward((other_logprobs - logprobs).clamp(-limit, limit))
    return value.clamp(-_AUTHORS_VALUE_LIMIT, _AUTHORS_VALUE_LIMIT) if authors else value


def rehearsal_divergence(
    logprobs: Float[Tensor, "B T"], initial_logprobs: Float[Tensor, "B T"], config: Config
) -> Float[Tensor, "B T"]:
    """Return f(u) per token sampled from the initial policy."""
    if config.divergence == "forward":
        return toward(initial_logprobs, logprobs, config)
    if config.divergence == "js_mixture":
        return toward(initial_logprobs, log_mixture(logprobs, initial_logprobs), config)
    log_u = logprobs - initial_logprobs
    if config.form == "sound":
        log_u = log_u.clamp(-config.log_ratio_limit, config.log_ratio_limit)
    return js(log_u) if config.divergence == "js" else alpha_divergence(log_u, config.alpha)


def on_policy_divergence(
    logprobs: Float[Tensor, "B T"], ref_logprobs: Float[Tensor, "B T"], config: Config
) -> Float[Tensor, "B T"]:
    """Return the on-policy half of the mixture form, k3(π -> (π + π_ref) / 2), per token."""
    return toward(logprobs, log_mixture(logprobs, ref_logprobs), config)


def build(config: Config) -> EntropyControl:
    """Return the control."""
    has_on_policy_half = config.divergence == "js_mixture" and config.on_policy_fraction > 0

    def plan(state: State) -> RolloutPlan:  # noqa: ARG001
        if config.coef == 0:
            return RolloutPlan()
        return RolloutPlan(
            rehearsal=Rehearsal(
                rows_per_update=config.rows_per_update,
                samples=config.samples,
                min_pass_rate=config.min_pass_rate,
                buffer_rows=config.buffer_rows,
                buffer=config.buffer,
            )
        )

    def measure(
        population: TokenBatch,
        state: State,  # noqa: ARG001
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        dtype = population.logprobs.dtype
        marks = {"rehearsal": _mean_weights(population.rehearsal_mask, dtype)}
        if has_on_policy_half:
            share = config.on_policy_fraction
            if config.form == "authors":
                share = float(torch.rand((), generator=generator) < share)
            marks["on_policy"] = share * _mean_weights(population.mask, dtype)
        return marks

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        terms, stats = _rehearse(terms, batch, marks["rehearsal"], config)
        if has_on_policy_half:
            terms = _stay_close(terms, batch, marks["on_policy"], config)
        return terms, stats

    needs: set[Need] = {"initial_logprobs"}
    if has_on_policy_half:
        needs.add("ref_logprobs")
    return EntropyControl(
        name="dph",
        needs=frozenset(needs),
        idle="coef is 0, so the divergence has no weight" if config.coef == 0 else None,
        plan=plan,
        measure=measure,
        apply=apply,
    )


def _rehearse(
    terms: LossTerms, batch: TokenBatch, weights: Tensor, config: Config
) -> tuple[LossTerms, Stats]:
    if batch.initial_logprobs is None:
        return terms, {}
    f = rehearsal_divergence(batch.logprobs, batch.initial_logprobs, config)
    f = torch.where(batch.rehearsal_mask, f, 0.0)
    stats = {"divergence": ratio(f.sum(), batch.rehearsal_mask.sum())}
    return terms.regularize("dph", config.coef * (weights * f).sum()), stats


def _stay_close(terms: LossTerms, batch: TokenBatch, weights: Tensor, config: Config) -> LossTerms:
    if batch.ref_logprobs is None:
        raise ValueError("dph with divergence js_mixture needs ref_logprobs")
    f = on_policy_divergence(batch.logprobs, batch.ref_logprobs, config)
    f = torch.where(batch.mask, f, 0.0)
    return terms.regularize("dph_on_policy", config.coef * (weights * f).sum())


def _mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return mask.to(dtype) / mask.sum().clamp(min=1)
