"""Whether a text leaves its answer open, or takes it back: words that make a guess of an answer."""

import re

_OPEN = re.compile(r"\b(?:or|either|maybe|perhaps|possibly|alternatively)\b|\\lor\b|\?", re.I)
_BACK = re.compile(
    r"\b(?:wrong|incorrect|ignore|disregard)\b|\b(?:not|n't|isn't)\s+(?:\w+\s+)?(?:right|correct|true|sure)\b",
    re.I,
)
_RETRACTED = re.compile(
    r"\b(?:this|that|it|which)\s(?:is|was|must be|might be)\s(?:\w+\s)?(?:wrong|incorrect|not\s(?:right|correct|true))\b"
    r"|\b(?:ignore|disregard)\s(?:this|that|it)\b|\bscratch\sthat\b|\bnever\s?mind\b"
    r"|(?:^|[.!?\n—])\s{0,4}(?:just kidding|wait|no|sorry|oops|actually|correction)\b[^.!?\n]{0,60}?"
    r"\b(?:it|this|that|answer)(?:'s|\s(?:is|was|should be|must be))\s(?:\$|\\[(b]|\(?[A-Z]\b|[-+]?\d)",
    re.I,
)
_DENIED_NEXT = re.compile(
    r"[\s$*)\]\\.,]{0,8}(?:is|was|would be)\s(?:\w+\s)?(?:wrong|incorrect|false|not\s(?:right|correct|true))\b",
    re.I,
)


def leaves_open(text: str) -> bool:
    """Return whether the text offers alternatives or asks.

    Example:
        >>> leaves_open("5 or 7"), leaves_open("5 more")
        (True, False)
    """
    return bool(_OPEN.search(text))


def takes_back(text: str) -> bool:
    """Return whether the text denies what it says.

    Example:
        >>> takes_back("5 (this is wrong, ignore it)"), takes_back("5, not 6")
        (True, False)
    """
    return bool(_BACK.search(text))


def retracts(text: str) -> bool:
    """Return whether the text takes back what was said before it.

    Example:
        >>> retracts("This is wrong."), retracts("The other options are wrong.")
        (True, False)
        >>> retracts("Just kidding, it is 8."), retracts("Actually, it is easy to check.")
        (True, False)
    """
    return bool(_RETRACTED.search(text))


def denied(after: str) -> bool:
    """Return whether what follows an answer denies it.

    Example:
        >>> denied("$ is incorrect."), denied(" On reflection, this is wrong."), denied(" Done.")
        (True, True, False)
    """
    return _DENIED_NEXT.match(after) is not None or retracts(after)
