"""Values that cross: exactly what they were, without their class, and never slowly."""

import contextlib
import json
import math
import time
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.sandbox.values import (
    MAX_DEPTH,
    Malformed,
    NotPlain,
    decode,
    dumps,
    encode,
    loads,
)

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.binary().map(bytearray)
    ),
    max_leaves=20,
)


def across(value):
    return decode(loads(dumps(encode(value))))


def shape(value):
    """The value with the type of everything in it, to compare types too."""
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(shape(item)) for item in value)
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    return type(value), repr(value)


@given(values)
def test_a_plain_value_arrives_as_it_was_with_every_type(value):
    assert shape(across(value)) == shape(value)


@given(st.integers(min_value=10**4000, max_value=10**5000) | st.floats())
def test_giant_integers_and_every_float_arrive(value):
    arrived = across(value)
    assert type(arrived) is type(value)
    assert arrived == value or (math.isnan(arrived) and math.isnan(value))


class Liar(int):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __int__(self):
        return 42


class Text(str):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __str__(self):
        return "expected"


class Colour(IntEnum):
    RED = 3


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Liar(7), 7),
        (Text("seen"), "seen"),
        (Colour.RED, 3),
        (Point(1, 2), (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, {1: 2}), {1: 2}),
        ([Liar(1), {Text("k"): Liar(2)}], [1, {"k": 2}]),
    ],
)
def test_a_subclass_crosses_as_the_value_that_it_holds(value, plain):
    assert shape(across(value)) == shape(plain)


def test_iterators_ranges_and_builtin_types_cross():
    assert list(across(x * 2 for x in range(3))) == [0, 2, 4]
    assert across(range(1, 9, 2)) == range(1, 9, 2)
    assert across([int, str, dict, type(None)]) == [int, str, dict, type(None)]


@pytest.mark.parametrize("value", [object(), Liar, print, json, lambda: 1, Exception("x")])
def test_anything_else_is_refused(value):
    with pytest.raises(NotPlain):
        encode([value])


def test_deep_cyclic_and_endless_values_are_refused():
    deep: list = []
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    cyclic: list = []
    cyclic.append(cyclic)
    doubling: list = [1]
    for _ in range(60):
        doubling = [doubling, doubling]

    def endless():
        while True:
            yield 1

    for value in (deep, cyclic, doubling, endless()):
        with pytest.raises(NotPlain):
            encode(value)


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["int", "set", "dict", "bytes", "type", "object", "range", "tuple", "iterator", "x"]
            ),
            inner,
            max_size=2,
        )
    ),
    max_leaves=10,
)


@given(trees)
def test_a_forged_tree_is_a_plain_value_or_malformed(tree):
    with contextlib.suppress(Malformed):
        decode(tree)


def test_a_set_of_colliding_elements_is_refused_and_not_built():
    period = 2**61 - 1  # the modulus of an int's hash
    elements = [{"int": hex(7 + i * period)} for i in range(20_000)]
    began = time.process_time()
    for tree in ({"set": elements}, {"dict": [[key, 0] for key in elements]}):
        with pytest.raises(Malformed):
            decode(tree)
    assert time.process_time() - began < 2  # building it takes a minute


def test_long_numbers_and_deep_text_are_no_message():
    for line in (b"1" * 10_000, b"[" * 100_000, b"{", b"\xff"):
        with pytest.raises(Malformed):
            loads(line)
