"""Rules of puzzles that reasoning-gym's own scorers do not check.

`puzzle24` pays for any four numbers that make 24, and for 24.9; `knights_knaves` reads "Ann is a
knight and a knave" as the first of the two.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from rlvr.rewards import countdown
from rlvr.rewards.integers import integer, integers
from rlvr.rewards.verdict import Outcome

_WORD = re.compile(r"[^\W_]+")
_FILLERS = frozenset({"is", "a", "an", "and", "the", "so", "therefore", "thus", "hence"})


def breaks_rule(task: str, answer: str, entry: Mapping[str, Any]) -> bool:
    """Return whether an answer breaks a rule of its puzzle; False where no rule is known."""
    rule = _RULES.get(task)
    return rule is not None and rule(answer, entry)


def _is_no_expression(answer: str, entry: Mapping[str, Any]) -> bool:
    metadata = entry.get("metadata") or {}
    numbers, target = integers(metadata.get("numbers")), integer(metadata.get("target", 24))
    if not numbers or target is None:
        return False
    return countdown.check(answer, numbers, target).outcome is not Outcome.CORRECT


def _is_no_set_of_claims(answer: str, entry: Mapping[str, Any]) -> bool:  # noqa: ARG001 - as all rules
    """Return whether the text is more than a list of names with one role each."""
    from reasoning_gym.logic.knights_knaves import VALID_ROLES

    words = [word for word in _WORD.findall(answer.lower()) if word not in _FILLERS]
    names, roles = words[::2], words[1::2]
    if len(names) != len(roles) or not set(roles) <= set(VALID_ROLES) or set(names) & set(roles):
        return True
    return len(set(zip(names, roles, strict=True))) != len(set(names))


_RULES: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "countdown": _is_no_expression,
    "puzzle24": _is_no_expression,
    "knights_knaves": _is_no_set_of_claims,
}
