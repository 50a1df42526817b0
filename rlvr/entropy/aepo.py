"""AEPO: hold the entropy near a target with correct samples drawn at another temperature.

    T = temperature_high if H ≤ target else temperature_low
    a second rollout of the first share of the prompts at T; of its completions with advantage > threshold
    use `rows` when H ≤ target, half of that otherwise, as REINFORCE rows: advantage 1 at every token

H is the entropy of the last update. J = J_GRPO + α E_{y ~ π^T}[log π(y) R(y)]; α is the share of those rows.
Log-probs of tempered rows are taken at the recipe's temperature: ratio 1 at first, as in the authors' code.

form `sound` (default): the REINFORCE rows join the main rows, none is lost; they are picked evenly from the
positives; H is the full-vocabulary entropy of the policy's own rows; no positive is no extra row.
form `authors`: the first main rows are replaced by the first positives; H is the mean surprisal (-log π) of
the mixed batch. Without a positive the authors' code crashes; here it goes on with the main rows.

Scope: generation. State: H, in nats.
Paper: Arbitrary Entropy Policy Optimization https://arxiv.org/abs/2510.08141
Code: 597358816/AEPO@b353a054 `RayPPOTrainer.fit`
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy.control import (
    Actuator,
    EntropyControl,
    RolloutPlan,
    State,
    Stats,
    TemperedRollout,
    ratio,
    regulated_entropy,
)


class Config(BaseModel):
    """Options of AEPO."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    target: float = Field(default=0.5, ge=0)
    """Entropy to hold, nats; 0.5 in the authors' script, 0.75 in their best row."""
    temperature_high: float = Field(default=1.2, gt=0)
    """Of the second rollout while the entropy is at or below the target; 1.2 in the paper."""
    temperature_low: float = Field(default=0.8, gt=0)
    """Of the second rollout while the entropy is above the target; 0.8 in the paper."""
    prompt_fraction: float = Field(default=0.25, ge=0, le=1)
    """Share of the prompts sampled a second time; 1/4 in the paper."""
    rows: int = Field(default=60, ge=0)
    """REINFORCE rows of a generation at most; 60 of 2560 in the paper. 0 turns the method off."""
    advantage_threshold: float = 0.05
    """A tempered completion above this advantage is a positive; 0.05 in the authors' code."""
    form: Literal["sound", "authors"] = "sound"
    """`authors` replaces main rows and regulates the mean surprisal."""


OFF = Config(rows=0)
"""Plain GRPO."""

ACTUATOR = Actuator(
    options=("temperature_high", "temperature_low"),
    least=0.6,
    neutral=1.0,
    most=1.5,
    fixed={"target": math.inf, "rows": 1_000_000},
)
"""How `entropy_budget` moves the temperature: both temperatures are one, and every positive is used."""


def used_rows(positives: int, rows: int, entropy: float, target: float) -> int:
    """Return how many positives to use: min(rows, positives), half of it above the target.

    Example:
        >>> used_rows(10, 60, entropy=0.3, target=0.5), used_rows(10, 60, entropy=0.7, target=0.5)
        (10, 5)
    """
    most = min(rows, positives)
    return most if entropy <= target else most // 2


def replace_main_rows(
    main: Int[Tensor, " N"], positives: Int[Tensor, " K"], count: int
) -> Int[Tensor, " N"]:
    """Return the authors' batch: the first `count` positives, then the main rows without their first `count`."""
    return torch.cat([positives[:count], main[count:]])


def join_main_rows(
    main: Int[Tensor, " N"], positives: Int[Tensor, " K"], count: int
) -> Int[Tensor, " M"]:
    """Return all main rows and `count` of the positives, taken evenly over their order."""
    even = torch.arange(count, device=main.device) * len(positives) // max(count, 1)
    return torch.cat([main, positives[even]])


def is_positive(rollout: RolloutBatch, threshold: float) -> Bool[Tensor, " B"]:
    """Return the tempered rows with an advantage above the threshold."""
    tempered = (rollout.origin == Origin.TEMPERED) & rollout.is_scored
    return tempered & (rollout.advantages[:, 0] > threshold)


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def temperature(state: State) -> float:
        is_low = state["entropy"] <= config.target
        return config.temperature_high if is_low else config.temperature_low

    def plan(state: State) -> RolloutPlan:
        if config.rows == 0:
            return RolloutPlan()
        return RolloutPlan(tempered=TemperedRollout(temperature(state), config.prompt_fraction))

    def shape(rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        main = (rollout.origin != Origin.TEMPERED).nonzero().squeeze(-1)
        positives = is_positive(rollout, config.advantage_threshold).nonzero().squeeze(-1)
        count = used_rows(len(positives), config.rows, state["entropy"], config.target)
        choose = join_main_rows if config.form == "sound" else replace_main_rows
        chosen = rollout.rows(choose(main, positives, count))
        is_tempered = (chosen.origin == Origin.TEMPERED).unsqueeze(-1)
        advantages = torch.where(is_tempered, 1.0, chosen.advantages)
        stats = {
            "reinforce_fraction": ratio(is_tempered.sum(), len(chosen)),
            "positives": ratio(torch.tensor(len(positives)), 1.0),
            "temperature": ratio(torch.tensor(temperature(state), dtype=torch.float64), 1.0),
        }
        return replace(chosen, advantages=advantages), state, stats

    def step(state: State, stats: Mapping[str, float]) -> State:
        measured = regulated_entropy(stats, config.form)
        return state if math.isnan(measured) else {"entropy": measured}

    return EntropyControl(
        name="aepo",
        idle="rows or prompt_fraction is 0, so no tempered row is used"
        if config.rows == 0 or config.prompt_fraction == 0
        else None,
        init=lambda: {"entropy": 0.0},
        plan=plan,
        shape=shape,
        step=step,
    )
