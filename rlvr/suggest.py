"""Did-you-mean."""

import difflib
from collections.abc import Iterable, Sequence

_MOST = 3
"""Names that one slip may have come from, offered together."""


def candidates(given: str, known: Iterable[str]) -> list[str]:
    """Return the known names most like `given`, at most three; [] when none is close.

    Those that differ in the fewest slips come before those that merely look alike.

    Example:
        >>> candidates("top_", ["top_p", "top_k", "passes"]), candidates("to_pk", ["top_p", "top_k"])
        (['top_p', 'top_k'], ['top_k'])
        >>> candidates("ClipCov", ["clip_cov", "kl_cov"]), candidates("lr", ["seed"])
        (['clip_cov'], [])
    """
    names = list(known)
    if found := misspelt(given, names):
        return found
    plain = {_plain(name): name for name in names}
    near = difflib.get_close_matches(_plain(given), plain, n=1, cutoff=0.6)
    return [plain[name] for name in near]


def misspelt(given: str, known: Iterable[str]) -> list[str]:
    """Return the known names that `given` is by the fewest slips, at most three; [] when those are many.

    Example:
        >>> misspelt("scope_", ["scope", "fraction"]), misspelt("zscore", ["group_zscore"])
        (['scope'], [])
    """
    plain = {name: _plain(name) for name in known}
    wanted = _plain(given)
    counts = {name: _slips(wanted, other) for name, other in plain.items()}
    # of which some letter is left
    slips = {n: count for n, count in counts.items() if count < max(len(wanted), len(plain[n]))}
    fewest = min(slips.values(), default=len(wanted))
    if fewest <= max(1, len(wanted) // 4):
        return [name for name, count in slips.items() if count == fewest][:_MOST]
    return []


def closest(given: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `given`, or None when none is close.

    Example:
        >>> closest("groupsize", ["group_size", "top_k"])
        'group_size'
    """
    return next(iter(candidates(given, known)), None)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'a' or 'b'?` for the known names most like `given`; "" when none is close.

    Example:
        >>> did_you_mean("tpo_p", ["top_p", "top_k"])
        " Did you mean 'top_p'?"
    """
    return question(candidates(given, known))


def question(names: Sequence[str]) -> str:
    """Return ` Did you mean 'a' or 'b'?`, "" without names."""
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def unknown_name(what: str, given: str, known: Iterable[str]) -> str:
    """Return a sentence that rejects `given`, offers the closest known name and lists all.

    Example:
        >>> unknown_name("entropy control", "clipcov", ["clip_cov", "steer"])
        "unknown entropy control 'clipcov'. Did you mean 'clip_cov'? Known: clip_cov, steer."
    """
    names = sorted(known)
    return f"unknown {what} '{given}'.{did_you_mean(given, names)} Known: {', '.join(names) or 'none'}."


def _plain(name: str) -> str:
    """Return a name without what is often written otherwise: case, and what stands between words."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _slips(given: str, known: str) -> int:
    """Return how many letters left out, added, changed, or exchanged with their neighbour are between two words."""
    before: list[int] = []
    row = list(range(len(known) + 1))
    for i, letter in enumerate(given, start=1):
        above, before, row = before, row, [i]
        for j, other in enumerate(known, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == known[j - 2] and given[i - 2] == other:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]
