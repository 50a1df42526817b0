"""Which rows of a generation an update takes, and how they are dealt to processes and micro-batches.

The first depends on the rows alone, never on the layout. The second is free: losses of micro-batches add up
(see rlvr/aggregate.py), so rows of similar length go together and processes get equal shares.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch


@dataclass(frozen=True)
class Lengths:
    """Tokens of rows, on the CPU."""

    prompts: Int[Tensor, " N"]
    completions: Int[Tensor, " N"]

    @classmethod
    def of(cls, rows: RolloutBatch) -> "Lengths":
        """Return those of some rows."""
        return cls(rows.prompt_mask.sum(-1).cpu(), rows.completion_mask.sum(-1).cpu())

    def rows(self, index: Tensor) -> "Lengths":
        """Return those of the rows `index`, in that order."""
        return Lengths(self.prompts[index], self.completions[index])


def assign_updates(rollout: RolloutBatch, prompts_per_update: int, updates: int) -> list[Tensor]:
    """Return the rows of each update of one pass over a generation.

    A group goes to one update whole, in the order of the prompts. Tempered and rehearsal rows are dealt to the
    updates in turn.
    """
    is_policy = rollout.origin == Origin.POLICY
    extra = (~is_policy).nonzero().squeeze(-1)
    update = (rollout.group_ids // prompts_per_update).clamp(max=updates - 1)
    update[extra] = torch.arange(len(extra), device=update.device) % updates
    return [(update == number).nonzero().squeeze(-1) for number in range(updates)]


def deal(
    lengths: Lengths,
    *,
    processes: int = 1,
    most_rows: int,
    most_tokens: int | None = None,
) -> list[list[Tensor]]:
    """Return the rows of each micro-batch: `[process][micro-batch] -> positions`.

    Rows are ordered by the length of their completions, the longest first; consecutive rows form the micro-batches that
    run at the same time and are dealt to the processes in turn. Every process has as many micro-batches, at least one;
    their sizes differ by one at most, so that some may be empty.

    Args:
        lengths: Of the rows.
        processes: How many share the rows.
        most_rows: Of a micro-batch.
        most_tokens: Of a micro-batch, padding counted; a row that is longer is alone. None: any number.

    Example:
        >>> lengths = Lengths(prompts=torch.tensor([3, 3, 3, 3]), completions=torch.tensor([5, 9, 7, 1]))
        >>> deal(lengths, most_rows=2)
        [[tensor([1, 2]), tensor([0, 3])]]
        >>> deal(lengths, most_rows=4, most_tokens=20)
        [[tensor([1]), tensor([2, 0]), tensor([3])]]
    """
    order = lengths.completions.argsort(descending=True, stable=True)
    if most_tokens is None:
        slots = torch.tensor_split(order, max(-(-len(order) // (processes * most_rows)), 1))
    else:
        slots = order.split(_sizes(lengths.rows(order), processes, most_rows, most_tokens))
    return [[slot[process::processes] for slot in slots] for process in range(processes)]


def _sizes(lengths: Lengths, processes: int, most_rows: int, most_tokens: int) -> list[int]:
    """Return the rows of each slot of all processes: as many as fit, one after the other."""
    sizes, size, prompt, completion = [], 0, 0, 0
    pairs = zip(lengths.prompts.tolist(), lengths.completions.tolist(), strict=True)
    for own_prompt, own_completion in pairs:
        wider = max(prompt, own_prompt), max(completion, own_completion)
        rows = size // processes + 1
        if size and (rows > most_rows or rows * sum(wider) > most_tokens):
            sizes.append(size)
            size, wider = 0, (own_prompt, own_completion)
        size += 1
        prompt, completion = wider
    return [*sizes, size]
