"""Put a frozen rollout through methods: the same rows, the same weights, one optimizer step each.

    start     the weights that sampled
    moved     after some updates of plain GRPO on the rollout, so that the ratio is no longer 1
    step      from there the next update on the rollout, once for each method; the weights are put back each time

A control that learns from update to update sees the statistics of the updates before, as in a run.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.check.plan import BatchPlan
from rlvr.entropy.control import Chain, RolloutPlan, State, quotient
from rlvr.kernels.statistics import carries_gradient
from rlvr.loss import Objective
from rlvr.replay.candidates import PLAIN, Candidate
from rlvr.replay.effect import (
    Products,
    Pull,
    entropy_gradient,
    entropy_products,
    mean_entropy,
    predicted_change,
    pull,
    tagged,
    touch,
)
from rlvr.replay.rollout import Frozen, rehearsal_key, tempered_key
from rlvr.replay.weights import Weights, dot, gradients, kept_state, restore_state, trained
from rlvr.rollout.rehearsal import draw, load_buffer
from rlvr.rollout.rows import sampled_by
from rlvr.trainer import Trainer

STEPS = ("optimizer", "sgd")
"""How the weights are moved: the recipe's optimizer, or plain gradient descent, which is what formulas speak of."""
_SGD_SHARE = 0.1
"""Norm of plain GRPO's step by gradient descent, as a share of its step by the optimizer: small, to be of first order."""
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(frozen=True)
class Effect:
    """What one method does; all numbers are measured on the same update."""

    name: str
    options: dict[str, dict[str, Any]]
    touched: float
    dropped: float
    added: float
    revived: float
    weights: Tensor
    """Of the tokens with a gradient under plain GRPO."""
    cosine: float
    """Of the gradient with plain GRPO's."""
    norm_ratio: float
    """Of the gradient's norm to plain GRPO's."""
    predicted: float
    """First-order change of the mean entropy for a step of 1 on logits, nats: see effect.py."""
    first_order: dict[str, float]
    """Change of the mean entropy to first order in the weights, nats, by kind of step."""
    measured: dict[str, float]
    """Change of the mean entropy, nats, by kind of step."""


@dataclass(frozen=True)
class Result:
    """A replay."""

    effects: list[Effect]
    """Plain GRPO first."""
    left_out: dict[str, str]
    """Method -> why it could not be replayed."""
    facts: dict[str, float]
    """Tokens, entropies and step sizes of the update."""


@dataclass
class _Prepared:
    candidate: Candidate
    rows: RolloutBatch
    state: State
    stats: dict[str, float]


def replay(
    trainer: Trainer,
    frozen: Frozen,
    objective: Objective,
    plan: BatchPlan,
    chosen: Sequence[Candidate],
    *,
    states: Mapping[str, Any] | None = None,
    after: int = 1,
    steps: Callable[[Sequence[_Prepared]], Iterable[_Prepared]] = iter,
) -> Result:
    """Put a frozen rollout through methods.

    Args:
        trainer: Holds the weights that sampled; they are put back at the end.
        frozen: The rollout.
        objective: The run's loss; its controls are replaced.
        plan: The run's.
        chosen: Methods besides plain GRPO.
        states: Control -> state to start from; the others start anew.
        after: Updates of plain GRPO on the rollout before the methods act.
        steps: Shows how far the methods are.

    Raises:
        ValueError: If no method can be replayed.
    """
    plain = Candidate(PLAIN, Chain(), {})
    everyone = [plain, *chosen]
    names = {name for one in everyone for name in one.chain.statistics | one.chain.old_statistics}
    source = _with_statistics(trainer, frozen, names)
    start = Weights(trainer.model)
    trainer.save_memory()
    prepared, left_out = [], {}
    for one in everyone:
        try:
            prepared.append(_prepare(trainer, source, objective, plan, one, states or {}))
        except ValueError as error:
            left_out[one.name] = str(error)
    if len(prepared) == 1 and chosen:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    try:
        _move(trainer, objective, prepared, after)
        bench = _Bench(trainer, objective, prepared[0], after, _slopes(chosen))
        return Result([bench.effect(one) for one in steps(prepared)], left_out, bench.facts)
    finally:
        start.restore()
        trainer.model.zero_grad()


