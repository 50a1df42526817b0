"""Small generations written by hand, for controls that act once a generation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch


def grid(rows: Sequence[Sequence[float]], filling: float = 0.0) -> Tensor:
    """Return ragged rows as one float64 tensor."""
    width = max(len(row) for row in rows)
    return torch.tensor(
        [[*row, *[filling] * (width - len(row))] for row in rows], dtype=torch.float64
    )


def generation(
    advantages: Sequence[float],
    entropies: Sequence[Sequence[float]],
    *,
    groups: Sequence[int] | None = None,
    rewards: Sequence[float] | None = None,
    **facts: Any,
) -> RolloutBatch:
    """Return a generation with one advantage for each completion and an entropy for each of its tokens."""
    old_entropies = grid(entropies, filling=float("nan"))
    mask = ~old_entropies.isnan()
    count = len(mask)
    own: dict[str, Any] = {
        "prompt_ids": torch.arange(count).unsqueeze(-1),
        "prompt_mask": torch.ones(count, 1, dtype=torch.bool),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": mask,
        "mask": mask,
        "advantages": torch.tensor(advantages, dtype=torch.float64)
        .unsqueeze(-1)
        .expand(mask.shape)
        .clone(),
        "rewards": torch.tensor(rewards or [0.0] * count, dtype=torch.float64),
        "group_ids": torch.tensor(groups or [0] * count),
        "origin": torch.full((count,), int(Origin.POLICY)),
        "old_entropies": old_entropies,
    }
    return RolloutBatch(**(own | facts))


def permuted(rollout: RolloutBatch, order: Sequence[int]) -> RolloutBatch:
    """Return the rows in another order."""
    return rollout.rows(torch.tensor(order))


def widened(rollout: RolloutBatch, columns: int) -> RolloutBatch:
    """Return the rows with more padding, NaN where numbers are kept."""

    def pad(name: str, value: Tensor) -> Tensor:
        if value.dim() < 2 or name.startswith("prompt"):
            return value
        filling = float("nan") if value.is_floating_point() else -1 if name == "segment_ids" else 0
        return torch.nn.functional.pad(value, (0, columns), value=filling)

    return rollout.map(pad)
