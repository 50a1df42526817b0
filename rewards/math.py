r"""Math: the completion's final answer equals the gold answer, by math-verify.

The answer is what stands in `\boxed{}` after the last closed think block (or in the last `<answer>`
tag), else what follows the last "answer is" or "Answer:". There is no fallback to the last number.
Several boxes that stand side by side are one answer; boxes that disagree are no answer.

Plain numbers and equal texts are settled exactly, in the trainer's process; the rest goes to
math-verify in a worker, without its own timeouts (`signal.alarm` works in no thread): the pool kills.
A gold answer is wrapped in `\boxed{}` before it is parsed, as the bare text `2\sqrt{3}` parses to 2.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from rlvr.rewards.extraction import after_thought, boxed_answers, clean, closing_brace, last_tag
from rlvr.rewards.quantity import quantity
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("answer",)
BOUNDED = False

MAX_ANSWER = 2000  # characters; no gold answer of the usual sets comes near
MAX_BOXES = 4  # answers that are compared one by one; more are a list of guesses
MAX_NESTING = 20  # brackets; 30 cost latex2sympy 16 seconds

_ANCHOR = re.compile(
    r"(?:answer|result)\s*(?:\*\*)?\s*(?:is\b|[:=])(?:\s*(?:\*\*|:))*|####|^A:", re.I | re.M
)
_SENTENCE_END = re.compile(r"\n|[.!?](?:\s|$)|;")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_LEADING_NUMBER = re.compile(r"[$€£]?(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?)(?=$|[^\d,./%^\w(\\])")

_DROPPED = re.compile(r"\\(?:left|right|displaystyle|quad|qquad|limits)(?![a-zA-Z])|\\[,;: ]|~")
_LIST_COMMA = re.compile(r"(?<=\d),\s+(?=\d{3}(?!\d))")  # 900, 000 is a list, 900,000 a number
_SYMBOLS = {"°": r"^\circ ", r"\degree": r"^\circ ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap "}
_SYMBOLS |= {"π": r"\pi ", "≤": r"\le ", "≥": r"\ge ", "×": r"\times ", "·": r"\cdot ", "−": "-"}
_SYMBOLS |= {r"\!": ""}
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|rm|mbox)\s*\{([^{}]*)\}")
_UPRIGHT = re.compile(r"(\\[a-zA-Z]+)?\\(?:mathrm|text|rm|mathbf)\s*\{\s*([a-zA-Z])\s*\}")
_DENIAL = re.compile(r"\b(?:wrong|incorrect|ignore|not|isn't|instead|possibly|maybe)\b", re.I)
_EITHER = re.compile(r"\b(?:or|either)\b|\\(?:lor|vee)(?![a-zA-Z])|\\pm(?![a-zA-Z])")
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?(\d{1,2})\}?", re.ASCII)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_VARIABLE = re.compile(r"[a-zA-Z]")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_EQUALS = re.compile(r"(?<![\\<>!:])=")


class Config(BaseModel):
    """Options of the math verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    boxed_only: bool = False
    """True: only a box or an `<answer>` tag is an answer, not the words "the answer is"."""


def check_gold(answer: Any) -> str | None:
    """Return why the gold answer is unusable; None if it is usable."""
    gold = gold_text(answer)
    if not gold:
        return "the gold answer is empty"
    if len(gold) > MAX_ANSWER:
        return f"the gold answer is longer than {MAX_ANSWER} characters"
    if closing_brace(gold + "}", 0) != len(gold):
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
    text = "" if answer is None else str(answer)
    text = text.rpartition("####")[2]
    boxed = boxed_answers(text)
    text = boxed[-1] if boxed else text
    return re.sub(r"(?<!\\)\$", "", text).strip()


def shortcut(config: Config) -> Callable[[Sample], Verdict | None]:
    """Return the part that is linear in the completion: None where algebra has to decide."""

    def settle(sample: Sample) -> Verdict | None:
        if reason := check_gold(sample.answer):
            return skipped(reason)
        answers = find_answers(sample.completion, boxed_only=config.boxed_only)
        if isinstance(answers, Verdict):
            return answers
        verdicts = [_plain(gold_text(sample.answer), answer) for answer in answers]
        known = [verdict for verdict in verdicts if verdict is not None]
        return _all_agree(known) if len(known) == len(verdicts) else None

    return settle


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier; it is not bounded in time."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    settle = shortcut(config)
    targets = (math_verify.LatexExtractionConfig(boxed_match_priority=0),)

    def parse(text: str) -> list[Any]:
        return math_verify.parse(
            rf"\boxed{{{text}}}", targets, fallback_mode="no_fallback", parsing_timeout=None
        )

    def equal(gold: str, answer: str) -> bool:
        return math_verify.verify(
            parse(gold), parse(answer), timeout_seconds=None, allow_set_relation_comp=True
        )

    def verify(sample: Sample) -> Verdict:
        verdict = settle(sample)
        if verdict is not None:
            return verdict
        answers = find_answers(sample.completion, boxed_only=config.boxed_only)
        if isinstance(answers, Verdict):
            return answers
        gold = gold_text(sample.answer)
        return _all_agree([_compare(gold, answer, equal) for answer in answers])

    parse(r"\frac{1}{2}")  # compiles the grammar and the patterns before the first deadline runs
    return verify


