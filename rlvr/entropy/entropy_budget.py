"""Entropy budget: hold the entropy at a target, from either side, by moving the options of another control.

    H <- H + (h - H) / smoothing
    e = (target - H) / target
    level = clip(gain e + I, -1, 1)
    I <- clip(I + gain / integral_updates e, -1, 1)      not while the level is clipped and e pushes it further
    value = neutral + |level|^power (most - neutral)     least in place of most where the level is negative

h is the mean entropy, nats, of the tokens that the policy sampled for an update; H sets the level of the next one.
e has no unit: at gain 5 an entropy 20 % off the target alone asks for the end of the range. I finds the level that
balances the policy's own loss of entropy; without it H would settle beside the target. It waits while the target is
out of reach, so that a level leaves the end of its range as soon as H turns (anti-windup). Where the range moves to
one side only (KL-Cov, STEER: they slow a fall), levels of the other side do not exist.

The actuator is any control whose file has an `ACTUATOR`: the options that move, and their range. The budget builds
that control at its level, acts through it and keeps its state. Its regularizers are added under the budget's name, so
the same control may stand in the recipe a second time, with options of its own.

On the demo (0.53 nats at the start, plain GRPO falls to 0.2; learning rate 1e-3) the defaults with `entropy_bonus` hold
0.35 and 0.5 (three seeds) and 0.25 (one): the means over 20 updates stay within 10 % of them from update 100 on; so
they do at 0.35 under gspo and cispo (one seed). Around 0.65, above the start, H swings by 15 %, a period being about 40
updates. The other actuators slow the fall and end at level 1: asked for 0.35, seed 1, they had over updates 200 to 300
0.25 (clip_higher; 0.27 with most 10), 0.26 (aepo), 0.27 (steer) and 0.28 (kl_cov); 0.31 with kl_cov's kl_coef 5, and
with aepo's most 2 and prompt_fraction 0.5. No larger model was measured.

The coefficient's range suits the demo. What a level does grows with the learning rate and the range: where H swings,
narrow `range` or lower `gain`; where the level stays at an end, widen `range`; where H settles late, lower
`integral_updates`. AEPO's temperature acts once a rollout: several rollouts must fit in `integral_updates`.

Scope: the actuator's. State: level, I, H, the initial entropy, and the state of the actuator.
A method of our own.
"""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor

from rlvr.batch import LossTerms, RolloutBatch, TokenBatch
from rlvr.entropy.control import (
    Actuator,
    EntropyControl,
    RolloutPlan,
    State,
    Stats,
    control_names,
    ratio,
)
from rlvr.suggest import unknown_name

_NAME = "entropy_budget"
_DEFAULT_TARGET = 0.5  # nats


class Config(BaseModel):
    """Options of the entropy budget."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    target: Annotated[float, Field(gt=0)] | None = None
    """Entropy to hold, nats, or times the initial entropy where `relative`; null: `schedule`, without one 0.5."""
    schedule: tuple[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(gt=0)]], ...] = ()
    """Instead of `target`: points [update, target] in order, linear in between, constant before and after."""
    relative: bool = False
    """Whether targets are multiples of the entropy measured at the start, over `initial_updates`."""
    initial_updates: int = Field(default=4, ge=1)
    """Updates over which the initial entropy is measured; a relative target is pursued from then on."""
    actuator: str = "entropy_bonus"
    """The control that acts: a file of rlvr/entropy that has an ACTUATOR."""
    actuator_options: dict[str, Any] = {}
    """Options of that control besides those that move."""
    range: tuple[float, float, float] | None = None
    """Values of the actuator at level -1, 0 and 1, in its own unit; null: those of its ACTUATOR."""
    gain: float = Field(default=5.0, ge=0)
    """Levels per relative error: 1 / gain is the error that asks for the end of the range. 0 keeps the level."""
    integral_updates: float = Field(default=50.0, gt=0, allow_inf_nan=True)
    """Updates in which a lasting error moves the level by as much again as it does at once; inf: no integral."""
    smoothing: float = Field(default=4.0, ge=1)
    """Updates over which the entropy is averaged; 1: none. About the updates of a rollout: each has other prompts."""
    start: float = Field(default=0.0, ge=-1, le=1)
    """Level until the first entropy is known, and where the integral starts."""

    @field_validator("schedule")
    @classmethod
    def _in_order(cls, points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        updates = [update for update, _ in points]
        if updates != sorted(set(updates)):
            raise ValueError(f"the updates of its points must rise; they are {updates}")
        return points

    @field_validator("actuator")
    @classmethod
    def _can_act(cls, name: str) -> str:
        known = actuator_names()
        if name not in known:
            raise ValueError(unknown_name("actuator", name, known).removesuffix("."))
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.target is not None and self.schedule:
            raise ValueError("target and schedule are both given; keep one")
        moved = self.actuator_options.keys() & set(actuator_of(self.actuator).options)
        if moved:
            raise ValueError(
                f"actuator_options.{min(moved)} is what the level moves; give its values as "
                "range: [least, neutral, most]"
            )
        for level in (-1.0, 0.0, 1.0, self.start):
            options_at(self, level)
        return self


def actuator_names() -> list[str]:
    """Return the controls that can be an actuator."""
    return [name for name in control_names() if hasattr(_module(name), "ACTUATOR")]


def actuator_of(name: str) -> Actuator:
    """Return the actuator's options and range, as its file gives them."""
    actuator: Actuator = _module(name).ACTUATOR
    return actuator


