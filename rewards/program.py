"""Where in a completion its program stands: the last code block after the thought.

Linear in the completion. A block that says it is another language (text, bash, json) is no program;
a block that is not closed runs to the end; without any block the whole text is the program.
"""

import re

from rlvr.rewards.extraction import after_thought

MAX_PROGRAM = 200_000  # characters
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)$", re.MULTILINE)
_PYTHON = ("", "python", "python3", "py", "py3", "python 3")


def program_of(completion: str) -> str | None:
    r"""Return the program; None where a think block is open, or there is no text.

    Example:
        >>> program_of("Here:\n```python\nprint(1)\n```\nIt prints:\n```text\n1\n```")
        'print(1)\n'
    """
    text = after_thought(completion)
    if text is None:
        return None
    blocks, fenced = _blocks(text.replace("\r\n", "\n"))
    found = blocks[-1] if blocks else None if fenced else text
    return found if found is not None and found.strip() else None


def _blocks(text: str) -> tuple[list[str], bool]:
    """Return the contents of the Python blocks, and whether there is any block."""
    blocks: list[str] = []
    opened: re.Match[str] | None = None
    fenced = False
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened, fenced = fence, True
        elif fence[2].startswith(opened[2]) and not fence[3].strip():
            _add(blocks, opened, text[opened.end() + 1 : fence.start()])
            opened = None
    if opened is not None:
        _add(blocks, opened, text[opened.end() + 1 :])
    return blocks, fenced


def _add(blocks: list[str], opened: re.Match[str], content: str) -> None:
    language = opened[3].strip().lower().split("{")[0].strip()
    if language in _PYTHON:
        indent = opened[1]  # of a block in a list
        lines = content.split("\n")
        blocks.append("\n".join(line.removeprefix(indent) for line in lines))
