"""Subset sum: pick some of the given numbers so that they add up to the target.

    numbers 3 9 8 4 5, target 12   ->   3 9   or   8 4   or   3 4 5

Many answers are right. The completion lists the picked numbers, alone or in `<answer>` or a box,
with spaces, commas or + between them; "= 12" may follow. Each number at most as often as given.
"""

import re
from collections import Counter
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from rlvr.rewards.extraction import short_answer
from rlvr.rewards.integers import integer, integers
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("numbers", "target")
BOUNDED = True

MAX_ANSWER = 2000  # characters
_BETWEEN = re.compile(r"\s*[,+]\s*|\s+")
_BRACKETS = {"[": "]", "{": "}", "(": ")"}


class Config(BaseModel):
    """The subset sum verifier has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def fault(sample: Sample, config: Config) -> str | None:  # noqa: ARG001 - every verifier takes both
    """Return why the row is unusable; None if it is usable."""
    if not integers(sample.row.get("numbers")):
        return "`numbers` is not a list of integers"
    if integer(sample.row.get("target")) is None:
        return "`target` is not an integer"
    return None


def build(config: Config) -> Callable[[Sample], Verdict]:  # noqa: ARG001 - every verifier takes one
    """Return the verifier."""
    return verify


def verify(sample: Sample) -> Verdict:
    """Return the verdict on the picked numbers."""
    if reason := fault(sample, Config()):
        return skipped(reason)
    numbers, target = integers(sample.row["numbers"]) or [], integer(sample.row["target"])
    text = short_answer(sample.completion)
    if not text:
        return unparsable("no numbers")
    if len(text) > MAX_ANSWER:
        return unparsable(f"longer than {MAX_ANSWER} characters")
    text, equals, claim = text.strip("`$ .").replace("−", "-").partition("=")
    picked = _listed(text)
    if picked is None:
        return unparsable("not a list of integers")
    if extra := Counter(picked) - Counter(numbers):
        return wrong(f"uses {next(iter(extra))} more often than given")
    if sum(picked) != target:
        return wrong(f"the sum is {sum(picked)}, not {target}")
    if equals and integer(claim.strip()) != target:
        return wrong("says that the sum is something else")
    return CORRECT


def _listed(text: str) -> list[int] | None:
    text = text.strip().replace(r"\{", "{").replace(r"\}", "}")
    if text and _BRACKETS.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    found = [integer(piece) for piece in _BETWEEN.split(text)]
    return None if None in found else [item for item in found if item is not None]
