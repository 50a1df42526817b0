r"""Whether an answer has the gold answer's shape and values.

Lists are compared without order, tuples with it; a name before = is no part of the value, but two
different names differ; a unit may be missing and may be converted; an inequality is an interval.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from rlvr.rewards.doubt import leaves_open, takes_back
from rlvr.rewards.expression import Expression, Unreadable, parse, variables
from rlvr.rewards.region import same_region
from rlvr.rewards.shape import (
    Based,
    Chain,
    Inequality,
    Many,
    Matrix,
    Ratio,
    Region,
    Scalar,
    Shape,
    Text,
    region,
)
from rlvr.rewards.tokens import tokenize
from rlvr.rewards.value import number_of, proportional, real, same

MIN_ROUNDED = 4  # significant digits that a gold decimal needs to count as a rounded value
NOISE = Fraction(1, 10**9)  # relative; what binary floating point leaves of an exact value
MAX_UNIT_WORDS = 6

_DECIMAL = re.compile(r"-?(\d*)\.(\d+)")
_WORD = re.compile(r"[^\W\d_A-Z]+|[°$¢€£¥₹'.-]|(?:[a-z]+[.'-]?)+|[\^/{}()·-]|\\cdot|\d")
_DENIAL = re.compile(
    r"\b(?:not?|none|nor|never|false|cannot|neither|unknown|unsure|unclear|uncertain|unlikely"
    r"|undefined|guess|except|more|less|than|minus|plus|times|over|squared|cubed|factorial)\b|n't\b"
)
_FILLER = frozenset(("of", "the", "in", "a", "an", "per", "each", "total", "ways", "way", "units"))
_DEGREE: Expression = ("constant", "degree")
_HUNDREDTH: Expression = ("number", Fraction(1, 100))


class Undecided(Exception):
    """Arithmetic of rationals does not settle it."""


@dataclass(frozen=True)
class Rules:
    """What counts as the same.

    Attributes:
        units: Whether a unit may be missing, must be there where the gold has one, or is not read.
        percent: Whether 25% is both 25 and 0.25, or 0.25 alone.
        rounding: Significant digits from which a decimal may stand for an exact value; 0: never.
        algebra: Equality of two texts that the parser cannot read; None leaves it undecided.
        exact_only: Raise Undecided where more than rational arithmetic is needed.
    """

    units: Literal["optional", "required", "ignored"] = "optional"
    percent: Literal["either", "value"] = "either"
    rounding: int = 6
    algebra: Callable[[str, str], bool] | None = None
    exact_only: bool = False


def equal(gold: Shape, answer: Shape, rules: Rules) -> bool:
    """Return whether the answer equals the gold answer.

    Raises:
        Undecided: Where `rules.exact_only` is set and does not suffice.
    """
    return _Comparison(rules).equal(gold, answer)


@dataclass(frozen=True)
class _Named:
    name: str
    value: Shape


class _Comparison:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def equal(self, gold: Shape, answer: Shape) -> bool:
        if isinstance(gold, Chain) or isinstance(answer, Chain):
            return self._chains(gold, answer)
        if isinstance(gold, Text) or isinstance(answer, Text):
            return isinstance(gold, Text) and gold == answer
        if isinstance(gold, Region | Inequality) or isinstance(answer, Region | Inequality):
            return self._regions(gold, answer)
        if isinstance(gold, Many) or isinstance(answer, Many):
            return self._many(gold, answer)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return self._ratios(gold, answer)
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            return self._rows(gold.rows, answer.rows)
        if isinstance(gold, Based) or isinstance(answer, Based):
            return _based(gold, answer)
        return isinstance(gold, Scalar) and isinstance(answer, Scalar) and self._scalars(gold, answer)

    # chains and names

    def _chains(self, gold: Shape, answer: Shape) -> bool:
        ours, theirs = self._named(gold), self._named(answer)
        if ours is not None and theirs is not None:
            if _names_agree(ours.name, theirs.name):
                return self.equal(ours.value, theirs.value)
            if renamed := _renamed(theirs, ours.name):
                return self.equal(ours.value, renamed)
        return self._equations(gold, answer)

    def _named(self, item: Shape) -> _Named | None:
        """Return what a chain of true steps names and its value; None for an equation."""
        if not isinstance(item, Chain):
            return _Named("", item)
        names = [name for name in item.names if name]
        values = [side for side, name in zip(item.sides, item.names, strict=True) if not name]
        if not values or (not names and any(_free(side) for side in values)):
            return None
        last = values[-1]
        if not names and len(values) > 1 and len(set(values)) == 1:
            return None  # 5 = 5 says nothing
        if names and set(names) & {name for side in values for name in _free(side)}:
            return None
        if not all(self.equal(last, side) for side in values[:-1]):
            return None
        if not all(_roughly(last, side) for side in item.rough):
            return None
        return _Named(names[0] if names else "", last)

    def _equations(self, gold: Shape, answer: Shape) -> bool:
        ours = _difference(gold)
        if ours is None:
            return False
        theirs = _difference(answer)
        self._needs_algebra()
        if theirs is not None:
            return proportional(ours, theirs)
        return isinstance(answer, Scalar) and answer.tree is not None and _solves(ours, answer.tree)

    def _needs_algebra(self) -> None:
        if self._rules.exact_only:
            raise Undecided

    # several things

    def _many(self, gold: Shape, answer: Shape) -> bool:
        ours, theirs = _as_many(gold), _as_many(answer)
        if len(ours.items) != len(theirs.items):
            return False
        if len(ours.items) == 1:
            return self.equal(ours.items[0], theirs.items[0])
        kinds = {ours.kind, theirs.kind}
        ordered = bool(kinds & {"tuple", "vector"})
        if ordered and kinds & {"set", "pm"}:
            return False
        if ordered and not _brackets_agree(ours, theirs):
            return False
        if ordered:
            return self._in_order(ours.items, theirs.items)
        return self._unordered(ours.items, theirs.items)

    def _unordered(self, gold: tuple[Shape, ...], answer: tuple[Shape, ...]) -> bool:
        ours, theirs = list(map(_name, gold)), list(map(_name, answer))
        if _distinct(ours) and set(ours) == set(theirs):
            order = {name: place for place, name in enumerate(theirs)}
            return self._in_order(gold, tuple(answer[order[name]] for name in ours))
        if _distinct(ours) and not any(theirs):
            return self._in_order(gold, answer)
        if _distinct(theirs) and not any(ours) and not any(len(name) > 3 for name in theirs):
            ranked = sorted(zip(theirs, answer, strict=True), key=lambda pair: pair[0])
            return self._in_order(gold, answer) or self._in_order(
                gold, tuple(item for _, item in ranked)
            )
        return self._matched(gold, answer)

    def _matched(self, gold: tuple[Shape, ...], answer: tuple[Shape, ...]) -> bool:
        left = list(answer)
        for item in gold:
            place = next((i for i, other in enumerate(left) if self.equal(item, other)), None)
            if place is None:
                return False
            del left[place]
        return True

    def _in_order(self, gold: tuple[Shape, ...], answer: tuple[Shape, ...]) -> bool:
        return len(gold) == len(answer) and all(map(self.equal, gold, answer))

    def _rows(self, gold: tuple[tuple[Shape, ...], ...], answer: tuple[tuple[Shape, ...], ...]) -> bool:
        return len(gold) == len(answer) and all(map(self._in_order, gold, answer))

    def _ratios(self, gold: Shape, answer: Shape) -> bool:
        ours, theirs = _terms(gold), _terms(answer)
        if ours is None or theirs is None or len(ours) != len(theirs):
            return False
        if _is_clock(gold) and _is_clock(answer):
            return all(map(self._same, ours, theirs))
        crossed = [
            (("multiply", ours[0], b), ("multiply", theirs[0], a))
            for a, b in zip(ours[1:], theirs[1:], strict=True)
        ]
        return all(self._same(first, second) for first, second in crossed)

    # the real line

    def _regions(self, gold: Shape, answer: Shape) -> bool:
        ours, theirs = region(gold), region(answer)
        if isinstance(gold, Inequality) and isinstance(answer, Inequality):
            if ours and theirs and _single(gold) != _single(answer):
                return False
            if not (ours and theirs):
                self._needs_algebra()
                return _same_inequality(gold, answer)
        if ours is None or theirs is None or isinstance(answer, Scalar) or isinstance(gold, Scalar):
            return False
        self._needs_algebra()
        return same_region(ours, theirs)

    # numbers

    def _scalars(self, gold: Scalar, answer: Scalar) -> bool:
        if gold.tree is None or answer.tree is None:
            return self._by_algebra(gold, answer)
        if gold == answer:
            return True  # infinity too
        factors = self._factors(gold, answer)
        if factors is None:
            return False
        ours, theirs = gold.tree, answer.tree
        if factors != (1, 1):
            ours = ("multiply", ours, ("number", factors[0]))
            theirs = ("multiply", theirs, ("number", factors[1]))
        if gold.percent != answer.percent:
            return self._percents(gold, answer, ours, theirs)
        return (
            self._same(ours, theirs) or self._rounded(gold, answer) or self._angle(gold, answer)
        )

    def _percents(
        self, gold: Scalar, answer: Scalar, ours: Expression, theirs: Expression
    ) -> bool:
        if self._rules.percent == "either" and self._same(ours, theirs):
            return True
        if gold.percent:
            return self._same(("multiply", ours, _HUNDREDTH), theirs)
        return self._same(ours, ("multiply", theirs, _HUNDREDTH))

    def _factors(self, gold: Scalar, answer: Scalar) -> tuple[Fraction, Fraction] | None:
        """Return what the values are multiplied by to have one unit; None where units differ."""
        one = Fraction(1)
        if self._rules.units == "ignored" or not (gold.unit_words or answer.unit_words):
            return one, one
        if not answer.unit_words:
            return None if self._rules.units == "required" else (one, one)
        if not harmless(answer.unit_words):
            return None
        if not gold.unit_words:
            return one, one
        if gold.unit is not None and answer.unit is not None:
            same_kind = gold.unit.powers == answer.unit.powers
            return (gold.unit.factor, answer.unit.factor) if same_kind else None
        ours, theirs = (set(map(_singular, item.unit_words)) - _FILLER for item in (gold, answer))
        return (one, one) if ours <= theirs or theirs <= ours else None

    def _same(self, first: Expression, second: Expression) -> bool:
        a, b = number_of(first), number_of(second)
        if a is not None and b is not None:
            return a == b
        self._needs_algebra()
        return same(first, second) is True

    def _angle(self, gold: Scalar, answer: Scalar) -> bool:
        """Return whether an answer in degrees is the gold in radians, which has no unit.

        Not the other way round: an answer without a unit is in the gold's unit.
        """
        if gold.unit_words or not {"°", "degree"} & set(answer.unit_words):
            return False
        return self._same(gold.tree, ("multiply", answer.tree, _DEGREE))  # type: ignore[arg-type]

    def _rounded(self, gold: Scalar, answer: Scalar) -> bool:
        """Return whether one side is a decimal with enough digits for the other's exact value."""
        ours, theirs = _decimal(gold.text), _decimal(answer.text)
        if not self._rules.rounding or gold.tree is None or answer.tree is None:
            return False
        if theirs and self._fine(theirs) and (ours is None or self._fine(ours)):
            return self._near(gold.tree, answer.tree, theirs)
        if ours is None or theirs or ours.digits < MIN_ROUNDED:
            return False
        return not _INTEGER.fullmatch(answer.text) and self._near(answer.tree, gold.tree, ours)

    def _fine(self, decimal: "_Decimal") -> bool:
        """Return whether the decimal has enough digits; zeros after the point may be two of them."""
        enough = self._rules.rounding
        return decimal.digits >= enough or (decimal.places >= enough <= decimal.digits + 2)

    def _near(self, exact: Expression, written: Expression, decimal: "_Decimal") -> bool:
        """Return whether the decimal is the exact value rounded, cut off, or in floating point."""
        value, shown = number_of(exact), number_of(written)
        if value is None and not variables(exact):
            self._needs_algebra()
            value = real(exact)
        if value is None or shown is None:
            return False
        step = Fraction(1, 10**decimal.places)
        within = step if abs(value) > abs(shown) else step / 2  # cut off, or rounded
        return abs(value - shown) <= max(within, abs(value) * NOISE)

    def _by_algebra(self, gold: Scalar, answer: Scalar) -> bool:
        if _plain(gold.text) == _plain(answer.text) and gold.unit_words == answer.unit_words:
            return True
        if gold.tree is not None or answer.tree is not None:
            return False  # what the parser reads is written in other ways by hardly anyone
        self._needs_algebra()
        if self._rules.algebra is None or gold.unit_words or answer.unit_words:
            return False
        return self._rules.algebra(gold.text, answer.text)


