"""Dynamic sampling (DAPO) and Recent Sample Recovery (Confucius3-Math).

A group whose completions all earned the same teaches nothing: every advantage is 0. A rollout of P prompts keeps the
other groups, and while it has fewer than P samples the next P prompts of the stream, `max_refills` times at most.

    more than P kept     the first P in the order of the stream; with `keep_leftovers` the rest open the next rollout
    fewer than P kept    groups without signal fill up, spread evenly, so that updates keep their size

Leftovers come with the log-probs of the policy that sampled them, one rollout older: the ratio of PPO is theirs.
Rewards are those of the verdicts, before an entropy control changes them (DAPO filters by accuracy, not by the punished
reward).

Papers: https://arxiv.org/abs/2503.14476 (dynamic sampling), https://arxiv.org/abs/2506.18330 (recovery; no code)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.rewards.scorer import Scored
from rlvr.rollout.completion import Completion
from rlvr.rollout.difficulty import Memory, tally
from rlvr.rollout.prompts import PromptSource, Taken
from rlvr.rollout.rehearsal import join_all
from rlvr.rollout.rows import trim
from rlvr.rollout.sampler import Batch, Sampler

LEFTOVERS = "leftovers.pt"
_REFILL_SEEDS = 2**40
"""Between the sampling seeds of a rollout's batches: far beyond the number of any update."""


@dataclass(frozen=True)
class DynamicSampling:
    """How groups without signal are replaced."""

    max_refills: int
    keep_leftovers: bool


@dataclass(frozen=True)
class Supply:
    """What a rollout leaves to the next."""

    position: int = 0
    """Place in the order of the prompts (rlvr/rollout/prompts.py)."""
    leftovers: RolloutBatch | None = None
    """Groups with signal that were not trained on, as the policy that sampled them saw them; None: there are none."""
    numbers: tuple[int, ...] = ()
    """Row of the data of each of those groups."""
    memory: Memory | None = None
    """Of every prompt, where the run remembers them and has seen some."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write leftovers and memory to a checkpoint's folder and return the rest as plain data."""
        if self.leftovers is not None:
            torch.save(vars(self.leftovers.to("cpu")), folder / LEFTOVERS)
        if self.memory is not None:
            self.memory.save(folder)
        saved = {"position": self.position, "leftovers": list(self.numbers)}
        return saved | {"remembers": self.memory is not None}

    @classmethod
    def load(cls, saved: Mapping[str, Any], folder: Path, rows: int) -> "Supply":
        """Return what `save` wrote.

        Args:
            saved: The plain data.
            folder: Of the checkpoint.
            rows: Of the data.

        Raises:
            ValueError: If leftovers or memory are missing, or the memory is of other data.
        """
        memory = Memory.load(folder, rows) if saved["remembers"] else None
        numbers = tuple(saved["leftovers"])
        path = folder / LEFTOVERS
        if not numbers:
            return cls(saved["position"], memory=memory)
        if not path.is_file():
            raise ValueError(f"{folder} has no {LEFTOVERS}; resume from another checkpoint")
        left = RolloutBatch(**torch.load(path, weights_only=True))
        return cls(saved["position"], left, numbers, memory)


