"""What a method does to one update: tokens, gradient, entropy before and after a step.

For a token t of plain GRPO's loss let u_t = (dL / d log π_t) / w_t, with w_t its weight in the reduction: the gradient of
its own loss, before the mean. Then

    dropped   w_t = 0: out of the loss and of its denominator
    touched   dropped, or u_t is not plain GRPO's, or L depends on the entropy (or a statistic) at t
    weight    u_t / u_t of plain GRPO, where the latter is not 0; 0 where dropped

A denominator that changes because others left or came touches no token.
Predicted: with every position's logits as parameters of their own and plain gradient descent on the sum of the
per-token losses by η, dz_t = -η N dL/dz_t, the mean entropy changes by

    mean_t -η N (dL/dlog π_t <dlog π_t/dz, dH_t/dz> + dL/dH_t |dH_t/dz|² + Σ_s dL/ds_t <ds_t/dz, dH_t/dz>)

to first order, N the tokens of plain GRPO's loss (for a sum over tokens; for other reductions the same constant). The
first term is -η A r (S - N_t) of `rlvr/entropy_change.py`; the others are there for methods whose loss reads entropies.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlvr.batch import LossTerms, Origin, RolloutBatch, TokenBatch
from rlvr.entropy.control import EntropyControl, State, Stats, chain
from rlvr.kernels.statistics import of_logits
from rlvr.logprobs import CHUNK
from rlvr.loss import Objective
from rlvr.replay.weights import gradients
from rlvr.trainer import Part, Trainer

TAG = "replay/row"
"""Statistic that carries the number of a frozen row, from 1; 0: a row that a control added."""

Products = dict[str, Tensor]
"""Of what a loss can depend on -> <its gradient, dH/dz> at each token, (B, T): `logprob`, `entropy`, statistics."""


@dataclass(frozen=True)
class Pull:
    """The gradient of one update, by tokens and by parameters. (B, T) are the frozen rows."""

    by: Products
    """dL / d(log-prob, entropy or statistic) at each token."""
    weights: Tensor
    """w: of each token in the reduction."""
    mask: Tensor
    """Tokens that were sampled, of the rows of this update."""
    added: int
    """Tokens of rows that are not frozen ones, with a gradient."""
    parameters: list[Tensor]


@dataclass(frozen=True)
class Touch:
    """What a method does to the tokens of plain GRPO's loss."""

    touched: float
    """Share of them."""
    dropped: float
    """Share of them."""
    added: float
    """Tokens of other rows that have a gradient, as a share of them."""
    revived: float
    """Share of them without a gradient under plain GRPO and with one here."""
    weights: Tensor
    """(N,): of those with a gradient under plain GRPO."""


def tagged(rows: RolloutBatch) -> RolloutBatch:
    """Return the rows, each with its number."""
    numbers = torch.arange(1, len(rows) + 1, dtype=torch.float64, device=rows.mask.device)
    tag = numbers.unsqueeze(-1).expand(rows.mask.shape)
    return replace(rows, old_statistics={**rows.old_statistics, TAG: tag.clone()})


def pull(trainer: Trainer, rows: RolloutBatch, update: int, shape: tuple[int, int]) -> Pull:
    """Return the gradient of one update by the trainer's objective.

    Args:
        trainer: Its gradients are overwritten.
        rows: Tagged rows of a generation, as they are trained on.
        update: Which of the updates on it.
        shape: Of the frozen rows, (B, T).
    """
    device = rows.mask.device
    by: Products = {"logprob": torch.zeros(shape, dtype=torch.float64, device=device)}
    weights, mask = torch.zeros_like(by["logprob"]), torch.zeros_like(by["logprob"])
    added = 0
    trainer.model.zero_grad()
    for part in trainer.parts(rows, update, with_idle_rows=True):
        inputs = _inputs(part)
        for value in inputs.values():
            value.retain_grad()
        part.loss.backward()
        number = part.rows.old_statistics[TAG][:, 0].long() - 1
        own = number >= 0
        width = min(shape[1], part.rows.mask.shape[1])
        columns = torch.arange(width, device=device)
        where = (number[own, None], columns)

        def add(
            total: Tensor, values: Tensor, own: Tensor = own, where=where, width: int = width
        ) -> None:  # type: ignore[no-untyped-def]
            total.index_put_(where, values[own, :width].double(), accumulate=True)

        pulled = torch.zeros_like(part.rows.mask)
        for name, value in inputs.items():
            if value.grad is None:
                continue
            pulled |= value.grad != 0
            add(by.setdefault(name, torch.zeros_like(weights)), value.grad)
        add(weights, part.weights)
        add(mask, part.rows.completion_mask)
        added += int(pulled[~own].sum())
    return Pull(by, weights, mask > 0, added, gradients(trainer.model))


