r"""How the text of an answer is read, from the outside in: lists, equations, sets, brackets, numbers.

All of the answer is accounted for: what has no place in a shape makes the whole of it `Text`.
"""

import re
from functools import lru_cache

from rlvr.rewards.answer.expression import INFINITY, Expression
from rlvr.rewards.answer.names import compound_name, name_of
from rlvr.rewards.answer.notation import canonical
from rlvr.rewards.answer.parser import Unreadable
from rlvr.rewards.answer.region import EVERYTHING, region, together, without
from rlvr.rewards.answer.scalar import scalar
from rlvr.rewards.answer.shapes import (
    VOID,
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
from rlvr.rewards.answer.signs import all_signs, both_signs
from rlvr.rewards.answer.tokens import Tokens, is_word, split, tokenize
from rlvr.rewards.answer.written import in_base, unqualified

MAX_ITEMS = 200

_LISTED = frozenset((",", r"\and", r"\or", r"\lor", r"\land", r"\text{,}"))
_EITHER = frozenset((r"\or", r"\lor"))
_EQUAL = frozenset(("=", r"\approx", r"\simeq", r"\cong", r"\doteq"))
_ORDER = {"<": "<", ">": ">", r"\le": "le", r"\ge": "ge", r"\ne": "ne"}
_RELATIONS = _EQUAL | _ORDER.keys()
_PAIRED = {"<=": r"\le ", "=<": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "==": "=", ":=": "="}
_PAIRED_SIGN = re.compile("|".join(map(re.escape, _PAIRED)))
_MATRICES = frozenset(
    (
        "matrix",
        "pmatrix",
        "bmatrix",
        "Bmatrix",
        "vmatrix",
        "Vmatrix",
        "smallmatrix",
        "array",
        "cases",
    )
)
_NOTHING = {"no solution", "no solutions", "no real solution", "no real solutions", "empty set"}
_NOTHING |= {"the empty set", "none", r"\emptyset", r"\{ \}"}
_EVERYTHING = {r"\mathbb { R }", r"\mathbb R", "all real numbers", "all reals", "all real x"}
_UNDEFINED = {"dne", "does not exist", "undefined", "d n e"}
_UNLIMITED = {"infinitely many", "infinite", "infinity"}


@lru_cache(maxsize=256)
def shape(text: str) -> Shape:
    r"""Return the shape of an answer.

    Example:
        >>> shape(r"x \in \{1, 2\}").kind, shape("(1, 2]").brackets
        ('set', '(]')
    """
    text = _PAIRED_SIGN.sub(lambda match: _PAIRED[match[0]], canonical(text))
    return in_base(text) or _answer(tokenize(unqualified(text)))


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
    if not either and (found := _conditions(shapes)):
        return found
    if either or any(isinstance(item, Region) for item in shapes):
        regions = [region(item) for item in shapes]
        if all(regions) and any(not isinstance(item, Scalar | Chain) for item in shapes):
            return Region(tuple(part for found in regions if found for part in found.parts))
    return Many("list", tuple(_grouped(_flat(shapes))))


def _conditions(shapes: list[Shape]) -> Shape | None:
    r"""Return x > 0, x \ne 2 as a region, and f(x) = 1/x, x \ne 0 without where it is defined."""
    first, *rest = shapes
    if isinstance(first, Chain) and "(" in first.names[0]:
        return first if all(isinstance(item, Inequality) for item in rest) else None
    conditions = [item for item in shapes if item != EVERYTHING]
    inequalities = [item for item in conditions if isinstance(item, Inequality)]
    return together(inequalities) if len(inequalities) == len(conditions) else None


def _flat(shapes: list[Shape]) -> list[Shape]:
    r"""Return the shapes with 1 \pm 2 as two of them."""
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
    return _cached_item(tuple(tokens))


@lru_cache(maxsize=512)  # several rules may read one piece: without it the time doubles by nesting
def _cached_item(key: tuple[str, ...]) -> Shape:
    tokens = list(key)
    if len(tokens) == 1 and len(tokens[0]) == 2 and is_word(tokens[0]):
        tokens = [tokens[0][1]]  # a letter
    words = " ".join(tokens).replace('"', "")
    if words.lower() in _NOTHING:
        return VOID
    if words.lower() in _UNDEFINED:
        return Text("undefined")
    if words in _EVERYTHING:
        return EVERYTHING
    if words.lower() in _UNLIMITED:
        tokens = [r"\infty"]
    for rule in (_member, _united, _related, _enclosed, _signed, _ratio):
        found = rule(tokens)
        if found is not None:
            return found
    return scalar(tokens) or _text(tokens)


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
        whole = Region(whole.parts + part.parts) if sign == r"\cup" else without(whole, part)
    return whole


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
        names[0] = compound_name(sides[0])
    shapes = [_item(side) for side in sides]
    exact, rough = [shapes[0]], list[Shape]()
    for sign, side in zip(signs, shapes[1:], strict=True):
        (exact if sign == "=" else rough).append(side)
    if not any(name == "" for name in names[: len(exact)]) and rough:
        exact, rough = [*exact, rough[0]], rough[1:]  # x \approx 3.14
        names = [*names[: len(exact) - 1], "", ""]
    if len(exact) == 1 and not rough:
        return exact[0]
    return Chain(tuple(exact), tuple(names[: len(exact)]), tuple(rough))


def _bound(tokens: Tokens) -> Expression:
    r"""Return an expression, or an infinity with its sign."""
    if tokens and tokens[0] == "+" and tokens[1:] == [r"\infty"]:
        return INFINITY
    found = scalar(tokens)  # 30^\circ < x: the unit of both sides goes unsaid
    if found is None or found.tree is None:
        raise Unreadable
    return found.tree


_ENDS = frozenset((")", "]", r"\}", "}"))
_CLOSING = {"(": ")", "[": "]", r"\{": r"\}", "{": "}", r"\langle": r"\rangle"}


def _enclosed(tokens: Tokens) -> Shape | None:
    """Return a set, tuple, interval, vector or matrix."""
    if tokens[0].startswith(r"\begin:") and tokens[-1].startswith(r"\end:"):
        return _matrix(tokens)
    if tokens[0] == r"\{" and len(tokens) > 3 and tokens[1].startswith(r"\begin:"):
        tokens = tokens[1:]  # one brace on the left of a system
        return _matrix(tokens) if tokens[-1].startswith(r"\end:") else None
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
    return _tuple(kind, pieces, opening + closing)


def _closes_at_end(tokens: Tokens) -> bool:
    """Return whether the first bracket closes with the last token: not so in (1,2),(3,4)."""
    depth = 0
    for token in tokens[:-1]:
        depth += (token in _CLOSING) - (token in _CLOSING.values())
        if depth <= 0:
            return False
    return True


def _tuple(kind: str, pieces: list[Tokens], brackets: str) -> Shape:
    r"""Return the tuple; with \pm in it, the tuples for all signs."""
    rows = all_signs(pieces)
    found = [Many(kind, tuple(map(_item, row)), brackets) for row in rows]
    if not found:
        return _text([token for piece in pieces for token in piece])
    return found[0] if len(found) == 1 else Many("pm", tuple(found))


def _set(inner: Tokens, *, plain: bool) -> Shape | None:
    if not inner:
        return VOID
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
    found = tuple(tuple(map(_item, row)) for row in cells)
    if all(len(row) == 1 and isinstance(row[0], Chain) for row in found):
        return Many("list", tuple(row[0] for row in found))
    if all(len(row) == 1 for row in found):
        return Many("vector", tuple(row[0] for row in found), "column")
    return Matrix(found)


def _signed(tokens: Tokens) -> Shape | None:
    options = both_signs(tokens)
    return Many("pm", tuple(map(_item, options))) if options else None


def _ratio(tokens: Tokens) -> Shape | None:
    terms, signs = split(tokens, frozenset(":"))
    if len(terms) == 2 and all(terms) and all(map(is_word, terms[0])):  # Minimum: 3
        return Chain((_text(terms[0]), _item(terms[1])), (name_of(terms[0]), ""))
    if not signs or len(terms) > 10 or not all(terms):
        return None
    found = [scalar(term) for term in terms]
    if any(item is None or item.tree is None for item in found):
        return None
    return Ratio(tuple(item for item in found if item is not None))
