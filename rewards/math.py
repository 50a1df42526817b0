r"""Math: the completion's final answer equals the gold answer, in value and in kind.

The answer is what stands in `\boxed{}` after the last closed think block (or in the `<answer>` tag),
else what follows the last "answer is" or "Answer:", else the result that the last sentence states
(`answer/final.py`). Boxes that stand side by side are one answer; boxes that disagree are no answer.

Both answers are read completely: numbers with units, lists, tuples, sets, intervals, inequalities,
equations, matrices, bases, ratios, words. Rational numbers are compared exactly, in the trainer's
process; other expressions by their values to 40 digits at several points, in a worker; math-verify
decides about what is beyond that, such as integrals.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlvr.rewards.answer.agreement import equal
from rlvr.rewards.answer.algebra import algebra
from rlvr.rewards.answer.doubt import leaves_open, takes_back
from rlvr.rewards.answer.final import MAX_ANSWER, MAX_NESTING, find_answers, nesting, prose
from rlvr.rewards.answer.notation import canonical
from rlvr.rewards.answer.parameter import renamed
from rlvr.rewards.answer.quantity import quantity
from rlvr.rewards.answer.reading import shape
from rlvr.rewards.answer.rules import Rules, Undecided
from rlvr.rewards.answer.shapes import Chain, Scalar, has_words
from rlvr.rewards.extraction import boxed_answers, closing_brace
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("answer",)
BOUNDED = False

MAX_SHOWN = 80  # characters of an answer in a reason

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_COMMA = re.compile(r"-?(?:0?,\d+|\d+,(?!\d{3}$)\d+)")  # 1,234 is no decimal
_POINT = re.compile(r"-?\d*\.\d+")
_OPTION = re.compile(r"\(?([A-Za-z])\)?")
_CHOSEN = re.compile(r"\(?([A-Z])\)?(?:[.:,)]\s*|\s+(?=[^\W\d_]{2}))(.*)", re.S)
_OTHER_OPTION = re.compile(r"(?<![\w'])\(?(?:[B-HJ-Z]|[AI](?!\s+[a-z]))\)?(?![\w'])")


class Config(BaseModel):
    """Options of the math verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    boxed_only: bool = False
    """True: only a box or an `<answer>` tag is an answer, not what the words say."""
    units: Literal["optional", "required", "ignored"] = "optional"
    """optional: a unit may be missing on one side; two units must be the same after conversion.
    required: the gold answer's unit must be there too. ignored: units are not read, 5 cm is 5 km."""
    percent: Literal["either", "value"] = "either"
    """either: 25% is 25 and is 0.25. value: 25% is 0.25 alone. 25 is never 0.25."""
    rounding: int = Field(default=6, ge=0, le=30)
    """Significant digits from which a decimal stands for an exact value: 0.333333 for 1/3. A gold
    decimal of 4 or more digits stands for the exact value that it rounds. 0: decimals are exact."""
    evaluated: bool = False
    """True: where the gold answer is a plain number, so must the answer be: 6, not 2 \\cdot 3."""


def fault(sample: Sample, config: Config) -> str | None:  # noqa: ARG001 - the same for all options
    """Return why the gold answer is unusable; None if it is usable."""
    return _fault(gold_text(sample.answer))


def _fault(gold: str) -> str | None:
    if not gold or not canonical(gold):
        return "the gold answer is empty"
    if len(gold) > MAX_ANSWER:
        return f"the gold answer is longer than {MAX_ANSWER} characters"
    if nesting(gold) > MAX_NESTING:
        return f"the gold answer has more than {MAX_NESTING} nested brackets"
    if "\\" in gold and closing_brace(gold + "}", 0) != len(gold):
        return "the gold answer has unbalanced braces"
    return None


def gold_text(answer: Any) -> str:
    r"""Return the gold answer's expression: of a full solution its box, or what follows ####.

    Example:
        >>> gold_text("so 7 + 5 = 12\n#### 12"), gold_text(r"$\frac{1}{2}$")
        ('12', '\\frac{1}{2}')
    """
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    text = "" if answer is None or answer != answer else str(answer)  # nan is a missing value
    text = text.rpartition("####")[2]
    boxed = boxed_answers(text)
    text = boxed[-1] if boxed else text
    return re.sub(r"(?<!\\)\$", "", text).strip()


