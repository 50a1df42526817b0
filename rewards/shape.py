r"""What kind of thing an answer is: a number with its unit, a list, tuple, interval, equation, text.

    \{1, 2\}  1, 2  (1, 2)         Many        x \le 3   (1, 2]   x \in [0, 1]     Region, Many
    x = 3     f(x) = 2x            Chain       5 \text{ cm}   20\%   \$5           Scalar
    1011_2    2:3    p.m.          Based, Ratio, Text

All of the answer is accounted for: what has no place in a shape makes the whole of it `Text`.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import inf

from rlvr.rewards.expression import INFINITY, MINUS_INFINITY, Expression, Unreadable, parse
from rlvr.rewards.notation import canonical
from rlvr.rewards.tokens import Tokens, is_number, is_word, split, tokenize
from rlvr.rewards.units import Unit, unit
from rlvr.rewards.value import real

MAX_ITEMS = 200
MAX_UNIT_TOKENS = 12
MAX_NAME_WORDS, MAX_NAME = 4, 40  # of "the area" before =
MAX_SIGNS = 4  # of plus-or-minus in one answer


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

_LISTED = frozenset((",", r"\and", r"\or", r"\lor", r"\land", r"\text{,}"))
_EITHER = frozenset((r"\or", r"\lor"))
_EQUAL = frozenset(("=", r"\approx", r"\simeq", r"\cong", r"\doteq"))
_ORDER = {"<": "<", ">": ">", r"\le": "le", r"\ge": "ge", r"\ne": "ne"}
_RELATIONS = _EQUAL | _ORDER.keys()
_PAIRED = {"<=": r"\le ", "=<": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "==": "=", ":=": "="}
_PAIRED_SIGN = re.compile("|".join(map(re.escape, _PAIRED)))
_MATRICES = frozenset(
    ("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "array")
)
_BASED = re.compile(
    r"\(?\{?([0-9A-F]*[0-9][0-9A-Za-z]*)\}?\)?_\{?\s*\(?\s*(?:\\text\{\s*)?(\w+)\s*\}?\s*\)?\}?"
)
_IN_BASE = re.compile(r"([0-9][0-9A-Za-z]*)\s*\\text\{\s*(?:\(?in )?base\s*(\w+)\s*\)?\s*\}")
_BASES = {
    word: number
    for number, word in enumerate(
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen".split(),
        start=2,
    )
}
_CURRENCIES = frozenset("$€£¥₹")
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES |= {"trillion": 10**12, "dozen": 12}
_PERCENT = ("%", r"\%", '"percent', '"pct', '"percentage')
_DEGREE = ["^", "{", r"\circ", "}"]
_NUMBER_SETS = r"\\mathbb\{?[RZNQC]\}?(?:\s?[_^]\s?(?:\{[^{}]*\}|[+*\d]))*"
_NUMBER_KINDS = r"(?:positive|non-?negative|negative|real|rational|natural|whole|complex)"
# "for all integers n", "where k \in Z": says where the answer holds and is no part of it
_QUALIFIER = re.compile(
    r"[,;(]?\s*(?:\\text\{\s*,?\s*|(?<=\s)|(?<=,)|(?<=\())(?:(?:for|where|with|and)\s)?"
    r"(?:(?:all|any|every|each|some)\s)?"
    rf"(?:{_NUMBER_KINDS}\s)*(?:integers?|numbers?|reals?|constants?)?\s*\}}?"
    rf"\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*"
    rf"(?:\\in\s*{_NUMBER_SETS}|(?:\\text\{{)?\s*(?:is|are)\s(?:an?\s|any\s)?(?:arbitrary\s)?"
    rf"(?:{_NUMBER_KINDS}\s)*(?:integers?|constants?|numbers?)\s*\}}?)\s*[.,)]?\s*$"
)
_FOR_ALL = re.compile(
    r"[,;]?\s*\\text\{\s*,?\s*for (?:all|any|every|each|some)\s(?:" + _NUMBER_KINDS + r"\s)*"
    r"(?:integers?|numbers?|reals?)?\s*\}\s*[a-zA-Z]?(?:\s*\\in\s*" + _NUMBER_SETS + r"|\s*\\[gl]e\s*\d+"
    r"|\s*[<>]\s*\d+)?\s*(?=,|;|$|\\text)"
)
_NOTHING = {"no solution", "no solutions", "no real solution", "no real solutions", "empty set"}
_NOTHING |= {"the empty set", "none", r"\emptyset", r"\{ \}"}
_EVERYTHING = {r"\mathbb { R }", r"\mathbb R", "all real numbers", "all reals", "all real x"}
_UNLIMITED = {"infinitely many", "infinite", "infinity"}
_VOID = Text("no solution")


@lru_cache(maxsize=4096)
def shape(text: str) -> Shape:
    r"""Return the shape of an answer.

    Example:
        >>> shape(r"x \in \{1, 2\}").kind, shape("(1, 2]").brackets
        ('set', '(]')
    """
    text = _PAIRED_SIGN.sub(lambda match: _PAIRED[match[0]], canonical(text))
    if based := _in_base(text):
        return based
    text = _QUALIFIER.sub("", _FOR_ALL.sub("", text))
    return _answer(tokenize(text))


def _in_base(text: str) -> Based | None:
    match = _BASED.fullmatch(text) or _IN_BASE.fullmatch(text)
    if match is None:
        return None
    name = match[2].lower()
    base = _BASES.get(name) or (int(name) if name.isdecimal() and len(name) < 3 else 0)
    return Based(match[1].upper(), base) if base > 1 else None


def _answer(tokens: Tokens) -> Shape:
    """Return the shape of tokens in which ; and , and "or" may separate answers."""
    groups, _ = split(tokens, frozenset(";"))
    groups = [group for group in groups if group]
    if len(groups) > 1:
        return _several([_answer(group) for group in groups[:MAX_ITEMS]], either=False)
    pieces, separators = split(tokens, _LISTED)
    pieces = [piece for piece in pieces if piece]
    if len(pieces) == 1:
        return _item(pieces[0])
    if not 1 < len(pieces) <= MAX_ITEMS:
        return _text(tokens)
    shapes = [_item(piece) for piece in pieces]
    return _several(shapes, either=any(separator in _EITHER for separator in separators))


def _several(shapes: list[Shape], *, either: bool) -> Shape:
    if not either and (found := _limited(shapes)):
        return found
    if either or any(isinstance(item, Region) for item in shapes):
        regions = [region(item) for item in shapes]
        if all(regions) and any(not isinstance(item, Scalar | Chain) for item in shapes):
            return Region(tuple(part for found in regions if found for part in found.parts))
    return Many("list", tuple(_grouped(_flat(shapes))))


def _limited(shapes: list[Shape]) -> Region | None:
    r"""Return x > 0, x \ne 2 as a region; None for anything else."""
    holes = [item for item in shapes if isinstance(item, Inequality) and item.signs == ("ne",)]
    rest = [item for item in shapes if item not in holes]
    whole = region(rest[0]) if len(rest) == 1 and isinstance(rest[0], Inequality) else None
    for hole in holes:
        if whole is None or hole.sides[0][0] != "variable":
            return None
        whole = _without(whole, Region((Interval(hole.sides[1], hole.sides[1], (True, True)),)))
    return whole if holes else None


def _flat(shapes: list[Shape]) -> list[Shape]:
    """Return the shapes with 1 \\pm 2 as two of them."""
    flat: list[Shape] = []
    for item in shapes:
        flat += item.items if isinstance(item, Many) and item.kind == "pm" else [item]
    return flat


def _grouped(shapes: list[Shape]) -> list[Shape]:
    """Return p=5, q=2, p=7, q=2 as two tuples."""
    names = [item.names[0] if isinstance(item, Chain) else "" for item in shapes]
    if not all(names) or len(set(names)) < 2:
        return shapes
    width = len(set(names))
    if len(names) == width or names != names[:width] * (len(names) // width):
        return shapes
    return [
        Many("list", tuple(shapes[start : start + width])) for start in range(0, len(names), width)
    ]


def _item(tokens: Tokens) -> Shape:
    """Return the shape of one answer."""
    if len(tokens) == 1 and len(tokens[0]) == 2 and is_word(tokens[0]):
        tokens = [tokens[0][1]]  # a letter
    joined = " ".join(tokens)
    if joined.replace('"', "").lower() in _NOTHING or joined in _NOTHING:
        return _VOID
    if joined.replace('"', "") in _EVERYTHING:
        return Region((Interval(MINUS_INFINITY, INFINITY, (False, False)),))
    if joined.replace('"', "").lower() in _UNLIMITED:
        tokens = [r"\infty"]
    for rule in (_member, _united, _related, _enclosed, _signed, _ratio):
        found = rule(tokens)
        if found is not None:
            return found
    return _scalar(tokens) or _text(tokens)


def _text(tokens: Tokens) -> Text:
    words = (token.removeprefix('"') for token in tokens)
    return Text(" ".join(words).strip(" .,;:!").lower())


def _member(tokens: Tokens) -> Shape | None:
    r"""Return what follows x \in."""
    pieces, signs = split(tokens, frozenset((r"\in",)))
    return _answer(pieces[1]) if len(signs) == 1 and name_of(pieces[0]) and pieces[1] else None


def _united(tokens: Tokens) -> Shape | None:
    tokens = list(tokens)
    for place in range(1, len(tokens) - 1):  # (1, 5) - \{2\}
        if tokens[place] == "-" and tokens[place + 1] == r"\{" and tokens[place - 1] in _ENDS:
            tokens[place] = r"\setminus"
    pieces, signs = split(tokens, frozenset((r"\cup", r"\setminus")))
    if not signs or len(pieces) > MAX_ITEMS:
        return None
    found = [region(_item(piece)) if piece else None for piece in pieces]
    whole = found[0]
    for sign, part in zip(signs, found[1:], strict=True):
        if whole is None or part is None:
            return None
        whole = Region(whole.parts + part.parts) if sign == r"\cup" else _without(whole, part)
    return whole


def _without(whole: Region, taken: Region) -> Region | None:
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


def _related(tokens: Tokens) -> Shape | None:
    sides, signs = split(tokens, _RELATIONS)
    if not signs or len(signs) > MAX_ITEMS:
        return None
    if all(sign in _EQUAL for sign in signs):
        return _chain(sides, signs)
    if not all(sign in _ORDER for sign in signs):
        return None
    try:
        trees = tuple(_bound(side) for side in sides)
    except Unreadable:
        return None
    return Inequality(trees, tuple(_ORDER[sign] for sign in signs))


def _chain(sides: list[Tokens], signs: list[str]) -> Shape | None:
    if not sides[0]:  # "= 5"
        sides, signs = sides[1:], signs[1:]
    if not all(sides):
        return None
    names = [name_of(side) for side in sides]
    if all(names):
        names[1:] = [""] * (len(names) - 1)
    elif not names[0]:
        names[0] = _compound_name(sides[0])
    shapes = [_item(side) for side in sides]
    exact, rough = [shapes[0]], []
    for sign, side in zip(signs, shapes[1:], strict=True):
        (exact if sign == "=" else rough).append(side)
    if not any(name == "" for name in names[: len(exact)]) and rough:
        exact, rough = [*exact, rough[0]], rough[1:]  # x \approx 3.14
        names = [*names[: len(exact) - 1], "", ""]
    if len(exact) == 1 and not rough:
        return exact[0]
    return Chain(tuple(exact), tuple(names[: len(exact)]), tuple(rough))


_APPLIED = re.compile(r"(?:[A-Za-z]|\\[a-zA-Z]+)(?:_(?:\{[^{}]*\}|\w))?'*\([^()]*\)")
_NAMED = re.compile(
    r"m?(?:\\(?:angle|triangle|Delta|arc|overline|widehat|mathbf))?\{?(?:\\[a-zA-Z]+|[A-Za-z])\}?"
    r"(?:_(?:\{[^{}]*\}|\w))?(?:'|\^\{?\\prime\}?)*"
)
_LENGTHS = re.compile(r"m?(?:[A-Z](?:_\{?\d\}?)?'*|[_{}+/:|]|\\(?:frac|angle|triangle|overline))+")
_COMPOUND = re.compile(r"[a-zA-Z](?:_\{?\w\}?)?(?:[-+*/]?[a-zA-Z](?:_\{?\w\}?)?)+")
_COUPLE = re.compile(r"\((.+,.+)\)")
_NO_NAMES = {"e", "i", r"\pi", r"\infty", r"\emptyset"}


def name_of(tokens: Tokens) -> str:
    """Return what the tokens name: x, a_1, f(x), AB, (x, y), an area; "" for anything else."""
    if tokens and all(map(is_word, tokens)):
        words = " ".join(token[1:].lower() for token in tokens)
        return words if len(tokens) <= MAX_NAME_WORDS and len(words) <= MAX_NAME else ""
    text = "".join(tokens).replace('"', "")
    if couple := _COUPLE.fullmatch(text):
        parts = split(tokens[1:-1], frozenset(","))[0]
        names = [name_of(part) for part in parts]
        return f"({','.join(names)})" if all(names) and couple else ""
    if text in _NO_NAMES or not re.search("[a-zA-Z]", text):
        return ""
    named = _NAMED.fullmatch(text) or _APPLIED.fullmatch(text) or _LENGTHS.fullmatch(text)
    return text.replace("{", "").replace("}", "") if named else ""


def _compound_name(tokens: Tokens) -> str:
    """Return a + b + c as the name of a sum that was asked for; "" for anything else."""
    text = "".join(tokens)
    return text if _COMPOUND.fullmatch(text) else ""


def _bound(tokens: Tokens) -> Expression:
    r"""Return an expression, or an infinity with its sign."""
    if tokens and tokens[0] == "+" and tokens[1:] == [r"\infty"]:
        return INFINITY
    found = _scalar(tokens)  # 30^\circ < x: the unit of both sides goes unsaid
    if found is None or found.tree is None:
        raise Unreadable
    return found.tree


_ENDS = frozenset((")", "]", r"\}", "}"))
_CLOSING = {"(": ")", "[": "]", r"\{": r"\}", "{": "}", r"\langle": r"\rangle"}


def _enclosed(tokens: Tokens) -> Shape | None:
    """Return a set, tuple, interval, vector or matrix."""
    if tokens[0].startswith(r"\begin:") and tokens[-1].startswith(r"\end:"):
        return _matrix(tokens)
    if tokens[0] == "[" and len(tokens) > 3 and tokens[1].startswith(r"\begin:"):
        return _enclosed(tokens[1:-1]) if tokens[-1] == "]" else None
    opening, closing = tokens[0], tokens[-1]
    if opening == "(" and _closes_at_end(tokens) and split(tokens[1:-1], frozenset("="))[1]:
        return _item(tokens[1:-1])  # (2 + 3 = 5)
    if opening == "]" or (opening in "([" and closing == "["):  # ]a, b[
        opening = "(" if opening == "]" else opening
        closing = ")" if closing == "[" else closing
    if opening not in _CLOSING or closing not in _CLOSING.values() or len(tokens) < 2:
        return None
    inner = tokens[1:-1]
    if not _closes_at_end(tokens) and opening == tokens[0] and closing == tokens[-1]:
        return None
    if opening in (r"\{", "{"):
        return _set(inner, plain=opening == "{") if closing == _CLOSING[opening] else None
    pieces, _ = split(inner, frozenset((",", ";")))
    if len(pieces) < 2 or len(pieces) > MAX_ITEMS or not all(pieces):
        return None
    kind = "vector" if opening == r"\langle" else "tuple"
    return _signs_spread(kind, pieces, opening + closing)


def _closes_at_end(tokens: Tokens) -> bool:
    """Return whether the first bracket closes with the last token: not so in (1,2),(3,4)."""
    return len(split(["(", *tokens[1:-1], ")"], frozenset())[0]) == 1 and _stays_open(tokens)


def _stays_open(tokens: Tokens) -> bool:
    depth = 0
    for token in tokens[:-1]:
        depth += (token in _CLOSING) - (token in _CLOSING.values())
        if depth <= 0:
            return False
    return True


def _signs_spread(kind: str, pieces: list[Tokens], brackets: str) -> Shape:
    r"""Return the tuple; with \pm in it, the tuples for all signs."""
    options: list[list[Tokens]] = [_expanded(piece) or [piece] for piece in pieces]
    total = 1
    for option in options:
        total *= len(option)
    if total > 2**MAX_SIGNS:
        return Text(" ".join(token for piece in pieces for token in piece))
    if total > 1 and any(r"\mp" in piece for piece in pieces):
        signs = [{r"\pm": "+", r"\mp": "-"}, {r"\pm": "-", r"\mp": "+"}]
        rows = [[[s.get(token, token) for token in piece] for piece in pieces] for s in signs]
    else:
        rows = [list(row) for row in product(*options)]
    found = [Many(kind, tuple(_item(piece) for piece in row), brackets) for row in rows]
    return found[0] if len(found) == 1 else Many("pm", tuple(found))


def _set(inner: Tokens, *, plain: bool) -> Shape | None:
    if not inner:
        return _VOID
    for bar in ("|", r"\mid", ":"):
        pieces, signs = split(inner, frozenset((bar,)))
        if len(signs) == 1 and name_of([t for t in pieces[0] if t not in ("{", "}")][:1]):
            return region(_answer(pieces[1])) if pieces[1] else None
    pieces, _ = split(inner, frozenset((",", ";", r"\and")))
    pieces = [piece for piece in pieces if piece]
    if not 1 <= len(pieces) <= MAX_ITEMS or (plain and len(pieces) == 1):
        return None
    return Many("set", tuple(_flat([_item(piece) for piece in pieces])))


def _matrix(tokens: Tokens) -> Shape | None:
    if tokens[0].partition(":")[2] not in _MATRICES:
        return None
    rows, _ = split(tokens[1:-1], frozenset((r"\\", r"\cr")))
    cells = [split(row, frozenset("&"))[0] for row in rows if row]
    if not cells or len(cells) > MAX_ITEMS or not all(all(row) for row in cells):
        return None
    found = tuple(tuple(_item(cell) for cell in row) for row in cells)
    if all(len(row) == 1 for row in found):
        return Many("vector", tuple(row[0] for row in found), "column")
    return Matrix(found)


def _expanded(tokens: Tokens) -> list[Tokens] | None:
    r"""Return the tokens for each choice of signs; None without \pm."""
    places = [i for i, token in enumerate(tokens) if token in (r"\pm", r"\mp")]
    if not 0 < len(places) <= MAX_SIGNS:
        return None
    tied = any(tokens[i] == r"\mp" for i in places)
    choices = ["+" * len(places), "-" * len(places)] if tied else product("+-", repeat=len(places))
    flip = {"+": "-", "-": "+"}
    found = []
    for choice in choices:
        copy = list(tokens)
        for place, sign in zip(places, choice, strict=True):
            copy[place] = sign if tokens[place] == r"\pm" else flip[sign]
        found.append(copy)
    return found


def _signed(tokens: Tokens) -> Shape | None:
    options = _expanded(tokens)
    return Many("pm", tuple(_item(option) for option in options)) if options else None


def _ratio(tokens: Tokens) -> Shape | None:
    terms, signs = split(tokens, frozenset(":"))
    if len(terms) == 2 and all(terms) and all(map(is_word, terms[0])):  # Minimum: 3
        return Chain((_text(terms[0]), _item(terms[1])), (name_of(terms[0]), ""))
    if not signs or len(terms) > 10 or not all(terms):
        return None
    found = [_scalar(term) for term in terms]
    if any(item is None or item.tree is None for item in found):
        return None
    return Ratio(tuple(item for item in found if item is not None))


def _scalar(tokens: Tokens) -> Scalar | None:
    """Return an expression with what says its unit; None where words stand elsewhere."""
    if tokens and is_word(tokens[0]):
        return _with_currency(tokens)
    percent = False
    body, words = _before_words(tokens)
    if body and body[0] in (r"\$", r"\pounds", r"\euro"):
        body, words = body[1:], ["$", *words]
    elif len(body) > 1 and body[0] == "-" and body[1] == r"\$":
        body, words = ["-", *body[2:]], ["$", *words]
    if body and body[-1] in _PERCENT:
        body, percent = body[:-1], True
    if body[-4:] == _DEGREE:
        body, words = body[:-4], ["°", *words]
    spelled = [word.removeprefix('"') for word in words]
    words = [word.lower().strip(".") for word in spelled]
    scale = _SCALES.get(words[0].removesuffix("s"), 1) if words else 1
    words = words if scale == 1 else words[1:]
    if words and words[0] in ("percent", "pct", "percentage"):
        percent, words = True, words[1:]
    named = _unit(spelled[len(spelled) - len(words) :])  # whose symbols have a case
    if not body or _has_prose(body):
        return None
    try:
        tree: Expression | None = parse(body)
    except Unreadable:
        tree = None
    if tree and scale > 1:
        tree = ("multiply", tree, ("number", Fraction(scale)))
    return Scalar(" ".join(body), tree, named, tuple(words), percent)


def _has_prose(tokens: Tokens) -> bool:
    """Return whether there are words that are no subscript's."""
    depth = 0
    for place, token in enumerate(tokens):
        subscript = place > 0 and tokens[place - 1] == "_"
        if depth or (subscript and token == "{"):
            depth += (token == "{") - (token == "}")
        elif is_word(token) and not subscript:
            return True
    return False


