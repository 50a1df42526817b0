"""Rewards of a generation -> one advantage per completion.

The public functions of this file are the names of `algorithm.advantage`; keyword arguments are its options.
A reward of NaN means: left out of its group. It moves no baseline and its advantage is 0. A group whose
rewards are all equal has advantages of exactly 0, whatever the rounding of its mean.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class _Groups:
    """Sums over the completions of each prompt, NaN rewards left out; float64 inside."""

    def __init__(self, rewards: Tensor, group_ids: Tensor) -> None:
        _, self.index = torch.unique(group_ids, return_inverse=True)
        self.size = int(self.index.max()) + 1 if len(rewards) else 0
        self.counted = ~torch.isnan(rewards)
        self.rewards = torch.where(self.counted, rewards, 0.0).double()
        self.counts = self.sum(self.counted.double())
        self.means = self.sum(self.rewards) / self.counts.clamp(min=1)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over each completion's group, (B,)."""
        totals = values.new_zeros(self.size).index_add_(0, self.index, values)
        return totals[self.index]

    def centred(self) -> Tensor:
        """Return reward minus group mean, exactly 0 in groups with one outcome."""
        high = self._extreme(-torch.inf, "amax")
        low = self._extreme(torch.inf, "amin")
        return torch.where(self.counted & (high > low), self.rewards - self.means, 0.0)

    def _extreme(self, neutral: float, how: str) -> Tensor:
        values = torch.where(self.counted, self.rewards, neutral)
        extremes = values.new_full((self.size,), neutral)
        return extremes.scatter_reduce_(0, self.index, values, reduce=how)[self.index]


def group_zscore(
    rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"], *, eps: float = 1e-4
) -> Float[Tensor, " B"]:
    """Return (R - group mean) / (group standard deviation with n - 1, plus eps).

    GRPO, https://arxiv.org/abs/2402.03300. TRL's eps is 1e-4, verl's 1e-6.

    Example:
        >>> group_zscore(torch.tensor([1.0, 0.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1]))
        tensor([ 0.7070, -0.7070,  0.0000,  0.0000])
    """
    groups = _Groups(rewards, group_ids)
    centred = groups.centred()
    variance = groups.sum(centred**2) / (groups.counts - 1).clamp(min=1)
    return (centred / (variance.sqrt() + eps)).to(rewards.dtype)


def group_mean(rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return R - group mean, without a division.

    Dr. GRPO, https://arxiv.org/abs/2503.20783; TRL `scale_rewards="none"`.

    Example:
        >>> group_mean(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
        tensor([ 0.5000, -0.5000])
    """
    return _Groups(rewards, group_ids).centred().to(rewards.dtype)


def leave_one_out(
    rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return R - mean of the other completions of its group; 0 where there is no other.

    RLOO, https://arxiv.org/abs/2402.14740.

    Example:
        >>> leave_one_out(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 0]))
        tensor([ 1.0000, -0.5000, -0.5000])
    """
    groups = _Groups(rewards, group_ids)
    others = (groups.counts - 1).clamp(min=1)
    return (groups.centred() * groups.counts / others).to(rewards.dtype)


def batch_zscore(
    rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"], *, eps: float = 1e-4
) -> Float[Tensor, " B"]:
    """Return (R - group mean) / (standard deviation of all rewards with n - 1, plus eps).

    Group baseline, batch scale: TRL `scale_rewards="batch"`, https://arxiv.org/abs/2508.08221.

    Example:
        >>> batch_zscore(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]))
        tensor([ 0.9998, -0.9998,  0.0000,  0.0000])
    """
    groups = _Groups(rewards, group_ids)
    counted = groups.rewards[groups.counted]
    scale = counted.std() if len(counted) > 1 else counted.new_zeros(())
    return (groups.centred() / (scale + eps)).to(rewards.dtype)
