"""An entropy control: a record of functions; `chain` composes them. Plain GRPO is the empty chain.

    plan     before a rollout: what to sample besides the recipe's completions
    reward   once a generation, on all its rows of all processes: rewards, before advantages are computed
    shape    once a generation, on all its rows of all processes: advantages, rows, masks
    measure  once an update, on its whole population: what to select, drop or weigh (no gradient)
    apply    once a micro-batch: the loss terms, given what `measure` decided
    step     once an update: the next state, from statistics summed over micro-batches and processes

`reward`, `shape` (scope: generation) and `measure` (scope: update) see every token, in an order that does not depend on
the layout, and are called with the same numbers on every process. So a mean, a quantile or a top-k needs no communication, and a result cannot
depend on how the batch was cut. With `scope="micro_batch"`, for comparison with the authors' code, `measure` sees one
micro-batch at a time.

A control's state is plain data (numbers, strings, lists, dicts): it goes into the checkpoint as it is.
A method is one file of this folder with a frozen pydantic `Config`, `build(config) -> EntropyControl`, and `OFF`, the
`Config` that is plain GRPO. Contract tests find it by listing the folder.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rlvr.batch import LossTerms, Marks, RolloutBatch, TokenBatch
from rlvr.kernels.statistics import parse

State = dict[str, Any]
Stats = dict[str, Tensor]
"""Statistic -> (numerator, denominator), a tensor of two: sums add up, the quotient is the statistic."""
Scope = Literal["update", "micro_batch"]
Need = Literal["entropies", "old_logprobs", "old_entropies", "ref_logprobs", "initial_logprobs"]
ClipKey = Literal["clip_low", "clip_high", "dual_clip"]
WHOLE_CLIP: frozenset[ClipKey] = frozenset({"clip_low", "clip_high", "dual_clip"})

DROP = "drop"
"""The mark by which `measure` takes tokens out of the loss and its denominator."""


def ratio(numerator: Tensor, denominator: Tensor | float) -> Tensor:
    """Return a statistic as the pair that adds up over micro-batches and processes."""
    top = numerator.detach().double()
    return torch.stack([top, torch.as_tensor(denominator, device=top.device).detach().double()])


def quotient(pair: Tensor) -> float:
    """Return a statistic from its pair; NaN where nothing was counted."""
    numerator, denominator = pair.tolist()
    return numerator / denominator if denominator else math.nan


def regulated_entropy(stats: Mapping[str, float], form: Literal["sound", "authors"]) -> float:
    """Return the entropy of an update that a method steers by, nats; NaN: not measured.

    Args:
        stats: Of the update.
        form: `sound`: of the full vocabulary, over the policy's own tokens; `authors`: the mean surprisal (-log π) of the
            rows trained on, which estimates it.
    """
    return stats.get("entropy" if form == "sound" else "surprisal", math.nan)


@dataclass(frozen=True)
class TemperedRollout:
    """A second rollout of a part of the prompts at another temperature."""

    temperature: float
    prompt_fraction: float
    """Share of the generation's prompts, the first ones, 0..1."""

    def prompts(self, prompts_per_rollout: int) -> int:
        """Return how many prompts are sampled a second time."""
        return int(self.prompt_fraction * prompts_per_rollout)


@dataclass(frozen=True)
class Rehearsal:
    """Rows of the initial policy that join every update."""

    rows_per_update: int
    samples: int
    """Completions of the initial policy per prompt when the buffer is made."""
    min_pass_rate: float
    """A prompt joins when at least this share of its completions is correct, 0..1."""
    buffer_rows: int
    """Rows of the buffer when it is made, at most."""
    buffer: str | None
    """A buffer file; None: made before the first update and kept in the run folder."""


@dataclass(frozen=True)
class RolloutPlan:
    """What to sample besides the recipe's completions."""

    tempered: TemperedRollout | None = None
    rehearsal: Rehearsal | None = None
    step_separator: str | None = None
    """A token whose text has this ends a step of its completion; None: steps are not told apart."""


@dataclass(frozen=True)
class Actuator:
    """Options of a method by which `entropy_budget` moves the entropy, from its level -1 (least) over 0 to 1 (most)."""

    options: tuple[str, ...]
    """Numeric fields of the method's `Config` that get the value."""
    least: float
    """Value that lowers the entropy most, or lets it fall."""
    neutral: float
    """Value of plain GRPO, or near it."""
    most: float
    """Value that raises the entropy most."""
    power: float = 1.0
    """Value = neutral + |level| ** power x distance: above 1, finer near neutral."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Other options that the method has as an actuator."""