@dataclass(frozen=True)
class Sampled:
    """The policy's own rows of a generation, and everything that was sampled for them."""

    rows: RolloutBatch
    """Of all processes; whole groups, in order."""
    numbers: list[int]
    """Row of the data of each group."""
    completions: list[Completion]
    """This process's own."""
    scored: list[Scored]
    """Of the completions."""
    trained: dict[int, int]
    """Place of a completion -> its row; those that are missing are not trained on."""
    scoring: float
    """Seconds."""
    supply: Supply
    stats: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What becomes of the groups that were sampled, by their positions."""

    kept: list[int]
    """Trained on, with signal."""
    fillers: list[int]
    """Trained on, without."""
    rest: list[int]
    """Not trained on, though they have signal."""


def have_signal(
    rewards: Float[Tensor, " B"], counts: Bool[Tensor, " B"], group_size: int
) -> Bool[Tensor, " G"]:
    """Return which groups teach: rewards differ, exactly, and at least one completion counts in the loss.

    Args:
        rewards: Of whole groups, one after the other; NaN: left out of its group.
        counts: Completions that count in the loss.
        group_size: Completions per prompt.

    Example:
        >>> rewards = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, torch.nan])
        >>> have_signal(rewards, torch.ones(6, dtype=torch.bool), 2)
        tensor([ True, False, False])
    """
    left_out = torch.isnan(rewards)
    high = rewards.masked_fill(left_out, -torch.inf).view(-1, group_size).amax(-1)
    low = rewards.masked_fill(left_out, torch.inf).view(-1, group_size).amin(-1)
    return (high > low) & (counts & ~left_out).view(-1, group_size).any(-1)


def choose(signal: Sequence[bool], wanted: int) -> Choice:
    """Return which of the groups are trained on.

    Args:
        signal: Of the sampled groups, in the order of the stream; at least `wanted`.
        wanted: How many are trained on.

    Example:
        >>> choose([False, True, True, False, True], wanted=2)
        Choice(kept=[1, 2], fillers=[], rest=[4])
        >>> choose([False, True, False], wanted=2)
        Choice(kept=[1], fillers=[0], rest=[])
    """
    good = [group for group, has_signal in enumerate(signal) if has_signal]
    idle = [group for group, has_signal in enumerate(signal) if not has_signal]
    return Choice(good[:wanted], idle[: max(wanted - len(good), 0)], good[wanted:])


def spread(first: int, second: int) -> list[int]:
    """Return positions 0.. of two kinds, `first` of one and then `second` of the other, each spread evenly.

    Example:
        >>> spread(4, 2)
        [0, 4, 1, 2, 5, 3]
    """
    places = [(i + 0.5) / first for i in range(first)] + [(i + 0.5) / second for i in range(second)]
    return sorted(range(first + second), key=lambda position: (places[position], position))


def rows_of(groups: Sequence[int], group_size: int) -> Tensor:
    """Return the rows of whole groups.

    Example:
        >>> rows_of([2, 0], 3)
        tensor([6, 7, 8, 0, 1, 2])
    """
    starts = torch.tensor(groups, dtype=torch.long).unsqueeze(-1) * group_size
    return (starts + torch.arange(group_size)).flatten()


def account(rows: RolloutBatch, signal: Bool[Tensor, " G"], group_size: int) -> dict[str, float]:
    """Return shares of the sampled groups: with signal, all right, all wrong. What remains to 1 was not judged.

    Args:
        rows: Whole groups, one after the other.
        signal: Of the groups.
        group_size: Completions per prompt.
    """
    right_of_group, of_group = tally(rows, group_size)
    idle = ~signal.cpu() & (of_group > 0)
    shares = {
        "kept": signal.cpu(),
        "all_right": idle & (right_of_group == of_group),
        "all_wrong": idle & (right_of_group == 0),
    }
    return {
        f"group/{name}_fraction": share.double().mean().item() for name, share in shares.items()
    }


def sample_with_signal(
    sampler: Sampler,
    dynamic: DynamicSampling,
    counts: Callable[[RolloutBatch], Tensor],
    *,
    prompts: int,
    seed: int,
    source: PromptSource,
    supply: Supply,
) -> Sampled:
    """Return leftovers and new groups with signal, `prompts` in all.

    Args:
        sampler: Samples and judges.
        dynamic: How groups without signal are replaced.
        counts: From rows to those that count in the loss, (B,) bool.
        prompts: P.
        seed: Of the sampling.
        source: Of the prompts.
        supply: What the generation before left.
    """
    size = sampler.group_size
    recovered, position = len(supply.numbers), supply.position
    numbers: list[int] = []
    taken: list[Taken] = []
    parts: list[Batch] = []
    signal = torch.zeros(0, dtype=torch.bool)
    while not parts or (
        recovered + int(signal.sum()) < prompts and len(parts) <= dynamic.max_refills
    ):
        new = source.take(prompts, position, supply.memory, [*supply.numbers, *numbers])
        part = sampler.sample(
            sampler.each(new.numbers),
            seed + len(parts) * _REFILL_SEEDS,
            origin=Origin.POLICY,
            first_group=0,
            observe=False,
        )
        parts.append(part)
        taken.append(new)
        numbers += new.numbers
        position = new.position
        found = have_signal(part.rows.rewards, counts(part.rows), size)
        signal = torch.cat([signal, found.cpu()])
    everything = join_all([part.rows for part in parts])
    choice = choose(signal.tolist(), prompts - recovered)
    rest = choice.rest if dynamic.keep_leftovers else []
    groups = [*choice.kept, *choice.fillers, *rest]
    rows = sampler.observed(everything.rows(rows_of(groups, size)))
    trained = prompts - recovered
    left = rows.rows(rows_of(range(trained, len(groups)), size))
    rows = rows.rows(rows_of(range(trained), size))
    if supply.leftovers is not None:
        rows = supply.leftovers.to(rows.rewards.device).join(rows)
    order = spread(recovered + len(choice.kept), len(choice.fillers))
    rows = replace(
        rows.rows(rows_of(order, size)),
        group_ids=torch.arange(prompts, device=rows.group_ids.device).repeat_interleave(size),
    )
    sources = [None] * recovered + groups[:trained]
    all_numbers = [*supply.numbers, *(numbers[group] for group in groups[:trained])]
    memory, remembered = source.remember(supply.memory, taken, everything, size)
    return Sampled(
        rows=rows,
        numbers=[all_numbers[place] for place in order],
        completions=[
            replace(item, place=item.place + number * prompts * size) if item.place >= 0 else item
            for number, part in enumerate(parts)
            for item in part.completions
        ],
        scored=[judged for part in parts for judged in part.scored],
        trained={
            group * size + i: row * size + i
            for row, place in enumerate(order)
            if (group := sources[place]) is not None
            for i in range(size)
        },
        scoring=sum(part.scoring for part in parts),
        supply=Supply(position, trim(left), tuple(numbers[group] for group in rest), memory)
        if rest
        else Supply(position, memory=memory),
        stats={
            "rollout/prompts_consumed": len(numbers),
            "rollout/refills": len(parts) - 1,
            "rollout/recovered": recovered,
            **account(everything, signal, size),
            **remembered,
        },
    )