def find_answers(completion: str, *, boxed_only: bool = False) -> list[str] | Verdict:
    """Return the answers that the completion gives, or an UNPARSABLE verdict.

    More than one only where boxes that stand apart hold different texts.
    """
    text = after_thought(clean(completion))
    if text is None:
        return unparsable("the think block is not closed")
    tagged = last_tag(text)
    text = text if tagged is None else tagged
    answers = boxed_answers(text)
    if not answers:
        if tagged is not None:
            found = text.strip()
        elif boxed_only:
            found = ""
        else:
            found = _stated(text)
        if not found:
            return unparsable("no final answer")
        answers = [found]
    if len(answers) > MAX_BOXES:
        return unparsable(f"{len(answers)} different boxed answers")
    answers = [_unwrapped(answer) for answer in answers]
    for answer in answers:
        if len(answer) > MAX_ANSWER:
            return unparsable(f"the answer is longer than {MAX_ANSWER} characters")
        if _nesting(answer) > MAX_NESTING:
            return unparsable(f"the answer has more than {MAX_NESTING} nested brackets")
    return [answer for answer in answers if answer] or unparsable("the answer is empty")


def _stated(text: str) -> str:
    """Return what follows the last "answer is", up to the end of the sentence; "" if nothing."""
    start = max((anchor.end() for anchor in _ANCHOR.finditer(text)), default=None)
    if start is None:
        return ""
    rest = text[start : start + MAX_ANSWER].lstrip(" *:\n")
    if math := _MATH.match(rest):
        return next(group for group in math.groups() if group is not None)
    end = _SENTENCE_END.search(rest)
    rest = rest[: end.start()] if end else rest
    if number := _LEADING_NUMBER.match(rest):
        return number[1]
    if math := _MATH.search(rest):
        return next(group for group in math.groups() if group is not None)
    return rest.strip(" *`")


def _unwrapped(answer: str) -> str:
    while answer.startswith(r"\boxed{") and answer.endswith("}") and len(answer) <= MAX_ANSWER:
        answer = answer[len(r"\boxed{") : -1].strip()
    return re.sub(r"(?<!\\)\$", "", answer).strip()


def _nesting(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _plain(gold: str, answer: str) -> Verdict | None:
    """Return the verdict where no algebra is needed, else None."""
    gold, answer = _normal(gold), _normal(answer)
    if gold == answer:
        return CORRECT
    gold_value, value = quantity(gold), quantity(answer)
    if gold_value is not None and value is not None:
        return CORRECT if gold_value == value else wrong()
    if (verdict := _in_base(gold, answer)) is not None:
        return verdict
    if len(gold) > 2 and gold.isalpha():  # a word: its case says nothing
        return CORRECT if answer.strip("().").casefold() == gold.casefold() else None
    return None


def _spelled(text: str) -> str:
    """Return the text with one LaTeX spelling for what has several."""
    text = _SYMBOL.sub(lambda match: _SYMBOLS[match[0]], text)
    return _UPRIGHT.sub(_letter, _FRACTION.sub(r"\\frac", text))


def _letter(match: re.Match[str]) -> str:
    # only after a command is a blank needed; "2 i" would not be seen as a complex number
    return f"{match[1]} {match[2]}" if match[1] else match[2]


def _normal(text: str) -> str:
    text = _LIST_COMMA.sub(r",\\,", _DROPPED.sub(" ", _spelled(text)))
    text = _TEXT.sub(r"\1", text)
    return "".join(text.split()).rstrip(".").removeprefix("+")


def _in_base(gold: str, answer: str) -> Verdict | None:
    """Compare numbers with a base: 1011_2. A base that only one side states is no difference."""
    ours, theirs = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if ours and theirs:
        same = ours[1].upper() == theirs[1].upper() and ours[2] == theirs[2]
        return CORRECT if same else wrong("another number or base")
    if ours and answer.isalnum() and answer[0].isdigit():
        return CORRECT if ours[1].upper() == answer.upper() else wrong()
    return None


def _compare(gold: str, answer: str, equal: Callable[[str, str], bool]) -> Verdict:
    verdict = _plain(gold, answer)
    if verdict is not None:
        return verdict
    if _EITHER.search(answer) and not _EITHER.search(gold) and "," not in gold:
        return wrong("offers alternatives")
    if _DENIAL.search(answer) and not _DENIAL.search(gold):
        return wrong("takes its own answer back")
    # with words around, numbers are matched as text: math-verify multiplies labels
    labelled = _words(gold) and _words(answer) and len(_numbers(gold)) > 1
    if labelled and _numbers(gold) != _numbers(answer):
        return wrong("other numbers")
    gold, answer = _spelled(gold), _spelled(answer)
    if not _chain_holds(gold, answer, equal):
        return wrong("a step of the equation does not hold")
    return CORRECT if equal(gold, answer) else wrong()


def _words(text: str) -> bool:
    return any(len(word.strip()) > 2 for word in _TEXT.findall(text))


def _numbers(text: str) -> list[str]:
    return _NUMBER.findall(text)


def _chain_holds(gold: str, answer: str, equal: Callable[[str, str], bool]) -> bool:
    """Return whether the constant sides of `a = b = c` all equal the gold; true without a chain."""
    if _EQUALS.search(gold) or "," in answer:
        return True
    sides = [side.strip() for side in _EQUALS.split(answer)]
    constant = [side for side in sides[:-1] if side and not _has_variable(side)]
    return all(equal(gold, side) for side in constant)


def _has_variable(text: str) -> bool:
    return bool(_VARIABLE.search(_COMMAND.sub("", _TEXT.sub("x", text))))


def _all_agree(verdicts: list[Verdict]) -> Verdict:
    if len(verdicts) == 1 or all(verdict == CORRECT for verdict in verdicts):
        return verdicts[0]
    return unparsable(f"{len(verdicts)} different boxed answers")
