r"""Equality of two numbers or expressions with their units: 50% and 1/2, 5 \text{ m} and 500 cm."""

import re
from dataclasses import dataclass
from fractions import Fraction

from rlvr.rewards.answer.doubt import leaves_open, takes_back
from rlvr.rewards.answer.expression import Expression, product, variables
from rlvr.rewards.answer.rules import Rules
from rlvr.rewards.answer.shapes import Scalar
from rlvr.rewards.answer.value import number_of, real, same

MIN_ROUNDED = 4  # significant digits that a gold decimal needs to count as a rounded value
NOISE = Fraction(1, 10**9)  # relative; what binary floating point leaves of an exact value

_DECIMAL = re.compile(r"-?(\d*)\.(\d+)")
_INTEGER = re.compile(r"[-+]?\d+")
_UNIT_WORD = re.compile(r"[^\W\d_A-Z]+|[°$¢€£¥₹'.-]|(?:[a-z]+[.'-]?)+|[\^/{}()·-]|\\cdot|\d")
_DENIAL = re.compile(
    r"\b(?:not?|none|nor|never|false|cannot|neither|unknown|unsure|unclear|uncertain|unlikely"
    r"|undefined|guess|except|more|less|than|minus|plus|times|over|squared|cubed|factorial)\b|n't\b"
)
_FILLER = frozenset(("of", "the", "in", "a", "an", "per", "each", "total", "ways", "way", "units"))
_DEGREES = frozenset(("°", "degree", "degrees"))
_DEGREE: Expression = ("constant", "degree")
_PERCENT = Fraction(1, 100)


@dataclass(frozen=True)
class _Decimal:
    places: int
    digits: int
    """Significant ones."""


def same_scalar(gold: Scalar, answer: Scalar, rules: Rules) -> bool:
    """Return whether the answer has the gold's value in the gold's unit."""
    if gold == answer:
        return True  # infinity too
    if gold.tree is None or answer.tree is None:
        return _by_algebra(gold, answer, rules)
    factors = _factors(gold, answer, rules)
    if factors is None:
        return False
    ours, theirs = gold.tree, answer.tree
    if factors[0] != factors[1]:
        return same_value(product(ours, factors[0]), product(theirs, factors[1]), rules)
    if gold.percent != answer.percent:
        if gold.unit_words or answer.unit_words:
            return False  # 10% is not $10
        return _same_percent(gold.percent, ours, theirs, rules)
    return (
        same_value(ours, theirs, rules)
        or _rounded(gold, answer, rules)
        or _in_degrees(gold, answer, rules)
    )


def same_value(first: Expression, second: Expression, rules: Rules) -> bool:
    """Return whether two expressions are equal, exactly where both are rational numbers."""
    a, b = _plain_value(first), _plain_value(second)
    if a is not None and b is not None:
        return a == b
    rules.need_algebra()
    return same(first, second) is True


def _plain_value(tree: Expression) -> Fraction | Expression | None:
    """Return a rational number, or a variable alone: neither equals the other, nor another one."""
    return tree if tree[0] == "variable" else number_of(tree)


def harmless(words: tuple[str, ...]) -> bool:
    """Return whether the words may stand behind a number without changing it.

    Example:
        >>> harmless(("square", "feet")), harmless(("or", "8")), harmless(("not", "sure"))
        (True, False, False)
    """
    text = " ".join(words)
    if leaves_open(text) or takes_back(text) or _DENIAL.search(text):
        return False
    return all(map(_UNIT_WORD.fullmatch, words))


def _factors(gold: Scalar, answer: Scalar, rules: Rules) -> tuple[Fraction, Fraction] | None:
    """Return what the values are multiplied by to have one unit; None where units differ."""
    one = Fraction(1)
    if answer.unit is None and not harmless(answer.unit_words):
        return None
    if rules.units == "ignored":
        return one, one
    if not answer.unit_words:
        return None if gold.unit_words and rules.units == "required" else (one, one)
    if not gold.unit_words:
        return one, one
    if gold.unit is not None and answer.unit is not None:
        same_kind = gold.unit.powers == answer.unit.powers
        return (gold.unit.factor, answer.unit.factor) if same_kind else None
    ours, theirs = (set(map(_singular, item.unit_words)) - _FILLER for item in (gold, answer))
    return (one, one) if ours <= theirs or theirs <= ours else None


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _same_percent(gold_is: bool, ours: Expression, theirs: Expression, rules: Rules) -> bool:
    """Compare where one side, the gold or not, has a percent sign."""
    if rules.percent == "either" and same_value(ours, theirs, rules):
        return True
    if gold_is:
        return same_value(product(ours, _PERCENT), theirs, rules)
    return same_value(ours, product(theirs, _PERCENT), rules)


def _in_degrees(gold: Scalar, answer: Scalar, rules: Rules) -> bool:
    """Return whether an answer in degrees is the gold in radians, which has no unit.

    Not the other way round: an answer without a unit is in the gold's unit.
    """
    if gold.unit_words or not _DEGREES & set(answer.unit_words):
        return False
    assert gold.tree is not None  # asked only about expressions that were read
    assert answer.tree is not None
    return same_value(gold.tree, ("multiply", answer.tree, _DEGREE), rules)


def _rounded(gold: Scalar, answer: Scalar, rules: Rules) -> bool:
    """Return whether one side is a decimal with enough digits for the other's exact value."""
    ours, theirs = _decimal(gold.text), _decimal(answer.text)
    if not rules.rounding or not (ours or theirs) or gold.tree is None or answer.tree is None:
        return False
    if theirs and _fine(theirs, rules) and (ours is None or _fine(ours, rules)):
        return _near(gold.tree, answer.tree, theirs, rules)
    if ours is None or theirs or ours.digits < MIN_ROUNDED or _INTEGER.fullmatch(answer.text):
        return False
    return _near(answer.tree, gold.tree, ours, rules)


def _decimal(text: str) -> _Decimal | None:
    match = _DECIMAL.fullmatch(text.replace(" ", ""))
    return _Decimal(len(match[2]), len((match[1] + match[2]).lstrip("0"))) if match else None


def _fine(decimal: _Decimal, rules: Rules) -> bool:
    """Return whether the decimal has enough digits; zeros after the point may be two of them."""
    enough = rules.rounding
    return decimal.digits >= enough or (decimal.places >= enough <= decimal.digits + 2)


def _near(exact: Expression, written: Expression, decimal: _Decimal, rules: Rules) -> bool:
    """Return whether the decimal is the exact value rounded, cut off, or in floating point."""
    value, shown = number_of(exact), number_of(written)
    if value is None and not variables(exact):
        rules.need_algebra()
        value = real(exact)
    if value is None or shown is None:
        return False
    step = Fraction(1, 10**decimal.places)
    within = step if abs(value) > abs(shown) else step / 2  # cut off, or rounded
    return abs(value - shown) <= max(within, abs(value) * NOISE)


def _by_algebra(gold: Scalar, answer: Scalar, rules: Rules) -> bool:
    """Compare what the parser does not read: by math-verify, if it reads neither."""
    if gold.tree is not None or answer.tree is not None or gold.unit_words or answer.unit_words:
        return False
    if gold.text == answer.text:
        return True
    rules.need_algebra()
    return rules.algebra is not None and rules.algebra(gold.text, answer.text)