@dataclass(frozen=True)
class _Decimal:
    places: int
    digits: int


_CLOCK = re.compile(r"(?:[01]?\d|2[0-4]):[0-5]\d")
_INTEGER = re.compile(r"[-+]?\s?\d+")


def _decimal(text: str) -> _Decimal | None:
    """Return how many places and significant digits a decimal has; None for anything else."""
    match = _DECIMAL.fullmatch(text.replace(" ", ""))
    return _Decimal(len(match[2]), len((match[1] + match[2]).lstrip("0"))) if match else None


def _plain(text: str) -> str:
    return text.replace(" ", "")


def harmless(words: tuple[str, ...]) -> bool:
    """Return whether the words may stand behind a number without changing it.

    Example:
        >>> harmless(("square", "feet")), harmless(("or", "8")), harmless(("not", "sure"))
        (True, False, False)
    """
    text = " ".join(words)
    if len(words) > 2 * MAX_UNIT_WORDS or leaves_open(text) or takes_back(text):
        return False
    return not _DENIAL.search(text) and all(_WORD.fullmatch(word) for word in words)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _based(gold: Shape, answer: Shape) -> bool:
    if isinstance(gold, Based) and isinstance(answer, Based):
        return gold == answer
    based, other = (gold, answer) if isinstance(gold, Based) else (answer, gold)
    if not isinstance(based, Based) or not isinstance(other, Scalar):
        return False
    # a base that only the gold states is no difference; one that only the answer states is, unless ten
    return (based is gold or based.base == 10) and _plain(other.text).upper() == based.digits


