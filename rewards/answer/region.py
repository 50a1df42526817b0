r"""Parts of the real line: from intervals, inequalities, points; without points; their equality."""

from math import inf
from typing import Any

from rlvr.rewards.answer.expression import INFINITY, MINUS_INFINITY, Expression
from rlvr.rewards.answer.shapes import Chain, Inequality, Interval, Many, Region, Scalar, Shape
from rlvr.rewards.answer.value import real, same

_TOLERANCE = 1e-30
_LINE = Interval(MINUS_INFINITY, INFINITY, (False, False))
EVERYTHING = Region((_LINE,))

# (value, closed) of both ends
_End = tuple[Any, bool]


def region(item: Shape) -> Region | None:
    """Return the item as a part of the real line; None where it is none."""
    if isinstance(item, Region):
        return item
    if isinstance(item, Inequality):
        return _from_inequality(item)
    if isinstance(item, Many) and item.kind == "tuple" and len(item.items) == 2:
        low, high = map(_tree, item.items)
        if low is None or high is None:
            return None
        return Region((Interval(low, high, (item.brackets[0] == "[", item.brackets[1] == "]")),))
    if isinstance(item, Chain) and len(item.sides) == 2 and "" in item.names:
        item = item.sides[item.names.index("")]
    items = item.items if isinstance(item, Many) and item.kind in ("set", "pm") else (item,)
    trees = [_tree(point) for point in items]
    if not all(trees):
        return None
    return Region(tuple(Interval(tree, tree, (True, True)) for tree in trees if tree))


def _tree(item: Shape) -> Expression | None:
    return item.tree if isinstance(item, Scalar) else None


def _from_inequality(item: Inequality) -> Region | None:
    r"""Return a < x \le b, or x < b, as the interval of the side that is a variable alone."""
    absolute = [place for place, side in enumerate(item.sides) if _is_absolute(side)]
    if len(absolute) == 1:
        return _from_absolute(item, absolute[0])
    lone = [place for place, side in enumerate(item.sides) if side[0] in ("variable", "apply")]
    low: Expression = MINUS_INFINITY
    high: Expression = INFINITY
    if item.signs == ("ne",) and lone:
        point = item.sides[1 - lone[0]]
        below, above = Interval(low, point, (False, False)), Interval(point, high, (False, False))
        return Region((below, above))
    upward = all(sign in ("<", "le") for sign in item.signs)
    if not (upward or all(sign in (">", "ge") for sign in item.signs)) or len(item.sides) > 3:
        return None
    sides, signs = item.sides, item.signs
    if not upward:
        sides, signs = sides[::-1], signs[::-1]
    middle = 1 if len(sides) == 3 else next((i for i in (0, 1) if sides[i][0] == "variable"), None)
    if middle is None or sides[middle][0] not in ("variable", "apply"):
        return None
    closed = [sign in ("le", "ge") for sign in signs]
    left, right = middle > 0, middle < len(sides) - 1
    return Region(
        (
            Interval(
                sides[0] if left else low,
                sides[-1] if right else high,
                (left and closed[0], right and closed[-1]),
            ),
        )
    )


def _is_absolute(side: Expression) -> bool:
    return side[:2] == ("call", "abs") and side[2][0] == "variable"


def _from_absolute(item: Inequality, place: int) -> Region | None:
    """Return 1 < |x| < 2 as the two intervals of x."""
    sides = (*item.sides[:place], item.sides[place][2], *item.sides[place + 1 :])
    found = _from_inequality(Inequality(sides, item.signs))
    if found is None or len(found.parts) != 1:
        return None
    (part,) = found.parts
    mirrored = Interval(("negate", part.high), ("negate", part.low), part.closed[::-1])
    if part.high == INFINITY:
        mirrored = Interval(MINUS_INFINITY, mirrored.high, mirrored.closed)
    if part.low == MINUS_INFINITY:
        return Region((Interval(mirrored.low, part.high, (part.closed[1], part.closed[1])),))
    return Region((mirrored, part))


def together(items: list[Inequality]) -> Region | None:
    r"""Return what x > 0, x \ne 2 leaves of the line; x < 1, x > 2 is either of the two.

    None where they are not about one variable, or not so simple.
    """
    holes = [item for item in items if item.signs == ("ne",)]
    found = [region(item) for item in items if item not in holes]
    if not found or len({subject(item) for item in items}) != 1 or not subject(items[0]):
        return None
    whole = found[0]
    for other in found[1:]:
        whole = _common(whole, other) if whole and other else None
    for hole in holes:
        point = hole.sides[1] if hole.sides[0][0] == "variable" else hole.sides[0]
        whole = without(whole, Region((Interval(point, point, (True, True)),))) if whole else None
    return whole


def subject(item: Inequality) -> str:
    """Return the variable that the inequality is about; "" where that is unclear."""
    names = {side[1] for side in item.sides if side[0] == "variable"}
    return names.pop() if len(names) == 1 else ""


def _common(first: Region, second: Region) -> Region | None:
    """Return what two intervals share; both of them where they share nothing."""
    if len(first.parts) != 1 or len(second.parts) != 1:
        return None
    (a,), (b,) = first.parts, second.parts
    ours, theirs = _merged(first), _merged(second)
    if ours is None or theirs is None:
        return None
    (low_a, high_a), (low_b, high_b) = ours[0], theirs[0]
    # an open lower end is the greater one, an open upper end the smaller
    later = a if (low_a[0], not low_a[1]) >= (low_b[0], not low_b[1]) else b
    sooner = a if high_a <= high_b else b
    if max(low_a[0], low_b[0]) > min(high_a[0], high_b[0]):
        return Region((a, b))
    return Region((Interval(later.low, sooner.high, (later.closed[0], sooner.closed[1])),))


def without(whole: Region, taken: Region) -> Region | None:
    """Return a region without points."""
    parts = list(whole.parts)
    for point in taken.parts:
        if point.low != point.high:
            return None
        parts = [piece for part in parts for piece in _cut(part, point.low)]
    return Region(tuple(parts))


def _cut(part: Interval, point: Expression) -> list[Interval]:
    """Return the interval in two where the point lies within it."""
    ends = [-inf if part.low == MINUS_INFINITY else real(part.low)]
    ends += [inf if part.high == INFINITY else real(part.high)]
    place = real(point)
    if None in ends or place is None or not ends[0] <= place <= ends[1]:  # type: ignore[operator]
        return [part]
    below = Interval(part.low, point, (part.closed[0], False))
    above = Interval(point, part.high, (False, part.closed[1]))
    return [piece for piece, end in ((below, ends[0]), (above, ends[1])) if end != place]


def same_region(first: Region, second: Region) -> bool:
    """Return whether two unions of intervals are the same set.

    Example:
        >>> from rlvr.rewards.answer.reading import shape
        >>> same_region(region(shape("x < 3")), region(shape("(-oo, 3)")))
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
        a[1] == b[1] and (a[0] == b[0] or abs(a[0] - b[0]) < _TOLERANCE)  # infinities differ by one
        for a, b in zip(first, second, strict=True)
    )


def _same_part(first: Interval, second: Interval) -> bool:
    ends = ((first.low, second.low), (first.high, second.high))
    return first.closed == second.closed and all(a == b or same(a, b) is True for a, b in ends)
