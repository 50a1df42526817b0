"""Rows of a data set with its own row numbers: nothing is left out, repeated rows neither."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.data.layout import (
    ANSWER_COLUMNS,
    MISSING,
    PROMPT_COLUMNS,
    clean_answer,
    describe_columns,
    detect,
    look_up,
)
from rlvr.data.read import read

Row = Mapping[str, Any]


def read_rows(path: str, *, split: str = "train", columns: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a data set, with `prompt` and `answer` where it has such columns.

    Args:
        path: File, folder or hub id.
        split: Of a hub data set, or of a folder.
        columns: `OURS=THEIRS`; what is not said is detected as in a recipe.

    Raises:
        ValueError: If it cannot be read, is empty, or has no such column.
    """
    rows = read(path, split=split)
    if not rows:
        raise ValueError(f"{path}: there is no row in it")
    mapping = _mapping(path, rows, columns)
    cleaned = "answer" not in {column.partition("=")[0] for column in columns}
    return [_row(row, mapping, cleaned=cleaned) for row in rows]


def _mapping(path: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    mapping = {}
    for ours, names in (("prompt", PROMPT_COLUMNS), ("answer", ANSWER_COLUMNS)):
        found = detect(rows, names)
        if found is not None:
            mapping[ours] = found
    for text in columns:
        ours, _, theirs = text.partition("=")
        if not (ours and theirs):
            raise ValueError(f"--column {text!r}: write OURS=THEIRS, as in answer=final_answer")
        if all(look_up(row, theirs) is MISSING for row in rows):
            raise ValueError(
                f"{path}: --column {ours} is {theirs!r}, which no row has."
                f"{describe_columns(rows, theirs)}"
            )
        mapping[ours] = theirs
    return mapping


def _row(row: dict[str, Any], mapping: Mapping[str, str], *, cleaned: bool) -> Row:
    found = {ours: look_up(row, theirs) for ours, theirs in mapping.items()}
    mapped = {ours: None if value is MISSING else value for ours, value in found.items()}
    if cleaned and "answer" in mapped:
        mapped["answer"] = clean_answer(mapped["answer"], mapping["answer"])
    return {**row, **mapped}