def _unit(words: Tokens) -> Unit | None:
    return unit(" ".join(words).replace(" ^ ", "^").replace("{ ", "").replace(" }", "")) if words else None


def _with_currency(tokens: Tokens) -> Scalar | None:
    """Return USD 10 as 10 USD."""
    named = unit(tokens[0][1:])
    if named is None or not any(base in _CURRENCIES for base, _ in named.powers):
        return None
    return _scalar([*tokens[1:], tokens[0]])


def _in_unit(tokens: Tokens) -> bool:
    """Return whether the tokens are words with powers, products and quotients between them."""
    if len(tokens) > MAX_UNIT_TOKENS:
        return False
    return all(
        is_word(token) or token in _IN_UNITS or (token in "23" and place > 0)
        for place, token in enumerate(tokens)
    )


_IN_UNITS = frozenset(("^", "{", "}", "/", r"\cdot", "-", ".", "(", ")", r"\circ"))


def _before_words(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Return the tokens before the first word outside of brackets, and the unit from there on."""
    depth = 0
    for place, token in enumerate(tokens):
        depth += (token in _CLOSING) - (token in _CLOSING.values())
        if depth == 0 and is_word(token) and not (place and tokens[place - 1] == "_"):
            start = place - (place > 0 and tokens[place - 1] == "/")
            return (tokens[:start], tokens[start:]) if _in_unit(tokens[start:]) else (tokens, [])
    return tokens, []


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
    """Return a < x \\le b, or x < b, as the interval of the side that is a variable alone."""
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


def has_words(item: Shape) -> bool:
    """Return whether a part of the shape is mere text."""
    if isinstance(item, Text):
        return item != _VOID
    if isinstance(item, Chain):
        return any(
            has_words(side) for side, name in zip(item.sides, item.names, strict=True) if not name
        )
    if isinstance(item, Many):
        return any(map(has_words, item.items))
    if isinstance(item, Matrix):
        return any(has_words(entry) for row in item.rows for entry in row)
    return False
