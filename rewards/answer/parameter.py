r"""Names of parameters: in \frac{\pi}{6} + k\pi, or (3t, 5t) for integers t, the letter says nothing."""

import re

from rlvr.rewards.answer.notation import canonical

_KIND = r"(?:(?:positive|non-?negative|negative|real|rational|natural|whole|arbitrary)\s)*"
_DECLARED = re.compile(
    rf"(?:some|all|any|every|each|an?)\s{_KIND}(?:integers?|numbers?)\s*\}}?\s*([a-zA-Z])(?![a-zA-Z])"
    r"|(?<![a-zA-Z\\])([a-zA-Z])\s*\\in\s*\\mathbb\{?[ZN]"
    rf"|(?<![a-zA-Z\\])([a-zA-Z])\s*(?:\\text\{{)?\s*is\s(?:an?|any)\s{_KIND}(?:integer|constant)"
)
_PERIODIC = re.compile(
    r"\\pi\s*(?:\\cdot\s*)?([kmnlpt])(?![a-zA-Z_])"
    r"|(?<![a-zA-Z\\])([kmnlpt])\s*(?:\\cdot\s*)?\\pi(?![a-zA-Z])"
)
_WORDS = re.compile(r"\\mathbb\{?[A-Z]\}?|\\text\{[^{}]*\}|\\[a-zA-Z]+")
_NAME = re.compile(r"^[^=<>]{1,40}=|^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])")
_LETTER = re.compile(r"[a-zA-Z]")


def renamed(gold: str, answer: str) -> str | None:
    r"""Return the answer with its parameter called as in the gold; None where there is none.

    Example:
        >>> renamed(r"\frac{\pi}{6} + k\pi", r"\frac{\pi}{6} + n\pi")
        '\\frac{\\pi}{6} + k\\pi'
    """
    gold, answer = canonical(gold), canonical(answer)
    ours, theirs = (_letters(_NAME.sub("", text)) for text in (gold, answer))
    missing, extra = ours - theirs, theirs - ours
    if len(missing) != 1 or len(extra) != 1:
        return None
    (name,), (other,) = missing, extra
    several = "(" in gold and "," in gold  # a family of solutions
    known = name in _parameters(gold) or (several and other in _parameters(answer))
    if not known or (other not in _parameters(answer) and name not in _declared(gold)):
        return None
    return re.sub(rf"(?<![a-zA-Z\\]){other}(?![a-zA-Z])", name, answer)


def _letters(text: str) -> set[str]:
    return set(_LETTER.findall(_WORDS.sub(" ", text)))


def _declared(text: str) -> set[str]:
    return {letter for groups in _DECLARED.findall(text) for letter in groups if letter}


def _parameters(text: str) -> set[str]:
    return _declared(text) | {
        letter for pair in _PERIODIC.findall(text) for letter in pair if letter
    }
