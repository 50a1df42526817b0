"""Which columns hold the prompt, the answer and the task: the layouts that are known, and lookups.

Detection is this file's tables, read in order; the first that is in the data set is used:

- prompt: the first of PROMPT_COLUMNS; text or a list of chat messages
- answer: the first of ANSWER_COLUMNS
- task: the first of TASK_COLUMNS, else the name of the file

and a detected answer (never one that the recipe maps) is cleaned: of GSM8K's `... #### 1,200` what
follows the mark, without commas; of a worked `solution` the content of its last box.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr.rewards.extraction import boxes
from rlvr.suggest import closest

PROMPT_COLUMNS = ("prompt", "problem", "question", "query")
ANSWER_COLUMNS = (
    "reward_model.ground_truth",  # verl, DAPO
    "final_answer",
    "expected_answer",
    "ground_truth",
    "answer",
    "solution",
)
TASK_COLUMNS = ("data_source", "task")
DETECTED = {"prompt": PROMPT_COLUMNS, "answer": ANSWER_COLUMNS, "task": TASK_COLUMNS}
"""Where each of our columns is looked for, if nobody says where it is."""

MAX_NAMES = 30  # columns listed in a message

Row = dict[str, Any]


class Misfit(ValueError):
    """What a key of a data source asks for, and its data do not have.

    Args:
        key: Below the source: ("columns", "answer").
        text: A sentence that continues the dotted key.
    """

    def __init__(self, key: tuple[str, ...], text: str) -> None:
        super().__init__(text)
        self.key = key


class Missing:
    """What a lookup returns where there is nothing; None is a value."""


MISSING = Missing()


def look_up(row: Any, path: str) -> Any:
    """Return the value at a dotted path, or MISSING.

    A part that is a number goes into a list; text that holds a JSON object is read on the way.

    Example:
        >>> look_up({"reward_model": {"ground_truth": ["34"]}}, "reward_model.ground_truth.0")
        '34'
    """
    if isinstance(row, dict) and path in row:  # also a column whose own name has dots
        return row[path]
    head, _, rest = path.partition(".")
    if isinstance(row, str) and row[:1] in ("{", "["):
        try:
            row = json.loads(row)
        except ValueError:
            return MISSING
    value: Any = MISSING
    if isinstance(row, dict):
        value = row.get(head, MISSING)
    elif isinstance(row, list | tuple) and re.fullmatch(r"-?\d+", head):
        index = int(head)
        value = row[index] if -len(row) <= index < len(row) else MISSING
    return look_up(value, rest) if rest and value is not MISSING else value


def detect(rows: Sequence[Row], names: Iterable[str]) -> str | None:
    """Return the first of the columns that has a value in some row, or None."""
    return next(
        (name for name in names if any(look_up(r, name) not in (MISSING, None) for r in rows)), None
    )


def choose_columns(
    rows: Sequence[Row], given: Mapping[str, str], wanted: Iterable[str], *, where: str
) -> dict[str, str]:
    """Return our column -> theirs: what is given, and what is found of the others that are wanted.

    Args:
        rows: Of the data set.
        given: Our column -> theirs.
        wanted: Names in `DETECTED`.
        where: Name of the data set, for messages.

    Raises:
        Misfit: For a given column that no row has.
    """
    for ours, theirs in given.items():
        if all(look_up(row, theirs) is MISSING for row in rows):
            text = f"is {theirs!r}, which no row of {where} has.{describe_columns(rows, theirs)}"
            raise Misfit(("columns", ours), text)
    found = {ours: given.get(ours) or detect(rows, DETECTED[ours]) for ours in wanted}
    return dict(given) | {ours: theirs for ours, theirs in found.items() if theirs is not None}


def mapped(record: Row, mapping: Mapping[str, str], given: Mapping[str, str]) -> Row:
    """Return a record's columns by our names; an answer that was detected, not given, is cleaned."""
    values = {ours: look_up(record, theirs) for ours, theirs in mapping.items()}
    row = {ours: None if value is MISSING else value for ours, value in values.items()}
    if "answer" in row and "answer" not in given:
        row["answer"] = clean_answer(row["answer"], mapping["answer"])
    return row


def clean_answer(answer: Any, column: str) -> Any:
    r"""Return a detected answer without the working around it.

    Example:
        >>> clean_answer("She has 3*400=1200.\n#### 1,200", "answer")
        '1200'
        >>> clean_answer(r"Since $x=2$, it is $\boxed{4}$.", "solution")
        '4'
    """
    if not isinstance(answer, str):
        return answer
    if column == "answer" and "####" in answer:
        final = answer.rpartition("####")[2].strip()
        return re.sub(r"(?<=\d),(?=\d)", "", final)
    found = boxes(answer) if column == "solution" else []
    return found[-1].content.strip() if found else answer


def column_names(rows: Sequence[Row]) -> list[str]:
    """Return the dotted names of all columns, structures opened, in order of appearance.

    Example:
        >>> column_names([{"prompt": "1+1=", "reward_model": {"ground_truth": "2"}}])
        ['prompt', 'reward_model.ground_truth']
    """
    names: dict[str, None] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict) and value and name.count(".") < 3:
            for key, item in value.items():
                walk(item, f"{name}.{key}" if name else str(key))
        elif name:
            names.setdefault(name)

    for row in rows:
        walk(row, "")
    return list(names)


def describe_columns(rows: Sequence[Row], wanted: str) -> str:
    """Return ` Did you mean 'x'? Columns: a, b.` for a message about a column that is missing."""
    names = column_names(rows)
    near = closest(wanted, names)
    listed = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
    return (f" Did you mean {near!r}?" if near else "") + f" Columns: {listed or 'none'}."
