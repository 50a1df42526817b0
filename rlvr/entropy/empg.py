"""EMPG: scale a step's advantage by how certain the policy was in it, and reward steps that lead to certain ones.

    H_i = mean entropy of the tokens of step i,   h_i = (H_i - min H) / (max H - min H + 1e-8)
    g_i = exp(-k h_i) / mean_j exp(-k h_j),       f_i = exp(-k_future h_i)
    A_i <- A_i g_i + zeta f_{i+1}                 the second term only if the completion has a step i + 1
    A_i <- A_i - mean_j A_j

Minimum, maximum and means are over all steps of the generation; the entropies are those of the policy that
generated. The authors' steps are the turns of an agent. Here a completion is reasoning text: a token whose text
contains `step_separator` ends a step. In a completion of one step only g acts. Tempered rows, rows left out of their
group and tokens that no mask counts take no part.

f is never negative, so a group whose answers are all right or all wrong, which says nothing about its steps, is still
pushed toward certain steps by zeta f less the mean. `uniform_groups: skip` (default) leaves such groups out of
everything, and their advantages at 0; `shape` is the paper's formula.

Scope: generation.
Differs from the paper: the steps; groups with one outcome. The pseudo-code subtracts the mean from padding too.
Paper: Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents https://arxiv.org/abs/2509.09265
Code: pseudo-code of the authors at https://empgseed-seed.github.io; another group's port: WillDreamer/ARLArena@e54e27e4
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy.control import EntropyControl, RolloutPlan, State, Stats, ratio


class Config(BaseModel):
    """Options of EMPG."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    k: float = Field(default=1.0, ge=0)
    """Sharpness of g, the scale of a step's advantage; 1 in the paper, 0 is no scale."""
    k_future: float = Field(default=1.0, ge=0)
    """Sharpness of f, the certainty of the next step; 1 in the paper, 0 rewards every next step alike."""
    zeta: float = Field(default=0.1, ge=0)
    """Multiplier of f; 0.1 on the authors' page, 0.05 in others' ports, 0 is no bonus."""
    centre: bool = True
    """Whether the mean over steps is subtracted at the end, as in the paper; without it f is a pure bonus."""
    step_separator: str = Field(default="\n\n", min_length=1)
    """A token whose text contains this ends a step."""
    uniform_groups: Literal["skip", "shape"] = "skip"
    """Groups whose advantages are all 0: left as they are, or shaped like all others (the paper)."""


OFF = Config(k=0.0, zeta=0.0, centre=False)
"""Plain GRPO."""


@dataclass(frozen=True)
class Steps:
    """The N steps of a generation, ordered by row and place in it."""

    mask: Bool[Tensor, "B T"]
    """Tokens that belong to one of them."""
    number: Int[Tensor, " M"]
    """Of each such token, in row-major order."""
    row: Int[Tensor, " N"]

    @property
    def has_next(self) -> Bool[Tensor, " N"]:
        """Whether the row has a later step."""
        following = torch.cat([self.row[1:], self.row.new_full((min(len(self.row), 1),), -1)])
        return following == self.row

    def means(self, values: Float[Tensor, "B T"]) -> Float[Tensor, " N"]:
        """Return the mean of each step's tokens, float64."""
        counted = values[self.mask].double()
        totals = counted.new_zeros(len(self.row)).index_add_(0, self.number, counted)
        return totals / torch.bincount(self.number, minlength=len(self.row))


