"""Which prompts come next: those of the stream, or, by what is remembered of them, a choice.

A rollout takes prompts in batches. Of an order of all rows a batch takes the first that are not left out and were not
taken for this rollout before:

    plain      the stream, as it is
    filtered   the stream; what is left out is passed over
    weighted   a drawing without replacement, seeded by the run and by the place in it

Where too few are left, those closest to the range stand in: a rollout has its size.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from rlvr.batch import RolloutBatch
from rlvr.rollout.difficulty import Difficulty, Memory, difficulty_metrics, tally
from rlvr.rollout.stream import prompt_stream


@dataclass(frozen=True)
class Taken:
    """A batch of prompts."""

    numbers: list[int]
    """Rows of the data."""
    position: int
    """Place of the run after them."""
    revisited: int = 0
    """Those outside the range that are looked at again."""
    stand_ins: int = 0
    """Those outside the range that are taken since too few in it are left."""


@dataclass(frozen=True)
class PromptSource:
    """Gives a run its prompts.

    Args:
        rows: Of the data.
        seed: Of the run.
        difficulty: How prompts are remembered and chosen; None: they are not.
    """

    rows: int
    seed: int
    difficulty: Difficulty | None = None

    def take(
        self,
        count: int,
        position: int,
        memory: Memory | None = None,
        before: Collection[int] = (),
    ) -> Taken:
        """Return the next prompts.

        Args:
            count: How many, at most `rows`.
            position: Place of the run: prompts of the stream that were taken or passed over, or prompts drawn.
            memory: Of the prompts; None: nothing is known.
            before: Taken for this rollout already.

        Example:
            >>> PromptSource(rows=4, seed=0).take(2, position=4).numbers == prompt_stream(4, 6, 0)[4:]
            True
        """
        difficulty = self.difficulty
        if difficulty is None or not difficulty.chooses:
            return Taken(
                prompt_stream(self.rows, count, self.seed, start=position), position + count
            )
        memory = memory or difficulty.start
        taken = set(before)
        if self.rows - len(taken) < count:  # a rollout that has seen all of the data begins again
            taken = set()
        outside = difficulty.distance(memory)
        due = difficulty.due(memory)
        left_out = ((outside != 0) & ~due).tolist()
        if difficulty.weight_floor is None:
            coming = self._coming(position)
        else:
            coming = self._drawn(difficulty, memory, position)
        order = [row for row in dict.fromkeys(coming) if row not in taken]
        numbers = list(islice((row for row in order if not left_out[row]), count))
        if difficulty.weight_floor is not None:
            after = position + count
        elif len(numbers) < count:
            after = position + len(coming)
        else:  # the next batch begins after the last that was taken
            after = position + coming.index(numbers[-1]) + 1
        again = (outside != 0) & due
        revisited = int(again[numbers].sum())
        rest = sorted(
            (row for row in order if left_out[row]), key=lambda row: abs(outside[row].item())
        )
        stand_ins = rest[: count - len(numbers)]
        return Taken(numbers + stand_ins, after, revisited, len(stand_ins))

    def remember(
        self,
        memory: Memory | None,
        taken: Sequence[Taken],
        rows: RolloutBatch,
        group_size: int,
    ) -> tuple[Memory | None, dict[str, float]]:
        """Return the memory after a rollout, and its metrics; None where prompts are not remembered.

        Args:
            memory: When the prompts were taken; None: nothing was known.
            taken: The batches of the rollout.
            rows: Their completions, of all processes: whole groups, one after the other.
            group_size: Completions per prompt.
        """
        difficulty = self.difficulty
        if difficulty is None:
            return None, {}
        before = memory or difficulty.start
        numbers = [number for batch in taken for number in batch.numbers]
        after = before.after(numbers, *tally(rows, group_size), keep=difficulty.memory)
        metrics = difficulty_metrics(difficulty, before, after)
        if difficulty.filters:
            metrics["difficulty/revisited"] = sum(batch.revisited for batch in taken)
            metrics["difficulty/stand_ins"] = sum(batch.stand_ins for batch in taken)
        return after, metrics

    def _coming(self, position: int) -> list[int]:
        """Return the stream from a position to the end of the next whole epoch: every row is in it."""
        epochs = position // self.rows + 2
        return prompt_stream(self.rows, epochs * self.rows - position, self.seed, start=position)

    def _drawn(self, difficulty: Difficulty, memory: Memory, position: int) -> list[int]:
        """Return all rows in the order of a drawing without replacement, in proportion to their weights."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + position)
        # the smallest of exponential variables with these rates (Efraimidis and Spirakis)
        waiting = -torch.rand(self.rows, generator=generator, dtype=torch.float64).log()
        return (waiting / difficulty.weights(memory)).argsort(stable=True).tolist()
