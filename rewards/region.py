"""Equality of unions of intervals: by their ends as numbers, else part by part."""

from typing import Any

from rlvr.rewards.expression import INFINITY, MINUS_INFINITY, Expression
from rlvr.rewards.shape import Interval, Region
from rlvr.rewards.value import real, same

_TOLERANCE = 1e-30

# (value, closed) of both ends; the value of an infinite end is None
_End = tuple[Any, bool]


def same_region(first: Region, second: Region) -> bool:
    """Return whether two unions of intervals are the same set.

    Example:
        >>> from rlvr.rewards.shape import region, shape
        >>> same_region(region(shape("x < 3")), region(shape(r"(-\\infty, 3)")))
        True
    """
    ours, theirs = _merged(first), _merged(second)
    if ours is not None and theirs is not None:
        return len(ours) == len(theirs) and all(map(_same_numbers, ours, theirs))
    left = list(second.parts)
    for part in first.parts:
        place = next((i for i, other in enumerate(left) if _same_part(part, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _merged(region: Region) -> list[tuple[_End, _End]] | None:
    """Return the parts in order, those that touch as one; None where an end is no number."""
    parts = []
    for part in region.parts:
        low, high = _end(part.low, part.closed[0], lower=True), _end(part.high, part.closed[1])
        if low is None or high is None:
            return None
        parts.append((low, high))
    parts.sort(key=lambda part: (part[0][0], not part[0][1]))
    merged: list[tuple[_End, _End]] = []
    for low, high in parts:
        if merged and _touch(merged[-1][1], low):
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _end(tree: Expression, closed: bool, *, lower: bool = False) -> _End | None:
    if tree in (INFINITY, MINUS_INFINITY):
        infinite = float("inf") if tree == INFINITY else float("-inf")
        # an interval may not start at the upper infinity
        return None if (tree == INFINITY) == lower else (infinite, False)
    value = real(tree)
    return None if value is None else (value, closed)


def _touch(high: _End, low: _End) -> bool:
    if abs(high[0] - low[0]) <= _TOLERANCE:
        return high[1] or low[1]
    return bool(high[0] > low[0])


def _same_numbers(first: tuple[_End, _End], second: tuple[_End, _End]) -> bool:
    return all(
        a[1] == b[1] and (a[0] == b[0] or abs(a[0] - b[0]) < _TOLERANCE) # infinities differ by one
        for a, b in zip(first, second, strict=True)
    )


def _same_part(first: Interval, second: Interval) -> bool:
    ends = ((first.low, second.low), (first.high, second.high))
    return first.closed == second.closed and all(a == b or same(a, b) is True for a, b in ends)
