"""ARES's reward as functions of tensors: high-entropy windows, difficulty buckets, and what a completion earns in each.

Legend: N = the number of high-entropy windows of a completion, target = that of its bucket, Δ = N - target.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BUCKETS = {"easy": -1, "medium": 0, "hard": 1}
"""Number of each bucket; 0 is also that of rows without a group, as in the authors' code."""

# ---------------------------------------------------------------------- windows


def with_tail(
    top_entropy: Float[Tensor, "B T"], top_mass: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return the entropy of the most likely tokens, with all the others as one token.

    Example:
        >>> with_tail(torch.tensor([[0.0]]), torch.tensor([[1.0]]))
        tensor([[0.]])
    """
    tail = (1 - top_mass).clamp(min=0)
    return top_entropy - tail * tail.clamp(min=1e-12).log()


def window_means(
    entropies: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], window: int, *, ahead: int = 0
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return the mean entropy of each token's window, float64, and whether all its tokens exist.

    Args:
        entropies: Anything outside the mask.
        mask: Tokens that exist.
        window: Tokens.
        ahead: Of the token at which the window starts: 0 its own, 1 the next.

    Example:
        >>> ones = torch.ones(1, 3, dtype=torch.bool)
        >>> means, complete = window_means(torch.tensor([[1.0, 2.0, 4.0]]), ones, 2)
        >>> means[complete].tolist(), complete.tolist()
        ([1.5, 3.0], [[True, True, False]])
    """
    width = mask.shape[1]

    def sums(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, (1, window + ahead))
        total = padded.cumsum(-1)
        return (total[:, window:] - total[:, :-window])[:, ahead : ahead + width]

    complete = mask & (sums(mask.long()) == window)
    means = sums(torch.where(mask, entropies, 0.0).double()) / window
    return torch.where(complete, means, 0.0), complete


def row_percentiles(
    values: Float[Tensor, "B T"], valid: Bool[Tensor, "B T"], percentile: float
) -> Float[Tensor, " B"]:
    """Return each row's percentile of its valid values, interpolated between neighbours; NaN without one.

    Example:
        >>> row_percentiles(torch.tensor([[3.0, 1.0, 9.0]]), torch.tensor([[True, True, False]]), 50.0)
        tensor([2.])
    """
    if valid.shape[1] == 0:
        return values.new_full((len(values),), torch.nan)
    ranked = values.masked_fill(~valid, torch.inf).sort(-1).values
    count = valid.sum(-1, keepdim=True)
    place = percentile / 100 * (count - 1).clamp(min=0).to(values.dtype)
    low = ranked.gather(-1, place.floor().long())
    high = ranked.gather(-1, place.ceil().long())
    found = torch.lerp(low, high, place - place.floor())
    return torch.where(count > 0, found, torch.nan).squeeze(-1)


def filled_windows(
    means: Float[Tensor, "B T"],
    complete: Bool[Tensor, "B T"],
    entropies: Float[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """Return the authors' window means: where a window is cut off, the mean of the row's whole ones.

    A row too short for a whole one has the entropy of its first token everywhere.
    """
    counts = complete.sum(-1, keepdim=True)
    mean = torch.where(complete, means, 0.0).sum(-1, keepdim=True) / counts.clamp(min=1)
    return torch.where(complete, means, torch.where(counts > 0, mean, entropies[:, :1].double()))


def count_windows(
    means: Float[Tensor, "B T"],
    counted: Bool[Tensor, "B T"],
    threshold: float | None,
    *,
    strict: bool = True,
) -> Float[Tensor, " B"]:
    """Return N of each row: its counted windows above the threshold, at or above it if not strict.

    Example:
        >>> count_windows(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]]), 1.0)
        tensor([1.], dtype=torch.float64)
    """
    if threshold is None:
        return means.new_zeros(len(means), dtype=torch.float64)
    high = means > threshold if strict else means >= threshold
    return (high & counted).sum(-1).double()


def is_trigger(text: str, words: Collection[str]) -> bool:
    r"""Return whether a token of this text is one of the words, up to case, blanks and a tokenizer's mark of a blank.

    Example:
        >>> is_trigger("\u0120But ", {"but"}), is_trigger("butter", {"but"})
        (True, False)
    """
    return re.sub("^[\u2581\u0120]+", "", text).strip().lower() in words


# ---------------------------------------------------------------------- buckets


def group_sums(
    values: Float[Tensor, " B"], rows: Bool[Tensor, " B"], group_ids: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return the sum over the chosen rows of each row's group."""
    _, index = torch.unique(group_ids, return_inverse=True)
    chosen = torch.where(rows, values, 0.0).double()
    totals = chosen.new_zeros(len(rows)).index_add_(0, index, chosen)
    return totals[index]


def bucket_of(
    accuracy: Float[Tensor, " B"], easy_from: float, medium_from: float
) -> Int[Tensor, " B"]:
    """Return the number of the bucket of a group with this share of right answers.

    Example:
        >>> bucket_of(torch.tensor([6 / 8, 3 / 8, 2 / 8]), easy_from=2 / 3, medium_from=1 / 3)
        tensor([-1,  0,  1])
    """
    return torch.where(accuracy >= easy_from, -1, torch.where(accuracy >= medium_from, 0, 1))


# ---------------------------------------------------------------------- the paper's reward


def penalty_rate(counts: Float[Tensor, " N"], target: float, *, eps: float = 1e-8) -> float:
    """Return λ = max(0, (mean N - target) / (Var N + eps)) of a bucket's completions.

    Example:
        >>> penalty_rate(torch.tensor([2.0, 6.0]), target=3.0, eps=0.0)  # (4 - 3) / 4
        0.25
    """
    counts = counts.double()
    return max(0.0, ((counts.mean() - target) / (counts.var(correction=0) + eps)).item())


def miss(counts: Float[Tensor, " N"], target: float, bucket: str) -> Float[Tensor, " N"]:
    """Return g(Δ): what is too much where it is easy, too little where it is hard, both in between.

    Example:
        >>> [miss(torch.tensor([1.0, 5.0]), 3.0, bucket).tolist() for bucket in ("easy", "medium", "hard")]
        [[0.0, 2.0], [2.0, 2.0], [2.0, 0.0]]
    """
    delta = counts - target
    sided = {"easy": delta.clamp(min=0), "medium": delta.abs(), "hard": (-delta).clamp(min=0)}
    return sided[bucket]


# ---------------------------------------------------------------------- the reward of the authors' code


@dataclass(frozen=True)
class CodedShape:
    """A bucket's constants in the authors' code."""

    margin: float
    """Share of the target that Δ may miss; 1 window at least."""
    kappa: float
    """Where the Huber penalty turns linear, windows."""
    temperature: float
    """Softness of a bonus, windows."""
    cap: float = 1.0
    """Bound of bonus and penalty, in units of alpha."""
    wrong: float = 1.0
    """Multiplier of the bonus of a wrong answer."""


CODED_SHAPES = {
    "easy": CodedShape(margin=0.15, kappa=2.0, temperature=2.0, wrong=0.6),
    "medium": CodedShape(margin=0.25, kappa=3.0, temperature=2.5, wrong=0.8),
    "hard": CodedShape(margin=0.35, kappa=4.0, temperature=3.0, cap=1.2),
}


def huber(excess: Float[Tensor, " N"], kappa: float) -> Float[Tensor, " N"]:
    """Return x² / (2 kappa) up to kappa, x - kappa / 2 beyond, 0 below 0.

    Example:
        >>> huber(torch.tensor([-1.0, 1.0, 3.0]), kappa=2.0)
        tensor([0.0000, 0.2500, 2.0000])
    """
    x = excess.clamp(min=0)
    return torch.where(x <= kappa, x**2 / (2 * kappa), x - kappa / 2)


def coded_bonus(
    counts: Float[Tensor, " N"],
    is_right: Bool[Tensor, " N"],
    *,
    target: float,
    alpha: float,
    bucket: str,
    shape: CodedShape,
) -> Float[Tensor, " N"]:
    """Return what the authors' code adds to the accuracy: also for wrong answers a bonus, and always."""
    delta = counts - target
    margin = max(1.0, shape.margin * max(target, 1.0))
    cap = alpha * shape.cap

    def bonus(x: Tensor) -> Tensor:
        return torch.sigmoid(x / shape.temperature) * cap

    def penalty(excess: Tensor, scale: float = 1.0) -> Tensor:
        return (scale * huber(excess, shape.kappa) / (margin + shape.kappa) * cap).clamp(max=cap)

    if bucket == "easy":
        right = -penalty(delta - margin)
    elif bucket == "medium":
        right = -penalty(delta.abs() - margin)
    else:
        right = torch.where(
            delta >= -margin, bonus(delta + margin), -penalty(-delta - margin, scale=0.5)
        )
    wrong = bonus((delta - margin).clamp(min=0)) * shape.wrong
    return torch.where(is_right, right, wrong)
