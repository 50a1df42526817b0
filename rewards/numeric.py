r"""Numeric: the final answer is the gold number, with tolerance, unit and percent sign.

    gold 5 km      ->   5000 m   \boxed{5}   "The answer is 5 km."       but not 5 m

Integers and fractions are compared exactly, decimals within a relative 1e-6; there is no absolute
tolerance unless one is given, so tiny numbers stay apart. A unit that only one side has is no
difference; two units are converted, or they differ. An answer is one number: not an expression, a
list, a range or a choice (the verifier `math` compares expressions).
"""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rlvr.rewards.answer.measurement import (
    Measurement,
    last_measurement,
    measurement,
    stated_measurement,
)
from rlvr.rewards.answer.place import Found, find
from rlvr.rewards.answer.units import unit
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("answer",)
BOUNDED = True

DECIMAL_TOLERANCE = Fraction(1, 10**6)
"""Relative; for numbers that are not written exactly. Single precision, printed, is within it."""


MAX_STATED = 4
"""Numbers that "the answer is" names in turn; more are a list of guesses."""


class Config(BaseModel):
    """Options of the numeric verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    relative: float | None = Field(default=None, ge=0, lt=1)
    """Tolerance as a share of the gold number, for every gold, integers too; 0.01 is one per cent.
    null: 1e-6 for decimals, and integers and fractions exactly."""
    absolute: float = Field(default=0.0, ge=0)
    """Tolerance in the gold's unit; it makes all smaller numbers equal to 0."""
    significant: int | None = Field(default=None, ge=1)
    """An answer with at least this many significant digits is right where it is the gold number
    rounded to them (3: 3.14 for 3.14159); so is one whose rounding is the gold. null: never."""
    unit: Literal["optional", "required", "ignored"] = "optional"
    """optional: either side may leave it out. required: the answer states the gold's unit, or one
    that can be converted. ignored: only numbers count, and 5 m is 5 km."""
    percent: Literal["either", "strict"] = "either"
    """Whether 25 is 25%. either: it is, since the question may ask for per cent; 0.25 is 25% too, but
    not 0.25%, as a number below 1 is a share. strict: the sign is a factor of 1/100."""
    last_number: bool = False
    """Where no final answer is stated, the last number of the text is it. Easily right by chance."""


def fault(sample: Sample, config: Config) -> str | None:
    """Return why the gold answer is unusable; None if it is usable."""
    gold = gold_measurement(str(sample.answer))
    if gold is None:
        return f"the gold answer {str(sample.answer)[:80]!r} is not one number"
    if config.unit == "required" and not gold.unit:
        return f"the gold answer {str(sample.answer)[:80]!r} has no unit, and `unit` is required"
    return None


@lru_cache(maxsize=1024)
def gold_measurement(answer: str) -> Measurement | None:
    """Return the gold number; of a full solution its final answer."""
    found = find(answer)
    answers = [] if isinstance(found, Verdict) else _answers(found)
    return answers[0] if len(answers) == 1 else None


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def verify(sample: Sample) -> Verdict:
        reason, gold = fault(sample, config), gold_measurement(str(sample.answer))
        if reason or gold is None:
            return skipped(reason or "")
        found = find(sample.completion)
        if isinstance(found, Verdict):
            return found
        answers = _answers(found)
        if not answers and config.last_number and found.kind == "whole":
            last = last_measurement(found.texts[0])
            answers = [] if last is None else [last]
        if not answers:
            return unparsable("no single number is the final answer")
        faults = [_difference(gold, answer, config) for answer in answers]
        if len(set(map(bool, faults))) > 1:
            return unparsable("boxed answers that disagree")
        return wrong(faults[0]) if faults[0] else CORRECT

    return verify


def _answers(found: Found) -> list[Measurement]:
    """Return the numbers that are the answer, all of them where several are boxed."""
    if found.kind == "stated":
        lines = [line for line in found.texts if any(c.isdigit() for c in line)]
        stated = [stated_measurement(line) for line in lines]
        answers = stated[:1] if len({each and each.value for each in stated}) <= MAX_STATED else []
    elif found.kind == "tag":
        answers = [measurement(found.texts[0]) or stated_measurement(found.texts[0])]
    else:
        answers = [measurement(text) for text in found.texts]
    return [] if None in answers else [answer for answer in answers if answer is not None]


def _difference(gold: Measurement, answer: Measurement, config: Config) -> str:
    """Return what is different, in one line; "" where the answer is right."""
    if config.unit == "required" and not answer.unit:
        return f"no unit, where the gold answer is in {gold.unit}"
    # the one without a percent sign, where the other has it
    plain = None if gold.is_percent == answer.is_percent else answer if gold.is_percent else gold
    factor: Fraction | None = Fraction(1)
    if config.unit != "ignored":
        factor = None if plain and plain.unit else _conversion(answer.unit, gold.unit)
    if factor is None:
        return f"{_shown(answer)}, not {_shown(gold)}"
    answer = _scaled(answer, factor)
    if _agree(_share(gold), _share(answer), config):
        return ""
    if (
        plain
        and config.percent == "either"
        and abs(plain.value) >= 1
        and _agree(gold, answer, config)
    ):
        return ""
    return f"{_shown(answer)}, not {_shown(gold)}"


def _conversion(answer: str, gold: str) -> Fraction | None:
    """Return how many of the gold's unit one of the answer's is; None where they are different."""
    if not answer or not gold or answer.casefold() == gold.casefold():
        return Fraction(1)
    ours, theirs = unit(answer), unit(gold)
    if ours and theirs:
        return ours.factor / theirs.factor if ours.powers == theirs.powers else None
    # of things that are counted, one side may say more: apples, red apples
    words, others = (
        {word.removesuffix("s") for word in text.casefold().split()} for text in (answer, gold)
    )
    return Fraction(1) if words <= others or others <= words else None


def _scaled(number: Measurement, factor: Fraction) -> Measurement:
    return replace(number, value=number.value * factor, step=number.step * factor)


def _share(number: Measurement) -> Measurement:
    return _scaled(number, Fraction(1, 100)) if number.is_percent else number


def _agree(gold: Measurement, answer: Measurement, config: Config) -> bool:
    difference = abs(gold.value - answer.value)
    if config.relative is not None:
        relative = Fraction(config.relative)
    elif gold.is_exact and (answer.is_exact or gold.value.denominator == 1):
        relative = Fraction(0)
    else:
        relative = DECIMAL_TOLERANCE
    if difference <= max(relative * abs(gold.value), Fraction(config.absolute)):
        return True
    if config.significant is None:
        return False
    rounded = max(gold, answer, key=lambda number: number.step)
    return rounded.digits >= config.significant and difference <= rounded.step / 2


def _shown(number: Measurement) -> str:
    value = (
        str(number.value)
        if number.is_exact
        else f"{Decimal(number.value.numerator) / number.value.denominator:.10g}"
    )
    return f"{value[:40]}{'%' if number.is_percent else ''} {number.unit}".strip()
