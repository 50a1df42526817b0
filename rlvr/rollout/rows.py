"""Rows of a generation as the loss and the log see them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch, Seen, TokenBatch
from rlvr.rollout.cut import Lengths


def trim(rows: RolloutBatch, lengths: Lengths | None = None) -> RolloutBatch:
    """Return the rows without the columns that are padding in all of them; one of each kind stays.

    Args:
        rows: Some rows.
        lengths: Theirs, where they are known; None: they are counted.
    """
    lengths = lengths or Lengths.of(rows)
    width = max(int(lengths.completions.max()), 1)
    skip = rows.prompt_mask.shape[1] - max(int(lengths.prompts.max()), 1)

    def cut(name: str, value: Tensor) -> Tensor:
        if value.dim() < 2:
            return value
        return value[:, skip:] if name in ("prompt_ids", "prompt_mask") else value[:, :width]

    return rows.map(cut)


def sampled_by(rows: RolloutBatch, seen: Seen) -> RolloutBatch:
    """Return the rows with what the policy that sampled them sees in them."""
    return replace(
        rows,
        old_logprobs=seen.logprobs,
        old_entropies=seen.entropies,
        old_statistics=dict(seen.statistics),
    )


def token_batch(rows: RolloutBatch, seen: Seen) -> TokenBatch:
    """Return the completion tokens of the rows as a policy sees them.

    Without log-probs of the policy that generated, those of the given one stand for them.
    """
    is_rehearsal = (rows.origin == Origin.REHEARSAL).unsqueeze(-1)
    logprobs = seen.logprobs
    return TokenBatch(
        logprobs=logprobs,
        old_logprobs=logprobs.detach() if rows.old_logprobs is None else rows.old_logprobs,
        advantages=rows.advantages.to(logprobs.dtype),
        mask=rows.mask & ~is_rehearsal,
        rehearsal_mask=rows.completion_mask & is_rehearsal,
        completion_mask=rows.completion_mask,
        origin=rows.origin,
        entropies=seen.entropies,
        statistics=seen.statistics,
        old_entropies=rows.old_entropies,
        old_statistics=rows.old_statistics,
        ref_logprobs=rows.ref_logprobs,
        initial_logprobs=rows.initial_logprobs,
        sampling_logprobs=rows.sampling_logprobs,
    ).zero_padding()


def rollout_metrics(rows: RolloutBatch, outcomes: Sequence[str]) -> dict[str, float]:
    """Return what describes the policy's own rows of an update: rewards, verdicts, lengths, groups.

    Args:
        rows: Of one update, rows of every origin, on the CPU.
        outcomes: Name of each number in `RolloutBatch.outcomes`.
    """
    own = rows.origin == Origin.POLICY
    scored = own & rows.is_scored
    rewards, groups = rows.rewards[scored].double(), rows.group_ids[scored]
    lengths = rows.completion_mask.sum(-1)[own].double()
    moves = (rows.advantages != 0).any(-1)
    metrics = {
        "reward": rewards.mean().item(),
        "reward/std": _mean_spread(rewards, groups),
        "length/mean": lengths.mean().item(),
        "length/max": lengths.max().item(),
        "group/zero_advantage_fraction": 1
        - len(rows.group_ids[own & moves].unique()) / max(len(rows.group_ids[own].unique()), 1),
        "tokens": int(rows.mask.sum()),
    }
    if rows.truncated is not None:
        metrics["length/truncated_fraction"] = rows.truncated[own].double().mean().item()
    if rows.outcomes is not None:
        counts = torch.bincount(rows.outcomes[own], minlength=len(outcomes)) / own.sum()
        metrics |= {
            f"verdict/{name}": share.item() for name, share in zip(outcomes, counts, strict=True)
        }
    return metrics


def _mean_spread(rewards: Float[Tensor, " N"], groups: Int[Tensor, " N"]) -> float:
    """Return the mean over groups of the standard deviation within each."""
    _, place, sizes = groups.unique(return_inverse=True, return_counts=True)
    mean = rewards.new_zeros(len(sizes)).index_add_(0, place, rewards) / sizes
    squares = (rewards - mean[place]) ** 2
    return (
        (rewards.new_zeros(len(sizes)).index_add_(0, place, squares) / sizes).sqrt().mean().item()
    )
