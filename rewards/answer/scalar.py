r"""A number or expression with its unit, percent sign or currency: 5 \text{ cm}^2, 20\%, USD 10."""

import re
from fractions import Fraction

from rlvr.rewards.answer.expression import Expression, product
from rlvr.rewards.answer.notation import FUNCTION_NAMES
from rlvr.rewards.answer.parser import Unreadable, parse
from rlvr.rewards.answer.shapes import Scalar
from rlvr.rewards.answer.tokens import CLOSE, OPEN, Tokens, is_word
from rlvr.rewards.answer.units import Unit, unit

MAX_UNIT_TOKENS = 12

_CURRENCIES = frozenset("$€£¥₹")
_SIGNS = frozenset((r"\$", r"\pounds", r"\euro"))
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES |= {"trillion": 10**12, "dozen": 12}
_PERCENT = frozenset(("%", r"\%"))
_PERCENT_WORDS = frozenset(("percent", "pct", "percentage"))
_DEGREE = ["^", "{", r"\circ", "}"]
_GLUE = re.compile(r"\s*([\^{}-])\s*")
_BEFORE_POWER = frozenset(("^", "{", "-"))
_IN_UNITS = frozenset(("^", "{", "}", "/", r"\cdot", "-", ".", "(", ")", r"\circ"))


def scalar(tokens: Tokens) -> Scalar | None:
    """Return an expression with what says its unit; None where words stand elsewhere.

    Example:
        >>> scalar(["5", '"km']).unit_words, scalar(["5", '"km', "+", "1"])
        (('km',), None)
    """
    if tokens and is_word(tokens[0]):
        return _with_currency(tokens)
    body, words = _before_words(tokens)
    body, sign = _without_currency(body)
    body, percent = (body[:-1], True) if body and body[-1] in _PERCENT else (body, False)
    if body[-4:] == _DEGREE and not any(map(_is_function, body)):
        body, sign = body[:-4], ["°"]
    if not body or _has_prose(body):
        return None
    words = [*sign, *(word.removeprefix('"') for word in words)]
    scale = _SCALES.get(words[0].lower().removesuffix("s"), 1) if words else 1
    words = words[scale > 1 :]
    if words and words[0].lower() in _PERCENT_WORDS:
        percent, words = True, words[1:]
    lower = tuple(word.lower().strip(".") for word in words)
    return Scalar(" ".join(body), _tree(body, scale), _unit(words), lower, percent)


def _is_function(token: str) -> bool:
    return token[1:] in FUNCTION_NAMES


def _tree(body: Tokens, scale: int) -> Expression | None:
    try:
        tree = parse(body)
    except Unreadable:
        return None
    return product(tree, Fraction(scale)) if scale > 1 else tree


def _unit(words: Tokens) -> Unit | None:
    return unit(_GLUE.sub(r"\1", " ".join(words))) if words else None


def _without_currency(body: Tokens) -> tuple[Tokens, Tokens]:
    """Return $5 and -$5 as the number and the sign."""
    for place in (0, 1):
        if len(body) > place and body[place] in _SIGNS and body[:place] in ([], ["-"]):
            return [*body[:place], *body[place + 1 :]], ["$"]
    return body, []


def _with_currency(tokens: Tokens) -> Scalar | None:
    """Return USD 10 as 10 USD."""
    named = unit(tokens[0][1:]) if len(tokens) > 1 and not is_word(tokens[1]) else None
    if named is None or not any(base in _CURRENCIES for base, _ in named.powers):
        return None
    return scalar([*tokens[1:], tokens[0]])


def _before_words(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Return the tokens before the first word outside of brackets, and the unit from there on."""
    depth = 0
    for place, token in enumerate(tokens):
        depth += (token in OPEN) - (token in CLOSE)
        if depth == 0 and is_word(token) and not (place and tokens[place - 1] == "_"):
            start = place - (place > 0 and tokens[place - 1] == "/")
            return (tokens[:start], tokens[start:]) if _in_unit(tokens[start:]) else (tokens, [])
    return tokens, []


def _in_unit(tokens: Tokens) -> bool:
    """Return whether the tokens are words with powers, products and quotients between them."""
    return len(tokens) <= MAX_UNIT_TOKENS and all(
        is_word(token)
        or token in _IN_UNITS
        or (place > 0 and token in ("1", "2", "3") and tokens[place - 1] in _BEFORE_POWER)
        or (place > 0 and token in ("2", "3") and is_word(tokens[place - 1]))
        for place, token in enumerate(tokens)
    )


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
