"""Where in a completion its program stands: the last code block after the thought.

Linear in the completion. The last block labelled as Python goes before those without a label; a
block of another language is no program. Without any block the whole text is the program.
"""

import textwrap

from rlvr.rewards.extraction import after_thought
from rlvr.rewards.fenced import blocks, last_block

MAX_PROGRAM = 200_000  # characters
_PYTHON = ("python", "python3", "py", "py3")


def program_of(completion: str) -> str | None:
    r"""Return the program; None where a think block is open, or there is no program.

    Example:
        >>> program_of("Here:\n```python\nprint(1)\n```\nIt prints:\n```\n1\n```")
        'print(1)'
    """
    text = after_thought(completion)
    if text is None:
        return None
    block = last_block(text, _PYTHON)
    if block is not None:
        text = textwrap.dedent(block.content)  # a block in a list is indented
    elif blocks(text):
        return None
    return text if text.strip() else None
