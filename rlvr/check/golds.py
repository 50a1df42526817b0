"""Do the verifiers of a recipe take its gold answers for right, stated as a model would state them?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.recipe import NamedItem
from rlvr.reward.audit import Problem, find
from rlvr.reward.wrapping import ORDINARY, WRAPPINGS
from rlvr.rewards import registry
from rlvr.rewards.common import split_options
from rlvr.rewards.plugin import is_reference

LOOKED_AT = 64
"""Rows, spread over the data."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Golds:
    """What a verifier makes of gold answers."""

    verifier: str
    wrap: str
    """How they were stated: the name of a wrapping."""
    count: int
    problems: list[Problem]
    """Of those that were not taken for right."""

    def describe(self) -> str:
        """Return the finding in a sentence, with the first gold that fails."""
        right = self.count - len(self.problems)
        text = f"{self.verifier}: {right} of {self.count} gold answers are right when stated ({self.wrap})"
        if not self.problems:
            return text
        first = self.problems[0]
        return (
            f"{text}; not {first.answer!r:.60}: {first.outcome or first.kind}, {first.reason:.100}"
        )


def spread(rows: Sequence[Row], count: int = LOOKED_AT) -> list[Row]:
    """Return at most `count` rows from all over the data."""
    return list(rows[:: max(1, len(rows) // count)][:count])


def check_golds(item: NamedItem, rows: Sequence[Row], workers: int | None) -> Golds | None:
    """Return what a verifier makes of the gold answers of a sample of rows.

    A verifier that does not ask for `answer` is tried only where that costs nothing, and what it finds counts only
    where it is good: the column may be something else to it.

    Args:
        item: Of `rewards.verifiers`; checked.
        rows: As `load_rows` returns them.
        workers: Processes; None: one a core.

    Returns:
        None where there is nothing to ask: no gold, a function of the user's, or a verifier that reads none.
    """
    sample = [row for row in spread(rows) if row.get("answer") is not None]
    if not sample or is_reference(item.name):
        return None
    module = registry.load(item.name)
    asks = "answer" in module.COLUMNS
    if not asks and not (module.COLUMNS and module.BOUNDED):
        return None
    _, options = split_options(item.options)
    usual = ORDINARY.get(item.name, "box")
    best = None
    for wrap in (usual, *(name for name in WRAPPINGS if name != usual)):
        problems = find(sample, wrap, (item.name, options), workers=workers)
        if best is None or len(problems) < len(best.problems):
            best = Golds(item.name, wrap, len(sample), problems)
        if len(best.problems) < len(sample):
            break
    assert best is not None
    return best if asks or not best.problems else None


def reads(item: NamedItem, wrap: str, rows: Sequence[Row], workers: int | None) -> bool:
    """Return whether a verifier takes gold answers for right that are stated in a way."""
    sample = [row for row in spread(rows, 8) if row.get("answer") is not None]
    _, options = split_options(item.options)
    found = find(sample, wrap, (item.name, options), workers=workers)
    return len(found) < len(sample)
