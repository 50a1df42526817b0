"""ARES: reward as much uncertainty as a prompt's difficulty asks for, and hold each difficulty near the reference.

    N = number of a completion's windows of `window` tokens whose mean entropy is above the threshold
    threshold = mean over completions of the 95th percentile of their windows
    bucket d of a prompt by its share of right answers: easy from 2/3, medium from 1/3, else hard
    R <- R - 1[wrong] λ_d g_d(Δ),   Δ = N - target_d,   λ_d = max(0, (mean N - target_d) / Var N)
    g: easy max(0, Δ), medium |Δ|, hard max(0, -Δ)
    L = L_policy + kl_coef mean_t β_d k3_t        k3 of the KL to the reference, β_d held by a controller:
    KL_d <- moving average, e = KL_d / kl_target - 1, ln β_d += rate clip(moving average of e, +- kl_error_max)

The paper sets target_d to the bucket's mean of the same batch, with which λ_d is 0 for ever. Here it is the moving
average of that mean over the generations before (`target_ema`); the first one only sets it. λ_d g_d(Δ) is bounded by
`penalty_max`: with equal N the variance is 0. A group of only wrong answers may get unequal rewards, which
`algorithm.advantage: group_zscore` scales up; `group_mean` does not.

form `sound` (default): the reward above, so no wrong answer is rewarded; entropies of the full vocabulary; windows
start at their token; the threshold is this generation's.
form `authors`: the reward of their code: right answers pay or earn up to α_d by how far N is from the target, wrong ones
always earn. target_d is the rounded mean of the batch, α_d += alpha_rate (mean N - target_d), opposite for hard.
Entropies are of the 10 most likely tokens, the rest as one (not in the threshold); windows follow their token; the
threshold is the moving average of medians, from the generation before. A token's k3 is clamped to 10 nats, beyond which
it has no gradient (in the sound form only where the controller measures it).

Not here: branching rollouts, the paper's advantage bonus and its weaker KL at high windows (none is in the code). The
authors count only windows after the words of a list, where the likeliest token is one; this control sees sampled tokens,
of which `trigger_tokens` may name some. Their controller of β counts micro-batches on each process; here it counts updates,
from the statistics of all processes, and is in the checkpoint. Leave `algorithm.kl_coef` at 0: this is the KL; it has
k3's own gradient, as in the code, not times the ratio.

Scope: reward: generation; KL: update. State: threshold, targets, α_d, β_d and their averages.
Paper: ARES: Multimodal Adaptive Reasoning via Difficulty-Aware Token-Level Entropy Shaping https://arxiv.org/abs/2510.08457
Code: shawn0728/ARES@146620e3 `compute_score`, `_update_beta_per_bucket`, `compute_reasoning_token_window_entropy`
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, Self

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from rlvr.batch import LossTerms, Origin, RolloutBatch, TokenBatch
from rlvr.entropy._ares_kl import MOST_KL, mark_buckets, row_bucket, token_kl, weigh_buckets
from rlvr.entropy._ares_reward import (
    BUCKETS,
    CODED_SHAPES,
    bucket_of,
    coded_bonus,
    count_windows,
    filled_windows,
    group_sums,
    miss,
    penalty_rate,
    row_percentiles,
    window_means,
    with_tail,
)
from rlvr.entropy.control import EntropyControl, Need, State, Stats, ratio
from rlvr.kernels.statistics import statistic

_TOP = 10  # log-probs of a token that the authors' sampler returns
_TOP_ENTROPY, _TOP_MASS = statistic("top_k_entropy", _TOP), statistic("top_k_mass", _TOP)
_ONLY_OF = {
    "sound": {"target_ema", "penalty_max"},
    "authors": {"alpha_start", "alpha_rate", "alpha_max"},
}


class Config(BaseModel):
    """Options of ARES."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    reward_coef: float = Field(default=1.0, ge=0)
    """Multiplier of the entropy reward; 1 in the paper, 0 is none."""
    kl_coef: float = Field(default=0.01, ge=0)
    """Multiplier of the KL to the reference, per nat, before β_d; 0.01 in the authors' code, 0 is none."""
    form: Literal["sound", "authors"] = "sound"
    """The paper's reward, or that of the authors' code, which pays for wrong answers."""
    window: int = Field(default=4, ge=1)
    """Tokens of a window; 4 in the authors' code."""
    percentile: float = Field(default=95.0, ge=0, le=100)
    """Of a completion's windows, for the threshold; 95 in the paper."""
    threshold_ema: float | None = Field(default=None, ge=0, lt=1)
    """Share of the threshold that is kept; null: 0 (the paper) or, in the authors' form, 0.99."""
    trigger_tokens: tuple[int, ...] = ()
    """Ids of the sampled tokens whose windows count; empty: all (see `is_trigger` in `_ares_reward.py`)."""
    right_above: float = 0.5
    """A completion above this reward is right."""
    easy_from: float = Field(default=2 / 3, ge=0, le=1)
    """Least share of right answers of an easy prompt; 2/3 in the code, 6 of 8 in the paper."""
    medium_from: float = Field(default=1 / 3, ge=0, le=1)
    """Least share of right answers of a medium prompt; 1/3 in the code, 3 of 8 in the paper."""
    target_ema: float = Field(default=0.9, ge=0, lt=1)
    """Form `sound`: share of target_d that a generation keeps; the paper leaves the target open."""
    penalty_max: float = Field(default=1.0, ge=0)
    """Form `sound`: a wrong answer costs this at most; what a right one earns, in the paper unbounded."""
    alpha_start: float = Field(default=0.5, ge=0)
    """Form `authors`: α_d at first; 0.5 in the code."""
    alpha_rate: float = Field(default=0.05, ge=0)
    """Form `authors`: step of α_d per window off the target; 0.05 in the code."""
    alpha_max: float = Field(default=2.0, ge=0)
    """Form `authors`: bound of α_d; 2 in the code."""
    kl_target: float = Field(default=0.01, gt=0)
    """KL to hold in each bucket, nats per token; 0.01 in the code."""
    kl_scale_start: float = Field(default=1.0, gt=0)
    """β_d at first; 1 in the code."""
    kl_scale_rate: float = Field(default=0.05, ge=0)
    """Step of ln β_d per unit of error; 0.05 in the code, 0 keeps β_d."""
    kl_scale_min: float = Field(default=1e-4, gt=0)
    """Least β_d; 1e-4 in the code."""
    kl_scale_max: float = Field(default=100.0, gt=0)
    """Largest β_d; 100 in the code."""
    kl_ema: float = Field(default=0.97, ge=0, lt=1)
    """Share of its moving averages that the controller keeps; 0.97 in the code."""
    kl_error_max: float = Field(default=0.2, gt=0)
    """Bound of the averaged relative error; 0.2 in the code."""
    kl_deadzone: float = Field(default=0.02, ge=0)
    """A relative error below this moves nothing; 0.02 in the code."""
    kl_interval: int = Field(default=1, ge=1)
    """Updates between two steps of β_d; in the code 100 micro-batches, so that its error hardly averages."""

    @model_validator(mode="after")
    def _options_fit_together(self) -> Self:
        if self.medium_from > self.easy_from:
            raise ValueError(f"medium_from {self.medium_from} is above easy_from {self.easy_from}")
        if self.kl_scale_min > self.kl_scale_max:
            raise ValueError(
                f"kl_scale_min {self.kl_scale_min} is above kl_scale_max {self.kl_scale_max}"
            )
        other = "authors" if self.form == "sound" else "sound"
        for name in sorted(_ONLY_OF[other] & self.model_fields_set):
            raise ValueError(
                f"{name} has no effect with form {self.form}; remove it, or set form: {other}"
            )
        return self


