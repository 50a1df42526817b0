r"""What is read before the rest: a number with its base, and where an answer holds.

1011_2    (25)_{\text{six}}    12 \text{ base } 8
f(x) = 2x \text{ for all real } x       k\pi, k \in \mathbb{Z}
"""

import re

from rlvr.rewards.answer.shapes import Based

_BASED = re.compile(
    r"\(?\{?([0-9A-F]*[0-9][0-9A-Za-z]*)\}?\)?_\{?\s*\(?\s*(?:\\text\{\s*)?(\w+)\s*\}?\s*\)?\}?"
)
_IN_BASE = re.compile(r"([0-9][0-9A-Za-z]*)\s*\\text\{\s*(?:\(?in )?base\s*(\w+)\s*\)?\s*\}")
_NAMES = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_BASES = {word: number for number, word in enumerate(_NAMES.split(), start=2)}
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
    r"(?:integers?|numbers?|reals?)?\s*\}\s*[a-zA-Z]?(?:\s*\\in\s*"
    + _NUMBER_SETS
    + r"|\s*\\[gl]e\s*\d+"
    r"|\s*[<>]\s*\d+)?\s*(?=,|;|$|\\text)"
)


def in_base(text: str) -> Based | None:
    r"""Return the number with its base; None if the text is anything else.

    Example:
        >>> in_base("204_{(5)}"), in_base("x_2")
        (Based(digits='204', base=5), None)
    """
    match = _BASED.fullmatch(text) or _IN_BASE.fullmatch(text)
    if match is None:
        return None
    name = match[2].lower()
    base = _BASES.get(name) or (int(name) if name.isdecimal() and len(name) < 3 else 0)
    return Based(match[1].upper(), base) if base > 1 else None


def unqualified(text: str) -> str:
    r"""Return the text without "for all integers n", "where k \in Z" at its end.

    Example:
        >>> unqualified(r"n\pi, n \in \mathbb{Z}")
        'n\\pi'
    """
    return _QUALIFIER.sub("", _FOR_ALL.sub("", text))
