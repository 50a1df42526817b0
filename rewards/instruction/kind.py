"""What a kind of instruction is: its arguments, and whether a text follows it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Relation = Literal["at least", "less than"]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""Text that is not blank, without blanks around it."""
Letter = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1)]
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1)]


class Kind(BaseModel):
    """One instruction; the fields of a subclass are the arguments that IFEval's `kwargs` give it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def holds(self, text: str) -> bool:
        """Return whether the text follows the instruction."""
        raise NotImplementedError

    def needs_language(self) -> bool:
        """Return whether `holds` asks which language the text is in."""
        return False


def compare(count: int, relation: Relation, bound: int) -> bool:
    """Return whether a count is in the relation to the bound.

    Example:
        >>> compare(3, "at least", 3), compare(3, "less than", 3)
        (True, False)
    """
    return count >= bound if relation == "at least" else count < bound