def _module(name: str) -> Any:
    return importlib.import_module(f"rlvr.entropy.{name}")


def value_at(level: float, least: float, neutral: float, most: float, power: float = 1.0) -> float:
    """Return the actuator's value at a level of -1..1.

    Example:
        >>> value_at(0.5, -1.0, 0.0, 2.0), value_at(-0.5, -1.0, 0.0, 2.0, power=2.0)
        (1.0, -0.25)
    """
    end = most if level >= 0 else least
    return neutral + abs(level) ** power * (end - neutral)


def target_at(config: Config, update: int) -> float:
    """Return the target of an update, in nats or as a multiple of the initial entropy.

    Example:
        >>> falling = Config(schedule=[(100, 1.0), (200, 0.6)])
        >>> [round(target_at(falling, update), 3) for update in (0, 100, 150, 900)]
        [1.0, 1.0, 0.8, 0.6]
    """
    points = config.schedule or ((0, config.target or _DEFAULT_TARGET),)
    for (start, first), (end, last) in pairwise(points):
        if update < end:
            return first + (last - first) * max(0.0, (update - start) / (end - start))
    return points[-1][1]


def limits(config: Config) -> tuple[float, float]:
    """Return the levels that act: a side on which the range does not move is left out.

    Example:
        >>> limits(Config(range=(0.0, 0.0, 0.1)))
        (0.0, 1.0)
    """
    least, neutral, most = (_value(config, level) for level in (-1.0, 0.0, 1.0))
    return (0.0 if least == neutral else -1.0), (0.0 if most == neutral else 1.0)


def controller(
    error: float,
    integral: float,
    gain: float,
    integral_updates: float,
    low: float = -1.0,
    high: float = 1.0,
) -> tuple[float, float]:
    """Return level, between `low` and `high`, and next integral for a relative error.

    Example:
        >>> controller(0.1, 0.2, gain=5.0, integral_updates=50.0)
        (0.7, 0.21000000000000002)
        >>> controller(0.4, 0.2, gain=5.0, integral_updates=50.0)  # clipped: the integral waits
        (1.0, 0.2)
    """
    wanted = gain * error + integral
    level = max(low, min(high, wanted))
    if (wanted - level) * error <= 0:
        integral = max(low, min(high, integral + gain / integral_updates * error))
    return level, integral


