"""IFEval's constraints on marks in the text: lists, highlights, titles, placeholders, JSON.

A mark around nothing does not count.
"""

import json
import re

from pydantic import Field

from rlvr.rewards.instruction.kind import Kind, Phrase
from rlvr.rewards.instruction.text import has_content, lines

_HIGHLIGHTS = (re.compile(r"\*[^\n*]*\*"), re.compile(r"\*\*[^\n*]*\*\*"))
_CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
_FENCES = ("```json", "```Json", "```JSON", "```")


class NumberBullets(Kind):
    """Exactly so many bullet points, lines that begin with `*` or `-`."""

    num_bullets: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Return whether so many lines are bullets and none of these is empty."""
        items = [row.strip() for row in lines(text) if _is_bullet(row.strip())]
        return len(items) == self.num_bullets and all(map(has_content, items))


class NumberHighlights(Kind):
    """At least so many `*highlighted*` or `**highlighted**` parts."""

    num_highlights: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Return whether there are enough that hold a letter or a digit."""
        found = sum(has_content(part) for mark in _HIGHLIGHTS for part in mark.findall(text))
        return found >= self.num_highlights


class NumberPlaceholders(Kind):
    """At least so many placeholders in square brackets."""

    num_placeholders: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Return whether there are enough that hold a letter or a digit."""
        found = sum(has_content(part) for row in lines(text) for part in _bracketed(row))
        return found >= self.num_placeholders


class MultipleSections(Kind):
    """At least so many sections, each opened by the word and a number."""

    section_spliter: Phrase
    num_sections: int = Field(ge=1)

    def holds(self, text: str) -> bool:
        """Return whether there are enough sections with text in them."""
        parts = re.split(rf"\s?{re.escape(self.section_spliter)}\s?\d+\s?", text)
        return sum(map(has_content, parts[1:])) >= self.num_sections


class Title(Kind):
    """There is a title in double angular brackets."""

    def holds(self, text: str) -> bool:
        """Return whether a line holds `<<title>>`."""
        for row in lines(text):
            start, end = row.find("<<"), row.rfind(">>")
            if 0 <= start < end and has_content(row[start:end]):
                return True
        return False


class ConstrainedResponse(Kind):
    """The response holds one of three phrases, "My answer is yes." and its like."""

    def holds(self, text: str) -> bool:
        """Return whether exactly one of them occurs."""
        return sum(choice in text for choice in _CHOICES) == 1


class Postscript(Kind):
    """There is a postscript, opened by its mark."""

    postscript_marker: Phrase

    def holds(self, text: str) -> bool:
        """Return whether the mark occurs with text after it."""
        pattern = _POSTSCRIPTS.get(self.postscript_marker)
        pattern = pattern or re.escape(self.postscript_marker.lower())
        found = re.search(pattern, text.lower())
        return found is not None and has_content(text.lower()[found.end() :])


class JsonFormat(Kind):
    """The whole response is JSON, with or without a code fence."""

    def holds(self, text: str) -> bool:
        """Return whether it is one JSON object or array; NaN and Infinity are not JSON."""
        text = text.strip()
        for fence in _FENCES:
            text = text.removeprefix(fence)
        try:
            value = json.loads(text.removesuffix("```").strip(), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict | list)


def _is_bullet(row: str) -> bool:
    return row.startswith("-") or (row.startswith("*") and row[1:2] != "*")


def _bracketed(row: str) -> list[str]:
    found, position = [], 0
    while (start := row.find("[", position)) >= 0 and (end := row.find("]", start)) >= 0:
        found.append(row[start:end])
        position = end + 1
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


KINDS: dict[str, type[Kind]] = {
    "detectable_content:number_placeholders": NumberPlaceholders,
    "detectable_content:postscript": Postscript,
    "detectable_format:number_bullet_lists": NumberBullets,
    "detectable_format:constrained_response": ConstrainedResponse,
    "detectable_format:number_highlighted_sections": NumberHighlights,
    "detectable_format:multiple_sections": MultipleSections,
    "detectable_format:json_format": JsonFormat,
    "detectable_format:title": Title,
}
