r"""Where a short answer stands in a completion, for verifiers that read it as text.

    thought </think> ... <answer> ... \boxed{C} ... </answer>         the box
    The answer to this question is C.                                 what follows "the answer is"
    C                                                                 else the whole text

It is looked for after the last closed think block, inside the `<answer>` tag where there is one, and
before the end of the turn or a next question that the model asks itself. Tags that disagree are no
answer.
"""

import re
from dataclasses import dataclass
from typing import Literal

from rlvr.rewards.answer.doubt import denied
from rlvr.rewards.extraction import after_thought, boxed_answers, boxes, clean
from rlvr.rewards.verdict import Verdict, unparsable

MAX_LINE = 2000  # characters of a statement
MAX_STATEMENTS = 20  # the last ones; a completion that says more is repeating itself

Kind = Literal["box", "tag", "stated", "whole"]

_STATED = re.compile(
    r"""
      (?: (?: \banswers? (?:\s(?:choice|option|letter))?
              (?: \s(?:to|for|of|in|here)\b (?:[ \t][^\s.:;?!]{1,30}){0,10}? )?
          | \bresult
          | \b(?:correct|right|best|final|chosen)\s(?:option|choice|statement|letter|one)
          | \b(?:réponse|respuesta|resposta|risposta|antwort) )
          [ \t*_]{0,8}
          (?: \s(?:is|are|will\sbe|would\sbe|must\sbe|should\sbe|est|es|ist|é|è)\b | [:=：] )
      | (?:答案|答え|정답) [ \t]{0,8} (?:是|为|は|은|：|:)
      | ^[ \t>\#*_]{0,8} (?:the\s)? (?:(?:final|correct)\s)? answer [ \t*_:.]{0,8}$
      | \#{4}
      | ^A:
      )
    """,
    re.I | re.M | re.X,
)
_BETWEEN = re.compile(r"[\s*_:：=]*")
_NEXT_QUESTION = re.compile(
    r"^[ \t#*]{0,8}(?:Question|Problem|Q)[ \t]?\d{0,4}[ \t*]{0,4}[:.]", re.M
)

_END_OF_TURN = re.compile(r"<\|(?:im_end|eot_id|eom_id|end[a-z_]{0,20})\|>|<end_of_turn>|</s>")


@dataclass(frozen=True)
class Found:
    """The texts that may hold the answer.

    Attributes:
        kind: box: all of them are the answer, so they have to agree. stated: the lines that follow
            "the answer is", the last one first. tag, whole: the one text.
        texts: At least one, none of them empty.
        text: In which they were found: the tag's content, or all that follows the thought.
    """

    kind: Kind
    texts: tuple[str, ...]
    text: str


def find(completion: str) -> Found | Verdict:
    r"""Return where the completion's answer stands, or an UNPARSABLE verdict.

    Example:
        >>> find(r"<think>\boxed{A}</think>The answer is **B**. Good.").texts
        ('B**. Good.',)
    """
    text = after_thought(clean(completion))
    if text is None:
        return unparsable("the think block is not closed")
    text = before_next_question(_END_OF_TURN.split(text, 1)[0])
    tagged = tag_contents(text)
    if len(tagged) > 1:
        return unparsable("answer tags that disagree")
    after = text.rpartition("</answer>")[2] if tagged else ""
    text = tagged[0] if tagged else text.strip()
    if not text:
        return unparsable("no final answer")
    boxed, stated = boxes(text), statements(text)
    if boxed:
        after = text[boxed[-1].end :] + after
    elif stated:
        after = text[text.rfind(stated[0]) :] + after
    if denied(after):
        return unparsable("takes its own answer back")
    if boxed:
        return Found("box", tuple(boxed_answers(text)), text)
    if stated:
        return Found("stated", tuple(stated), text)
    return Found("tag" if tagged else "whole", (text,), text)


def statements(text: str) -> list[str]:
    r"""Return the lines that follow "the answer is" or the like, the last one first.

    Example:
        >>> statements("Answer: 5. Hm. The correct answer to it is\n  7 apples")
        ['7 apples', '5. Hm. The correct answer to it is']
    """
    starts = [match.end() for match in _STATED.finditer(text)]
    found = []
    for start in reversed(starts[-MAX_STATEMENTS:]):
        start = _BETWEEN.match(text, start).end()  # type: ignore[union-attr] # matches the empty text
        line = text[start : start + MAX_LINE].partition("\n")[0].strip()
        if line:
            found.append(line)
    return found


def tag_contents(text: str, tag: str = "answer") -> list[str]:
    """Return the distinct contents of `<tag>...</tag>` in order, without the empty ones.

    Example:
        >>> tag_contents("<answer>A</answer> so <answer> A </answer><answer>B</answer>")
        ['A', 'B']
    """
    pieces = text.split(f"</{tag}>")[:-1]
    contents = [piece.rpartition(f"<{tag}>")[1:] for piece in pieces]
    return list(
        dict.fromkeys(content.strip() for mark, content in contents if mark and content.strip())
    )


def before_next_question(text: str) -> str:
    r"""Return the text up to a question that follows its first answer: a base model runs on.

    Example:
        >>> before_next_question("The answer is (C).\n\nQuestion: why?\nThe answer is (D).")
        'The answer is (C).\n\n'
    """
    first = _STATED.search(text)
    following = _NEXT_QUESTION.search(text, first.end()) if first else None
    return text[: following.start()] if following else text
