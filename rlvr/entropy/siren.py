"""SIREN: hold the entropy of the most uncertain tokens where the initial policy had it.

    H_t    entropy of the renormalised head of the distribution at t, with its gradient
    b_i    quantile tau of H_t over the tokens of sequence i, linearly interpolated
    H      mean over sequences of [mean over {t: H_t > b_i} of H_t; 0 where there is none]
    L = L_policy + coef (H - anchor)^2

The anchor is H of the first generation, of the policy that made it: the initial one. It is measured once, kept in the
state and in every checkpoint; or it is given. The square pulls both ways: entropy above the anchor is pushed down.

form `sound` (default): the head is the nucleus, the smallest set with the mass; sequences without a token are left out of
the mean.
form `authors`: the head ends before the token that reaches the mass, so it is empty, and H_t is 0, wherever one token has
the mass (about 40 % of positions), and it loses its tail elsewhere; empty sequences count with 0; b_i is in float32.
In both a sequence of one token selects none, and a head of one token has no gradient: what has collapsed stays so.

Scope: update. The square of a mean over parts is not the sum over the parts: `measure` finds H of the whole update, and
each part adds its share of 2 (H - anchor) H, with the selection fixed, so that value and gradient add up to those of the
square; `micro_batch` is the authors': the mean over micro-batches of their own squares.
Differs from the authors' code: the scope; their anchor is of rows in another order under dynamic batch sizes, and is not
checkpointed.
Paper: Rethinking Entropy Regularization in Large Reasoning Models https://arxiv.org/abs/2509.25133
Code: Linn3a/siren@fa59a8df `efficient_top_p_sampling`, `mask_by_quantile`, `update_policy`
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.aggregate import token_mean
from rlvr.batch import LossTerms, Origin, RolloutBatch, TokenBatch
from rlvr.entropy.control import EntropyControl, Scope, State, Stats, ratio
from rlvr.kernels.statistics import statistic


class Config(BaseModel):
    """Options of SIREN."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mass: float = Field(default=0.8, gt=0, le=1)
    """Probability mass of the head; 0.8 in the paper."""
    most: int = Field(default=10_000, ge=1)
    """Tokens of the head at most, for speed; 10000 in the authors' code."""
    quantile: float = Field(default=0.8, ge=0, le=1)
    """tau: tokens above this quantile of their sequence are selected; 0.8 in the paper."""
    coef: float = Field(default=0.005, ge=0)
    """Multiplier of the square, per square nat; 0.005 in the paper, 0 turns it off."""
    anchor: float | None = Field(default=None, ge=0)
    """H to hold, nats; null: that of the first generation, as in the paper."""
    form: Literal["sound", "authors"] = "sound"
    """What the head is, and whether empty sequences count."""
    scope: Scope = "update"
    """Population of H; `micro_batch` is the authors' code."""


OFF = Config(coef=0.0)
"""Plain GRPO."""


def lower_bound(
    entropies: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], quantile: float
) -> Float[Tensor, "B 1"]:
    """Return the quantile of each row's masked values, as `torch.quantile` has it; NaN for a row without any."""
    values = torch.where(mask, entropies, torch.inf).sort(-1).values
    count = mask.sum(-1, keepdim=True)
    place = quantile * (count - 1).clamp(min=0).to(entropies.dtype)
    below = values.gather(-1, place.floor().long())
    above = values.gather(-1, place.ceil().long())
    bound = torch.lerp(below, above, place - place.floor())
    return torch.where(count > 0, bound, torch.nan)


def peak_mask(
    entropies: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], config: Config
) -> Bool[Tensor, "B T"]:
    """Return the masked tokens above the quantile of their row."""
    if mask.numel() == 0:
        return mask
    ranked = entropies.float() if config.form == "authors" else entropies
    return mask & (entropies > lower_bound(ranked, mask, config.quantile))


def peak_weights(
    entropies: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    rows: Bool[Tensor, " B"],
    config: Config,
) -> Float[Tensor, "B T"]:
    """Return each token's weight in H.

    Args:
        entropies: H_t.
        mask: Tokens of the policy loss.
        rows: Sequences that belong to it.
        config: Options.
    """
    selected = peak_mask(entropies, mask, config)
    counted = rows if config.form == "authors" else rows & mask.any(-1)
    per_row = selected.double() / selected.sum(-1, keepdim=True).clamp(min=1)
    return per_row / counted.sum().clamp(min=1)