def shortcut(config: Config) -> Callable[[Sample], Verdict | None]:
    """Return the part that is linear in the completion: None where algebra has to decide."""
    judge = _judge(config, _rules(config, exact_only=True))

    def settle(sample: Sample) -> Verdict | None:
        try:
            return judge(sample)
        except Undecided:
            return None

    return settle


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier; where math-verify is asked it is not bounded in time."""
    return _judge(config, _rules(config, algebra=algebra()))


def answer_text(sample: Sample, config: Config) -> str:
    """Return the answers alone, in boxes: the verdict is theirs."""
    gold = gold_text(sample.answer)
    answers = wrong() if _fault(gold) else _answers(sample, gold, config)
    if isinstance(answers, Verdict):
        return sample.completion
    text = " so ".join(rf"\boxed{{{answer}}}" for answer in answers)
    return text if find_answers(text) == answers else sample.completion


def _answers(sample: Sample, gold: str, config: Config) -> list[str] | Verdict:
    phrases = _OPTION.fullmatch(gold) is not None or has_words(shape(gold))
    return find_answers(
        sample.completion,
        asked=_text(sample.prompt),
        boxed_only=config.boxed_only,
        phrases=phrases,
    )


def _text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    contents = [item.get("content") for item in prompt or () if isinstance(item, dict)]
    return "\n".join(item for item in contents if isinstance(item, str))


def _rules(config: Config, **more: Any) -> Rules:
    return Rules(config.units, config.percent, config.rounding, **more)


def _judge(config: Config, rules: Rules) -> Callable[[Sample], Verdict]:
    def verify(sample: Sample) -> Verdict:
        gold = gold_text(sample.answer)
        if reason := _fault(gold):
            return skipped(reason)
        answers = _answers(sample, gold, config)
        if isinstance(answers, Verdict):
            return answers
        verdicts = [_compare(gold, answer, config, rules) for answer in answers]
        if len(verdicts) == 1 or all(verdict == CORRECT for verdict in verdicts):
            return verdicts[0]
        return unparsable(f"{len(verdicts)} different boxed answers")

    return verify


def _compare(gold: str, answer: str, config: Config, rules: Rules) -> Verdict:
    shown = " ".join(answer.split())[:MAX_SHOWN]
    if config.evaluated and _number(gold) and not _number(answer):
        return wrong(f"{shown} is not evaluated")
    if _plain(gold) == _plain(answer) or _chosen(gold, answer):
        return CORRECT
    if _COMMA.fullmatch(answer) and _POINT.fullmatch(gold):
        answer = answer.replace(",", ".")
    if _COMMA.fullmatch(gold) and _POINT.fullmatch(answer):
        gold = gold.replace(",", ".")
    if equal(shape(gold), shape(answer), rules) or _otherwise(gold, answer, rules):
        return CORRECT
    return wrong(f"{shown} is not the gold answer")


def _otherwise(gold: str, answer: str, rules: Rules) -> bool:
    """Return whether the answer is the gold with another parameter, or a sentence that states it."""
    for reading in (renamed(gold, answer), prose(answer)):
        if reading and reading != answer and equal(shape(gold), shape(reading), rules):
            return True
    return False


def _number(text: str) -> bool:
    """Return whether the text is a plain number, maybe with its unit or name."""
    item = shape(text)
    item = item.sides[-1] if isinstance(item, Chain) else item
    return isinstance(item, Scalar) and quantity(item.text.replace(" ", "")) is not None


def _plain(text: str) -> str:
    """Return the text without spacing and marks of words; the case of words says nothing."""
    text = canonical(text)
    bare = "".join(_TEXT.sub(r"\1", text).split()).strip(".")
    is_word = len(bare) > 2 and (bare.isalpha() or _TEXT.fullmatch(text) is not None)
    return bare.casefold() if is_word else bare.removeprefix("+")


def _chosen(gold: str, answer: str) -> bool:
    """Return whether the answer starts with the gold's letter: (C) Paris, or C, as it is large."""
    gold, answer = (_TEXT.sub(r"\1", canonical(text)).strip(" .") for text in (gold, answer))
    letter = _OPTION.fullmatch(gold)
    if letter is None:
        return False
    if chosen := _OPTION.fullmatch(answer):
        return letter[1].isupper() and chosen[1].upper() == letter[1]
    found = _CHOSEN.fullmatch(answer)
    if found is None or found[1] != letter[1] or leaves_open(found[2]) or takes_back(found[2]):
        return False
    return not _OTHER_OPTION.search(found[2]) and "=" not in found[2]
