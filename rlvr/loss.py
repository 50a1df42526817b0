"""The loss of an update, from facts to a scalar, in any cut.

    decide   once an update, on its whole population: what the controls mark, and each token's weight in the mean
    loss     once a micro-batch: Σ weight (w surrogate + penalty) + regularizers

The losses of an update's micro-batches, over all processes, add up to the loss of the update.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from rlvr.batch import LossTerms, Marks, Origin, RolloutBatch, TokenBatch, initial_terms
from rlvr.divergence import k3
from rlvr.entropy.control import Chain, State, Stats, kept_tokens, ratio, slice_marks
from rlvr.entropy_change import discriminator

Surrogate = Callable[[LossTerms, TokenBatch], Tensor]
Aggregate = Callable[..., Tensor]
Estimator = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Decision:
    """What was decided about a population before its loss."""

    marks: Marks
    weights: Tensor
    """(B, T): each token's weight in the reduction, 0 outside the policy loss."""
    state: State
    """Of the chain, when it was decided."""

    def rows(self, index: Tensor) -> "Decision":
        """Return the decision about some rows of the population."""
        return replace(self, marks=slice_marks(self.marks, index), weights=self.weights[index])

    def columns(self, width: int) -> "Decision":
        """Return the decision about the first `width` tokens of every row."""
        marks = {
            control: {name: mark[:, :width] for name, mark in own.items()}
            for control, own in self.marks.items()
        }
        return replace(self, marks=marks, weights=self.weights[:, :width])


@dataclass(frozen=True)
class Objective:
    """The parts of a recipe's loss."""

    surrogate: Surrogate
    aggregate: Aggregate
    chain: Chain = field(default_factory=Chain)
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 0.0
    """Multiplier of the KL to the reference policy, per nat."""
    kl_estimator: Estimator = k3
    kl_correction: bool = True
    """Whether the estimate is multiplied by the ratio: its gradient is then that of the KL
    (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556)."""
    correction_max: float | None = None
    """Bound of π_old / π_sampling, the importance weight where the sampler reports its own log-probs."""

    def decide(
        self, population: TokenBatch, micro_batches: Sequence[Tensor], state: State, seed: int
    ) -> Decision:
        """Return marks and weights of an update.

        Args:
            population: All its tokens, of all processes, padding zeroed; no gradient.
            micro_batches: The rows of each micro-batch, of all processes.
            state: Of the chain.
            seed: Of this update's random choices; the same on every process.
        """
        with torch.no_grad():
            marks = self.chain.measure(population, micro_batches, state, seed)
            kept = kept_tokens(population, marks)
            weights = self.aggregate(kept, population.is_policy_row)
        return Decision(marks, weights.to(population.logprobs.dtype), state)

    def live(self, rows: RolloutBatch) -> Bool[Tensor, "B T"]:
        """Return which tokens may have a gradient: those that have an advantage, or all, if something else teaches."""
        if self.kl_coef != 0 or not self.chain.scales_advantage:
            return rows.completion_mask
        return rows.mask & (rows.advantages != 0)

    def idle_rows(self, rows: RolloutBatch) -> Bool[Tensor, " B"]:
        """Return which rows have no gradient, whatever the policy."""
        return ~self.live(rows).any(-1)

    def loss(self, batch: TokenBatch, decision: Decision) -> tuple[Tensor, Stats]:
        """Return a micro-batch's part of the update's loss, and its statistics.

        Args:
            batch: Tokens of the micro-batch, padding zeroed; `logprobs` and `entropies` carry gradient.
            decision: About its rows.
        """
        base = initial_terms(
            batch, clip_low=self.clip_low, clip_high=self.clip_high, dual_clip=self.dual_clip
        )
        terms, stats = self.chain.apply(
            self._corrected(base, batch), batch, decision.marks, decision.state
        )
        per_token = terms.weights * self.surrogate(terms, batch) + terms.penalty
        if self.kl_coef != 0:
            if batch.ref_logprobs is None:
                raise ValueError("kl_coef is not 0, but the batch has no ref_logprobs")
            kl = self.kl_estimator(batch.logprobs, batch.ref_logprobs)
            if self.kl_correction:
                kl = kl * (batch.logprobs - batch.old_logprobs).exp()
            per_token = per_token + self.kl_coef * kl
            stats["kl"] = ratio((kl * batch.mask).sum(), batch.mask.sum())
        # where, not times 0: a loss that overflowed in a token that does not count stays out
        loss = torch.where(decision.weights > 0, decision.weights * per_token, 0.0).sum()
        for value in terms.regularizers.values():
            loss = loss + value
        counted = (decision.weights > 0).sum()
        stats["tokens/in_loss_fraction"] = ratio(counted, batch.mask.sum())
        return loss, stats | diagnostics(terms, batch)

    def _corrected(self, terms: LossTerms, batch: TokenBatch) -> LossTerms:
        if self.correction_max is None or batch.sampling_logprobs is None:
            return terms
        # a token that the sampler could not score is not corrected
        distance = (batch.old_logprobs - batch.sampling_logprobs).nan_to_num(nan=0.0)
        weights = distance.exp().clamp(max=self.correction_max)
        return replace(terms, weights=terms.weights * weights)


