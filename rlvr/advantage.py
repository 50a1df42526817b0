"""Rewards of a generation -> one advantage per completion.

The public functions of this file are the names of `algorithm.advantage`; keyword arguments are its options.
A reward of NaN means: left out of its group. It moves no baseline and its advantage is 0. Where there is a baseline,
a group whose rewards are all equal has advantages of exactly 0, whatever the rounding of its mean.
An advantage of NaN means: the completion is taken out of the loss, like one without a reward.
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


def pshw(
    rewards: Float[Tensor, " B"],
    group_ids: Int[Tensor, " B"],
    *,
    slope: float = -0.256,
    bias: float = 1.256,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Tensor, " B"]:
    """Return (R - μ) (slope μ + bias), μ the group mean of R in [-1, 1]: a hard prompt weighs more.

    Policy-specific hardness weighting: the weight is 1 where all are right and 1.512 where none is; there is no division
    by the standard deviation. Confucius3-Math, https://arxiv.org/abs/2506.18330; the report of
    netease-youdao/Confucius3-Math@83426dad, equations 2 and 3 (there is no training code).

    Args:
        rewards: Mapped to R: `low` to -1, `high` to 1, others in proportion.
        group_ids: Prompt of each.
        slope: α of the report.
        bias: Weight of a prompt that is solved half of the time.
        low: Reward of a wrong answer.
        high: Reward of a right answer.

    Raises:
        ValueError: If low is not below high.

    Example:
        One of four is right: μ = -0.5, the weight 1.384; R - μ is 1.5 and -0.5.

        >>> pshw(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 0]))
        tensor([ 2.0760, -0.6920, -0.6920, -0.6920])
    """
    if low >= high:
        raise ValueError(f"low {low} is not below high {high}")
    groups = _Groups(2 * (rewards.double() - low) / (high - low) - 1, group_ids)
    return (groups.centred() * (slope * groups.means + bias)).to(rewards.dtype)


def pass_at_k(
    rewards: Float[Tensor, " B"],
    group_ids: Int[Tensor, " B"],
    *,
    k: int = 4,
    threshold: float = 0.5,
    eps: float = 1e-6,
) -> Float[Tensor, " B"]:
    """Return what a completion adds to the pass@k of its group, over the deviation of pass@k.

    Of n completions c are right. A subset of k earns 1 if one of it is right: mean ρ = 1 - C(n-c, k) / C(n, k), deviation
    σ = √(ρ (1 - ρ)). The advantage is that of the subsets with the completion, on average:

        right: (1 - ρ) / (σ + eps)      wrong: (1 - ρ - C(n-c-1, k-1) / C(n-1, k-1)) / (σ + eps)

    It is computed as q (R - c/n) / (σ + eps), R in {0, 1} and q = C(n-c-1, k-1) / C(n-1, k-1): the same, without a
    difference of nearly equal numbers. So it is exactly 0 where every subset earns 1 (n - c < k), where none does (c = 0)
    and where there is none (n < k). k = 1 is a z-score with the deviation over n.
    Pass@k training, https://arxiv.org/abs/2508.10751; RUCAIBox/Passk_Training@c3ba575e `calc_adv`.

    Args:
        rewards: n counts those that are not NaN.
        group_ids: Prompt of each.
        k: Completions of a subset, fewer than a group has: with as many, every advantage is 0.
        threshold: A completion is right if its reward is above.
        eps: Added to σ.

    Raises:
        ValueError: If k is below 1.

    Example:
        One of four is right, k = 2: half of the pairs have it, ρ = σ = 1/2; q = (3 - 1) / (4 - 1).

        >>> pass_at_k(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 0]), k=2)
        tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    """
    if k < 1:
        raise ValueError(f"k is {k}; a subset has 1 completion or more")
    right = (rewards > threshold).to(rewards.dtype)
    groups = _Groups(torch.where(torch.isnan(rewards), torch.nan, right), group_ids)
    counts, wrong = groups.counts, groups.counts - groups.sum(groups.rewards)
    share = torch.ones_like(wrong)
    for drawn in range(1, k):
        share = share * (wrong - drawn).clamp(min=0) / (counts - drawn).clamp(min=1)
    none_right = share * wrong / counts.clamp(min=1)
    deviation = (none_right * (1 - none_right)).sqrt()
    return (share * groups.centred() / (deviation + eps)).to(rewards.dtype)


def psr_nsr(
    rewards: Float[Tensor, " B"],
    group_ids: Int[Tensor, " B"],  # noqa: ARG001 (one signature for all)
    *,
    positive: float = 0.1,
    negative: float = 1.0,
    threshold: float = 0.5,
) -> Float[Tensor, " B"]:
    """Return `positive` for a right answer and -`negative` for a wrong one; at 0 the class leaves the loss.

    Without a baseline, so a group with one outcome teaches too. W-REINFORCE is (0.1, 1), the default; positive sample
    reinforcement (1, 0), negative sample reinforcement (0, 1): there the other class is NaN, out of the loss and of
    its denominator. RLVR-Decomposed, https://arxiv.org/abs/2506.01347; TianHongZXY/RLVR-Decomposed@a5d4e7c1
    `compute_psr_nsr_outcome_advantage`, which takes rewards of 0 and 1 only.

    Args:
        rewards: Of completions.
        group_ids: Not used.
        positive: Advantage of a right answer, 0 or more.
        negative: Minus the advantage of a wrong answer, 0 or more.
        threshold: A completion is right if its reward is above.

    Raises:
        ValueError: If both classes leave, or a weight is negative.

    Example:
        >>> psr_nsr(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
        tensor([ 0.1000, -1.0000])
        >>> psr_nsr(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), positive=0.0)
        tensor([nan, -1.])
    """
    if min(positive, negative) < 0 or positive == negative == 0:
        raise ValueError(
            f"positive is {positive} and negative {negative}; one must be above 0, and none below"
        )
    weights = torch.where(rewards > threshold, positive, -negative).to(rewards.dtype)
    weights = weights.masked_fill(weights == 0, torch.nan)
    return weights.masked_fill(torch.isnan(rewards), 0.0)
