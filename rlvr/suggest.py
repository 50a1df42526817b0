"""Did-you-mean."""

import difflib
from collections.abc import Iterable


def closest(given: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `given`, or None when none is close.

    Example:
        >>> closest("groupsize", ["group_size", "top_k"])
        'group_size'
    """
    names = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(given.lower().replace("-", "_"), names, n=1, cutoff=0.6)
    return names[found[0]] if found else None


def unknown_name(what: str, given: str, known: Iterable[str]) -> str:
    """Return a sentence that rejects `given`, offers the closest known name and lists all.

    Example:
        >>> unknown_name("entropy control", "clipcov", ["clip_cov", "steer"])
        "unknown entropy control 'clipcov'. Did you mean 'clip_cov'? Known: clip_cov, steer."
    """
    names = sorted(known)
    suggestion = closest(given, names)
    question = f" Did you mean '{suggestion}'?" if suggestion else ""
    return f"unknown {what} '{given}'.{question} Known: {', '.join(names) or 'none'}."