def _free(item: Shape) -> set[str]:
    if isinstance(item, Scalar):
        return variables(item.tree) if item.tree else set()
    return set().union(*map(_free, item.items)) if isinstance(item, Many) else set()


def _name(item: Shape) -> str:
    return next(filter(None, item.names), "") if isinstance(item, Chain) else ""


def _distinct(names: list[str]) -> bool:
    """Return whether every item has a name of its own; x_1, x_2 number the same one."""
    return all(names) and len({name.partition("_")[0] for name in names}) == len(names)


def _names_agree(first: str, second: str) -> bool:
    """Return whether the names may be of one thing: one is missing, or S and S_{ABC}."""
    if not first or not second or first == second:
        return True
    short, long = sorted((first, second), key=len)
    return long.startswith((short + "_", short + "(")) or " " in long + short


_FUNCTION = re.compile(r"([A-Za-z]\w*)\(([a-zA-Z])\)")


def _renamed(theirs: _Named, name: str) -> Shape | None:
    """Return the value of f(m) as one of f(n); None unless both are functions of a variable."""
    ours, other = _FUNCTION.fullmatch(name), _FUNCTION.fullmatch(theirs.name)
    if not (ours and other and ours[1] == other[1] and isinstance(theirs.value, Scalar)):
        return None
    value = theirs.value
    if value.tree is None or ours[2] in variables(value.tree):
        return None
    return Scalar(value.text, _replaced(value.tree, other[2], ("variable", ours[2])))


