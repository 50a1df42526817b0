"""Fenced code blocks of a completion: linear-time, by Markdown's rules and a little beyond them.

A fence is at least three backticks or tildes, with a label; the block ends at as many of the same.
Models also open a fence behind text, close one behind code, and write a block in one line
(```sql SELECT 1```): all three count. What stands in a block is never read as another one.
"""

import re
from dataclasses import dataclass

# possessive: a long run of backticks is passed once
_OPENING = re.compile(r"(?<![`~])(`{3,}+|~{3,}+)[ \t]*+([\w+#.-]*+)([^`]*+)$")
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
                lines.append(code.rstrip(fence[0]))
                found.append(Block(label, "\n".join(lines).rstrip("\n")))
                fence = ""
            else:
                lines.append(line)
        elif opening := _opening(line):
            (fence, label), lines = opening, []
        else:
            found += [Block("", match[2].strip()) for match in _ONE_LINE.finditer(line)]
    if fence:
        found.append(Block(label, "\n".join(lines), closed=False))
    return found


def last_block(text: str, labels: tuple[str, ...]) -> Block | None:
    """Return the last block that has one of the labels, or none; None if there is none."""
    for block in reversed(blocks(text)):
        if block.label in labels:
            return block
        if not block.label:
            first, _, rest = block.content.partition(" ")
            return Block("", rest, block.closed) if first.lower() in labels else block
    return None


def _opening(line: str) -> tuple[str, str] | None:
    match = _OPENING.search(line)
    if match is None or (match[3].strip() and line[: match.start()].strip()):
        return None  # behind text only the label may follow
    return match[1], match[2].lower()
