"""Which rows of a generation an update takes, and how they are dealt to processes and micro-batches.

The first depends on the rows alone, never on the layout. The second is free: losses of micro-batches add up
(see rlvr/aggregate.py), so rows of similar length go together and processes get equal shares.
"""

import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch


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


def deal(lengths: Tensor, processes: int, micro_batches: int) -> list[list[Tensor]]:
    """Return the rows of each micro-batch: `[process][micro-batch] -> positions in lengths`.

    Rows are ordered by length, the longest first; consecutive rows form the micro-batches that run at the same
    time and are dealt to the processes in turn. Sizes differ by one at most for each; some may be empty.

    Args:
        lengths: Tokens of each row of an update, (N,).
        processes: How many share the update.
        micro_batches: Of each process.

    Example:
        >>> deal(torch.tensor([5, 9, 7, 1]), processes=1, micro_batches=2)
        [[tensor([1, 2]), tensor([0, 3])]]
    """
    order = lengths.argsort(descending=True, stable=True)
    slots = torch.tensor_split(order, micro_batches)
    return [[slot[process::processes] for slot in slots] for process in range(processes)]
