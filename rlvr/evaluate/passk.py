"""pass@k: the chance that at least one of k samples is correct.

    pass@k = 1 - C(n - c, k) / C(n, k)

from n samples of which c are correct: the share of the subsets of size k that hold a correct
sample, hence unbiased for every k <= n (1 - (1 - c/n)^k is not).
Paper: Evaluating Large Language Models Trained on Code https://arxiv.org/abs/2107.03374
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@lru_cache(maxsize=65536)
def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate of pass@k for one prompt.

    Computed in whole numbers and rounded once, so it is exact to the last bit for any n.

    Args:
        n: Samples drawn.
        c: Samples that are correct, 0 <= c <= n.
        k: Tries, 1 <= k <= n.

    Example:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if not 1 <= k <= n:
        raise ValueError(
            f"pass@{k} cannot be estimated from {n} samples; k must be in 1..{n}. "
            "Draw more samples (evaluation.samples) or choose a smaller k (evaluation.k)."
        )
    if not 0 <= c <= n:
        raise ValueError(f"{c} correct of {n} samples; it must be in 0..{n}")
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets


def pass_at_k_each(counts: Sequence[tuple[int, int]], k: int) -> FloatArray:
    """Return pass@k for each prompt.

    Args:
        counts: (n, c) for each prompt; n may differ between prompts.
        k: Tries, at most the smallest n.

    Example:
        >>> pass_at_k_each([(4, 0), (4, 1), (2, 2)], k=2)
        array([0. , 0.5, 1. ])
    """
    return np.array([pass_at_k(int(n), int(c), k) for n, c in counts], dtype=np.float64)


def interval(
    values: Sequence[float] | FloatArray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return an interval for the mean of a quantity in [0, 1] measured once per prompt.

    A percentile bootstrap over prompts. Where every prompt gave 0 (or every one 1) the bootstrap
    would claim certainty; the exact bound (1 - mean)^n >= (1 - level) / 2 is used instead.

    Args:
        values: One value per prompt, each in [0, 1].
        level: Coverage.
        resamples: Bootstrap draws.
        seed: Of the draws: the same values give the same interval.

    Example:
        >>> low, high = interval([0.0] * 30)
        >>> low, round(high, 3)
        (0.0, 0.116)
    """
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n == 0:
        return math.nan, math.nan
    tail = (1 - level) / 2
    if (array == 0).all():
        return 0.0, float(1 - tail ** (1 / n))
    if (array == 1).all():
        return float(tail ** (1 / n)), 1.0
    rng = np.random.default_rng(seed)
    # Blocks of 256 keep the memory small for thousands of prompts.
    means = np.concatenate(
        [
            array[rng.integers(0, n, size=(min(256, resamples - start), n))].mean(axis=1)
            for start in range(0, resamples, 256)
        ]
    )
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
