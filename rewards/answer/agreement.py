r"""Whether an answer has the gold answer's shape and values.

Lists are compared without order, tuples with it; a name before = is no part of the value, but two
different names differ; a unit may be missing and may be converted; an inequality is an interval.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rlvr.rewards.answer.expression import Expression, difference, replaced, variables
from rlvr.rewards.answer.inequalities import same_set
from rlvr.rewards.answer.rules import Rules
from rlvr.rewards.answer.scalars import same_scalar, same_value
from rlvr.rewards.answer.shapes import (
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
)
from rlvr.rewards.answer.value import proportional, real

_FUNCTION = re.compile(r"([A-Za-z]\w*)\(([a-zA-Z])\)")
_CLOCK = re.compile(r"(?:[01]?\d|2[0-4]):[0-5]\d")
_ONE: Expression = ("number", Fraction(1))


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
        match gold, answer:
            case (Chain(), _) | (_, Chain()):
                return self._chains(gold, answer)
            case (Text(), _) | (_, Text()):
                return gold == answer
            case (Region() | Inequality(), _) | (_, Region() | Inequality()):
                return same_set(gold, answer, self._rules)
            case Matrix(ours), Matrix(theirs):
                return len(ours) == len(theirs) and all(map(self._in_order, ours, theirs))
            case (Matrix(), _) | (_, Matrix()):
                return False
            case (Many(), _) | (_, Many()):
                return self._many(gold, answer)
            case (Ratio(), _) | (_, Ratio()):
                return self._ratios(gold, answer)
            case (Based(), _) | (_, Based()):
                return _same_digits(gold, answer)
            case Scalar(), Scalar():
                return same_scalar(gold, answer, self._rules)
        return False

    def _chains(self, gold: Shape, answer: Shape) -> bool:
        ours, theirs = self._named(gold), self._named(answer)
        if ours is not None and theirs is not None:
            if _names_agree(ours.name, theirs.name):
                return self.equal(ours.value, theirs.value)
            if renamed := _as_function_of(ours.name, theirs):
                return self.equal(ours.value, renamed)
        return self._equations(gold, answer)

    def _named(self, item: Shape) -> _Named | None:
        """Return what a chain of true steps names and its value; None for an equation."""
        if not isinstance(item, Chain):
            return _Named("", item)
        names = [name for name in item.names if name]
        values = [side for side, name in zip(item.sides, item.names, strict=True) if not name]
        free = {name for side in values for name in _free(side)}
        if not values or set(names) & free or (free and not names):
            return None
        last = values[-1]
        if not names and len(values) > 1 and len(set(values)) == 1:
            return None  # 5 = 5 says nothing
        if not all(self.equal(last, side) for side in values[:-1]):
            return None
        if not all(_roughly(last, side) for side in item.rough):
            return None
        return _Named(names[0] if names else "", last)

    def _equations(self, gold: Shape, answer: Shape) -> bool:
        ours, theirs = _sides_apart(gold), _sides_apart(answer)
        if ours is None:
            return False
        self._rules.need_algebra()
        if theirs is not None:
            return proportional(ours, theirs)
        return isinstance(answer, Scalar) and answer.tree is not None and _solves(ours, answer.tree)

    def _many(self, gold: Shape, answer: Shape) -> bool:
        ours, theirs = _as_many(gold), _as_many(answer)
        kinds = {ours.kind, theirs.kind}
        if len(ours.items) == len(theirs.items) == 1:
            return self.equal(ours.items[0], theirs.items[0])
        if kinds & {"tuple", "vector"}:
            if kinds & {"set", "pm"} or not _brackets_agree(ours, theirs):
                return False
            return self._in_order(ours.items, theirs.items)
        return self._unordered(ours.items, theirs.items)

    def _unordered(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
        ours, theirs = list(map(_name, gold)), list(map(_name, answer))
        if _distinct(ours) and set(ours) == set(theirs):
            return self._in_order(_by_name(gold), _by_name(answer))
        if _distinct(ours) and not any(theirs):
            return self._in_order(gold, answer)
        if _distinct(theirs) and not any(ours) and max(map(len, theirs)) <= 3:
            # b = 2, a = 1 for 1, 2; names that are words say nothing about the order
            return self._in_order(gold, answer) or self._in_order(gold, _by_name(answer))
        return self._matched(gold, answer)

    def _matched(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
        """Return whether each gold item is there, and nothing else; what is there may be repeated."""
        if not 1 < len(gold) <= len(answer) <= 2 * len(gold):
            return False
        left = list(answer)
        for item in gold:
            place = next((i for i, other in enumerate(left) if self.equal(item, other)), None)
            if place is None:
                return False
            del left[place]
        return all(any(self.equal(item, other) for item in gold) for other in left)

    def _in_order(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
        return len(gold) == len(answer) and all(map(self.equal, gold, answer))

    def _ratios(self, gold: Shape, answer: Shape) -> bool:
        ours, theirs = _terms(gold), _terms(answer)
        if not ours or not theirs or len(ours) != len(theirs):
            return False
        if _is_clock(gold) and _is_clock(answer):
            return all(same_value(*pair, self._rules) for pair in zip(ours, theirs, strict=True))
        crossed = [
            (("multiply", ours[0], b), ("multiply", theirs[0], a))
            for a, b in zip(ours[1:], theirs[1:], strict=True)
        ]
        return all(same_value(*pair, self._rules) for pair in crossed)


def _same_digits(gold: Shape, answer: Shape) -> bool:
    """Compare numbers of which one has a base: a base that only the gold states may be missing."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        return gold == answer
    based, other = (gold, answer) if isinstance(gold, Based) else (answer, gold)
    if not isinstance(based, Based) or not isinstance(other, Scalar):
        return False
    understood = based is gold or based.base == 10
    return understood and other.text.replace(" ", "").upper() == based.digits


