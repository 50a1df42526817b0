"""Format: the completion is one think block and one answer, and nothing else.

    <think> ... </think> <answer> ... </answer>

By default it counts only where the first verifier says correct (`when_correct: true`), because a
form that pays by itself is learnt instead of the task. Each tag stands exactly once, in this order and
this spelling; another spelling of a tag (<THINK>, < think >, one with a zero-width space) is a second
one. Neither the thought nor the answer may be empty.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rlvr.rewards.extraction import boxed_answers
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, wrong

COLUMNS: tuple[str, ...] = ()
BOUNDED = True
WHEN_CORRECT = True  # the default of the common option `when_correct`

_THOUGHT = ["<think>", "</think>"]
_ANSWER = ["<answer>", "</answer>"]
_TAG = r"[<＜]\s{0,9}[/\\]?\s{0,9}(?:%s)\b[^<>＞]{0,99}[>＞]"


class Config(BaseModel):
    """Options of the format verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Literal["tag", "boxed", "any"] = "tag"
    """What must follow the thought: an `<answer>` tag alone, text with one box, or any text."""
    think_in_prompt: bool = False
    """The prompt template ends with `<think>`, so the completion starts inside the thought."""
    min_thought: int = Field(default=1, ge=0)
    """Letters and digits that the thought has at least; 0 allows an empty one."""


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""
    wanted = _THOUGHT + _ANSWER if config.answer == "tag" else _THOUGHT
    tags = re.compile(_TAG % ("think|answer" if config.answer == "tag" else "think"), re.I)

    def verify(sample: Sample) -> Verdict:
        text = ("<think>" if config.think_in_prompt else "") + sample.completion.strip()
        if tags.findall(_visible(text)) != wanted or any(text.count(tag) != 1 for tag in wanted):
            return wrong(f"the tags are not {' '.join(wanted)}")
        thought, _, rest = text.partition("</think>")
        if not thought.startswith("<think>"):
            return wrong("does not start with <think>")
        if sum(map(str.isalnum, thought.removeprefix("<think>"))) < config.min_thought:
            return wrong(f"the thought has fewer than {config.min_thought} letters and digits")
        reason = _fault(rest.strip(), config.answer)
        return wrong(reason) if reason else CORRECT

    return verify


def _fault(rest: str, answer: str) -> str:
    if answer == "boxed":
        return (
            ""
            if len(boxed_answers(rest)) == 1
            else "not exactly one boxed answer after the thought"
        )
    if answer == "tag":
        if not (rest.startswith("<answer>") and rest.endswith("</answer>")):
            return "text outside the think and answer tags"
        rest = rest.removeprefix("<answer>").removesuffix("</answer>")
    return "" if _visible(rest).strip(" \t\r\n.…") else "the answer is empty"


def _visible(text: str) -> str:
    """Return the text without the characters that have no shape, such as a zero-width space."""
    if text.isascii():
        return text
    return "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Co", "Cs"))