def _replaced(tree: Expression, name: str, other: Expression) -> Expression:
    if tree == ("variable", name):
        return other
    return tuple(_replaced(p, name, other) if isinstance(p, tuple) else p for p in tree)


def _difference(item: Shape) -> Expression | None:
    """Return left - right of an equation with a variable."""
    if not isinstance(item, Chain) or len(item.sides) != 2:
        return None
    left, right = item.sides
    if not isinstance(left, Scalar) or not isinstance(right, Scalar):
        return None
    if left.tree is None or right.tree is None:
        return None
    return ("add", left.tree, ("negate", right.tree))


def _solves(equation: Expression, tree: Expression) -> bool:
    """Return whether `v = tree` is the equation solved for a variable v that is linear in it."""
    return any(
        proportional(equation, ("add", ("variable", name), ("negate", tree)))
        for name in variables(equation) - variables(tree)
    )


def _roughly(value: Shape, rough: Shape) -> bool:
    if not (isinstance(value, Scalar) and isinstance(rough, Scalar) and value.tree and rough.tree):
        return False
    a, b = real(value.tree), real(rough.tree)
    return a is not None and b is not None and abs(a - b) * 50 <= abs(a)


def _as_many(item: Shape) -> Many:
    if isinstance(item, Matrix):
        return Many("matrix", ())
    return item if isinstance(item, Many) else Many("list", (item,))


