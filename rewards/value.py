"""Whether two expressions have the same value: exact where rational, else to 40 digits.

Variables take rational values at several points; expressions that agree at all of them are equal,
as different ones agree there with negligible probability. A point where a side is undefined or not
real says nothing. Sizes are bounded before anything is computed, so no tower of powers is evaluated.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext
from mpmath.libmp import to_rational

from rlvr.rewards.expression import Expression, variables

MAX_BITS = 20_000  # of any value on the way; 10^6000 is allowed, 9^9^9 is not
MAX_FACTORIAL = 2000
_PRECISION = 220  # bits
_AGREE = 140  # bits, about 42 digits; the rest is for rounding on the way
_NEEDED = 2  # points that must say something
_PRIMES = (3, 7, 2, 11, 5, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)

_mp = MPContext()
_mp.prec = _PRECISION


class Undefined(Exception):
    """There is no finite value, or it is too large to be computed."""


def same(first: Expression, second: Expression) -> bool | None:
    """Return whether two expressions are equal; None where that cannot be said.

    Example:
        >>> from rlvr.rewards.expression import parse
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
    found = _Evaluator({}).value(tree)
    if found is None or isinstance(found, Fraction):
        return found
    if abs(found.imag) > _mp.ldexp(1, -_AGREE):
        return None
    top, bottom = to_rational(found.real._mpf_)
    return Fraction(int(top), int(bottom))


def number_of(tree: Expression) -> Fraction | None:
    """Return the exact value of an expression of numbers and + - * / ^; None for any other."""
    if not _rational(tree):
        return None
    found = _Evaluator({}).value(tree)
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
        evaluator = _Evaluator(point)
        a, b = evaluator.value(first), evaluator.value(second)
        if a is None or b is None:
            continue
        if not _float(a) and not _float(b):
            continue  # the point solves both
        if not _float(a) or not _float(b):
            return False
        ratios.append(_float(a) / _float(b))
    if len(ratios) <= _NEEDED or any(not _near(ratio, ratios[0]) for ratio in ratios):
        return False
    return not positive or (not ratios[0].imag and ratios[0].real > 0)


def _near(a: Any, b: Any) -> bool:
    return a == b or _mp.mag(a - b) <= max(_mp.mag(a), _mp.mag(b)) - _AGREE


def _agree(first: Expression, second: Expression, point: Mapping[str, Fraction]) -> bool | None:
    evaluator = _Evaluator(point)
    a, b = evaluator.value(first), evaluator.value(second)
    if a is None or b is None:
        # without variables a value that is undefined or huge is another one than any gold's
        return None if point or a is b else False
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = _float(a), _float(b)
    size = max([_mp.mag(x) for x in (a, b) if x] + [evaluator.size])
    if point and (_is_real(a, size) != _is_real(b, size)):
        return None  # an even root of a negative number, on one side
    difference = a - b
    agree = not difference or _mp.mag(difference) <= size - _AGREE
    # principal values of powers may differ where neither side is real
    return None if point and not agree and not _is_real(a, size) else agree


def _is_real(number: Any, size: int) -> bool:
    return not number.imag or _mp.mag(number.imag) <= size - _AGREE


def _float(number: Any) -> Any:
    if isinstance(number, Fraction):
        return _mp.mpf(number.numerator) / number.denominator
    return number


class _Evaluator:
    """Values of trees at one point; `size` is the magnitude below which rounding has no part."""

    def __init__(self, point: Mapping[str, Fraction]) -> None:
        self._point = point
        self.size = -MAX_BITS

    def value(self, tree: Expression) -> Any:
        """Return the value, or None where there is none that can be computed."""
        try:
            return self.of(tree)
        except (Undefined, ZeroDivisionError, OverflowError, ValueError):
            return None

    def of(self, tree: Expression) -> Any:
        kind = tree[0]
        if kind == "number":
            return tree[1]
        if kind == "variable":
            if tree[1] not in self._point:
                raise Undefined
            return self._point[tree[1]]
        if kind == "constant":
            return _constant(tree[1])
        if kind == "call":
            return _bounded(self._call(tree[1], [self.of(part) for part in tree[2:]]))
        if kind == "apply":
            return _unknown(tree[1], [self.of(part) for part in tree[2:]])
        return _bounded(self._operation(kind, *(self.of(part) for part in tree[1:])))

    def _operation(self, kind: str, a: Any, b: Any = None) -> Any:
        if kind == "negate":
            return -a
        if kind == "power":
            return _power(a, b)
        if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
            a, b = _float(a), _float(b)
        if kind == "multiply":
            return a * b
        if kind == "divide":
            if not b:
                raise Undefined
            return a / b
        if not isinstance(a, Fraction):
            self._note(a, b)
        return a + b

    def _note(self, *numbers: Any) -> None:
        self.size = max([self.size, *(_mp.mag(x) for x in numbers if x)])

    def _call(self, name: str, arguments: list[Any]) -> Any:
        if name in _EXACT and all(isinstance(x, Fraction) for x in arguments):
            return _EXACT[name](*arguments)
        if name not in _FLOAT:
            raise Undefined
        result = _FLOAT[name](*map(_float, arguments))
        self._note(_mp.one)  # sin(pi) is zero to within the rounding of 1
        return result


