"""Equality of inequalities, as regions of the line or step by step."""

from rlvr.rewards.answer.expression import Expression, difference, variables
from rlvr.rewards.answer.region import region, same_region, subject
from rlvr.rewards.answer.rules import Rules
from rlvr.rewards.answer.shapes import Inequality, Scalar, Shape
from rlvr.rewards.answer.value import proportional, same


def same_set(gold: Shape, answer: Shape, rules: Rules) -> bool:
    """Return whether both are the same part of the line; one of them is a region or inequality."""
    ours, theirs = region(gold), region(answer)
    if isinstance(gold, Inequality) and isinstance(answer, Inequality):
        if ours is None or theirs is None:
            rules.need_algebra()
            return _same_steps(gold, answer)
        if subject(gold) != subject(answer):
            return False
    if ours is None or theirs is None or isinstance(gold, Scalar) or isinstance(answer, Scalar):
        return False
    rules.need_algebra()
    return same_region(ours, theirs)


def _same_steps(gold: Inequality, answer: Inequality) -> bool:
    """Return whether the steps of one chain are positive multiples of the other's, in some order."""
    left = _steps(answer)
    for sign, tree in _steps(gold):
        place = next((i for i, (s, t) in enumerate(left) if s == sign and _fits(s, tree, t)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _steps(item: Inequality) -> list[tuple[str, Expression]]:
    """Return each step as (sign, tree) for tree < 0, tree le 0 or tree ne 0."""
    found = []
    for left, sign, right in zip(item.sides, item.signs, item.sides[1:], strict=False):
        if sign in (">", "ge"):
            left, right = right, left
        found.append(({">": "<", "ge": "le"}.get(sign, sign), difference(left, right)))
    return found


def _fits(sign: str, first: Expression, second: Expression) -> bool:
    if not variables(first) and not variables(second):
        return same(first, second) is True
    return proportional(first, second, positive=sign != "ne")
