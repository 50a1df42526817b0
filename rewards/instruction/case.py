"""IFEval's constraints on case and on language."""

from pydantic import Field, field_validator

from rlvr.rewards.instruction.kind import Kind, Phrase, Relation, compare
from rlvr.rewards.instruction.language import LANGUAGES, language_of
from rlvr.rewards.instruction.words import capital_words
from rlvr.suggest import unknown_name


class ResponseLanguage(Kind):
    """The response is in the language."""

    language: Phrase

    @field_validator("language")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in LANGUAGES:
            raise ValueError(unknown_name("language", value, LANGUAGES))
        return value

    def needs_language(self) -> bool:
        """Return True."""
        return True

    def holds(self, text: str) -> bool:
        """Return whether the detector says so."""
        return language_of(text) == self.language


class EnglishCapital(Kind):
    """The response is in English and in capital letters only."""

    def needs_language(self) -> bool:
        """Return True."""
        return True

    def holds(self, text: str) -> bool:
        """Return whether no letter is small and the text is English in Latin letters."""
        return text.isupper() and _is_english(text)


class EnglishLowercase(Kind):
    """The response is in English and in small letters only."""

    def needs_language(self) -> bool:
        """Return True."""
        return True

    def holds(self, text: str) -> bool:
        """Return whether no letter is capital and the text is English in Latin letters."""
        return text.islower() and _is_english(text)


class CapitalWordFrequency(Kind):
    """So many words are in capitals."""

    capital_relation: Relation
    capital_frequency: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Return whether the number of words in capitals fits."""
        return compare(capital_words(text), self.capital_relation, self.capital_frequency)


def _is_english(text: str) -> bool:
    letters = sum(map(str.isalpha, text))
    latin = sum(char.isascii() and char.isalpha() for char in text)
    return 0 < letters < 2 * latin and language_of(text) == "en"


KINDS: dict[str, type[Kind]] = {
    "change_case:capital_word_frequency": CapitalWordFrequency,
    "change_case:english_capital": EnglishCapital,
    "change_case:english_lowercase": EnglishLowercase,
    "language:response_language": ResponseLanguage,
}
