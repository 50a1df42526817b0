"""Equality of results: relations between the three modes, and what a cell equals."""

import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.database.result_sets import same_columns_in_any_order, same_rows

CELLS = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.sampled_from([0.1, 0.3, 1.5, -2.0, 1e300, float("inf")]),
    st.sampled_from(["", "1", "a", "b"]),
    st.sampled_from([b"", b"a"]),
)
TOLERANCE = 1e-9


def results(width=2, most=6):
    return st.lists(st.tuples(*[CELLS] * width), max_size=most)


def shuffled(rows, seed):
    return random.Random(seed).sample(rows, len(rows))


@given(results(), results(), st.booleans())
def test_ordered_implies_bag_implies_set(a, b, same):
    b = list(a) if same else b
    ordered, bag, set_ = (same_rows(a, b, mode, TOLERANCE) for mode in ("ordered", "bag", "set"))
    assert ordered <= bag <= set_
    assert bag == (set_ and len(a) == len(b) and bag)


@given(results(), st.integers())
def test_the_order_of_rows_matters_to_none_but_ordered(rows, seed):
    other = shuffled(rows, seed)
    assert same_rows(rows, other, "bag", TOLERANCE)
    assert same_rows(rows, other, "ordered", TOLERANCE) or other != rows


@given(results(), st.integers(), st.integers(0, 5))
def test_a_repeated_row_matters_to_all_but_set(rows, seed, place):
    if rows:
        more = shuffled([*rows, rows[place % len(rows)]], seed)
        assert same_rows(rows, more, "set", TOLERANCE)
        assert not same_rows(rows, more, "bag", TOLERANCE)


@given(results(), results())
def test_equality_has_no_sides(a, b):
    for mode in ("ordered", "bag", "set"):
        assert same_rows(a, b, mode, TOLERANCE) == same_rows(b, a, mode, TOLERANCE)


@given(results(), results())
def test_without_tolerance_bags_and_sets_are_pythons(a, b):
    def plain(rows):  # in Python True == 1 and 1 == 1.0, as asked for; text, blob and number differ
        return sorted(map(repr, ([float(c) if isinstance(c, int) else c for c in r] for r in rows)))

    assert same_rows(a, b, "bag") == (plain(a) == plain(b))
    assert same_rows(a, b, "set") == (set(plain(a)) == set(plain(b)))


@given(
    st.lists(st.tuples(st.floats(0.001, 1e6), st.floats(0.001, 1e6)), max_size=8),
    st.lists(st.floats(-1e-13, 1e-13), min_size=16, max_size=16),
    st.integers(),
)
def test_rounding_errors_matter_in_no_mode(rows, errors, seed):
    error = iter(errors)
    noisy = [tuple(cell * (1 + next(error)) for cell in row) for row in rows]
    assert same_rows(rows, noisy, "ordered", TOLERANCE)
    assert same_rows(rows, shuffled(noisy, seed), "bag", TOLERANCE)


def test_rounding_errors_do_not_decide_the_order_of_rows():
    noise = 0.1 + 0.2  # 0.30000000000000004
    a, b = [(noise, 2.5), (0.3, 1.5)], [(0.3, 2.5), (noise, 1.5)]
    assert same_rows(a, b, "bag", TOLERANCE)
    assert same_rows([(0.3,), (noise,)], [(0.3,)], "set", TOLERANCE)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (52, 52.0, True), (52, "52", False), ("a", b"a", False), (None, None, True),
        (None, 0, False), (None, "", False), (0.0, -0.0, True), ("A", "a", False),
        (10**18, 10**18 + 1, False), (5e10, 50_000_000_001.0, False), (1e-30, 2e-30, False),
        (0.5, 0.5 + 1e-12, True), (0.5, 0.5001, False), (float("inf"), 1e308, False),
    ],
)  # fmt: skip
def test_cells_are_equal_with_their_type(a, b, same):
    for mode in ("ordered", "bag", "set"):
        assert same_rows([(a,)], [(b,)], mode, TOLERANCE) is same


@given(results(width=3), st.integers(0, 5), st.integers())
def test_columns_in_any_order_are_found_again(rows, which, seed):
    order = list(permutations(range(3)))[which]
    moved = [tuple(row[i] for i in order) for row in rows]
    assert same_columns_in_any_order(rows, moved, "ordered", TOLERANCE)
    assert same_columns_in_any_order(rows, shuffled(moved, seed), "bag", TOLERANCE)


@given(
    results(width=3, most=3), results(width=3, most=3), st.sampled_from(["ordered", "bag", "set"])
)
def test_columns_in_any_order_are_those_of_some_permutation(a, b, mode):
    found = any(
        same_rows(a, [tuple(row[i] for i in order) for row in b], mode)
        for order in permutations(range(3))
    )
    assert same_columns_in_any_order(a, b, mode) is found