def _free(item: Shape) -> set[str]:
    if isinstance(item, Scalar):
        return variables(item.tree) if item.tree else set()
    return set().union(*map(_free, item.items)) if isinstance(item, Many) else set()


def _name(item: Shape) -> str:
    return next(filter(None, item.names), "") if isinstance(item, Chain) else ""


def _by_name(items: Sequence[Shape]) -> list[Shape]:
    return sorted(items, key=_name)


def _distinct(names: list[str]) -> bool:
    """Return whether every item has a name of its own; x_1, x_2 number the same one."""
    return all(names) and len({name.partition("_")[0] for name in names}) == len(names)


def _names_agree(first: str, second: str) -> bool:
    """Return whether the names may be of one thing: one is missing, or S and S_{ABC}."""
    if not first or not second or first == second:
        return True
    short, long = sorted((first, second), key=len)
    if short == "y" and long in ("f(x)", "g(x)", "h(x)", "y(x)"):
        return True
    return long.startswith((short + "_", short + "(")) or " " in long + short


def _as_function_of(name: str, theirs: _Named) -> Shape | None:
    """Return the value of f(m) as one of f(n); None unless both are functions of a variable."""
    ours, other = _FUNCTION.fullmatch(name), _FUNCTION.fullmatch(theirs.name)
    if not (ours and other and ours[1] == other[1] and isinstance(theirs.value, Scalar)):
        return None
    tree = theirs.value.tree
    if tree is None or ours[2] in variables(tree):
        return None
    return Scalar(theirs.value.text, replaced(tree, other[2], ("variable", ours[2])))


def _sides_apart(item: Shape) -> Expression | None:
    """Return left - right of an equation."""
    match item:
        case Chain((Scalar() as left, Scalar() as right)) if left.tree and right.tree:
            return difference(left.tree, right.tree)
    return None


def _solves(equation: Expression, tree: Expression) -> bool:
    """Return whether `v = tree` is the equation solved for a variable v that is linear in it."""
    return any(
        proportional(equation, difference(("variable", name), tree))
        for name in variables(equation) - variables(tree)
    )


def _roughly(value: Shape, rough: Shape) -> bool:
    if not (isinstance(value, Scalar) and isinstance(rough, Scalar) and value.tree and rough.tree):
        return False
    a, b = real(value.tree), real(rough.tree)
    return a is not None and b is not None and abs(a - b) * 50 <= abs(a)


def _as_many(item: Shape) -> Many:
    return item if isinstance(item, Many) else Many("list", (item,))


def _brackets_agree(first: Many, second: Many) -> bool:
    """Return whether both are tuples, or intervals with the same ends; (0, 9) is not [0, 9)."""
    brackets = [item.brackets if item.kind == "tuple" else "()" for item in (first, second)]
    return brackets[0] == brackets[1] or len(first.items) > 2


def _terms(item: Shape) -> list[Expression]:
    """Return the terms of a ratio; a number is its ratio to 1."""
    if isinstance(item, Ratio):
        return [term.tree for term in item.terms if isinstance(term, Scalar) and term.tree]
    return [item.tree, _ONE] if isinstance(item, Scalar) and item.tree else []


def _is_clock(item: Shape) -> bool:
    """Return whether the terms may be hours and minutes."""
    if not isinstance(item, Ratio):
        return False
    return bool(_CLOCK.fullmatch(":".join(t.text for t in item.terms if isinstance(t, Scalar))))