def _inputs(part: Part) -> Products:
    seen = part.seen
    found = {"logprob": seen.logprobs, **seen.statistics}
    if seen.entropies is not None:
        found["entropy"] = seen.entropies
    return {name: value for name, value in found.items() if value.requires_grad}


def touch(method: Pull, plain: Pull, *, tolerance: float) -> Touch:
    """Return what a method does to the tokens of plain GRPO's loss.

    Args:
        method: Its gradient.
        plain: That of plain GRPO on the same rows.
        tolerance: Relative difference of u up to which a token counts as untouched: rounding.
    """
    inside = plain.weights > 0
    kept = inside & (method.weights > 0)
    before = _own_gradient(plain)[inside]
    after = torch.where(kept, _own_gradient(method), 0.0)[inside]
    differs = (after - before).abs() > tolerance * torch.maximum(after.abs(), before.abs())
    others = [part != 0 for name, part in method.by.items() if name != "logprob"]
    reads_more = torch.stack(others).any(0)[inside] if others else torch.zeros_like(differs)
    dropped = ~kept[inside]
    count = max(int(inside.sum()), 1)
    pulled = before != 0
    return Touch(
        touched=float((differs | dropped | reads_more).sum()) / count,
        dropped=float(dropped.sum()) / count,
        added=method.added / count,
        revived=float((~pulled & (after != 0)).sum()) / count,
        weights=after[pulled] / before[pulled],
    )


def _own_gradient(pull: Pull) -> Tensor:
    weights = torch.where(pull.weights > 0, pull.weights, 1.0)
    return pull.by["logprob"] / weights


def entropy_products(trainer: Trainer, rows: RolloutBatch, names: Collection[str]) -> Products:
    """Return <d·/dz, dH/dz> for log-prob, entropy and the named statistics, at every token of the policy as it is."""
    found: Products = {}
    vocabulary = int(trainer.model.config.get_text_config().vocab_size)
    for row, column, logits in trainer.logits(rows, max(CHUNK // vocabulary, 1)):
        taken = rows.completion_ids[row.to(rows.mask.device), column]
        with torch.enable_grad():
            z = logits.requires_grad_()
            log_p = torch.log_softmax(z, dim=-1)
            values = {
                "logprob": log_p.gather(-1, taken.unsqueeze(-1)).squeeze(-1),
                "entropy": -(log_p.exp() * log_p).sum(-1),
                **of_logits(z, taken, names),
            }
            slopes = {
                name: torch.autograd.grad(value.sum(), z, retain_graph=True)[0]
                for name, value in values.items()
            }
        for name, slope in slopes.items():
            total = found.setdefault(
                name, torch.zeros(rows.mask.shape, dtype=torch.float64, device=rows.mask.device)
            )
            product = (slope.double() * slopes["entropy"].double()).sum(-1)
            total[row.to(total.device), column] = product
    return found


def predicted_change(method: Pull, plain: Pull, products: Products) -> float:
    """Return the first-order change of the mean entropy for η = 1, nats, of a policy with logits of its own everywhere."""
    tokens = plain.weights.count_nonzero()
    total = sum((slope * products[name])[plain.mask].sum() for name, slope in method.by.items())
    return -float(total) * int(tokens) / max(int(plain.mask.sum()), 1)


def mean_entropy(trainer: Trainer, rows: RolloutBatch, mask: Tensor) -> float:
    """Return the mean entropy, nats, over the tokens of a mask."""
    chosen = mask.any(-1)
    entropies = trainer.look(rows.rows(chosen)).entropies
    assert entropies is not None  # of a policy, not a reference
    return float(entropies[mask[chosen]].double().mean())


def entropy_gradient(
    trainer: Trainer, objective: Objective, rows: RolloutBatch, update: int
) -> list[Tensor]:
    """Return the gradient by the parameters of the mean entropy over the update's tokens."""

    def measure(
        population: TokenBatch,
        state: State,  # noqa: ARG001
        generator: torch.Generator,  # noqa: ARG001
    ) -> dict[str, Tensor]:
        own = population.exists & (population.origin == Origin.POLICY).unsqueeze(-1)
        return {"mean": own.to(population.logprobs.dtype) / own.sum().clamp(min=1)}

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: dict[str, Tensor],
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        assert batch.entropies is not None  # the control needs them
        nothing = replace(terms, weights=torch.zeros_like(terms.weights))
        return nothing.regularize("entropy", (marks["mean"] * batch.entropies).sum()), {}

    probe = EntropyControl(
        name="replay",
        needs=frozenset({"entropies"}),
        measure=measure,
        apply=apply,  # type: ignore[arg-type]
    )
    trainer.use(replace(objective, chain=chain(probe), kl_coef=0.0), {"replay": {}})
    trainer.model.zero_grad()
    for loss in trainer.losses(rows, update):
        loss.backward()
    return gradients(trainer.model)
