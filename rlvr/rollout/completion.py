"""Sampled completions, and the rows of a generation that they become."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.rewards.scorer import Scored
from rlvr.rewards.verdict import Outcome

OUTCOMES = list(Outcome)
"""Name of each number in `RolloutBatch.outcomes`."""


@dataclass(frozen=True)
class Completion:
    """One sampled completion, on the process that sampled it."""

    prompt_ids: list[int]
    completion_ids: list[int]
    text: str
    truncated: bool
    """Cut at the length limit."""
    sampling_logprobs: list[float] | None
    """As the sampler reports them, nats."""
    row: int = 0
    """Of the data."""
    place: int = 0
    """Position among the requests of all processes; -1: a filler that keeps processes in step."""


def as_rows(
    completions: Sequence[Completion],
    *,
    pad_token: int,
    origin: Origin = Origin.POLICY,
    first_group: int = 0,
    group_size: int = 1,
) -> RolloutBatch:
    """Return completions as padded rows, not yet scored: advantages are 0.

    Args:
        completions: Of this process.
        pad_token: Id that fills up.
        origin: Of all of them.
        first_group: Group of the first `group_size` places; the next have the next.
        group_size: Completions per prompt.
    """
    places = torch.tensor([item.place for item in completions])
    prompts = [item.prompt_ids for item in completions]
    written = [item.completion_ids for item in completions]
    prompt_mask, completion_mask = _exist(prompts, left=True), _exist(written)
    sampling = [item.sampling_logprobs for item in completions]
    return RolloutBatch(
        prompt_ids=_filled(prompts, prompt_mask, pad_token),
        prompt_mask=prompt_mask,
        completion_ids=_filled(written, completion_mask, pad_token),
        completion_mask=completion_mask,
        mask=completion_mask,
        advantages=torch.zeros(completion_mask.shape),
        rewards=torch.full((len(completions),), torch.nan),
        group_ids=first_group + places.clamp(min=0) // group_size,
        origin=torch.full_like(places, origin),
        truncated=torch.tensor([item.truncated for item in completions]),
        sampling_logprobs=None if None in sampling else _filled(sampling, completion_mask, 0.0),  # type: ignore[arg-type]
    )


def with_scores(rows: RolloutBatch, scored: Sequence[Scored]) -> RolloutBatch:
    """Return the rows with the rewards and outcomes of their completions."""
    device = rows.rewards.device
    outcomes = [OUTCOMES.index(item.verdict.outcome) for item in scored]
    return replace(
        rows,
        rewards=torch.tensor([item.reward for item in scored], device=device),
        outcomes=torch.tensor(outcomes, device=device),
    )


def _exist(rows: Sequence[Sequence[Any]], *, left: bool = False) -> Tensor:
    """Return where padded rows have something, (B, T) bool; padding is on the right, or on the left."""
    lengths = torch.tensor([len(row) for row in rows]).unsqueeze(-1)
    width = int(lengths.max())
    columns = torch.arange(width)
    return columns >= width - lengths if left else columns < lengths


def _filled(rows: Sequence[Sequence[Any]], exist: Tensor, value: float) -> Tensor:
    """Return the rows' numbers where they exist, and `value` elsewhere, (B, T)."""
    # one tensor of all: a tensor of each row costs more than the rows
    found = torch.full(exist.shape, value)
    found[exist] = torch.tensor(list(chain.from_iterable(rows)), dtype=found.dtype)
    return found
