r"""Algebra: math-verify, for the expressions that our own parser does not read.

It is asked last, about one expression at a time, and only where nothing in either text can keep
sympy busy: no towers, large factorials or long sums. Its own timeouts are off (`signal.alarm` works
in no thread); the pool kills. An integral or sum is equal only to a gold answer that has one too.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

MAX_TEXT = 300  # characters
MAX_NESTING = 8  # brackets; 30 cost latex2sympy 16 seconds

_LONG_NUMBER = re.compile(r"\d{16}|[\d)]\s*_")  # bases are tried digit by digit
_TOWER = re.compile(
    r"\^\s*(?:\{[^{}]*(?:[\^!\\]|\d{4})|\d{4}|(?:\{[^{}]*\}|\S)\s*\^)"  # exponents of exponents
)
_FACTORIAL = re.compile(r"!\s*!|\d{3}\s*!|\)\s*!|\\binom|\\Gamma|\\mod|\\bmod")
_UNDONE = re.compile(r"\\(?:int|iint|sum|prod|lim|frac\s*\{\s*d)(?![a-zA-Z])")
_WIDE = re.compile(r"\\(?:sum|prod).*\d{3}", re.S)
_SUBSCRIPT = re.compile(r"_\s*\{[^{}]*\}")
_WORDS = re.compile(r"\\text|[<>=]|\\(?:le|ge|ne|lor|land|pm|mp|or|and|infty)(?![a-zA-Z])")


def algebra() -> Callable[[str, str], bool]:
    """Return the comparison of a gold expression with an answer's."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    targets = (math_verify.LatexExtractionConfig(boxed_match_priority=0),)

    def parsed(text: str) -> list[Any]:
        return math_verify.parse(
            rf"\boxed{{{text}}}", targets, fallback_mode="no_fallback", parsing_timeout=None
        )

    def equal(gold: str, answer: str) -> bool:
        if not (tame(gold) and tame(answer)):
            return False
        if set(_UNDONE.findall(answer)) - set(_UNDONE.findall(gold)):
            return False
        return bool(math_verify.verify(parsed(gold), parsed(answer), timeout_seconds=None))

    parsed(r"\frac{1}{2}")  # compiles the grammar and the patterns before the first deadline runs
    return equal


def tame(text: str) -> bool:
    r"""Return whether sympy can be asked about the text.

    Example:
        >>> tame(r"\int_0^1 x dx"), tame("9^{9^{9}}"), tame("5 or 7"), tame(r"\sum_{n=1}^{1000} n")
        (True, False, True, False)
    """
    if len(text) > MAX_TEXT or _WORDS.search(_SUBSCRIPT.sub("", text)):
        return False
    if any(pattern.search(text) for pattern in (_LONG_NUMBER, _TOWER, _FACTORIAL, _WIDE)):
        return False
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING
