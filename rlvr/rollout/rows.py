"""Rows of a generation as the loss and the log see them."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from rlvr.batch import Origin, RolloutBatch, Seen, TokenBatch


def trim(rows: RolloutBatch) -> RolloutBatch:
    """Return the rows without the columns that are padding in all of them; one of each kind stays."""
    width = max(int(rows.completion_mask.sum(-1).max()), 1)
    skip = rows.prompt_mask.shape[1] - max(int(rows.prompt_mask.sum(-1).max()), 1)

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
        rows: Of one update, rows of every origin.
        outcomes: Name of each number in `RolloutBatch.outcomes`.
    """
    tokens = int(rows.mask.sum())
    rows = rows.rows(rows.origin == Origin.POLICY).to("cpu")
    rewards = rows.rewards[rows.is_scored].double()
    lengths = rows.completion_mask.sum(-1).double()
    metrics = {
        "reward": rewards.mean().item(),
        "reward/std": _mean_spread(rows),
        "length/mean": lengths.mean().item(),
        "length/max": lengths.max().item(),
        "group/zero_advantage_fraction": _share_of_idle_groups(rows),
        "tokens": tokens,
    }
    if rows.truncated is not None:
        metrics["length/truncated_fraction"] = rows.truncated.double().mean().item()
    if rows.outcomes is not None:
        for number, outcome in enumerate(outcomes):
            metrics[f"verdict/{outcome}"] = (rows.outcomes == number).double().mean().item()
    return metrics


def _mean_spread(rows: RolloutBatch) -> float:
    spreads = [
        rows.rewards[(rows.group_ids == group) & rows.is_scored].double().std(correction=0).item()
        for group in rows.group_ids[rows.is_scored].unique()
    ]
    return sum(spreads) / len(spreads) if spreads else float("nan")


def _share_of_idle_groups(rows: RolloutBatch) -> float:
    groups = rows.group_ids.unique()
    moving = rows.group_ids[(rows.advantages != 0).any(-1)].unique()
    return 1 - len(moving) / max(len(groups), 1)
