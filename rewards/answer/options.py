"""The options of a multiple-choice row, and which of them a gold answer or a text names."""

import json
import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_STRUCK = re.compile(r"~~[^~]*~~|\\(?:cancel|sout|st)\s?\{[^{}]*\}")
_MARKUP = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|boxed|left|right|displaystyle)(?![a-zA-Z])"
    r"|\\[()\[\],;! ]|[$*`\"“”]|__|(?<!\w)_|_(?!\w)"
)
_WIDE = {0xFF21 + i: 0x41 + i for i in range(26)} | dict(
    zip(map(ord, "（）［］：．，"), "()[]:.,", strict=True)
)
_LABELLED = re.compile(r"[(\[]?\s*([A-Za-z0-9]{1,2})\s*(?:[)\].:]+\s*|$)", re.ASCII)


@dataclass(frozen=True)
class Options:
    """Labels and texts of the options.

    Attributes:
        texts: By label, such as A; empty where the row has no `choices`.
    """

    texts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def labels(self) -> frozenset[str]:
        """What an answer may be called; all letters where the options are not known."""
        return frozenset(self.texts) or frozenset(string.ascii_uppercase)

    @cached_property
    def by_text(self) -> Mapping[str, str]:
        """Labels by the texts that only one option has, in `plain` form."""
        named: dict[str, list[str]] = {}
        for label, text in self.texts.items():
            named.setdefault(plain(text), []).append(label)
        return {text: labels[0] for text, labels in named.items() if text and len(labels) == 1}

    def label(self, name: str) -> str | None:
        """Return the label that is written so, in either case; None if there is none.

        Example:
            >>> Options().label("c"), Options({"1": "x"}).label("c")
            ('C', None)
        """
        return next((form for form in (name, name.upper()) if form in self.labels), None)


def plain(text: str) -> str:
    r"""Return the text as options are compared: without case, LaTeX, blanks and end punctuation.

    Example:
        >>> plain(r"\text{The  Nile}."), plain("10 \u03a9")
        ('the nile', '10 ω')
    """
    return " ".join(re.sub("[{}]", " ", unmarked(text)).split()).casefold().strip(" .,;:!'")


def unmarked(text: str) -> str:
    r"""Return the text without LaTeX wrappers, Markdown, and what is struck out.

    Example:
        >>> unmarked(r"**\text{C}** ~~(D)~~").split()
        ['{C}']
    """
    text = unicodedata.normalize("NFC", text).translate(_WIDE)
    return _MARKUP.sub(" ", _STRUCK.sub(" ", text))


def options(choices: Any) -> Options | None:
    """Return the options of a `choices` column; None where it is not one.

    Known are a list of texts, a mapping from label to text, a mapping with the lists `label` and
    `text`, and JSON of these.

    Example:
        >>> options('["Rome", "Paris"]').texts
        {'A': 'Rome', 'B': 'Paris'}
    """
    if choices is None:
        return Options()
    if isinstance(choices, str):
        try:
            choices = json.loads(choices)
        except (ValueError, RecursionError):
            return None
    if isinstance(choices, Mapping) and {"label", "text"} <= set(choices):
        choices = dict(zip(choices["label"], choices["text"], strict=False))
    if isinstance(choices, Mapping):
        texts = {str(label).strip("(). "): str(text) for label, text in choices.items()}
    elif hasattr(choices, "__iter__") and not isinstance(choices, str):
        texts = dict(zip(string.ascii_uppercase, map(str, choices), strict=False))
    else:
        return None
    return Options(texts) if len(texts) > 1 else None


def gold_label(answer: Any, known: Options) -> str | None:
    """Return the label of the gold answer, given as label, as text, as both, or as place from 0.

    Example:
        >>> gold_label("(B)", Options()), gold_label(1, options(["Rome", "Paris"]))
        ('B', 'B')
    """
    if hasattr(answer, "item"):
        answer = answer.item()
    if isinstance(answer, int) and not isinstance(answer, bool) and known.texts:
        place = dict(enumerate(known.texts)).get(answer)
        named = known.label(str(answer)) or known.by_text.get(str(answer), place)
        return place if named == place else None
    text = "" if answer is None else str(answer).strip()
    if (label := known.label(text.strip("(). "))) is not None:
        return label
    if plain(text) in known.by_text:
        return known.by_text[plain(text)]
    match = _LABELLED.match(text)
    label = known.label(match[1]) if match else None
    if match is None or label is None:
        return None
    rest = plain(text[match.end() :])
    return label if not known.texts or rest in ("", plain(known.texts[label])) else None
