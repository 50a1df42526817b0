"""pass@k against counting by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.evaluate.passk import interval, pass_at_k, pass_at_k_each


def by_counting(n: int, c: int, k: int) -> float:
    outcomes = [i < c for i in range(n)]
    subsets = list(itertools.combinations(outcomes, k))
    return sum(any(s) for s in subsets) / len(subsets)


@pytest.mark.parametrize("n", range(1, 8))
def test_equals_the_share_of_subsets_with_a_correct_sample(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            assert pass_at_k(n, c, k) == pytest.approx(by_counting(n, c, k), abs=1e-15)


counts = st.integers(1, 300).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))
)


@given(counts)
def test_pass_at_1_is_the_share_correct_and_more_tries_never_hurt(
    ncK: tuple[int, int, int],
) -> None:
    n, c, k = ncK
    assert pass_at_k(n, c, 1) == c / n
    assert pass_at_k(n, c, k) >= pass_at_k(n, c, max(1, k - 1))
    assert pass_at_k(n, c, n) == (1.0 if c else 0.0)
    if c:
        assert pass_at_k(n, c, k) >= pass_at_k(n, c - 1, k)


def test_is_exact_for_numbers_that_overflow_floats() -> None:
    # One correct sample of n: a random subset of size k holds it with chance k / n.
    assert pass_at_k(4096, 1, 1024) == 0.25
    assert pass_at_k(10_000, 1, 1) == 1e-4


def test_is_unbiased_where_the_plug_in_estimate_is_not() -> None:
    p, n, k = 0.3, 6, 4
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    truth = 1 - (1 - p) ** k
    mean = sum(w * pass_at_k(n, c, k) for c, w in enumerate(chances))
    plug_in = sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chances))
    assert mean == pytest.approx(truth, abs=1e-12)
    assert abs(plug_in - truth) > 0.01


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (0, 0, 1), (4, 5, 1), (4, -1, 1)])
def test_impossible_numbers_are_errors(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(n, c, k)


def test_each_prompt_may_have_its_own_number_of_samples() -> None:
    np.testing.assert_array_equal(pass_at_k_each([(4, 1), (2, 0), (3, 3)], 2), [0.5, 0.0, 1.0])


def test_interval_holds_the_mean_and_is_repeatable() -> None:
    values = np.random.default_rng(1).random(200)
    low, high = interval(values)
    assert low < values.mean() < high
    assert (low, high) == interval(values)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = interval(rng.beta(2, 3, size=100), resamples=500, seed=seed)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_interval_of_unanimous_prompts_is_not_certainty() -> None:
    assert interval([0.0] * 30) == (0.0, pytest.approx(0.1157, abs=1e-4))
    assert interval([1.0] * 30) == (pytest.approx(0.8843, abs=1e-4), 1.0)


def test_interval_of_nothing_is_nothing() -> None:
    assert all(math.isnan(x) for x in interval([]))