@dataclass(frozen=True)
class EntropyControl:
    """One entropy-control method; every function is optional and pure."""

    name: str
    needs: frozenset[Need] = frozenset()
    """What the functions read beyond current log-probs; `entropies`: with gradient."""
    statistics: frozenset[str] = frozenset()
    """Statistics of the current policy (names of `rlvr.kernels.statistics`) that `measure` or `apply` read."""
    old_statistics: frozenset[str] = frozenset()
    """Statistics of the policy that generated that the functions read."""
    scope: Scope = "update"
    measures_current_policy: bool = False
    """Whether `measure` reads the current log-probs: from an update's second on, one pass without gradient."""
    replaces_clip: frozenset[ClipKey] = frozenset()
    """Keys of `algorithm` that this control sets in their place."""
    idle_on_policy: str | None = None
    """Why the method does nothing with one update per rollout; None: it does something."""
    idle: str | None = None
    """Why the control does nothing with these options; None: it does something."""
    init: Callable[[], State] = dict
    plan: Callable[[State], RolloutPlan] | None = None
    reward: Callable[[RolloutBatch, State], tuple[Tensor, State, Stats]] | None = None
    """Rewards (B,), NaN where left out; advantages do not exist yet."""
    shape: Callable[[RolloutBatch, State], tuple[RolloutBatch, State, Stats]] | None = None
    measure: Callable[[TokenBatch, State, torch.Generator], dict[str, Tensor]] | None = None
    apply: (
        Callable[[LossTerms, TokenBatch, Mapping[str, Tensor], State], tuple[LossTerms, Stats]]
        | None
    ) = None
    step: Callable[[State, Mapping[str, float]], State] | None = None
    scales_advantage: bool = False
    """Whether `apply` only weights, clips or drops: without advantage a row then has no gradient, and is not computed."""
    check_resumed: Callable[[State], None] | None = None
    """Raise ValueError, naming what is missing, if a run cannot go on from this state of a checkpoint."""


