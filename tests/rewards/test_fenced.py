"""Fenced blocks: what is in one, with which label, and that reading them takes linear time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.fenced import Block, blocks, last_block


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no block", []),
        ("```\na\n```", [Block("", "a")]),
        ("x\n```Py\na\n\nb\n```\ny\n~~~ sql\nc\n~~~", [Block("py", "a\n\nb"), Block("sql", "c")]),
        ("````md\n```py\na\n```\n````", [Block("md", "```py\na\n```")]),
        ("~~~\n```\n~~~", [Block("", "```")]),
        ("so: ```sql\na```", [Block("sql", "a")]),
        ("so ```a b``` and ```c```", [Block("", "a b"), Block("", "c")]),
        ("```a``` then ```sql\nb\n```", [Block("", "a"), Block("sql", "b")]),
        ("  ```json title=x\r\na\r\n  ```", [Block("json", "a")]),
        ("```c++\na\n```", [Block("c++", "a")]),
        ("use ``` for code blocks", []),
        ("```sql\na", [Block("sql", "a", closed=False)]),
        ("```", [Block("", "", closed=False)]),
        ("", []),
    ],
)
def test_blocks_are_what_stands_between_fences(text, found):
    assert blocks(text) == found


def test_the_last_block_with_the_label_goes_before_those_without():
    text = "```sql\na\n```\n```sql\nb\n```\n```\nc\n```\n```py\nd\n```"
    assert last_block(text, ("sql",)) == Block("sql", "b")
    assert last_block(text, ("json",)) == Block("", "c")
    assert last_block("```sql a```", ("sql",)) == Block("sql", "a")
    assert last_block("```py\nd\n```", ("sql",)) is None


LINES = st.text(st.sampled_from("ab \t"), max_size=5).filter(lambda line: line == line.rstrip())


@given(st.lists(st.tuples(st.sampled_from(["", "py", "sql"]), st.lists(LINES, min_size=1))))
def test_written_blocks_are_read_back(pairs):
    written = [Block(label, "\n".join(lines)) for label, lines in pairs]
    text = "\nthen\n".join(f"```{block.label}\n{block.content}\n```" for block in written)
    assert blocks(text) == written


@pytest.mark.parametrize(
    "unit",
    ["`", "```", "~~~ ", "```a ", "`` ", "```\n", "```` \n```\n", "~~~\n```\n", "a`", "```a```"],
)
def test_a_long_text_of_fences_is_read_at_once(unit):
    began = time.monotonic()
    for tail in ("", "`", "\n```", " ~"):
        blocks(unit * (300_000 // len(unit)) + tail)
    assert time.monotonic() - began < 30  # quadratic: hours