def square_per_token(
    entropies: Float[Tensor, "B T"],
    marks: Mapping[str, Tensor],
    anchor: float,
) -> Float[Tensor, "B T"]:
    """Return what each token adds to (H - anchor)^2, linear in its entropy.

    With H as measured: (H - anchor)^2 + 2 (H - anchor) (Σ weights H_t - H). The part without H_t is spread over all tokens.
    """
    whole = marks["whole"]
    away = whole - anchor
    constant = away.square() - 2 * away * whole
    return marks["tokens"] * constant + marks["weights"] * 2 * away * entropies


def held_anchor(state: State, config: Config) -> float | None:
    """Return the anchor that is given, or else the measured one; None before the first generation."""
    return state["anchor"] if config.anchor is None else config.anchor


def measured_anchor(rollout: RolloutBatch, name: str, config: Config) -> float | None:
    """Return H of the policy that generated; None without a token: then there is nothing to hold yet."""
    rows = rollout.origin != Origin.REHEARSAL
    mask = rollout.mask & rows.unsqueeze(-1)
    entropies = torch.where(mask, rollout.old_statistics[name], 0.0)
    weights = peak_weights(entropies, mask, rows, config)
    return float((weights * entropies).sum()) if mask.any() else None


def build(config: Config) -> EntropyControl:
    """Return the control."""
    if config.coef == 0:
        return EntropyControl(name="siren", idle="coef is 0")
    kind = "nucleus_entropy" if config.form == "sound" else "top_p_entropy"
    name = statistic(kind, config.mass, config.most)

    def check_resumed(state: State) -> None:
        if held_anchor(state, config) is None:
            raise ValueError(
                "the anchor is missing: siren measures it of the initial policy, in a run's first generation"
            )

    def shape(rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        if state["anchor"] is not None:
            return rollout, state, {}
        anchor = measured_anchor(rollout, name, config)
        return rollout, {"anchor": anchor}, {}

    def measure(
        population: TokenBatch,
        state: State,
        generator: torch.Generator,  # noqa: ARG001
    ) -> dict[str, Tensor]:
        entropies = population.statistics[name]
        rows, mask, dtype = population.is_policy_row, population.mask, population.logprobs.dtype
        if held_anchor(state, config) is None and mask.any():
            raise ValueError("siren has no anchor: no generation was shaped, and none is given")
        weights = peak_weights(entropies, mask, rows, config)
        whole = torch.where(weights > 0, weights * entropies, 0.0).sum()
        share = population.share
        return {
            "weights": (share * weights).to(dtype),
            "tokens": (share * token_mean(mask, rows)).to(dtype),
            "whole": whole.to(dtype).expand(mask.shape).clone(),
        }

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,
    ) -> tuple[LossTerms, Stats]:
        anchor = held_anchor(state, config)
        if anchor is None:  # then there is no token either
            return terms, {}
        entropies = batch.statistics[name]
        squares = square_per_token(entropies, marks, anchor)
        # where, not times 0: an entropy that is not finite elsewhere stays out
        square = torch.where(batch.mask, squares, 0.0).sum()
        stats = _stats(entropies.detach(), batch.mask, marks, anchor)
        return terms.regularize("siren", config.coef * square), stats

    return EntropyControl(
        name="siren",
        statistics=frozenset({name}),
        old_statistics=frozenset({name}) if config.anchor is None else frozenset(),
        scope=config.scope,
        measures_current_policy=True,
        init=lambda: {"anchor": None},
        shape=shape if config.anchor is None else None,
        measure=measure,
        apply=apply,
        check_resumed=check_resumed,
    )


def _stats(entropies: Tensor, mask: Tensor, marks: Mapping[str, Tensor], anchor: float) -> Stats:
    share = marks["tokens"].sum(dtype=torch.float64)
    selected = marks["weights"] > 0
    peaks = torch.where(selected, marks["weights"] * entropies, 0.0)
    return {
        "entropy": ratio(peaks.sum(dtype=torch.float64), share),
        "anchor": ratio(anchor * share, share),
        "selected_fraction": ratio(selected.sum(), mask.sum()),
    }