def _brackets_agree(first: Many, second: Many) -> bool:
    """Return whether both are tuples, or intervals with the same ends; (0, 9) is not [0, 9)."""
    brackets = [item.brackets if item.kind == "tuple" else "()" for item in (first, second)]
    return brackets[0] == brackets[1] or len(first.items) > 2


def _terms(item: Shape) -> list[Expression] | None:
    if isinstance(item, Ratio):
        found = [term.tree for term in item.terms if isinstance(term, Scalar)]
        return [tree for tree in found if tree is not None]
    if isinstance(item, Scalar) and item.tree is not None:
        return [item.tree, ("number", Fraction(1))]
    return None


def _is_clock(item: Shape) -> bool:
    """Return whether the terms may be hours and minutes."""
    if not isinstance(item, Ratio):
        return False
    terms = [term.text for term in item.terms if isinstance(term, Scalar)]
    return bool(_CLOCK.fullmatch(":".join(terms)))


def _single(item: Inequality) -> str:
    names = sorted({side[1] for side in item.sides if side[0] == "variable"})
    return names[0] if len(names) == 1 else ""


def _same_inequality(gold: Inequality, answer: Inequality) -> bool:
    """Return whether the steps of one chain are positive multiples of the other's, in some order."""
    left = _steps(answer)
    for sign, tree in _steps(gold):
        place = next((i for i, (s, t) in enumerate(left) if s == sign and _fits(sign, tree, t)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _fits(sign: str, first: Expression, second: Expression) -> bool:
    if not variables(first) and not variables(second):
        return same(first, second) is True
    return proportional(first, second, positive=sign != "ne")


def _steps(item: Inequality) -> list[tuple[str, Expression]]:
    """Return each step as (sign, tree) for tree < 0, tree le 0 or tree ne 0."""
    found = []
    for left, sign, right in zip(item.sides, item.signs, item.sides[1:], strict=False):
        if sign in (">", "ge"):
            left, right = right, left
        sign = {">": "<", "ge": "le"}.get(sign, sign)
        found.append((sign, ("add", left, ("negate", right))))
    return found


def tree_of(text: str) -> Expression | None:
    """Return the tree of a canonical text, or None."""
    try:
        return parse(tokenize(text))
    except Unreadable:
        return None
