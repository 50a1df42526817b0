"""How the bucket of a prompt reaches the tokens of ARES's loss, and what they weigh there."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.aggregate import token_mean
from rlvr.batch import RolloutBatch, TokenBatch
from rlvr.divergence import k3
from rlvr.entropy._ares_reward import BUCKETS
from rlvr.entropy.control import State, Stats

BUCKET = "ares:bucket"
"""Key of `old_statistics` by which a row's bucket reaches the loss: a number of `BUCKETS` at each token."""
MOST_KL = 10.0
"""Nats: what one token adds to the controller's mean at most, and in the authors' code to the loss."""
_LOG_RATIO_LIMIT = 20.0  # as in the authors' code: the exponential stays finite


def mark_buckets(rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
    """Return the generation with the bucket of each row, of `state["buckets"]` by group, at its tokens."""
    by_group = torch.tensor([*state["buckets"], 0], device=rollout.group_ids.device)
    known = (rollout.group_ids >= 0) & (rollout.group_ids < len(by_group) - 1)
    bucket = by_group[torch.where(known, rollout.group_ids, len(by_group) - 1)]
    bucket = bucket.unsqueeze(-1).expand(rollout.mask.shape).to(rollout.advantages.dtype)
    statistics = {**rollout.old_statistics, BUCKET: bucket.clone()}
    return replace(rollout, old_statistics=statistics), state, {}


def weigh_buckets(
    population: TokenBatch,
    state: State,
    generator: torch.Generator,  # noqa: ARG001
) -> dict[str, Tensor]:
    """Return each token's weight in the KL: of a mean over tokens, times the scale of its bucket."""
    weights = token_mean(population.mask, population.is_policy_row)
    bucket = row_bucket(population).unsqueeze(-1)
    for name, number in BUCKETS.items():
        weights = torch.where(bucket == number, weights * state["kl_scale"][name], weights)
    return {"kl_weights": weights.to(population.logprobs.dtype)}


def row_bucket(batch: TokenBatch) -> Int[Tensor, " B"]:
    """Return the bucket of each row; without one, as in a generation that no `shape` has seen, 0."""
    if BUCKET not in batch.old_statistics:
        return torch.zeros_like(batch.origin)
    marked = torch.where(batch.mask, batch.old_statistics[BUCKET], 0.0)
    return marked.sum(-1).sign().long()


def token_kl(
    logprobs: Float[Tensor, "B T"], ref_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return k3 of the KL to the reference, the log-ratio clamped to +-20 nats.

    Example:
        >>> token_kl(torch.tensor([[-1.0, -100.0]]), torch.tensor([[-1.0, -1.0]])).log()
        tensor([[-inf, 20.]])
    """
    log_u = (ref_logprobs - logprobs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return k3(torch.zeros_like(log_u), log_u)
