"""Rows of a data set with its own row numbers: nothing is left out, repeated rows neither."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.data.layout import Misfit, choose_columns, mapped
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
    given = dict(map(_column, columns))
    try:
        mapping = choose_columns(rows, given, ("prompt", "answer"), where=path)
    except Misfit as error:
        raise ValueError(f"--column {error.key[-1]} {error}") from None
    return [{**row, **mapped(row, mapping, given)} for row in rows]


def _column(text: str) -> tuple[str, str]:
    ours, _, theirs = text.partition("=")
    if not (ours and theirs):
        raise ValueError(f"--column {text!r}: write OURS=THEIRS, as in answer=final_answer")
    return ours, theirs
