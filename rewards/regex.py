r"""Regex: the answer matches a pattern of Python's `re`, from the column `answer` or from an option.

    pattern  \d{4}-\d{2}-\d{2}   ->   <answer>2024-02-29</answer>

By default the pattern has to match the whole answer. It runs in a worker, as a pattern may need
exponential time: `(a+)+b`.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from pydantic import field_validator

from rlvr.rewards.answer.where import Placed, readings
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, wrong

COLUMNS: tuple[str, ...] = ()
OPTIONAL_COLUMNS = ("answer",)
BOUNDED = False

MAX_PATTERN = 10_000  # characters


class Config(Placed):
    """Options of the regex verifier."""

    pattern: str | None = None
    """Pattern of all rows; null: each row's own, in the column `answer`."""
    full: bool = True
    """The pattern matches the whole answer, without blanks at its ends; False: any part of it."""
    ignore_case: bool = False
    """Letters match in either case. Other flags stand in the pattern: (?s), (?m), (?x)."""

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, value: str | None) -> str | None:
        if value is not None and (reason := _flaw(value)):
            raise ValueError(reason)
        return value


def fault(sample: Sample, config: Config) -> str | None:
    """Return why the row is unusable; None if it is usable."""
    pattern = config.pattern if config.pattern is not None else sample.answer
    if not isinstance(pattern, str) or not pattern:
        return "there is no pattern: neither the option `pattern` nor a text in the column `answer`"
    if reason := _flaw(pattern):
        return f"the pattern {pattern[:80]!r} {reason}"
    if not config.full and _compiled(pattern, config.ignore_case).search(""):
        return f"the pattern {pattern[:80]!r} matches every text; set full, or ask for more"
    return None


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier; a pattern decides how long it takes."""

    def verify(sample: Sample) -> Verdict:
        if reason := fault(sample, config):
            return skipped(reason)
        pattern = _compiled(config.pattern or sample.answer, config.ignore_case)
        texts = readings(sample.completion, config)
        if isinstance(texts, Verdict):
            return texts
        match = pattern.fullmatch if config.full else pattern.search
        return CORRECT if any(match(text.strip()) for text in texts) else wrong()

    return verify


def _flaw(pattern: str) -> str | None:
    """Return what is wrong with a pattern, None for nothing."""
    if len(pattern) > MAX_PATTERN:
        return f"is longer than {MAX_PATTERN} characters"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is no regular expression of Python: {error}"
    return None


@lru_cache(maxsize=256)
def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE if ignore_case else 0)
