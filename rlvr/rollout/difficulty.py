"""How often each prompt was answered right over the run, and which prompts to leave out or to prefer for it.

    right  <- memory right  + right completions of this visit
    judged <- memory judged + judged completions of this visit          p = right / judged

The policy changes, so what was seen of a prompt counts less with each of its further visits. Prompts are chosen by p
in two ways, which may be combined:

    filter   p outside [min_pass_rate, max_pass_rate]: left out, and looked at again after a while, so that a prompt
             that has become learnable is not lost
    weight   p (1 - p) + floor: the variance of a reward of 0 or 1, which is the mean squared advantage of a group; a
             prompt that was never judged counts as p = 1/2

Everything is a function of the outcomes of whole rollouts, which every process has: the layout does not matter.

Papers: https://arxiv.org/abs/2504.03380 (online filter by pass rate), https://arxiv.org/abs/2601.02648 (p (1 - p), solved
and unsolved prompts tested again), https://arxiv.org/abs/2507.04632 (counts that are discounted); none of the code
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.batch import RolloutBatch
from rlvr.data.source import prompt_text
from rlvr.rewards.verdict import Outcome
from rlvr.rollout.completion import OUTCOMES
from rlvr.whole_file import whole_file

DIFFICULTY = "difficulty.jsonl"
"""In a run folder and in that of a split."""
_MEMORY = "difficulty.pt"
"""In a checkpoint."""
_SHOWN = 120
"""Characters of a prompt in the file."""


@dataclass(frozen=True)
class Memory:
    """What is known of every row of the data; R rows."""

    right: Float[Tensor, " R"]
    """Right completions, those of earlier visits discounted."""
    judged: Float[Tensor, " R"]
    """Completions that were judged, discounted alike."""
    visits: Int[Tensor, " R"]
    """Times that the prompt was sampled and judged."""
    last: Int[Tensor, " R"]
    """The clock at the last of them."""
    clock: int = 0
    """Prompts sampled so far."""

    def __len__(self) -> int:
        return len(self.right)

    @classmethod
    def blank(cls, rows: int) -> Self:
        """Return the memory of a run that has seen nothing."""
        counts = torch.zeros(rows, dtype=torch.float64)
        visits = torch.zeros(rows, dtype=torch.long)
        return cls(counts, counts, visits, visits)

    @property
    def pass_rates(self) -> Float[Tensor, " R"]:
        """Share of right completions of each prompt; NaN: it was never judged."""
        return self.right / self.judged

    def after(
        self, numbers: Sequence[int], right: Tensor, judged: Tensor, *, keep: float
    ) -> "Memory":
        """Return the memory after a rollout.

        Args:
            numbers: Row of the data of each group that was sampled; a row may occur twice.
            right: Right completions of each group, (G,).
            judged: Completions of each group that were judged, (G,).
            keep: Share of what was known that still counts at a prompt's next visit, 0..1.

        Example:
            >>> memory = Memory.blank(2).after([1], torch.tensor([3]), torch.tensor([4]), keep=0.5)
            >>> memory.after([1], torch.tensor([0]), torch.tensor([2]), keep=0.5).pass_rates
            tensor([   nan, 0.3750], dtype=torch.float64)
        """
        counts = self.right.clone(), self.judged.clone()
        visits, last = self.visits.clone(), self.last.clone()
        clock = self.clock + len(numbers)
        for number, hits, seen in zip(numbers, right.tolist(), judged.tolist(), strict=True):
            if seen == 0:  # nothing was learnt of the prompt
                continue
            for count, new in zip(counts, (hits, seen), strict=True):
                count[number] = keep * count[number] + new
            visits[number] += 1
            last[number] = clock
        return Memory(*counts, visits, last, clock)

    def save(self, folder: Path) -> None:
        """Write the memory to a checkpoint's folder."""
        torch.save(vars(self), folder / _MEMORY)

    @classmethod
    def load(cls, folder: Path, rows: int) -> Self:
        """Return what `save` wrote.

        Raises:
            ValueError: If it is missing, or is of other data.
        """
        path = folder / _MEMORY
        if not path.is_file():
            raise ValueError(f"{folder} has no {_MEMORY}; resume from another checkpoint")
        found = cls(**torch.load(path, weights_only=True))
        if len(found) != rows:
            raise ValueError(
                f"{path} remembers {len(found)} prompts, but the data has {rows}: it is not that of the run; resume "
                "with the data of the run"
            )
        return found


