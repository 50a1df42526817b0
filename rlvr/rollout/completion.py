"""Sampled completions, and the rows of a generation that they become."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
    completion_ids = _pad([item.completion_ids for item in completions], pad_token)
    completion_mask = _pad([[1] * len(item.completion_ids) for item in completions], 0).bool()
    sampling = [item.sampling_logprobs for item in completions]
    return RolloutBatch(
        prompt_ids=_pad([item.prompt_ids for item in completions], pad_token, left=True),
        prompt_mask=_pad([[1] * len(item.prompt_ids) for item in completions], 0, left=True).bool(),
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        mask=completion_mask,
        advantages=torch.zeros(completion_mask.shape),
        rewards=torch.full((len(completions),), torch.nan),
        group_ids=first_group + places.clamp(min=0) // group_size,
        origin=torch.full_like(places, origin),
        truncated=torch.tensor([item.truncated for item in completions]),
        sampling_logprobs=None
        if any(values is None for values in sampling)
        else pad_sequence([torch.tensor(values) for values in sampling], batch_first=True),
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


def _pad(rows: Sequence[list[int]], value: int, *, left: bool = False) -> Tensor:
    side = "left" if left else "right"
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
