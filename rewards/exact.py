"""Exact: the answer is the gold answer, character by character after normalisation.

Compared is the answer that the completion states, or all of its text after the thought, in Unicode's
NFC form. The gold answer may be a list of texts, of which any is right.
"""

import unicodedata
from collections.abc import Callable
from typing import Any

from rlvr.rewards.answer.where import Placed, readings
from rlvr.rewards.extraction import after_thought
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, wrong

COLUMNS = ("answer",)
BOUNDED = True


class Config(Placed):
    """Options of the exact verifier."""

    case_sensitive: bool = True
    """False: letters are compared without case."""
    strip: bool = True
    """Blanks at both ends are ignored, and blanks inside count as one space."""


def fault(sample: Sample, config: Config) -> str | None:  # noqa: ARG001 - every verifier takes both
    """Return why the gold answer is unusable; None if it is usable."""
    accepted = _accepted(sample.answer)
    return None if accepted and all(map(str.strip, accepted)) else "the gold answer is empty"


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def normal(text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        text = text if config.case_sensitive else text.casefold()
        return " ".join(text.split()) if config.strip else text

    def verify(sample: Sample) -> Verdict:
        if reason := fault(sample, config):
            return skipped(reason)
        golds = {normal(gold) for gold in _accepted(sample.answer)}
        if config.where == "answer" and config.tag is None:
            # a text that equals the gold is right, even one that looks like a statement
            text = after_thought(sample.completion)
            if text is not None and normal(text) in golds:
                return CORRECT
        texts = readings(sample.completion, config)
        if isinstance(texts, Verdict):
            return texts
        return CORRECT if golds & set(map(normal, texts)) else wrong()

    return verify


def _accepted(answer: Any) -> list[str]:
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    answers = answer if isinstance(answer, list | tuple) else [answer]
    return ["" if item is None else str(item) for item in answers]
