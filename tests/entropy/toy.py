"""A table of logits as policy: exact log-probs and entropies, gradients by the table, small enough for gradcheck."""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from rlvr.advantage import group_zscore
from rlvr.batch import Origin, RolloutBatch, Seen, TokenBatch
from rlvr.entropy.control import Chain
from rlvr.kernels.naive import logprob_entropy
from rlvr.kernels.statistics import of_logits
from rlvr.loss import Decision, Objective
from tests.entropy import settings

VOCABULARY = 5


def logits(rows: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, width, VOCABULARY, generator=generator, dtype=torch.float64)


def facts(rows: int = 8, width: int = 7, *, rehearsal: int = 2, seed: int = 0) -> TokenBatch:
    """Return everything about an update but the current policy; the last rows are rehearsal rows."""
    generator = torch.Generator().manual_seed(seed + 1)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = width, 0  # a full row and an empty one
    exists = torch.arange(width) < lengths[:, None]
    is_rehearsal = torch.arange(rows) >= rows - rehearsal
    old = logits(rows, width, seed) + 0.3 * logits(rows, width, seed + 7)
    seen_then = look(old, actions(rows, width, seed), settings.statistics())
    old_logprobs, old_entropies = seen_then.logprobs, seen_then.entropies
    shift = 0.4 * torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    return TokenBatch(
        logprobs=old_logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages.expand(rows, width).clone(),
        mask=exists & ~is_rehearsal[:, None],
        rehearsal_mask=exists & is_rehearsal[:, None],
        origin=torch.where(is_rehearsal, int(Origin.REHEARSAL), int(Origin.POLICY)),
        entropies=old_entropies,
        old_entropies=old_entropies,
        ref_logprobs=old_logprobs + shift[0],
        initial_logprobs=old_logprobs + shift[1],
        sampling_logprobs=old_logprobs - 0.1 * shift[0],
        completion_mask=exists,
        statistics=seen_then.statistics,
        old_statistics=seen_then.statistics,
    )


def generation(rows: int = 16, width: int = 6, *, tempered: int = 0, seed: int = 0) -> RolloutBatch:
    """Return a generation of groups of 4 with rewards of 0 and 1, a reward left out, and an empty completion.

    The last `tempered` rows are a second rollout.
    """
    generator = torch.Generator().manual_seed(seed + 3)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = width, 0
    exists = torch.arange(width) < lengths[:, None]
    rewards = torch.randint(0, 2, (rows,), generator=generator).double()
    rewards[4:8] = 0.0  # a group with one outcome
    rewards[2] = torch.nan
    groups = torch.arange(rows) // 4
    advantages = group_zscore(rewards, groups)
    taken = actions(rows, width, seed)
    seen_then = look(logits(rows, width, seed), taken, settings.statistics())
    shift = 0.4 * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return RolloutBatch(
        prompt_ids=torch.arange(rows).unsqueeze(-1),
        prompt_mask=torch.ones(rows, 1, dtype=torch.bool),
        completion_ids=taken,
        completion_mask=exists,
        mask=exists & ~rewards.isnan()[:, None],
        advantages=advantages[:, None].expand(rows, width).clone(),
        rewards=rewards,
        group_ids=groups,
        origin=torch.where(
            torch.arange(rows) < rows - tempered, int(Origin.POLICY), int(Origin.TEMPERED)
        ),
        outcomes=(rewards == 0).long(),
        truncated=lengths == width,
        old_logprobs=seen_then.logprobs.masked_fill(~exists, 0.0),
        old_entropies=seen_then.entropies,
        ref_logprobs=seen_then.logprobs + shift,
        segment_ids=(torch.arange(width) // 2).expand(rows, width).masked_fill(~exists, -1),
        old_statistics=seen_then.statistics,
    )


def actions(rows: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 2)
    return torch.randint(0, VOCABULARY, (rows, width), generator=generator)


def look(table: Tensor, taken: Tensor, names: Collection[str] = ()) -> Seen:
    """Return the tokens as the policy `table` (B, T, V) sees them, with the named statistics."""
    logprobs, entropies = logprob_entropy(table, taken)
    found = of_logits(table.flatten(0, 1), taken.flatten(), names)
    return Seen(logprobs, entropies, {name: part.view_as(logprobs) for name, part in found.items()})


def seen(batch: TokenBatch, table: Tensor, taken: Tensor) -> TokenBatch:
    """Return the batch as the policy `table` sees it now."""
    now = look(table, taken, batch.old_statistics.keys())
    return replace(
        batch, logprobs=now.logprobs, entropies=now.entropies, statistics=now.statistics
    ).zero_padding()


def loss_and_gradient(
    objective: Objective,
    batch: TokenBatch,
    table: Tensor,
    taken: Tensor,
    parts: list[Tensor] | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Decision, dict[str, Tensor]]:
    """Return loss, gradient by the table, decision and summed statistics of an update cut into `parts`."""
    table = table.clone().requires_grad_()
    parts = parts or [torch.arange(len(batch))]
    state = objective.chain.init()
    decision = objective.decide(seen(batch, table.detach(), taken), parts, state, seed)
    total = torch.zeros((), dtype=torch.float64)
    sums: dict[str, Tensor] = {}
    for rows in parts:
        part = seen(batch.rows(rows), table[rows], taken[rows])
        loss, stats = objective.loss(part, decision.rows(rows))
        loss.backward()
        total = total + loss.detach()
        for name, value in stats.items():
            sums[name] = sums[name] + value if name in sums else value
    assert table.grad is not None
    return total, table.grad, decision, sums


def objective(chain: Chain | None = None, **changes: object) -> Objective:
    from rlvr.aggregate import token_mean
    from rlvr.surrogate import clipped

    parts: dict[str, object] = {"surrogate": clipped, "aggregate": token_mean}
    return Objective(**(parts | {"chain": chain or Chain(), "clip_high": 0.28} | changes))  # type: ignore[arg-type]
