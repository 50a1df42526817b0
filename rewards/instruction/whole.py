"""IFEval's constraints on how the response as a whole begins, ends and is divided."""

from rlvr.rewards.instruction.kind import Kind, Phrase
from rlvr.rewards.instruction.text import has_content


class EndChecker(Kind):
    """The response ends with the phrase, in any case."""

    end_phrase: Phrase

    def holds(self, text: str) -> bool:
        """Return whether nothing but quotation marks follows the phrase."""
        return text.strip().strip('"').lower().endswith(self.end_phrase.lower())


class Quotation(Kind):
    """The whole response stands in double quotation marks."""

    def holds(self, text: str) -> bool:
        """Return whether it does, with something inside."""
        text = text.strip()
        return len(text) > 1 and text[0] == text[-1] == '"' and has_content(text)


class RepeatPrompt(Kind):
    """The response begins with the prompt, word for word."""

    prompt_to_repeat: Phrase

    def holds(self, text: str) -> bool:
        """Return whether it does; case is ignored."""
        return text.strip().lower().startswith(self.prompt_to_repeat.lower())


class TwoResponses(Kind):
    """There are two different responses with six asterisks between them."""

    def holds(self, text: str) -> bool:
        """Return whether both have content and differ in a letter or a digit."""
        parts = text.split("******")
        if len(parts) > 2 and not parts[0].strip():
            parts = parts[1:]
        if len(parts) > 2 and not parts[-1].strip():
            parts = parts[:-1]
        if len(parts) != 2 or not all(map(has_content, parts)):
            return False
        first, second = ("".join(filter(str.isalnum, part.casefold())) for part in parts)
        return first != second


KINDS: dict[str, type[Kind]] = {
    "combination:repeat_prompt": RepeatPrompt,
    "combination:two_responses": TwoResponses,
    "startend:end_checker": EndChecker,
    "startend:quotation": Quotation,
}