def diagnostics(terms: LossTerms, batch: TokenBatch) -> Stats:
    """Return sums over the tokens of the policy loss that describe an update, whatever its controls are.

    `entropy` is over every token sampled at the recipe's temperature, also those that were taken out of the loss; the
    others are over the tokens of the loss, tempered rows included.
    With l = log π, A the advantage, r the ratio and S = π (l + H): `logprob`, `advantage`, `logprob_advantage` give
    Cov(l, A); `gain`, `discriminator`, `gain_discriminator` give Cov(A r, S), of which minus the step size is the
    first-order entropy change of a softmax policy.
    """
    own = batch.exists & (batch.origin == Origin.POLICY).unsqueeze(-1)

    def mean(values: Tensor, mask: Tensor = batch.mask) -> Tensor:
        total = torch.where(mask, values.detach(), 0.0).sum(dtype=torch.float64)
        return ratio(total, mask.sum())

    logprobs, advantages = batch.logprobs.detach(), terms.advantages
    r = (logprobs - batch.old_logprobs).clamp(-20, 20).exp()
    stats = {
        "surprisal": mean(-logprobs),
        "logprob": mean(logprobs),
        "advantage": mean(advantages),
        "logprob_advantage": mean(logprobs * advantages),
        "clip/low_fraction": mean(((r < 1 - terms.clip_low) & (advantages < 0)).to(r.dtype)),
        "clip/high_fraction": mean(((r > 1 + terms.clip_high) & (advantages > 0)).to(r.dtype)),
    }
    if batch.entropies is not None:
        entropies = batch.entropies.detach()
        gain, sampled = advantages * r, discriminator(logprobs, entropies)
        stats |= {
            "entropy": mean(entropies, own),
            "gain": mean(gain),
            "discriminator": mean(sampled),
            "gain_discriminator": mean(gain * sampled),
        }
    return stats


def update_metrics(
    means: Mapping[str, float], step_size: float, last_entropy: float | None
) -> dict[str, float | None]:
    """Return the metrics of an update from the means of its statistics.

    Args:
        means: Of `Objective.loss`, over the whole update.
        step_size: Learning rate: the predicted change of entropy is that of a softmax policy whose logits move by it.
        last_entropy: Mean entropy at the update before, nats.
    """

    def covariance(first: str, second: str) -> float:
        return means[f"{first}_{second}"] - means[first] * means[second]

    inner = {"logprob", "advantage", "gain", "discriminator", "surprisal"}
    inner |= {"logprob_advantage", "gain_discriminator"}
    return {
        "entropy/covariance": covariance("logprob", "advantage"),
        "entropy/predicted_change": -step_size * covariance("gain", "discriminator"),
        "entropy/measured_change": None
        if last_entropy is None
        else means["entropy"] - last_entropy,
        **{name: value for name, value in means.items() if name not in inner},
    }
