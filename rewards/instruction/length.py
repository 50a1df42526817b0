"""IFEval's constraints on length: words, sentences, paragraphs."""

import re

from pydantic import Field

from rlvr.rewards.instruction.kind import Kind, Phrase, Relation, compare
from rlvr.rewards.instruction.text import has_content
from rlvr.rewards.instruction.words import sentences, word_counts

_PARAGRAPH = re.compile(r"\s?\*\*\*\s?")
_WORD_END = re.compile("[.,?!'\"]")


class NumberWords(Kind):
    """So many words."""

    relation: Relation
    num_words: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Return whether the number of words fits, whichever way they are counted."""
        return all(compare(n, self.relation, self.num_words) for n in word_counts(text))


class NumberSentences(Kind):
    """So many sentences."""

    relation: Relation
    num_sentences: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Return whether the number of sentences fits."""
        return compare(len(sentences(text)), self.relation, self.num_sentences)


class NumberParagraphs(Kind):
    """Exactly so many paragraphs, with `***` between them."""

    num_paragraphs: int = Field(ge=1)

    def holds(self, text: str) -> bool:
        """Return whether there are so many paragraphs, none of them empty."""
        parts = _PARAGRAPH.split(text)
        # a separator before the first or after the last paragraph is allowed
        if len(parts) > 1 and not parts[0].strip():
            parts = parts[1:]
        if len(parts) > 1 and not parts[-1].strip():
            parts = parts[:-1]
        return len(parts) == self.num_paragraphs and all(map(has_content, parts))


class NthParagraphFirstWord(Kind):
    """So many paragraphs with a blank line between them; the n-th begins with the word."""

    num_paragraphs: int = Field(ge=1)
    nth_paragraph: int = Field(ge=1)
    first_word: Phrase

    def holds(self, text: str) -> bool:
        """Return whether the number of paragraphs and the first word fit; case is ignored."""
        parts = text.split("\n\n")
        count = sum(bool(part.strip()) for part in parts)
        if count != self.num_paragraphs or self.nth_paragraph > count:
            return False
        words = parts[self.nth_paragraph - 1].split(maxsplit=1)
        if not words:
            return False
        word = words[0].lstrip("'").lstrip('"')
        return _WORD_END.split(word, maxsplit=1)[0].lower() == self.first_word.lower()


KINDS: dict[str, type[Kind]] = {
    "length_constraints:number_words": NumberWords,
    "length_constraints:number_sentences": NumberSentences,
    "length_constraints:number_paragraphs": NumberParagraphs,
    "length_constraints:nth_paragraph_first_word": NthParagraphFirstWord,
}
