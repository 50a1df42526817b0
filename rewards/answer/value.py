"""Whether two expressions have the same value: exact where rational, else to 42 digits.

Variables take rational values at several points; expressions that agree at all of them are equal,
as different ones agree there with negligible probability. A point where a side is undefined or not
real says nothing.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from mpmath.libmp import to_rational

from rlvr.rewards.answer.evaluation import AGREE, Evaluator, as_float, mp
from rlvr.rewards.answer.expression import Expression, variables

_NEEDED = 2  # points that must say something
_PRIMES = (3, 7, 2, 11, 5, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


def same(first: Expression, second: Expression) -> bool | None:
    """Return whether two expressions are equal; None where that cannot be said.

    Example:
        >>> from rlvr.rewards.answer.parser import parse
        >>> same(parse(list("2(x+1)")), parse(list("2x+2"))), same(parse(["1"]), parse(["2"]))
        (True, False)
    """
    names = sorted(variables(first) | variables(second))
    if not names:
        return _agree(first, second, {})
    if len(names) > len(_PRIMES):
        return None
    votes = [_agree(first, second, point) for point in points(names)]
    if False in votes:
        return False
    return True if votes.count(True) >= _NEEDED else None


def points(names: list[str]) -> list[dict[str, Fraction]]:
    """Return values for variables: in (1, 2), (0, 1), (-1, 0), below -1, and whole numbers."""
    rules: tuple[Callable[[int], Fraction], ...] = (
        lambda prime: 1 + Fraction(prime, 59),
        lambda prime: Fraction(prime, 61),
        lambda prime: -Fraction(prime, 67),
        lambda prime: -1 - Fraction(prime, 11),
        lambda prime: Fraction(prime),
        lambda prime: Fraction(2 * prime + 1),
        lambda prime: Fraction(3 * prime + 2),
    )
    pairs = list(zip(names, _PRIMES, strict=False))
    return [{name: rule(prime) for name, prime in pairs} for rule in rules]


def real(tree: Expression) -> Fraction | None:
    """Return the value to 60 digits, as a fraction; None where it is not real or there is none."""
    found = Evaluator({}).value(tree)
    if found is None or isinstance(found, Fraction):
        return found
    if abs(found.imag) > mp.ldexp(1, -AGREE):
        return None
    top, bottom = to_rational(found.real._mpf_)
    return Fraction(int(top), int(bottom))


def number_of(tree: Expression) -> Fraction | None:
    """Return the exact value of an expression of numbers and + - * / ^; None for any other."""
    if not _rational(tree):
        return None
    found = Evaluator({}).value(tree)
    return found if isinstance(found, Fraction) else None


def _rational(tree: Expression) -> bool:
    if tree[0] == "number":
        return True
    if tree[0] in ("variable", "constant", "call", "apply"):
        return False
    return all(_rational(part) for part in tree[1:])


def proportional(first: Expression, second: Expression, *, positive: bool = False) -> bool:
    """Return whether one expression is a constant multiple of the other, by a number not 0.

    Two equations `first = 0` and `second = 0` are then the same; two inequalities where the
    number is positive.
    """
    names = sorted(variables(first) | variables(second))
    if not 0 < len(names) <= len(_PRIMES):
        return False
    ratios = []
    for point in points(names):
        evaluator = Evaluator(point)
        a, b = evaluator.value(first), evaluator.value(second)
        if a is None or b is None:
            continue
        if not as_float(a) and not as_float(b):
            continue  # the point solves both
        if not as_float(a) or not as_float(b):
            return False
        ratios.append(as_float(a) / as_float(b))
    if len(ratios) <= _NEEDED or any(not _near(ratio, ratios[0]) for ratio in ratios):
        return False
    return not positive or (not ratios[0].imag and ratios[0].real > 0)


def _near(a: Any, b: Any) -> bool:
    return a == b or mp.mag(a - b) <= max(mp.mag(a), mp.mag(b)) - AGREE


def _agree(first: Expression, second: Expression, point: Mapping[str, Fraction]) -> bool | None:
    evaluator = Evaluator(point)
    a, b = evaluator.value(first), evaluator.value(second)
    if a is None or b is None:
        # without variables a value that is undefined or huge is another one than any gold's
        return None if point or a is b else False
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = as_float(a), as_float(b)
    size = max([mp.mag(x) for x in (a, b) if x] + [evaluator.size])
    if point and (_is_real(a, size) != _is_real(b, size)):
        return None  # an even root of a negative number, on one side
    difference = a - b
    agree = not difference or mp.mag(difference) <= size - AGREE
    # principal values of powers may differ where neither side is real
    return None if point and not agree and not _is_real(a, size) else agree


def _is_real(number: Any, size: int) -> bool:
    return not number.imag or mp.mag(number.imag) <= size - AGREE