def plans(chosen: Sequence[Candidate], states: Mapping[str, Any]) -> list[RolloutPlan]:
    """Return what the methods want sampled in these states."""
    return [one.chain.plan(_state(one.chain, states)) for one in chosen]


def _state(chain: Chain, states: Mapping[str, Any]) -> State:
    own = chain.init()
    return own | {name: copy.deepcopy(states[name]) for name in own if name in states}


def _slopes(chosen: Sequence[Candidate]) -> list[str]:
    names = {name for one in chosen for name in one.chain.statistics}
    return sorted(name for name in names if carries_gradient(name))


def _with_statistics(trainer: Trainer, frozen: Frozen, names: set[str]) -> Frozen:
    """Return the rollout with log-probs, entropies and statistics of the trainer's policy, on its device."""

    def complete(rows: RolloutBatch) -> RolloutBatch:
        rows = rows.to(trainer.processes.device)
        return sampled_by(rows, trainer.look(rows, names))

    tempered = {key: complete(rows) for key, rows in frozen.tempered.items()}
    return replace(frozen, rows=tagged(complete(frozen.rows)), tempered=tempered)


def _prepare(
    trainer: Trainer,
    frozen: Frozen,
    objective: Objective,
    plan: BatchPlan,
    one: Candidate,
    states: Mapping[str, Any],
) -> _Prepared:
    """Return the rollout as this method trains on it."""
    chain, state = one.chain, _state(one.chain, states)
    wanted = chain.plan(state)
    trainer.use(replace(objective, chain=chain), state)
    rows = _with_tempered(frozen, plan, wanted)
    rows, state, rewarded = trainer.roller.credit(rows, wanted.step_separator, state)
    rows, state, shaped = chain.shape(rows, state)
    rows = _with_rehearsal(frozen, plan, wanted, rows)
    stats = {name: quotient(value) for name, value in (rewarded | shaped).items()}
    return _Prepared(one, rows, state, stats)


def _with_tempered(frozen: Frozen, plan: BatchPlan, wanted: RolloutPlan) -> RolloutBatch:
    if wanted.tempered is None:
        return frozen.rows
    prompts = wanted.tempered.prompts(plan.prompts_per_rollout)
    if not prompts:
        return frozen.rows
    kept = frozen.tempered.get(tempered_key(wanted.tempered.temperature))
    groups = 0 if kept is None else len(kept.group_ids.unique())
    if kept is None or groups < prompts:
        raise ValueError(
            f"it needs {prompts} prompts at temperature {wanted.tempered.temperature:g}, the frozen rollout has "
            f"{groups}; freeze again with --fresh"
        )
    return frozen.rows.join(kept.rows(kept.group_ids < plan.prompts_per_rollout + prompts))


def _with_rehearsal(
    frozen: Frozen, plan: BatchPlan, wanted: RolloutPlan, rows: RolloutBatch
) -> RolloutBatch:
    if wanted.rehearsal is None:
        return rows
    asked = wanted.rehearsal
    if asked.buffer:
        from pathlib import Path

        buffer = load_buffer(Path(asked.buffer))
    else:
        found = frozen.rehearsal.get(rehearsal_key(asked))
        if found is None:
            raise ValueError(
                f"the frozen rollout has no right completions of the initial policy for it ({rehearsal_key(asked)}): it "
                "was frozen without this method (freeze again with --fresh), or no prompt is mastered (lower "
                "min_pass_rate)"
            )
        buffer = found
    drawn = draw(buffer, asked.rows_per_update * plan.updates_per_pass, 0).to(rows.mask.device)
    return rows.join(drawn)


def _move(
    trainer: Trainer, objective: Objective, prepared: Sequence[_Prepared], updates: int
) -> None:
    """Train plain GRPO for some updates and let every control see its own statistics of each."""
    trainer.optimizer = None  # an earlier replay's has its momentum
    trainer.create_optimizer()
    for update in range(updates):
        for one in prepared:
            if any(control.step for control in one.candidate.chain.controls):
                _observe(trainer, objective, one, update)
        first = prepared[0]
        trainer.use(replace(objective, chain=first.candidate.chain), first.state)
        trainer.model.zero_grad()
        for loss in trainer.losses(first.rows, update):
            loss.backward()
        _step(trainer, gradients(trainer.model))


