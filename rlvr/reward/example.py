"""Rows to try a verifier on: built-in ones for each verifier, or a user's own data.

A row has what the verifier needs, and a `right` and a `wrong` completion where these cannot be made
by stating a gold answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.reward.rows import Row, read_rows
from rlvr.rewards.plugin import is_reference
from rlvr.rewards.registry import load
from rlvr.rewards.verdict import Sample

MAX_ROWS = 16
"""Rows of a data set that are tried."""


@dataclass(frozen=True)
class Example:
    """A row and, where they are known, completions that are right and wrong."""

    prompt: Any
    row: Row
    right: str | None = None
    wrong: str | None = None

    @property
    def answer(self) -> Any:
        """The gold answer; None where there is none."""
        return self.row.get("answer")

    def sample(self, completion: str) -> Sample:
        """Return a completion of this row as a verifier sees it, about four characters a token."""
        length = -(-len(completion) // 4)
        return Sample(self.prompt, completion, self.answer, self.row, length=length)


def load_examples(verifier: str, data: str | None) -> list[Example]:
    """Return the rows to try a verifier on.

    Args:
        verifier: Name or reference.
        data: File, folder or hub id; None: built-in rows.

    Raises:
        ValueError: If there are no rows.
    """
    if data is not None:
        return _from_data(data)
    rows = _ARITHMETIC if is_reference(verifier) else EXAMPLES.get(verifier)
    if rows is None:
        load(verifier)  # says which names are near
        raise ValueError(f"there are no example rows for {verifier}; give some with --data FILE")
    return [_example(row) for row in rows]


def _from_data(data: str) -> list[Example]:
    rows = read_rows(data)
    spread = rows[:: max(1, len(rows) // MAX_ROWS)][:MAX_ROWS]
    return [_example(row) for row in spread]


def _example(row: Row) -> Example:
    own = {name: value for name, value in row.items() if name not in ("right", "wrong")}
    return Example(row.get("prompt") or "", own, row.get("right"), row.get("wrong"))


def _question(text: str, answer: Any, **columns: Any) -> Row:
    return {"prompt": text, "answer": answer, **columns}


_ARITHMETIC: Sequence[Row] = (
    _question("What is 17 + 25? Put the final answer in \\boxed{}.", "42"),
    _question("What is 12 * 12? Put the final answer in \\boxed{}.", "144"),
    _question("What is 31 - 47? Put the final answer in \\boxed{}.", "-16"),
    _question("A pen costs 3 and a book 8. What do 5 pens and 2 books cost?", "31"),
)
_DOUBLE = "Write a function double(x) that returns twice x."
_SHOP = (
    "CREATE TABLE sale (item TEXT, price INTEGER);"
    "INSERT INTO sale VALUES ('pen', 3), ('book', 8), ('lamp', 20), ('cup', 8)"
)

EXAMPLES: Mapping[str, Sequence[Row]] = {
    "math": (
        *_ARITHMETIC,
        _question("Simplify 6/8.", r"\frac{3}{4}"),
        _question("Solve x^2 = 12 for x > 0.", r"2\sqrt{3}"),
        _question("Expand (x+1)^2.", "x^2+2x+1"),
    ),
    "numeric": (
        *_ARITHMETIC,
        _question("What is 7 / 8 as a decimal?", "0.875"),
        _question("How far is 3 times 1.5 km?", "4.5"),
    ),
    "choice": (
        _question("Which is a prime? (A) 21 (B) 23 (C) 25", "B", choices=["21", "23", "25"]),
        _question("Which is a mammal? (A) bat (B) ant (C) eel", "A", choices=["bat", "ant", "eel"]),
        _question("What is 2 + 3? (A) 4 (B) 6 (C) 5", "C", choices=["4", "6", "5"]),
    ),
    "exact": (
        _question("What is the capital of Italy? One word.", "Rome"),
        _question("Spell 'pots' backwards.", "stop"),
        _question("Sort: cat, bear, ant.", "ant bear cat"),
    ),
    "regex": (
        {
            "prompt": "Write a date as YYYY-MM-DD.",
            "answer": r"\d{4}-\d{2}-\d{2}",
            "right": "2024-02-29",
            "wrong": "29 February 2024",
        },
    ),
    "code": (
        {
            "prompt": _DOUBLE,
            "tests": ["assert double(2) == 4", "assert double(-3) == -6"],
            "right": "```python\ndef double(x):\n    return 2 * x\n```",
            "wrong": "```python\ndef double(x):\n    return x * x\n```",
        },
        {
            "prompt": "Read two integers from one line and print their product.",
            "tests": {"inputs": ["3 4\n", "-2 8\n"], "outputs": ["12\n", "-16\n"]},
            "right": "```python\na, b = map(int, input().split())\nprint(a * b)\n```",
            "wrong": "```python\na, b = map(int, input().split())\nprint(a + b)\n```",
        },
    ),
    "sql": (
        _question(
            "The items that cost 8.", "SELECT item FROM sale WHERE price = 8", database=_SHOP
        ),
        _question("How many items are there?", "SELECT COUNT(*) FROM sale", database=_SHOP),
        _question(
            "The dearest item.", "SELECT item FROM sale ORDER BY price DESC LIMIT 1", database=_SHOP
        ),
    ),
    "json_schema": (
        {
            "prompt": "Give a name and an age as JSON.",
            "schema": {
                "type": "object",
                "required": ["name", "age"],
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            },
            "right": '```json\n{"name": "Ada", "age": 36}\n```',
            "wrong": '```json\n{"name": "Ada", "age": "36 years"}\n```',
        },
    ),
    "instructions": (
        {
            "prompt": "Describe a river with its boats, in at least ten words without commas.",
            "instruction_id_list": [
                "length_constraints:number_words",
                "punctuation:no_comma",
                "keywords:existence",
            ],
            "kwargs": [{"relation": "at least", "num_words": 10}, {}, {"keywords": ["slow"]}],
            "right": "The river is long and slow and carries small boats to the sea.",
            "wrong": "A river, long, slow.",
        },
    ),
    "countdown": (
        {
            "prompt": "Make 8 from 3, 5 and 7.",
            "numbers": [3, 5, 7],
            "target": 8,
            "right": "<answer>3*5-7</answer>",
            "wrong": "<answer>3+5</answer>",
        },
    ),
    "subset_sum": (
        {
            "prompt": "Which of 3, 9, 4 and 11 add up to 15?",
            "numbers": [3, 9, 4, 11],
            "target": 15,
            "right": "<answer>4 11</answer>",
            "wrong": "<answer>3 9</answer>",
        },
    ),
    "reasoning_gym": (
        {
            "prompt": "State the final answer to the following arithmetic problem: 2 - 0 + 6 - 4 =",
            "entry": {
                "question": "",
                "answer": "4",
                "metadata": {"source_dataset": "chain_sum", "expression": "2 - 0 + 6 - 4"},
            },
            "right": "<answer>4</answer>",
            "wrong": "<answer>12</answer>",
        },
    ),
    "format": (
        {
            "prompt": "What is 3 + 4?",
            "right": "<think>3 and 4 are 7.</think><answer>7</answer>",
            "wrong": "<answer>7</answer><think>3 and 4 are 7.</think>",
        },
    ),
    "length": (
        {"prompt": "What is 3 + 4?", "right": "It is 7.", "wrong": "Wait, let me think. " * 40},
    ),
    "repetition": (
        {"prompt": "What is 3 + 4?", "right": "It is 7.", "wrong": "Wait, let me think. " * 40},
    ),
    "judge": (
        _question("Why is the sky blue?", "Air scatters short wavelengths more than long ones."),
        _question("Why does ice float?", "Ice is less dense than water."),
    ),
}
"""Rows for each built-in verifier."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {"length": {"max_length": 100}}
"""Options with which the built-in rows are judged, where a verifier has no default."""