@dataclass(frozen=True)
class Difficulty:
    """How prompts are remembered and chosen."""

    memory: float
    """Share of what was known of a prompt that still counts at its next visit."""
    min_pass_rate: float
    max_pass_rate: float
    min_visits: int
    revisit_after: float
    """Prompts sampled, in numbers of rows, after which a prompt that was left out is looked at again."""
    weight_floor: float | None
    """None: prompts come in the order of the stream."""
    start: Memory
    """Before the first rollout."""

    @property
    def filters(self) -> bool:
        """Whether prompts may be left out."""
        return self.min_pass_rate > 0 or self.max_pass_rate < 1

    @property
    def chooses(self) -> bool:
        """Whether prompts come otherwise than in the order of the stream."""
        return self.filters or self.weight_floor is not None

    def distance(self, memory: Memory) -> Float[Tensor, " R"]:
        """Return how far each remembered pass rate is outside the range: below 0 it is too low, above 0 too high."""
        rates = memory.pass_rates
        outside = (rates - self.max_pass_rate).clamp(min=0) - (self.min_pass_rate - rates).clamp(
            min=0
        )
        return outside.nan_to_num(nan=0.0).masked_fill(memory.visits < self.min_visits, 0.0)

    def due(self, memory: Memory) -> Bool[Tensor, " R"]:
        """Return which prompts are looked at again whatever was seen of them."""
        return memory.clock - memory.last >= self.revisit_after * len(memory)

    def weights(self, memory: Memory) -> Float[Tensor, " R"]:
        """Return how much each prompt is preferred.

        Raises:
            ValueError: If prompts are not weighted.
        """
        if self.weight_floor is None:
            raise ValueError("prompts without weight_floor come in the order of the stream")
        rates = memory.pass_rates.nan_to_num(nan=0.5)
        return rates * (1 - rates) + self.weight_floor


def tally(rows: RolloutBatch, group_size: int) -> tuple[Int[Tensor, " G"], Int[Tensor, " G"]]:
    """Return right and judged completions of each group.

    Args:
        rows: Whole groups, one after the other.
        group_size: Completions per prompt.
    """
    assert rows.outcomes is not None  # with_scores sets them
    counted = rows.is_scored.cpu()
    right = (rows.outcomes.cpu() == OUTCOMES.index(Outcome.CORRECT)) & counted
    return right.view(-1, group_size).sum(-1), counted.view(-1, group_size).sum(-1)


def difficulty_metrics(difficulty: Difficulty, before: Memory, after: Memory) -> dict[str, float]:
    """Return what a rollout says of the prompts.

    Args:
        difficulty: How they are chosen.
        before: When they were chosen.
        after: With what was seen of them.
    """
    known = after.judged > 0
    metrics = {
        "difficulty/prompts_seen": int(known.sum()),
        "difficulty/pass_rate": after.pass_rates[known].mean().item(),
    }
    if difficulty.filters:
        outside = difficulty.distance(before).masked_fill(difficulty.due(before), 0.0)
        metrics["difficulty/too_easy_fraction"] = (outside > 0).double().mean().item()
        metrics["difficulty/too_hard_fraction"] = (outside < 0).double().mean().item()
    return metrics


# ---------------------------------------------------------------------- the file


def prompt_id(row: Mapping[str, Any]) -> str:
    """Return what a prompt is known by in every run: 16 hexadecimal digits.

    Example:
        >>> prompt_id({"prompt": "1+1="})
        '9ffe8627f3749018'
    """
    return hashlib.blake2b(prompt_text(row["prompt"]).encode(), digest_size=8).hexdigest()


def write_memory(memory: Memory, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a line for every prompt that was judged, the file whole or not at all.

    Args:
        memory: Of the rows.
        rows: The data.
        path: The file.
    """
    rates = memory.pass_rates.tolist()
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for number in memory.visits.nonzero().squeeze(-1).tolist():
            line = {
                "row": number,
                "prompt_id": prompt_id(rows[number]),
                "pass_rate": round(rates[number], 4),
                "visits": memory.visits[number].item(),
                "right": memory.right[number].item(),
                "judged": memory.judged[number].item(),
                "prompt": _shortened(prompt_text(rows[number]["prompt"])),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_memory(path: Path, rows: Sequence[Mapping[str, Any]]) -> Memory:
    """Return what an earlier run knew of these rows, by their prompts.

    Args:
        path: A run folder, that of a split, or the file in it.
        rows: The data of this run.

    Raises:
        ValueError: If there is no such file, a line of it is broken, or it has none of the prompts.
    """
    file = path / DIFFICULTY if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"no pass rates at {file}; give the folder of a run with rollout.difficulty, or of `rlvr data split`"
        )
    places = {prompt_id(row): number for number, row in enumerate(rows)}
    found = Memory.blank(len(rows))
    right, judged, visits = found.right.clone(), found.judged.clone(), found.visits.clone()
    for count, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            item = json.loads(line)
            number = places.get(item["prompt_id"])
            values = float(item["right"]), float(item["judged"]), int(item["visits"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}:{count} is not a line of pass rates ({type(error).__name__}: {error}); it has prompt_id, "
                "right, judged and visits"
            ) from None
        if number is not None:
            right[number], judged[number], visits[number] = values
    if not visits.any():
        raise ValueError(
            f"{file} has none of the {len(rows)} prompts of the data: prompts are matched by their text, template and "
            "system message included"
        )
    return Memory(right, judged, visits, found.last)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"
