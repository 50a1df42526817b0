"""Exact: the answer is the gold answer, character by character after normalisation.

Compared is what follows the last closed think block (or the content of `tag`), in Unicode's NFC form.
"""

import unicodedata
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from rlvr.rewards.extraction import after_thought, last_tag
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("answer",)
BOUNDED = True


class Config(BaseModel):
    """Options of the exact verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_sensitive: bool = True
    """False: letters are compared without case."""
    strip: bool = True
    """Blanks at both ends are ignored, and blanks inside count as one space."""
    tag: str | None = None
    """Compare only the content of the last `<tag>...</tag>`; a completion without it is unparsable."""


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def normal(text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        text = text if config.case_sensitive else text.casefold()
        return " ".join(text.split()) if config.strip else text

    def verify(sample: Sample) -> Verdict:
        if reason := check_gold(sample.answer):
            return skipped(reason)
        text = after_thought(sample.completion)
        if text is None:
            return unparsable("the think block is not closed")
        found = text if config.tag is None else last_tag(text, config.tag)
        if found is None:
            return unparsable(f"no <{config.tag}> tag")
        return CORRECT if normal(found) == normal(str(sample.answer)) else wrong()

    return verify


def check_gold(answer: Any) -> str | None:
    """Return why the gold answer is unusable; None if it is usable."""
    if answer is None or not str(answer).strip():
        return "the gold answer is empty"
    return None
