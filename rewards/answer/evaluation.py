"""Values of expressions at a point: fractions where they are rational, else 66 digits.

Sizes are bounded before anything is computed, so no tower of powers is evaluated.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext

from rlvr.rewards.answer.expression import Expression

MAX_BITS = 20_000  # of any value on the way; 10^6000 is allowed, 9^9^9 is not
MAX_FACTORIAL = 2000
AGREE = 140  # bits, about 42 digits, to which equal values agree; the rest is for rounding
_PRECISION = 220  # bits

mp = MPContext()
mp.prec = _PRECISION


class Undefined(Exception):
    """There is no finite value, or it is too large to be computed."""


def as_float(number: Any) -> Any:
    """Return a fraction as a number of mpmath."""
    if isinstance(number, Fraction):
        return mp.mpf(number.numerator) / number.denominator
    return number


class Evaluator:
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
        """Return the value, or raise Undefined or an arithmetic error."""
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
            a, b = as_float(a), as_float(b)
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
        self.size = max([self.size, *(mp.mag(x) for x in numbers if x)])

    def _call(self, name: str, arguments: list[Any]) -> Any:
        if name in _EXACT and all(isinstance(x, Fraction) for x in arguments):
            return _EXACT[name](*arguments)
        if name not in _FLOAT:
            raise Undefined
        result = _FLOAT[name](*map(as_float, arguments))
        self._note(mp.one)  # sin(pi) is zero to within the rounding of 1
        return result


def _constant(name: str) -> Any:
    if name == "infinity":
        raise Undefined
    return {"pi": +mp.pi, "e": +mp.e, "i": mp.j, "degree": mp.pi / 180}[name]


def _bounded(number: Any) -> Any:
    if isinstance(number, Fraction):
        if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
            raise Undefined
    elif not mp.isfinite(number) or (number and abs(mp.mag(number)) > MAX_BITS):
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
    base, exponent = as_float(base), as_float(exponent)
    if exponent and mp.mag(exponent) + mp.mag(abs(mp.log(base)) + 1) > 15:  # 2^15 bits
        raise Undefined
    return mp.power(base, exponent)


def _sqrt(x: Fraction) -> Any:
    if x >= 0:
        top, bottom = math.isqrt(x.numerator), math.isqrt(x.denominator)
        if top * top == x.numerator and bottom * bottom == x.denominator:
            return Fraction(top, bottom)
    return mp.sqrt(as_float(x))


def _root(x: Any, index: Any) -> Any:
    if index == int(index) and int(index) % 2 == 1 and not x.imag and x.real < 0:
        return -_power(-x, 1 / index)  # the real root
    return _power(x, 1 / index)


def _factorial(n: Fraction) -> Any:
    if n.denominator == 1:
        if not 0 <= n <= MAX_FACTORIAL:
            raise Undefined
        return Fraction(math.factorial(int(n)))
    return _gamma(as_float(n))


def _gamma(n: Any) -> Any:
    if abs(n) > MAX_FACTORIAL:
        raise Undefined
    return mp.gamma(n + 1)


def _binomial(n: Fraction, k: Fraction) -> Any:
    if n.denominator == k.denominator == 1 and n >= 0:
        if max(n, k) > MAX_BITS or k < 0:
            raise Undefined
        return Fraction(math.comb(int(n), int(k)))
    return _float_binomial(as_float(n), as_float(k))


def _float_binomial(n: Any, k: Any) -> Any:
    if max(abs(n), abs(k)) > MAX_FACTORIAL:
        raise Undefined
    return mp.binomial(n, k)


def _exponential(x: Any) -> Any:
    if x and mp.mag(x) > 13:
        raise Undefined
    return mp.exp(x)


def _whole(rounding: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def rounded(x: Any) -> Any:
        nearest = mp.nint(x.real)
        close = abs(x - nearest) < mp.ldexp(1, -AGREE)
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
    text = name + ";".join(mp.nstr(as_float(x), 30) for x in arguments)
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
    **{
        name: getattr(mp, name)
        for name in ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"]
    },
    **{name: getattr(mp, name) for name in ["asin", "acos", "atan", "sqrt"]},
    "ln": mp.log,
    "log": mp.log,
    "lg": mp.log10,
    "exp": _exponential,
    "root": _root,
    "abs": abs,
    "floor": _whole(mp.floor),
    "ceil": _whole(mp.ceil),
    "max": lambda *numbers: max(numbers, key=lambda x: x.real),
    "min": lambda *numbers: min(numbers, key=lambda x: x.real),
    "factorial": _gamma,
    "binomial": _float_binomial,
}
