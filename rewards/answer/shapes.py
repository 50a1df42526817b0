r"""What kind of thing an answer is.

\{1, 2\}  1, 2  (1, 2)         Many        x \le 3   (1, 2] \cup [3, 4)    Inequality, Region
x = 3     f(x) = 2x            Chain       5 \text{ cm}   20\%   \$5         Scalar
1011_2    2:3    p.m.          Based, Ratio, Text
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rlvr.rewards.answer.expression import Expression
from rlvr.rewards.answer.units import Unit


@dataclass(frozen=True)
class Scalar:
    """An expression with its unit; `tree` is None where it is beyond the parser."""

    text: str
    tree: Expression | None
    unit: Unit | None = None
    unit_words: tuple[str, ...] = ()
    percent: bool = False


@dataclass(frozen=True)
class Text:
    """Words, or what is nothing else."""

    text: str
    """Lower case, its words apart by one blank."""


@dataclass(frozen=True)
class Many:
    """Several things: kind is list (bare), set, tuple, or vector; a tuple keeps its brackets."""

    kind: str
    items: tuple["Shape", ...]
    brackets: str = ""


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`; a point where both are the same tree and closed."""

    low: Expression
    high: Expression
    closed: tuple[bool, bool]


@dataclass(frozen=True)
class Region:
    """A union of intervals of the real line."""

    parts: tuple[Interval, ...]


@dataclass(frozen=True)
class Inequality:
    """Sides and the signs between them: < > le ge ne."""

    sides: tuple[Expression, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """Sides with = between them; `rough` holds those after an approximate sign."""

    sides: tuple["Shape", ...]
    names: tuple[str, ...]
    """Of each side, what it names if it is a name such as x, f(x), AB or T(10); "" for a value."""
    rough: tuple["Shape", ...] = ()


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple["Shape", ...], ...]


@dataclass(frozen=True)
class Ratio:
    """Terms of a : b : c."""

    terms: tuple["Shape", ...]


@dataclass(frozen=True)
class Based:
    """Digits in a base."""

    digits: str
    base: int


Shape = Scalar | Text | Many | Region | Inequality | Chain | Matrix | Ratio | Based


VOID = Text("no solution")


def has_words(item: Shape) -> bool:
    """Return whether a part of the shape is mere text."""
    return any(isinstance(part, Text) and part != VOID for part in parts(item))


def parts(item: Shape) -> Iterator[Shape]:
    """Yield the innermost parts of the shape, without names before = ."""
    match item:
        case Many(items=inner):
            pass
        case Matrix(rows=rows):
            inner = tuple(entry for row in rows for entry in row)
        case Chain(sides=sides, names=names):
            inner = tuple(side for side, name in zip(sides, names, strict=True) if not name)
        case _:
            yield item
            return
    for part in inner:
        yield from parts(part)
