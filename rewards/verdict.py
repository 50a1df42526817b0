"""What a verifier says about one completion, and what it is shown.

A verdict is not a reward: the recipe's `rewards.scores` turns the outcome into a number, so that a
crashed or late verifier is never silently the same as a wrong answer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_REASON = 500  # characters; a reason is for a person and for a log line


class Outcome(StrEnum):
    """What happened when a completion was checked."""

    CORRECT = "correct"
    WRONG = "wrong"
    PARTIAL = "partial"
    """Some of it is right; `Verdict.fraction` says how much."""
    UNPARSABLE = "unparsable"
    """No answer was found in the completion."""
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    SKIPPED = "skipped"
    """The row has no usable gold answer, so nothing can be said."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of checking one completion.

    Attributes:
        outcome: What happened.
        fraction: Share that is right, in [0, 1]; 1 for correct.
        reason: One line for a person; "" when the outcome says it all.
        seconds: Wall time of the check.
        value: The reward itself where a user's function returned a number; None leaves it to the
            recipe's scores.
    """

    outcome: Outcome
    fraction: float = 0.0
    reason: str = ""
    seconds: float = 0.0
    value: float | None = None

    def __post_init__(self) -> None:
        if self.outcome is Outcome.CORRECT:
            object.__setattr__(self, "fraction", 1.0)
        if not 0.0 <= self.fraction <= 1.0:  # also refuses nan
            raise ValueError(f"fraction is {self.fraction}; it must be in [0, 1]")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value is {self.value}; it must be a finite number")
        if len(self.reason) > MAX_REASON:
            object.__setattr__(self, "reason", self.reason[: MAX_REASON - 3] + "...")


@dataclass(frozen=True)
class Sample:
    """One completion as a verifier sees it.

    Attributes:
        prompt: Text, or chat messages.
        completion: The text that the model wrote.
        answer: The row's gold answer; None where the task has none.
        row: The other columns of the row.
        truncated: The completion was cut at the length limit.
        length: Tokens of the completion; None where it is not known.
    """

    prompt: str | list[dict[str, Any]]
    completion: str
    answer: Any = None
    row: Mapping[str, Any] = field(default_factory=dict)
    truncated: bool = False
    length: int | None = None


CORRECT = Verdict(Outcome.CORRECT)


def wrong(reason: str = "") -> Verdict:
    """Return a WRONG verdict."""
    return Verdict(Outcome.WRONG, reason=reason)


def partial(fraction: float, reason: str = "") -> Verdict:
    """Return the verdict on an answer of which a share is right: CORRECT at 1, WRONG at 0.

    Example:
        >>> partial(0.5).outcome.value, partial(1.0).outcome.value
        ('partial', 'correct')
    """
    if fraction >= 1.0:
        return CORRECT
    if fraction <= 0.0:
        return wrong(reason)
    return Verdict(Outcome.PARTIAL, fraction=fraction, reason=reason)


def unparsable(reason: str) -> Verdict:
    """Return an UNPARSABLE verdict."""
    return Verdict(Outcome.UNPARSABLE, reason=reason)


def skipped(reason: str) -> Verdict:
    """Return a SKIPPED verdict."""
    return Verdict(Outcome.SKIPPED, reason=reason)


def crashed(reason: str) -> Verdict:
    """Return a CRASHED verdict."""
    return Verdict(Outcome.CRASHED, reason=reason)
