"""Format: the completion is one think block and one answer, and nothing else.

    <think> ... </think> <answer> ... </answer>

By default it counts only where the first verifier says correct (`when_correct: true`), because a
form that pays by itself is learnt instead of the task. Tags are matched exactly.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rlvr.rewards.extraction import boxes
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, wrong

COLUMNS: tuple[str, ...] = ()
BOUNDED = True
WHEN_CORRECT = True  # the default of the common option `when_correct`


class Config(BaseModel):
    """Options of the format verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Literal["tag", "boxed", "any"] = "tag"
    """What must follow the thought: an `<answer>` tag alone, text with one box, or any text."""
    think_in_prompt: bool = False
    """The prompt template ends with `<think>`, so the completion starts inside the thought."""


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def verify(sample: Sample) -> Verdict:
        text = ("<think>" if config.think_in_prompt else "") + sample.completion.strip()
        if text.count("<think>") != 1 or text.count("</think>") != 1:
            return wrong("not exactly one think block")
        thought, _, rest = text.partition("</think>")
        if not thought.startswith("<think>"):
            return wrong("does not start with <think>")
        reason = _fault(rest.strip(), config.answer)
        return wrong(reason) if reason else CORRECT

    return verify


def _fault(rest: str, answer: str) -> str:
    if answer == "boxed":
        return "" if len(boxes(rest)) == 1 else "not exactly one box after the thought"
    if answer == "any":
        return "" if rest else "nothing after the thought"
    if rest.count("<answer>") != 1 or rest.count("</answer>") != 1:
        return "not exactly one answer tag after the thought"
    if not (rest.startswith("<answer>") and rest.endswith("</answer>")):
        return "text outside the think and answer tags"
    return "" if rest[len("<answer>") : -len("</answer>")].strip() else "the answer is empty"