OFF = Config(reward_coef=0.0, kl_coef=0.0)
"""Plain GRPO."""


def next_kl_scales(state: State, kl: Mapping[str, float], config: Config) -> State:
    """Return the state after the controller has seen the mean KL of some buckets, nats."""
    calls = state["kl_calls"] + 1
    scales, averages, errors = dict(state["kl_scale"]), dict(state["kl"]), dict(state["kl_error"])
    low, high = config.kl_scale_min, config.kl_scale_max
    for name, value in kl.items():
        last = value if averages[name] is None else averages[name]
        averages[name] = config.kl_ema * last + (1 - config.kl_ema) * value
        error = averages[name] / config.kl_target - 1
        if abs(error) < config.kl_deadzone or calls % config.kl_interval:
            continue
        errors[name] = config.kl_ema * errors[name] + (1 - config.kl_ema) * error
        push = min(max(errors[name], -config.kl_error_max), config.kl_error_max)
        scale = min(max(scales[name], low), high) * math.exp(config.kl_scale_rate * push)
        scales[name] = min(max(scale, low), high)
    return state | {"kl_calls": calls, "kl_scale": scales, "kl": averages, "kl_error": errors}


def build(config: Config) -> EntropyControl:
    """Return the control."""
    has_reward, has_kl = config.reward_coef > 0, config.kl_coef > 0
    needs: set[Need] = {"ref_logprobs"} if has_kl else set()
    wanted: set[str] = set()
    if has_reward and config.form == "sound":
        needs.add("old_entropies")
    elif has_reward:
        wanted = {_TOP_ENTROPY, _TOP_MASS}
    control = EntropyControl(
        name="ares",
        needs=frozenset(needs),
        old_statistics=frozenset(wanted),
        idle=None if has_reward or has_kl else "reward_coef and kl_coef are 0",
        init=partial(_first_state, config),
    )
    if has_reward or has_kl:
        control = replace(control, reward=partial(_reward, config=config))
    if has_kl:
        control = replace(
            control,
            shape=mark_buckets,
            measure=weigh_buckets,
            apply=partial(_apply, config=config),
            step=partial(_step, config=config),
        )
    return control


