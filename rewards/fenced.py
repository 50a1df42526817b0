"""Fenced code blocks of a completion: linear-time, by Markdown's rules and a little beyond them.

A fence is at least three backticks or tildes, with a label; the block ends at as many of the same.
Models also open a fence behind text, close one behind code, and write a block in one line
(```sql SELECT 1```): all three count. What stands in a block is never read as another one.
"""

import re
from dataclasses import dataclass

# possessive: a long run of backticks is passed once
_OPENING = re.compile(r"(?<![`~])(`{3,}+|~{3,}+)[ \t]*+([\w+#.-]*+)([^`~]*+)$")
_ONE_LINE = re.compile(r"(?<!`)(`{3,}+)([^`]+)\1(?!`)")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        label: Word after the opening fence, in lower case; "" without one or in one line.
        content: What stands between the fences.
        closed: False: the text ends inside the block.
    """

    label: str
    content: str
    closed: bool = True


def blocks(text: str) -> list[Block]:
    r"""Return the fenced blocks in order.

    Example:
        >>> blocks("so\n```SQL\nSELECT 1\n```\n")
        [Block(label='sql', content='SELECT 1', closed=True)]
    """
    found: list[Block] = []
    fence, label, lines = "", "", list[str]()
    for line in _LINE_BREAK.split(text):
        if fence:
            code = line.rstrip()
            if code.endswith(fence):
                if code.strip(fence[0] + " \t"):  # code before the fence
                    lines.append(code.rstrip(fence[0]))
                found.append(Block(label, "\n".join(lines)))
                fence = ""
            else:
                lines.append(line)
        else:
            end = 0
            for match in _ONE_LINE.finditer(line):
                found.append(Block("", match[2].strip()))
                end = match.end()
            (fence, label), lines = _opening(line, end), []
    if fence:
        found.append(Block(label, "\n".join(lines), closed=False))
    return found


def last_block(text: str, labels: tuple[str, ...]) -> Block | None:
    r"""Return the last block with one of the labels, else the last one without any; None: none.

    Example:
        >>> last_block("```sql\nSELECT 1\n```\nreturns\n```\n1\n```", ("sql",)).content
        'SELECT 1'
    """
    found = [_labelled(block, labels) for block in blocks(text)]
    named = [block for block in found if block.label in labels]
    return next(reversed(named or [block for block in found if not block.label]), None)


def _labelled(block: Block, labels: tuple[str, ...]) -> Block:
    """Return the block with its label taken off the content, where it is written in one line."""
    first, _, rest = block.content.partition(" ")
    if block.label or first.lower() not in labels:
        return block
    return Block(first.lower(), rest.strip(), block.closed)


def _opening(line: str, start: int) -> tuple[str, str]:
    """Return the fence that the line opens and its label; empty where it opens none."""
    match = _OPENING.search(line, start)
    if match is None or (match[3].strip() and line[: match.start()].strip()):
        return "", ""  # behind text only the label may follow
    return match[1], match[2].lower()
