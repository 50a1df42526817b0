"""Sampled completions, and the rows of a generation that they become."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.rewards.scorer import Scored
from rlvr.rewards.verdict import Outcome
from rlvr.rollout.padding import exist, filled

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
    sampling_logprobs: Sequence[float | None] | None
    """As the sampler reports them, nats; None: it could not say."""
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
    prompt_mask, completion_mask = exist(prompts, left=True), exist(written)
    sampling = [item.sampling_logprobs for item in completions]
    return RolloutBatch(
        prompt_ids=filled(prompts, prompt_mask, pad_token),
        prompt_mask=prompt_mask,
        completion_ids=filled(written, completion_mask, pad_token),
        completion_mask=completion_mask,
        mask=completion_mask,
        advantages=torch.zeros(completion_mask.shape),
        rewards=torch.full((len(completions),), torch.nan),
        group_ids=first_group + places.clamp(min=0) // group_size,
        origin=torch.full_like(places, origin),
        truncated=torch.tensor([item.truncated for item in completions]),
        sampling_logprobs=filled(
            [[math.nan if value is None else value for value in row or ()] for row in sampling],
            completion_mask,
            0.0,
        )
        if None not in sampling
        else None,
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