def options_at(config: Config, level: float) -> BaseModel:
    """Return the `Config` of the actuator at a level.

    Raises:
        ValueError: If the actuator does not take these options.
    """
    actuator = actuator_of(config.actuator)
    value = _value(config, level)
    options = {
        **actuator.fixed,
        **config.actuator_options,
        **dict.fromkeys(actuator.options, value),
    }
    try:
        made: BaseModel = _module(config.actuator).Config(**options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = (
            f"range makes {key}"
            if key in actuator.options
            else f"actuator_options.{key}".strip(".")
        )
        raise ValueError(
            f"{where} {first['input'] if key else ''}, which {config.actuator} does not take: {first['msg']}"
        ) from None
    return made


def _value(config: Config, level: float) -> float:
    actuator = actuator_of(config.actuator)
    least, neutral, most = config.range or (actuator.least, actuator.neutral, actuator.most)
    return value_at(level, least, neutral, most, actuator.power)


def target_of(config: Config, state: State) -> float | None:
    """Return the target now, nats; None while the initial entropy is being measured."""
    wanted = target_at(config, state["updates"])
    if not config.relative:
        return wanted
    if state["measured"] < config.initial_updates:
        return None
    return wanted * float(state["initial"])


def next_state(config: Config, state: State, entropy: float) -> State:
    """Return the state after an update whose tokens had this entropy, nats; NaN: not measured."""
    state = state | {"updates": state["updates"] + 1}
    if math.isnan(entropy):
        return state
    before = entropy if state["entropy"] is None else state["entropy"]
    smooth = before + (entropy - before) / config.smoothing
    state = state | {"entropy": smooth}
    if state["measured"] < config.initial_updates:
        count = state["measured"]
        initial = ((state["initial"] or 0.0) * count + entropy) / (count + 1)
        state = state | {"initial": initial, "measured": count + 1}
    wanted = target_of(config, state)
    if wanted is None or config.gain == 0:
        return state
    level, integral = controller(
        (wanted - smooth) / wanted,
        state["integral"],
        config.gain,
        config.integral_updates,
        *limits(config),
    )
    return state | {"level": level, "integral": integral}


@dataclass(frozen=True)
class _Budget:
    """The functions of the control: each is the actuator's at the level of the state."""

    config: Config

    def at(self, level: float) -> EntropyControl:
        control: EntropyControl = _module(self.config.actuator).build(
            options_at(self.config, level)
        )
        return control

    def init(self) -> State:
        return {
            "level": self.config.start,
            "integral": self.config.start,
            "entropy": None,
            "initial": None,
            "measured": 0,
            "updates": 0,
            "actuator": self.at(self.config.start).init(),
        }

    def plan(self, state: State) -> RolloutPlan:
        own = self.at(state["level"]).plan
        return own(state["actuator"]) if own else RolloutPlan()

    def reward(self, rollout: RolloutBatch, state: State) -> tuple[Tensor, State, Stats]:
        own = self.at(state["level"]).reward
        if own is None:
            return rollout.rewards, state, {}
        rewards, after, stats = own(rollout, state["actuator"])
        return rewards, state | {"actuator": after}, stats

    def shape(self, rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        own = self.at(state["level"]).shape
        if own is None:
            return rollout, state, {}
        shaped, after, stats = own(rollout, state["actuator"])
        return shaped, state | {"actuator": after}, stats

    def measure(
        self, population: TokenBatch, state: State, generator: torch.Generator
    ) -> dict[str, Tensor]:
        own = self.at(state["level"]).measure
        return own(population, state["actuator"], generator) if own else {}

    def apply(
        self, terms: LossTerms, batch: TokenBatch, marks: Mapping[str, Tensor], state: State
    ) -> tuple[LossTerms, Stats]:
        own = self.at(state["level"]).apply
        stats: Stats = {}
        if own is not None:
            before = terms.regularizers
            terms, stats = own(replace(terms, regularizers={}), batch, marks, state["actuator"])
            added = {f"{_NAME}/{name}": part for name, part in terms.regularizers.items()}
            terms = replace(terms, regularizers={**before, **added})
        # weighed by tokens, so that the parts of an update add up
        tokens = batch.mask.sum().double()
        wanted = target_of(self.config, state)
        return terms, {
            **stats,
            "level": ratio(tokens * state["level"], tokens),
            "value": ratio(tokens * _value(self.config, state["level"]), tokens),
            "target": ratio(tokens * (wanted or 0.0), tokens * (wanted is not None)),
        }

    def step(self, state: State, stats: Mapping[str, float]) -> State:
        own = self.at(state["level"]).step
        if own is not None:
            # the actuator knows its statistics by its own name
            renamed = {
                f"{self.config.actuator}/{name.removeprefix(f'{_NAME}/')}": value
                for name, value in stats.items()
                if name.startswith(f"{_NAME}/")
            }
            state = state | {"actuator": own(state["actuator"], {**stats, **renamed})}
        return next_state(self.config, state, stats.get("entropy", math.nan))

    def check_resumed(self, state: State) -> None:
        if self.config.relative and state["updates"] > 0 and state["initial"] is None:
            raise ValueError(
                "the target is relative, but the initial entropy is not in the state (initial is null)"
            )
        actuator = self.at(state["level"])
        missing = sorted(actuator.init().keys() - state["actuator"].keys())
        if missing:
            name = self.config.actuator
            raise ValueError(f"the state of the actuator {name} lacks {', '.join(missing)}")
        if actuator.check_resumed is not None:
            actuator.check_resumed(state["actuator"])

    def idle(self) -> str | None:
        name, start = self.config.actuator, self.config.start
        if self.config.gain == 0:
            return f"gain is 0, so {name} stays at level {start:g}; for a constant one list {name} itself"
        values = {_value(self.config, level) for level in (-1.0, 0.0, 1.0)}
        if len(values) == 1:
            return f"range has one value for every level, {values.pop():g}"
        ends = [self.at(level).idle for level in (-1.0, 1.0)]
        return ends[1] if all(ends) else None


def build(config: Config) -> EntropyControl:
    """Return the control."""
    budget = _Budget(config)
    reached = [budget.at(level) for level in (-1.0, config.start, 1.0)]

    def has(function: str) -> bool:
        return any(getattr(control, function) is not None for control in reached)

    return EntropyControl(
        name=_NAME,
        needs=frozenset().union(*(control.needs for control in reached)),
        statistics=frozenset().union(*(control.statistics for control in reached)),
        old_statistics=frozenset().union(*(control.old_statistics for control in reached)),
        scope=reached[-1].scope,
        measures_current_policy=any(control.measures_current_policy for control in reached),
        replaces_clip=frozenset().union(*(control.replaces_clip for control in reached)),
        idle_on_policy=reached[-1].idle_on_policy,
        idle=budget.idle(),
        init=budget.init,
        plan=budget.plan if has("plan") else None,
        reward=budget.reward if has("reward") else None,
        shape=budget.shape if has("shape") else None,
        measure=budget.measure if has("measure") else None,
        apply=budget.apply,
        step=budget.step,
        check_resumed=budget.check_resumed,
    )


OFF = Config(gain=0.0)
"""Plain GRPO."""