def _first_state(config: Config) -> State:
    return {
        "threshold": None,
        "target": dict.fromkeys(BUCKETS),
        "alpha": dict.fromkeys(BUCKETS, config.alpha_start),
        "buckets": [],
        "kl_scale": dict.fromkeys(BUCKETS, config.kl_scale_start),
        "kl": dict.fromkeys(BUCKETS),
        "kl_error": dict.fromkeys(BUCKETS, 0.0),
        "kl_calls": 0,
    }


# ---------------------------------------------------------------------- the dynamic KL


def _apply(
    terms: LossTerms,
    batch: TokenBatch,
    marks: Mapping[str, Tensor],
    state: State,  # noqa: ARG001
    config: Config,
) -> tuple[LossTerms, Stats]:
    if batch.ref_logprobs is None:
        raise ValueError("ares needs ref_logprobs")
    kl = torch.where(batch.mask, token_kl(batch.logprobs, batch.ref_logprobs), 0.0)
    bounded = kl.clamp(max=MOST_KL)
    lengths = batch.mask.sum(-1)
    per_row = bounded.detach().sum(-1) / lengths.clamp(min=1)
    bucket = row_bucket(batch)
    stats = {}
    for name, number in BUCKETS.items():
        members = (bucket == number) & (lengths > 0)
        stats[f"kl_{name}"] = ratio(per_row[members].sum(), members.sum())
    kl = kl if config.form == "sound" else bounded
    value = config.kl_coef * (marks["kl_weights"] * kl).sum()
    return terms.regularize("ares_kl", value), stats


def _step(state: State, stats: Mapping[str, float], config: Config) -> State:
    found = {name: stats.get(f"ares/kl_{name}", math.nan) for name in BUCKETS}
    measured = {name: value for name, value in found.items() if math.isfinite(value)}
    return next_kl_scales(state, measured, config)


# ---------------------------------------------------------------------- the reward


def _reward(rollout: RolloutBatch, state: State, config: Config) -> tuple[Tensor, State, Stats]:
    rows = (rollout.origin == Origin.POLICY) & rollout.is_scored
    is_right = rows & (rollout.rewards > config.right_above)
    bucket = _buckets(rollout, rows, is_right, config)
    # kept for `shape`, which sees rewards that this or another control has changed
    state = state | {"buckets": _by_group(bucket, rollout.group_ids, rows)}
    stats: Stats = {
        f"{name}_fraction": ratio((rows & (bucket == number)).sum(), rows.sum())
        for name, number in BUCKETS.items()
    }
    if config.reward_coef == 0:
        return rollout.rewards, state, stats
    counts, threshold = _high_windows(rollout, rows, state["threshold"], config)
    judge = _penalties if config.form == "sound" else _coded_bonuses
    change, state = judge(counts, bucket, rows, is_right, rollout.group_ids, state, config)
    stats["windows"] = ratio(counts[rows].sum(), rows.sum())
    stats["entropy_reward"] = ratio(change[rows].sum(), rows.sum())
    if threshold is not None:
        stats["threshold"] = ratio(torch.tensor(threshold, dtype=torch.float64), 1.0)
    rewards = rollout.rewards + config.reward_coef * change.to(rollout.rewards.dtype)
    return rewards, state | {"threshold": threshold}, stats


def _buckets(
    rollout: RolloutBatch, rows: Tensor, is_right: Tensor, config: Config
) -> Int[Tensor, " B"]:
    ones = torch.ones_like(rows).double()
    sizes = group_sums(ones, rows, rollout.group_ids)
    accuracy = group_sums(ones, is_right, rollout.group_ids) / sizes.clamp(min=1)
    return torch.where(rows, bucket_of(accuracy, config.easy_from, config.medium_from), 0)


