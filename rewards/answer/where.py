"""Which part of a completion a verifier of texts reads: the options `where` and `tag`."""

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from rlvr.rewards.answer.place import find, tag_contents
from rlvr.rewards.extraction import after_thought, clean
from rlvr.rewards.verdict import Verdict, unparsable

_SENTENCE = re.compile(r"(.*?)[.!?](?:[*_`\"')\]]|\\\))*(?=\s|$)")
_MARKS = " \t*_`\"'"
_WORDED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")


class Placed(BaseModel):
    """Options of a verifier that reads one part of the completion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: Literal["answer", "text", "completion"] = "answer"
    r"""answer: the box, the `<answer>` tag, or what follows "the answer is"; else the text. text: all
    that follows the thought. completion: the thought too."""
    tag: str | None = None
    """Instead of `where`: the content of `<tag>...</tag>` after the thought; without it there is no
    answer."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.tag is not None and "where" in self.model_fields_set:
            raise ValueError("tag names the place already; leave out tag or where")
        return self


def readings(completion: str, place: Placed) -> list[str] | Verdict:
    r"""Return the text at that place, or an UNPARSABLE verdict.

    More than one only where a sentence states the answer: up to its end, and up to the line's.

    Example:
        >>> readings("So the answer is **No**. Why? See above.", Placed())
        ['No', 'No**. Why? See above']
    """
    if place.where == "completion":
        return [completion]
    text = after_thought(completion)
    if text is None:
        return unparsable("the think block is not closed")
    if place.tag is not None:
        found = tag_contents(text, place.tag)
        return found if len(found) == 1 else unparsable(f"{len(found) or 'no'} <{place.tag}> tags")
    return [text] if place.where == "text" else _answer(text)


def _answer(text: str) -> list[str] | Verdict:
    found = find(text)
    if isinstance(found, Verdict):
        return found
    if found.kind == "whole":
        return [clean(text)]  # its blanks may count
    if found.kind != "stated":
        texts = (
            [_WORDED.sub(r"\1", text) for text in found.texts]
            if found.kind == "box"
            else found.texts
        )
        return list(texts) if len(texts) == 1 else unparsable("boxed answers that disagree")
    line = found.texts[0]
    sentence = _SENTENCE.match(line)
    return [
        text.strip(_MARKS) for text in ((sentence[1],) if sentence else ()) + (line.rstrip(". "),)
    ]