def _constant(name: str) -> Any:
    if name == "infinity":
        raise Undefined
    return {"pi": +_mp.pi, "e": +_mp.e, "i": _mp.j, "degree": _mp.pi / 180}[name]


def _bounded(number: Any) -> Any:
    if isinstance(number, Fraction):
        if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
            raise Undefined
    elif not _mp.isfinite(number) or (number and abs(_mp.mag(number)) > MAX_BITS):
        raise Undefined
    return number


def _power(base: Any, exponent: Any) -> Any:
    if not base:
        if isinstance(exponent, Fraction) and exponent > 0:
            return Fraction(0)
        raise Undefined
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if abs(base) == 1:
            return Fraction(1) if base == 1 or exponent.numerator % 2 == 0 else Fraction(-1)
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent) > MAX_BITS:
            raise Undefined
        return base**exponent
    base, exponent = _float(base), _float(exponent)
    if exponent and _mp.mag(exponent) + _mp.mag(abs(_mp.log(base)) + 1) > 15:  # 2^15 bits
        raise Undefined
    return _mp.power(base, exponent)


def _sqrt(x: Fraction) -> Any:
    if x >= 0:
        top, bottom = math.isqrt(x.numerator), math.isqrt(x.denominator)
        if top * top == x.numerator and bottom * bottom == x.denominator:
            return Fraction(top, bottom)
    return _mp.sqrt(_float(x))


def _root(x: Any, index: Any) -> Any:
    if index == int(index) and int(index) % 2 == 1 and not x.imag and x.real < 0:
        return -_power(-x, 1 / index)  # the real root
    return _power(x, 1 / index)


def _factorial(n: Fraction) -> Any:
    if n.denominator == 1:
        if not 0 <= n <= MAX_FACTORIAL:
            raise Undefined
        return Fraction(math.factorial(int(n)))
    return _gamma(_float(n))


def _gamma(n: Any) -> Any:
    if abs(n) > MAX_FACTORIAL:
        raise Undefined
    return _mp.gamma(n + 1)


def _binomial(n: Fraction, k: Fraction) -> Any:
    if n.denominator == k.denominator == 1 and n >= 0:
        if max(n, k) > MAX_BITS or k < 0:
            raise Undefined
        return Fraction(math.comb(int(n), int(k)))
    return _float_binomial(_float(n), _float(k))


def _float_binomial(n: Any, k: Any) -> Any:
    if max(abs(n), abs(k)) > MAX_FACTORIAL:
        raise Undefined
    return _mp.binomial(n, k)


def _exponential(x: Any) -> Any:
    if x and _mp.mag(x) > 13:
        raise Undefined
    return _mp.exp(x)


def _whole(rounding: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def rounded(x: Any) -> Any:
        nearest = _mp.nint(x.real)
        close = abs(x - nearest) < _mp.ldexp(1, -_AGREE)
        return Fraction(int(nearest if close else rounding(x.real)))

    return rounded


def _integers(function: Callable[..., int]) -> Callable[..., Fraction]:
    def checked(*numbers: Fraction) -> Fraction:
        if any(x.denominator != 1 for x in numbers):
            raise Undefined
        return Fraction(function(*map(int, numbers)))

    return checked


def _unknown(name: str, arguments: list[Any]) -> Fraction:
    """Return a number that stands for f(x): the same for the same f and x, otherwise another."""
    text = name + ";".join(_mp.nstr(_float(x), 30) for x in arguments)
    return Fraction(zlib.crc32(text.encode()) + 1, 2**31)


_EXACT: dict[str, Callable[..., Any]] = {
    "sqrt": _sqrt,
    "abs": abs,
    "floor": lambda x: Fraction(math.floor(x)),
    "ceil": lambda x: Fraction(math.ceil(x)),
    "max": max,
    "min": min,
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
    "factorial": _factorial,
    "binomial": _binomial,
}
_FLOAT: dict[str, Callable[..., Any]] = {
    **{name: getattr(_mp, name) for name in "sin cos tan cot sec csc sinh cosh tanh".split()},
    **{name: getattr(_mp, name) for name in "asin acos atan sqrt".split()},
    "ln": _mp.log,
    "log": _mp.log,
    "lg": _mp.log10,
    "exp": _exponential,
    "root": _root,
    "abs": abs,
    "floor": _whole(_mp.floor),
    "ceil": _whole(_mp.ceil),
    "max": lambda *numbers: max(numbers, key=lambda x: x.real),
    "min": lambda *numbers: min(numbers, key=lambda x: x.real),
    "factorial": _gamma,
    "binomial": _float_binomial,
}