def _by_group(bucket: Tensor, group_ids: Tensor, rows: Tensor) -> list[int]:
    found = bucket.new_zeros(int(group_ids[rows].max()) + 1 if rows.any() else 0)
    found[group_ids[rows]] = bucket[rows]
    return found.tolist()


def _high_windows(
    rollout: RolloutBatch, rows: Tensor, last: float | None, config: Config
) -> tuple[Float[Tensor, " B"], float | None]:
    """Return N of each row, and the threshold of this generation."""
    mask = rollout.mask & rows.unsqueeze(-1)
    if config.form == "sound":
        if rollout.old_entropies is None:
            raise ValueError("ares needs old_entropies")
        means, complete = window_means(rollout.old_entropies, mask, config.window)
        percentiles = row_percentiles(means, complete, config.percentile)
        found = percentiles[~percentiles.isnan()]
        threshold = _moved(last, found.mean().item() if len(found) else None, config)
        counted = _at_triggers(complete, rollout, config)
        return count_windows(means, counted, threshold), threshold
    top = rollout.old_statistics[_TOP_ENTROPY]
    filled = filled_windows(*window_means(top, mask, config.window, ahead=1), top)
    percentiles = row_percentiles(filled, mask, config.percentile)
    found = percentiles[~percentiles.isnan()]
    threshold = _moved(last, found.quantile(0.5).item() if len(found) else None, config)
    whole = with_tail(top, rollout.old_statistics[_TOP_MASS])
    means, complete = window_means(whole, mask, config.window, ahead=1)
    counted = _at_triggers(complete, rollout, config)
    # the authors count while they sample, with the threshold they have then
    used = threshold if last is None else last
    return count_windows(means, counted, used, strict=False), threshold


def _moved(last: float | None, found: float | None, config: Config) -> float | None:
    kept = config.threshold_ema
    if kept is None:
        kept = 0.0 if config.form == "sound" else 0.99
    if found is None or last is None:
        return last if found is None else found
    return kept * last + (1 - kept) * found


def _at_triggers(complete: Tensor, rollout: RolloutBatch, config: Config) -> Tensor:
    if not config.trigger_tokens:
        return complete
    wanted = torch.tensor(config.trigger_tokens, device=complete.device)
    return complete & torch.isin(rollout.completion_ids, wanted)


def _penalties(
    counts: Tensor,
    bucket: Tensor,
    rows: Tensor,
    is_right: Tensor,
    group_ids: Tensor,  # noqa: ARG001 (one signature for both forms)
    state: State,
    config: Config,
) -> tuple[Tensor, State]:
    """Return the paper's penalty of wrong answers, negative, and the next targets."""
    change, targets = torch.zeros_like(counts), dict(state["target"])
    for name, number in BUCKETS.items():
        members = rows & (bucket == number)
        if not members.any():
            continue
        own, target = counts[members], targets[name]
        if target is not None:
            penalty = penalty_rate(own, target) * miss(own, target, name)
            penalty = penalty.clamp(max=config.penalty_max)
            change[members] = torch.where(is_right[members], 0.0, -penalty)
        mean, kept = own.mean().item(), config.target_ema
        targets[name] = mean if target is None else kept * target + (1 - kept) * mean
    return change, state | {"target": targets}


def _coded_bonuses(
    counts: Tensor,
    bucket: Tensor,
    rows: Tensor,
    is_right: Tensor,
    group_ids: Tensor,
    state: State,
    config: Config,
) -> tuple[Tensor, State]:
    """Return what the authors' code adds to the reward, and the next targets and alphas."""
    change, targets, alphas = torch.zeros_like(counts), dict(state["target"]), dict(state["alpha"])
    # a mean over prompts of their means
    weights = 1 / group_sums(torch.ones_like(counts), rows, group_ids).clamp(min=1)
    for name, number in BUCKETS.items():
        members = rows & (bucket == number)
        if not members.any():
            continue
        own, share = counts[members], weights[members]
        mean = ((own * share).sum() / share.sum()).item()
        targets[name] = float(round(mean))
        off = mean - targets[name]
        moved = alphas[name] + config.alpha_rate * (-off if name == "hard" else off)
        alphas[name] = min(max(moved, 0.0), config.alpha_max)
        change[members] = coded_bonus(
            own,
            is_right[members],
            target=targets[name],
            alpha=alphas[name],
            bucket=name,
            shape=CODED_SHAPES[name],
        )
    return change, state | {"target": targets, "alpha": alphas}
