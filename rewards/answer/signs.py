r"""Plus-or-minus: 1 \pm 2 stands for two numbers, (\pm 1, \pm 2) for four pairs, \pm 1 \mp 2 for two."""

from itertools import product
from math import prod

from rlvr.rewards.answer.tokens import Tokens

MAX_SIGNS = 4  # in one answer

_UPPER = {r"\pm": "+", r"\mp": "-"}
_LOWER = {r"\pm": "-", r"\mp": "+"}


def both_signs(tokens: Tokens) -> list[Tokens]:
    r"""Return the tokens for each choice of signs; nothing where there are none, or too many.

    Signs are chosen one by one, but all together where \mp says that they belong together.

    Example:
        >>> both_signs(["1", r"\pm", "2"])
        [['1', '+', '2'], ['1', '-', '2']]
    """
    places = [place for place, token in enumerate(tokens) if token in _UPPER]
    if not 0 < len(places) <= MAX_SIGNS:
        return []
    if any(tokens[place] == r"\mp" for place in places):
        return [[signs.get(token, token) for token in tokens] for signs in (_UPPER, _LOWER)]
    found = []
    for choice in product("+-", repeat=len(places)):
        signs = dict(zip(places, choice, strict=True))
        found.append([signs.get(place, token) for place, token in enumerate(tokens)])
    return found


def all_signs(pieces: list[Tokens]) -> list[list[Tokens]]:
    """Return the pieces for each choice of signs in them; nothing where there are too many."""
    if any(r"\mp" in piece for piece in pieces):
        return [
            [[signs.get(token, token) for token in piece] for piece in pieces]
            for signs in (_UPPER, _LOWER)
        ]
    options = [both_signs(piece) or [piece] for piece in pieces]
    if prod(map(len, options)) > 2**MAX_SIGNS:
        return []
    return [list(row) for row in product(*options)]
