"""What the left side of an equation names: x, a_1, f(x), AB, (x, y), the area."""

import re

from rlvr.rewards.answer.tokens import Tokens, is_word, split

MAX_WORDS, MAX_NAME = 4, 40  # of "the area" before =

_APPLIED = re.compile(r"(?:[A-Za-z]|\\[a-zA-Z]+)(?:_(?:\{[^{}]*\}|\w))?(?:'*|\^\{-1\})\([^()]*\)")
_ANGLED = re.compile(r"\\(?:sin|cos|tan|cot|log|ln)(?:\^\{?2\}?)?(?:\\[a-zA-Z]+|[A-Za-z])")
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
        return words if len(tokens) <= MAX_WORDS and len(words) <= MAX_NAME else ""
    text = "".join(tokens).replace('"', "")
    if couple := _COUPLE.fullmatch(text):
        parts = split(tokens[1:-1], frozenset(","))[0]
        names = [name_of(part) for part in parts]
        return f"({','.join(names)})" if all(names) and couple else ""
    if text in _NO_NAMES or not re.search("[a-zA-Z]", text):
        return ""
    named = _NAMED.fullmatch(text) or _APPLIED.fullmatch(text) or _LENGTHS.fullmatch(text)
    named = named or _ANGLED.fullmatch(text)
    return text.replace("{", "").replace("}", "") if named else ""


def compound_name(tokens: Tokens) -> str:
    """Return a + b + c as the name of a sum that was asked for; "" for anything else."""
    text = "".join(tokens)
    return text if _COMPOUND.fullmatch(text) else ""
