"""The rehearsal buffer: correct completions of the initial policy on prompts that it masters (DPH-RL)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.whole_file import whole_file


def choose_mastered(is_correct: Tensor, group_ids: Tensor, min_pass_rate: float) -> Tensor:
    """Return one correct row of each prompt that is mastered: the first.

    Args:
        is_correct: (N,) bool.
        group_ids: (N,) the prompt of each row.
        min_pass_rate: Share of a prompt's rows that must be correct, 0..1.

    Example:
        >>> choose_mastered(torch.tensor([True, True, False, True]), torch.tensor([0, 0, 1, 1]), 1.0)
        tensor([0])
    """
    chosen = []
    for group in group_ids.unique().tolist():
        rows = (group_ids == group).nonzero().squeeze(-1)
        right = rows[is_correct[rows]]
        if len(right) and len(right) >= min_pass_rate * len(rows):
            chosen.append(int(right[0]))
    return torch.tensor(chosen, dtype=torch.long)


def as_rehearsal(rollout: RolloutBatch) -> RolloutBatch:
    """Return rows of the initial policy as rehearsal rows: log-probs kept, no part in the policy loss."""
    if rollout.old_logprobs is None:
        raise ValueError("rehearsal rows need the log-probs of the policy that sampled them")
    return replace(
        rollout,
        mask=torch.zeros_like(rollout.mask),
        advantages=torch.zeros_like(rollout.advantages),
        rewards=torch.full_like(rollout.rewards, torch.nan),
        group_ids=torch.full_like(rollout.group_ids, -1),
        origin=torch.full_like(rollout.origin, Origin.REHEARSAL),
        initial_logprobs=rollout.old_logprobs,
    )


def join_all(parts: Sequence[RolloutBatch]) -> RolloutBatch:
    """Return the rows of all parts, padded to a common width."""
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.join(part)
    return joined


def draw(buffer: RolloutBatch, count: int, seed: int) -> RolloutBatch:
    """Return `count` rows of the buffer: whole shuffled passes over it, then a part of one."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(buffer), generator=generator).tolist()
    return buffer.rows(torch.tensor(order[:count]))


def save_buffer(buffer: RolloutBatch, path: Path) -> None:
    """Write the buffer, whole or not at all."""
    with whole_file(path) as partial:
        torch.save(vars(buffer), partial)


def load_buffer(path: Path) -> RolloutBatch:
    """Read a buffer.

    Raises:
        ValueError: If there is no such file.
    """
    if not path.is_file():
        raise ValueError(
            f"no rehearsal buffer at {path}; name an existing file in entropy.dph.buffer, or set it to null to "
            "have one made before the first update"
        )
    return RolloutBatch(**torch.load(path, weights_only=True))
