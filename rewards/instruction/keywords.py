"""IFEval's constraints on which words and letters occur.

What must not occur is also looked for behind disguises: another script's letters, markup or
invisible characters inside a word.
"""

import re

from pydantic import Field

from rlvr.rewards.instruction.kind import Kind, Letter, Phrase, Phrases, Relation, compare
from rlvr.rewards.instruction.text import is_comma, unmasked


class Existence(Kind):
    """Every keyword occurs, in any case, also inside a word."""

    keywords: Phrases

    def holds(self, text: str) -> bool:
        """Return whether all keywords occur."""
        return all(_occurrences(word, text) for word in self.keywords)


class Frequency(Kind):
    """A keyword occurs so often, in any case, also inside a word."""

    relation: Relation
    keyword: Phrase
    frequency: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Return whether the number of occurrences fits."""
        counted = [text, unmasked(text)] if self.relation == "less than" else [text]
        return all(
            compare(_occurrences(self.keyword, item), self.relation, self.frequency)
            for item in counted
        )


class ForbiddenWords(Kind):
    """None of the words occurs as a word."""

    forbidden_words: Phrases

    def holds(self, text: str) -> bool:
        """Return whether none occurs, not even disguised."""
        words = [re.compile(rf"\b{re.escape(w)}\b", re.IGNORECASE) for w in self.forbidden_words]
        return not any(word.search(item) for item in (text, unmasked(text)) for word in words)


class LetterFrequency(Kind):
    """A letter occurs so often, in either case."""

    let_relation: Relation
    letter: Letter
    let_frequency: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Return whether the number of occurrences fits."""
        counted = [text, unmasked(text)] if self.let_relation == "less than" else [text]
        return all(
            compare(item.lower().count(self.letter.lower()), self.let_relation, self.let_frequency)
            for item in counted
        )


class NoComma(Kind):
    """There is no comma, of whatever script."""

    def holds(self, text: str) -> bool:
        """Return whether no comma occurs, not even as a character reference."""
        return not any(is_comma(char) for char in set(text) | set(unmasked(text)))


def _occurrences(word: str, text: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


KINDS: dict[str, type[Kind]] = {
    "keywords:existence": Existence,
    "keywords:frequency": Frequency,
    "keywords:forbidden_words": ForbiddenWords,
    "keywords:letter_frequency": LetterFrequency,
    "punctuation:no_comma": NoComma,
}
