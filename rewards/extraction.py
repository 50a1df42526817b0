r"""Where in a completion its answer stands: linear-time text rules shared by the verifiers.

The order is: what comes after the last closed think block; inside the last `<answer>` tag if there
is one; then `\boxed{}`. An answer inside a thought, closed or not, is no answer.
"""

import re
import unicodedata
from dataclasses import dataclass

MAX_COMPLETION = 200_000  # characters; an answer stands at the end, the rest is not read
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_PHANTOM = re.compile(r"\\[hv]?phantom\{[^{}]*\}|\\(?:[,;:! ]|q?quad(?![a-zA-Z]))|\s")
# what may stand between boxes that are one answer: $\boxed{1}$, $\boxed{2}$ and \(\boxed{3}\)
_JOINT = re.compile(
    r"(?:\s|[,;$]|\\[()\[\],;!]|\\q?quad(?![a-zA-Z])|\\text\{\s*and\s*\}|\b(?:and)\b)*"
)


def clean(text: str) -> str:
    """Return the text's end as a reader sees it: no invisible characters, no HTML comments.

    Digits of any script become ASCII.

    Example:
        >>> clean("\u202e12 <!-- 7 -->\uff13")
        '12 3'
    """
    text = without_comments(text[-MAX_COMPLETION:])
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    # category Nd only: a circled or superscript digit is not the digit
    return "".join(
        str(unicodedata.decimal(c)) if c > "\x7f" and unicodedata.category(c) == "Nd" else c
        for c in text
    )


def without_comments(text: str) -> str:
    """Return the text without HTML comments; what opens one that does not close stays.

    Example:
        >>> without_comments("a<!-- b -->c<!--d")
        'ac<!--d'
    """
    kept, position = [], 0
    while (start := text.find("<!--", position)) >= 0:
        end = text.find("-->", start + 4)
        if end < 0:
            break
        kept.append(text[position:start])
        position = end + 3
    return "".join(kept) + text[position:]


def after_thought(text: str) -> str | None:
    """Return what follows the last closed think block; None if a think block is still open."""
    closed = text.rfind("</think>")
    rest = text[closed + len("</think>") :] if closed >= 0 else text
    return None if "<think>" in rest else rest


def last_tag(text: str, tag: str = "answer") -> str | None:
    """Return the content of the last closed `<tag>`; None if there is none."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end] if start >= 0 else None


@dataclass(frozen=True)
class Box:
    """Content of one box and its span in the text."""

    content: str
    start: int
    end: int


def boxes(text: str) -> list[Box]:
    r"""Return the closed outermost boxes in order; `\boxed{}` without content is left out.

    Example:
        >>> [b.content for b in boxes(r"\boxed{\frac{1}{2}} or \boxed{}")]
        ['\\frac{1}{2}']
    """
    found: list[Box] = []
    position = 0
    while match := _BOX.search(text, position):
        end = closing_brace(text, match.end())
        if end is None:
            break  # nothing after it can be outside it
        content = text[match.end() : end].strip()
        if _PHANTOM.sub("", content):
            found.append(Box(content, match.start(), end + 1))
        position = end + 1
    return found


def closing_brace(text: str, start: int) -> int | None:
    """Return where the brace opened just before `start` closes; None if it does not."""
    depth = 1
    position = start
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 2
            continue
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return position
        position += 1
    return None


def boxed_answers(text: str) -> list[str]:
    r"""Return the distinct boxed answers; boxes that stand side by side are one answer.

    Example:
        >>> boxed_answers(r"so $\boxed{1}$ and $\boxed{2}$")
        ['1, 2']
    """
    joined: list[list[str]] = []
    end = 0
    for box in boxes(text):
        if joined and _JOINT.fullmatch(text, end, box.start):
            joined[-1].append(box.content)
        else:
            joined.append([box.content])
        end = box.end
    return list(dict.fromkeys(", ".join(dict.fromkeys(group)) for group in joined))


def short_answer(completion: str) -> str | None:
    """Return the one place where a short answer stands: tag, else last box, else the whole text.

    For verifiers whose answers are a line of text. None: a think block is open, or boxes disagree.
    """
    text = after_thought(clean(completion))
    if text is None:
        return None
    tagged = last_tag(text)
    text = text if tagged is None else tagged
    answers = boxed_answers(text)
    if len(answers) > 1:
        return None
    return answers[0] if answers else text.strip()
