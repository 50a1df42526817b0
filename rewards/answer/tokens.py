r"""Tokens of an answer in canonical notation: numbers, commands, letters, words, signs.

    3\sqrt{2} cm and x_1   ->   3  \sqrt  {  2  }  "cm  \and  x  _  1

A word is marked by a quote. Letters that stand side by side are factors unless they are a word:
a function's name, a unit after a number, or at least four letters.
"""

import re

from rlvr.rewards.answer.notation import FUNCTION_NAMES

Tokens = list[str]

_TOKEN = re.compile(
    r"(?P<repeating>\d*\.\d*\\overline\s*\{\d+\})"
    r"|(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?![\w.]))?)"
    r"|\\text\{(?P<text>[^{}]*)\}"
    r"|\\(?P<edge>begin|end)\s*\{(?P<environment>[a-zA-Z]+\*?)\}(?:\{[lcr| ]*\})?"
    r"|(?P<command>\\[a-zA-Z]+|\\.)"
    r"|(?P<word>[a-zA-Z]{2,}|[^\W\d_a-zA-Z]+)|(?P<power>\*\*)|(?P<other>\S)",
    re.S,
)
_SPELLED = {name: f"\\{name}" for name in FUNCTION_NAMES | {"pi", "sqrt", "theta", "alpha", "beta"}}
_SPELLED |= {"infinity": r"\infty", "inf": r"\infty", "oo": r"\infty", "and": r"\and", "or": r"\or"}
_SPELLED |= {"arcsin": r"\asin", "arccos": r"\acos", "arctan": r"\atan"}
_UNITS = """cm mm km nm kg mg ft in yd mi oz lb lbs hr hrs min sec ms mL ml kWh mph kph am pm AM PM gal Hz
    kHz MHz kW MW mol Pa kPa eV rad deg sq cu pts dm dL kN kJ"""
_SHORT_UNITS = frozenset(_UNITS.split())
# two and three letters that, standing alone, are rather a word than a product
_WORDS = """no is am as at be by do if my on up it of to we he me us the has was can had all any may our are you not but for yes odd two
    six ten one day red see"""
_SMALL_WORDS = frozenset(_WORDS.split())
_CURRENCIES = frozenset(("USD", "EUR", "GBP", "JPY", "INR", "Rs", "US"))
_CAPITALISED = re.compile(r"[A-Z][a-z]{2}")
_PIECES = re.compile(r"[,;]|[^\s,;]+")
_NUMERAL = re.compile(r"\d+(?:\.\d+)?")

OPEN = frozenset(("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"))
CLOSE = frozenset((")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"))


def tokenize(text: str) -> Tokens:
    r"""Return the tokens of a canonical text.

    Example:
        >>> tokenize(r"3\frac{1}{2}xy \text{square feet}")
        ['3', '\\frac', '{', '1', '}', '{', '2', '}', 'x', 'y', '"square', '"feet']
    """
    tokens: Tokens = []
    for match in _TOKEN.finditer(text):
        kind, value = match.lastgroup, match[0]
        if kind == "word":
            alone = text[max(match.start() - 1, 0) : match.start()] in ("", " ") and text[
                match.end() : match.end() + 1
            ] in ("", " ")
            tokens += _word(value, tokens, alone=alone)
        elif kind == "text":
            tokens += _words(match["text"])
        elif kind == "environment":
            tokens.append(rf"\{match['edge']}:{match['environment']}")
        elif kind == "repeating":
            tokens.append(value.replace(r"\overline", "").replace("{", "(").replace("}", ")"))
        elif value != ".":
            tokens.append("^" if kind == "power" else value)
    return tokens


def _word(word: str, before: Tokens, *, alone: bool) -> Tokens:
    if word in _SPELLED:
        return [_SPELLED[word]]
    after_value = bool(before) and (is_number(before[-1]) or before[-1] in CLOSE)
    if len(word) > 3 or not word.isascii() or word in _CURRENCIES:
        return ['"' + word]
    if (
        (alone and word.lower() in _SMALL_WORDS)
        or _CAPITALISED.fullmatch(word)
        or (after_value and word in _SHORT_UNITS)
    ):
        return ['"' + word]
    return list(word)


def _words(text: str) -> Tokens:
    tokens: Tokens = []
    for piece in _PIECES.findall(text):
        if piece in ",;" or _NUMERAL.fullmatch(piece):
            tokens.append(piece)
        elif piece.lower() in ("and", "or"):
            tokens.append(f"\\{piece.lower()}")
        else:
            tokens.append('"' + piece)
    return tokens


def is_number(token: str) -> bool:
    """Return whether the token is a number; a word is marked, so its digits do not mislead."""
    return token[0] in "0123456789" or (token[0] == "." and len(token) > 1)


def is_word(token: str) -> bool:
    """Return whether the token is a word."""
    return token[0] == '"'


def split(tokens: Tokens, separators: frozenset[str]) -> tuple[list[Tokens], list[str]]:
    """Return the pieces between the separators that stand outside of brackets, and those separators.

    Example:
        >>> split(list("(1,2),3"), frozenset(","))
        ([['(', '1', ',', '2', ')'], ['3']], [','])
    """
    pieces: list[Tokens] = [[]]
    found: list[str] = []
    depth = 0
    for token in tokens:
        if token in OPEN or token.startswith(r"\begin:"):
            depth += 1
        elif token in CLOSE or token.startswith(r"\end:"):
            depth -= 1
        if depth == 0 and token in separators:
            found.append(token)
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces, found