@dataclass(frozen=True)
class Chain:
    """Controls in order; each sees the terms that the ones before it returned."""

    controls: tuple[EntropyControl, ...] = ()
    needs: frozenset[Need] = field(init=False)
    statistics: frozenset[str] = field(init=False)
    old_statistics: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = [control.name for control in self.controls]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"entropy control {name!r} is listed twice; list it once")
        for one, other in combinations(self.controls, 2):
            if one.replaces_clip & other.replaces_clip:
                raise ValueError(
                    f"{one.name} and {other.name} both replace the clip, so the first would do nothing; keep one"
                )
        for control in self.controls:
            for name in control.statistics | control.old_statistics:
                parse(name)
        for kind in ("needs", "statistics", "old_statistics"):
            wanted = frozenset().union(*(getattr(control, kind) for control in self.controls))
            object.__setattr__(self, kind, wanted)

    @property
    def measures_current_policy(self) -> bool:
        """Whether some control's `measure` reads the current log-probs."""
        return any(control.measures_current_policy for control in self.controls)

    @property
    def scales_advantage(self) -> bool:
        """Whether a row without advantage has no gradient, whatever the controls decide."""
        return all(c.apply is None or c.scales_advantage for c in self.controls)

    def init(self) -> State:
        """Return the state before training: control name -> its state."""
        return {control.name: control.init() for control in self.controls}

    def plan(self, state: State) -> RolloutPlan:
        """Return what the controls want sampled.

        Raises:
            ValueError: If two controls want the same kind of extra rows, or other steps.
        """
        plan = RolloutPlan()
        for control in self.controls:
            if control.plan is None:
                continue
            wanted = control.plan(state[control.name])
            for kind in ("tempered", "rehearsal", "step_separator"):
                if getattr(wanted, kind) is None:
                    continue
                if getattr(plan, kind) is not None:
                    what = "steps" if kind == "step_separator" else f"{kind} rows"
                    raise ValueError(f"two controls ask for {what}; keep one of them")
                plan = replace(plan, **{kind: getattr(wanted, kind)})
        return plan

    def reward(self, rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        """Return the generation with the rewards that the controls make of them, and the next state."""
        stats: Stats = {}
        for control in self.controls:
            if control.reward is not None:
                rewards, own_state, own = control.reward(rollout, state[control.name])
                rollout = replace(rollout, rewards=rewards.to(rollout.rewards.dtype))
                state = state | {control.name: own_state}
                stats |= _prefixed(control.name, own)
        return rollout, state, stats

    def shape(self, rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        """Return the generation as the controls want it trained on, and the next state."""
        stats: Stats = {}
        for control in self.controls:
            if control.shape is not None:
                rollout, own_state, own = control.shape(rollout, state[control.name])
                state = state | {control.name: own_state}
                stats |= _prefixed(control.name, own)
        return rollout, state, stats

    def check_resumed(self, state: State) -> None:
        """Raise ValueError if a run cannot go on from the state of a checkpoint."""
        for control in self.controls:
            missing = sorted(control.init().keys() - state[control.name].keys())
            if missing:
                raise ValueError(f"the state of {control.name} lacks {', '.join(missing)}")
            if control.check_resumed is not None:
                control.check_resumed(state[control.name])

    def measure(
        self,
        population: TokenBatch,
        micro_batches: Sequence[Tensor],
        state: State,
        seed: int,
    ) -> Marks:
        """Return what every control decides about an update.

        Args:
            population: Every token of the update, without gradient.
            micro_batches: The rows of each micro-batch, of all processes.
            state: Of the chain.
            seed: Of this update's random choices; the same on every process.

        Returns:
            Control name -> mark -> tensor with the population's rows.
        """
        marks: dict[str, dict[str, Tensor]] = {}
        for position, control in enumerate(self.controls):
            if control.measure is None:
                continue
            # on the CPU, so that a choice is the same on every kind of device
            generator = torch.Generator().manual_seed((seed * 1009 + position) % 2**63)
            own = state[control.name]
            if control.scope == "update":
                marks[control.name] = control.measure(population, own, generator)
                continue
            parts: dict[str, Tensor] = {}
            for rows in micro_batches:
                alone = replace(population.rows(rows), share=1 / len(micro_batches))
                for name, part in control.measure(alone, own, generator).items():
                    whole = parts.setdefault(name, part.new_zeros(population.mask.shape))
                    whole[rows] = part
            marks[control.name] = parts
        return marks

    def apply(
        self, terms: LossTerms, batch: TokenBatch, marks: Marks, state: State
    ) -> tuple[LossTerms, Stats]:
        """Return the terms after every control. Weights and advantages never carry gradient."""
        stats: Stats = {}
        for control in self.controls:
            if control.apply is not None:
                own_marks = marks.get(control.name, {})
                terms, own = control.apply(terms, batch, own_marks, state[control.name])
                stats |= _prefixed(control.name, own)
        detached = replace(
            terms, weights=terms.weights.detach(), advantages=terms.advantages.detach()
        )
        return detached, stats

    def step(self, state: State, stats: Mapping[str, float]) -> State:
        """Return the state after an update.

        Args:
            state: Of the chain; not changed.
            stats: Name -> value, reduced over micro-batches and processes: those of `apply` and `shape` under
                `<control>/<name>`, and the trainer's own (`entropy`, `surprisal`); NaN: not measured.
        """
        return {
            control.name: state[control.name]
            if control.step is None
            else control.step(state[control.name], stats)
            for control in self.controls
        }


def _prefixed(name: str, stats: Stats) -> Stats:
    return {f"{name}/{key}": value for key, value in stats.items()}


def chain(*controls: EntropyControl) -> Chain:
    """Return the controls composed in this order; without any, plain GRPO.

    Raises:
        ValueError: If one is listed twice, or two replace the clip.
    """
    return Chain(controls)


def kept_tokens(population: TokenBatch, marks: Marks) -> Tensor:
    """Return the tokens of the policy loss and of its denominator, (B, T) bool."""
    kept = population.mask
    for own in marks.values():
        if DROP in own:
            kept = kept & ~own[DROP]
    return kept


def slice_marks(marks: Marks, rows: Tensor) -> Marks:
    """Return the marks of some rows of their population."""
    return {
        control: {name: mark[rows] for name, mark in own.items()} for control, own in marks.items()
    }


def control_names() -> list[str]:
    """Return the names of the methods: the files of this folder that are one."""
    folder = Path(__file__).parent
    return sorted(
        path.stem
        for path in folder.glob("*.py")
        if path.name != Path(__file__).name and not path.stem.startswith("_")
    )


def build_control(name: str, options: Mapping[str, Any]) -> EntropyControl:
    """Return the control of a file of this folder.

    Args:
        name: A name of `control_names`; recipes are checked before this is called.
        options: Fields of the file's `Config`.

    Raises:
        pydantic.ValidationError: If an option is unknown or out of range.
    """
    module = importlib.import_module(f"rlvr.entropy.{name}")
    return module.build(module.Config(**options))