@torch.no_grad()
def _observe(trainer: Trainer, objective: Objective, one: _Prepared, update: int) -> None:
    chain = one.candidate.chain
    trainer.use(replace(objective, chain=chain), one.state)
    for _ in trainer.losses(one.rows, update):
        pass
    one.state = chain.step(one.state, one.stats | trainer.means())


def _step(trainer: Trainer, slopes: Sequence[Tensor]) -> None:
    """Take one step of the recipe's optimizer, clipped as in training."""
    parameters = trained(trainer.model)
    for item, slope in zip(parameters, slopes, strict=True):
        item.grad = slope.to(item.device, copy=True)
    if trainer.args.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(parameters, trainer.args.max_grad_norm)
    _optimizer(trainer).step()


def _optimizer(trainer: Trainer) -> torch.optim.Optimizer:
    assert trainer.optimizer is not None  # _move makes it
    return trainer.optimizer


class _Bench:
    """Everything that is the same for all methods: the update, the moved weights, plain GRPO's gradient."""

    def __init__(
        self,
        trainer: Trainer,
        objective: Objective,
        plain: _Prepared,
        update: int,
        slopes: Sequence[str],
    ) -> None:
        self._trainer, self._objective, self._update = trainer, objective, update
        self._moved = Weights(trainer.model)
        self._optimizer = kept_state(_optimizer(trainer))
        self._rows = plain.rows
        self._plain = self._pull(plain)
        self._products: Products = entropy_products(trainer, plain.rows, slopes)
        self._climb = entropy_gradient(trainer, objective, plain.rows, update)
        is_own = (plain.rows.origin == Origin.POLICY).unsqueeze(-1)
        self._tokens = self._plain.mask & is_own
        self._entropy = mean_entropy(trainer, plain.rows, self._tokens)
        self._norm = math.sqrt(dot(self._plain.parameters, self._plain.parameters))
        if not self._norm:
            raise ValueError(
                "plain GRPO has no gradient on this rollout: in every group all completions earn the same; freeze "
                "another (training.seed=..., or more prompts, with --fresh)"
            )
        change = self._by_optimizer(self._plain.parameters)
        self._rate = _SGD_SHARE * math.sqrt(dot(change, change)) / self._norm
        self._moved.restore()
        seen = self._plain.by["logprob"]
        self.facts = {
            "completions": float(self._tokens.any(-1).sum()),
            "tokens": float(self._tokens.sum()),
            "loss_tokens": float(self._plain.weights.count_nonzero()),
            "tokens_with_gradient": float(seen.count_nonzero()),
            "entropy": self._entropy,
            "gradient_norm": self._norm,
            "sgd_step_size": self._rate,
        }

    def _pull(self, one: _Prepared) -> Pull:
        self._trainer.use(replace(self._objective, chain=one.candidate.chain), one.state)
        shape = (len(self._rows), self._rows.mask.shape[1])
        return pull(self._trainer, one.rows, self._update, shape)

    def _by_optimizer(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        restore_state(_optimizer(self._trainer), self._optimizer)
        _step(self._trainer, slopes)
        return self._moved.change()

    @torch.no_grad()
    def _by_descent(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        for item, slope in zip(trained(self._trainer.model), slopes, strict=True):
            item.sub_(self._rate * slope.to(item.device))
        return self._moved.change()

    def effect(self, one: _Prepared) -> Effect:
        """Return what a method does."""
        own = self._pull(one)
        tolerance = _TOLERANCE[self._rows.old_logprobs.dtype]  # type: ignore[union-attr]
        found = touch(own, self._plain, tolerance=tolerance)
        norm = math.sqrt(dot(own.parameters, own.parameters))
        both = dot(own.parameters, self._plain.parameters)
        first_order, measured = {}, {}
        for kind, move in zip(STEPS, (self._by_optimizer, self._by_descent), strict=True):
            first_order[kind] = dot(self._climb, move(own.parameters))
            after = mean_entropy(self._trainer, self._rows, self._tokens)
            measured[kind] = after - self._entropy
            self._moved.restore()
        return Effect(
            name=one.candidate.name,
            options=one.candidate.options,
            touched=found.touched,
            dropped=found.dropped,
            added=found.added,
            revived=found.revived,
            weights=found.weights.cpu(),
            cosine=both / (norm * self._norm) if norm else math.nan,
            norm_ratio=norm / self._norm,
            predicted=predicted_change(own, self._plain, self._products),
            first_order=first_order,
            measured=measured,
        )