def find_steps(segment_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Steps:
    """Return the steps that have a token in the mask; tokens of segment -1 have none.

    Example:
        >>> steps = find_steps(torch.tensor([[0, 0, 1], [0, 2, -1]]), torch.ones(2, 3, dtype=torch.bool))
        >>> steps.number.tolist(), steps.row.tolist(), steps.has_next.tolist()
        ([0, 0, 1, 2, 3], [0, 0, 1, 1], [True, False, True, False])
    """
    inside = mask & (segment_ids >= 0)
    width = int(segment_ids.max()) + 1 if segment_ids.numel() else 1
    rows = torch.arange(len(mask), device=mask.device).unsqueeze(-1).expand_as(mask)
    places = (rows * max(width, 1) + segment_ids)[inside]
    found, number = torch.unique(places, return_inverse=True)
    return Steps(inside, number, found // max(width, 1))


def relative(entropies: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the entropies of the steps from 0, the smallest of all, to 1, the largest."""
    if len(entropies) == 0:
        return entropies
    low, high = entropies.min(), entropies.max()
    return (entropies - low) / (high - low + 1e-8)


def certainty_scale(entropies: Float[Tensor, " N"], k: float) -> Float[Tensor, " N"]:
    """Return g of relative entropies: above 1 for certain steps, mean 1.

    Example:
        >>> certainty_scale(torch.tensor([0.0, 1.0]), k=1.0)
        tensor([1.4621, 0.5379])
    """
    weights = (-k * entropies).exp()
    return weights / weights.mean() if len(weights) else weights


def future_certainty(
    entropies: Float[Tensor, " N"], has_next: Bool[Tensor, " N"], k_future: float
) -> Float[Tensor, " N"]:
    """Return f of the next step of the same completion, 0 for its last.

    Example:
        >>> future_certainty(torch.tensor([1.0, 0.0]), torch.tensor([True, False]), k_future=1.0)
        tensor([1., 0.])
    """
    certainty = (-k_future * entropies).exp()
    return torch.where(has_next, certainty.roll(-1), 0.0)


def step_advantages(
    advantages: Float[Tensor, " N"],
    entropies: Float[Tensor, " N"],
    has_next: Bool[Tensor, " N"],
    config: Config,
) -> Float[Tensor, " N"]:
    """Return the advantage of each step, from that of its completion and the steps' entropies in nats."""
    h = relative(entropies)
    shaped = advantages * certainty_scale(h, config.k)
    shaped = shaped + config.zeta * future_certainty(h, has_next, config.k_future)
    return shaped - shaped.mean() if config.centre and len(shaped) else shaped


def takes_part(rollout: RolloutBatch, config: Config) -> Bool[Tensor, " B"]:
    """Return the rows whose steps are shaped."""
    rows = (rollout.origin == Origin.POLICY) & rollout.is_scored
    if config.uniform_groups == "shape":
        return rows
    moving = (rollout.advantages != 0) & rollout.mask
    return rows & torch.isin(rollout.group_ids, rollout.group_ids[rows & moving.any(-1)])


def build(config: Config) -> EntropyControl:
    """Return the control."""
    is_off = config.k == 0 and config.zeta == 0 and not config.centre

    def plan(state: State) -> RolloutPlan:  # noqa: ARG001
        return RolloutPlan() if is_off else RolloutPlan(step_separator=config.step_separator)

    def shape(rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        if is_off:
            return rollout, state, {}
        if rollout.segment_ids is None or rollout.old_entropies is None:
            raise ValueError("empg needs segment_ids and old_entropies")
        rows = takes_part(rollout, config)
        steps = find_steps(rollout.segment_ids, rollout.mask & rows.unsqueeze(-1))
        entropies = steps.means(rollout.old_entropies)
        given = steps.means(rollout.advantages)
        shaped = step_advantages(given, entropies, steps.has_next, config)
        advantages = rollout.advantages.clone()
        advantages[steps.mask] = shaped[steps.number].to(advantages.dtype)
        stats = {
            "steps": ratio(torch.tensor(len(shaped)), steps.mask.any(-1).sum()),
            "step_entropy": ratio(entropies.sum(), len(entropies)),
            "shift": ratio((shaped - given).abs().sum(), len(shaped)),
        }
        return replace(rollout, advantages=advantages), state, stats

    return EntropyControl(
        name="empg",
        needs=frozenset({"old_entropies"}),
        idle="k and zeta are 0 and centre is false" if is_off else None,
        plan=plan,
        shape=shape,
    )
