"""A loss or gradient that is not a number ends a run before the optimizer steps; what led to it is kept."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.batch import RolloutBatch, TokenBatch

FOLDER = "not_finite"


class NotFiniteError(ValueError):
    """The loss or the gradient of an update is not finite; the policy is that of the update before."""


def faults(batch: TokenBatch, losses: Tensor) -> list[str]:
    """Return, for each row, which of its numbers are not finite, in words; "" where all are.

    Args:
        batch: As the loss saw it.
        losses: Of each row alone, (B,).
    """
    named = {
        "log-prob": batch.logprobs,
        "log-prob at sampling": batch.old_logprobs,
        "advantage": batch.advantages,
        "entropy": batch.entropies,
        "log-prob of the reference": batch.ref_logprobs,
        **batch.statistics,
    }
    found: list[list[str]] = [[] for _ in range(len(batch))]
    for name, values in named.items():
        if values is not None:
            for row in (~values.isfinite()).any(-1).nonzero().flatten().tolist():
                found[row].append(name)
    for row in (~losses.isfinite()).nonzero().flatten().tolist():
        found[row].append("loss")
    return [", ".join(names) for names in found]


def describe(
    rows: RolloutBatch,
    batch: TokenBatch,
    losses: Tensor,
    decode: Callable[[list[Tensor]], list[str]],
) -> list[dict[str, Any]]:
    """Return what a reader wants to know of each row, first of all what is not finite in it.

    Args:
        rows: As they were trained on.
        batch: The same, as the loss saw them.
        losses: Of each row alone, (B,).
        decode: From token ids to texts.
    """
    wrong = faults(batch, losses)
    prompts = decode(
        [ids[keep] for ids, keep in zip(rows.prompt_ids, rows.prompt_mask, strict=True)]
    )
    completions = decode(
        [ids[keep] for ids, keep in zip(rows.completion_ids, rows.completion_mask, strict=True)]
    )
    return [
        {
            "not_finite": wrong[i],
            # as text: JSON has no number for them
            "loss": str(float(losses[i])),
            "lowest_logprob": str(float(batch.logprobs[i].min())),
            "reward": str(float(rows.rewards[i])),
            "advantage": str(float(rows.advantages[i, 0])),
            "prompt": prompts[i],
            "completion": completions[i],
        }
        for i in range(len(rows))
    ]


def save(
    folder: Path,
    rank: int,
    rows: RolloutBatch,
    described: Sequence[dict[str, Any]],
) -> Path:
    """Write rows of a process, as tensors and readable, and return the readable file.

    Args:
        folder: Of the update.
        rank: Of the process.
        rows: As they were trained on.
        described: What is said of each row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(vars(rows.to("cpu")), folder / f"rank-{rank}.pt")
    path = folder / f"rank-{rank}.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in described))
    return path
