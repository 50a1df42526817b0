"""Equality of query results: as sequences of rows, as bags, or as sets.

Cells are equal with their type: text is not a number, NULL equals only NULL. An integer equals the
same number as a float; floats that are not whole agree within a relative tolerance.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

Row = tuple[Any, ...]
Rows = Sequence[Row]
Mode = Literal["set", "bag", "ordered"]

_TYPES = {type(None): 0, int: 1, float: 1, str: 2, bytes: 3}


def same_rows(gold: Rows, found: Rows, mode: Mode, tolerance: float = 0.0) -> bool:
    """Return whether two results are equal; both have the same number of columns.

    Args:
        gold: Rows of None, int, float, str and bytes.
        found: Likewise.
        mode: ordered: row by row; bag: in any order; set: duplicates do not count either.
        tolerance: Relative, of floats that are not whole.

    Example:
        >>> same_rows([(1,), (2,)], [(2.0,), (1,)], "bag")
        True
    """
    gold, found = [_whole(row) for row in gold], [_whole(row) for row in found]
    if mode != "ordered":
        gold, found = _sorted(gold, found, tolerance)
    if mode == "set":
        gold, found = _distinct(gold, tolerance), _distinct(found, tolerance)
    return len(gold) == len(found) and all(
        _close(a, b, tolerance) for a, b in zip(gold, found, strict=True)
    )


def same_columns_in_any_order(gold: Rows, found: Rows, mode: Mode, tolerance: float = 0.0) -> bool:
    """Return whether some order of the columns of `found` makes the results equal.

    Columns are placed one by one, and only where the rows so far agree.
    """
    if not gold or not found:
        return same_rows(gold, found, mode, tolerance)
    return any(True for _ in _placements(gold, found, mode, tolerance, ()))


def _placements(
    gold: Rows, found: Rows, mode: Mode, tolerance: float, placed: tuple[int, ...]
) -> Iterator[tuple[int, ...]]:
    width = len(gold[0])
    if len(placed) == width:
        yield placed
        return
    head = [row[: len(placed) + 1] for row in gold]
    tried = set()
    for column in range(width):
        content = tuple(row[column] for row in found)
        if column in placed or content in tried:
            continue
        tried.add(content)  # an equal column would fare alike
        order = (*placed, column)
        if same_rows(head, [tuple(row[i] for i in order) for row in found], mode, tolerance):
            yield from _placements(gold, found, mode, tolerance, order)


def _whole(row: Row) -> Row:
    """Return the row with floats that are whole numbers as integers."""
    return tuple(int(c) if isinstance(c, float) and c.is_integer() else c for c in row)


def _sorted(gold: list[Row], found: list[Row], tolerance: float) -> tuple[list[Row], list[Row]]:
    """Return both lists in one order, in which rows that agree stand at the same place.

    Columns that hold a float which is not whole come last, rounded: rows that differ by rounding
    errors there are ordered by the other columns.
    """
    floats = {i for row in (*gold, *found) for i, c in enumerate(row) if isinstance(c, float)}
    digits = 15 if tolerance <= 0 else max(1, min(15, math.floor(-math.log10(tolerance))))

    def key(row: Row) -> tuple[Any, ...]:
        exact = [(_TYPES[type(c)], c) for i, c in enumerate(row) if i not in floats]
        inexact = [(_TYPES[type(row[i])], row[i]) for i in sorted(floats)]
        rounded = [(kind, _rounded(c, digits) if kind == 1 else c) for kind, c in inexact]
        return tuple(_comparable(exact)), tuple(_comparable(rounded)), tuple(_comparable(inexact))

    return sorted(gold, key=key), sorted(found, key=key)


def _comparable(cells: list[tuple[int, Any]]) -> Iterator[tuple[Any, ...]]:
    return ((kind,) if kind == 0 else (kind, cell) for kind, cell in cells)


def _rounded(number: float, digits: int) -> float:
    return float(f"{number:.{digits}g}")


def _distinct(rows: list[Row], tolerance: float) -> list[Row]:
    """Return sorted rows without those that agree with the row before."""
    kept: list[Row] = []
    for row in rows:
        if not kept or not _close(kept[-1], row, tolerance):
            kept.append(row)
    return kept


def _close(a: Row, b: Row, tolerance: float) -> bool:
    return all(_equal(x, y, tolerance) for x, y in zip(a, b, strict=True))


def _equal(x: Any, y: Any, tolerance: float) -> bool:
    if isinstance(x, float) or isinstance(y, float):
        numbers = isinstance(x, int | float) and isinstance(y, int | float)
        return numbers and math.isclose(x, y, rel_tol=tolerance)
    return bool(x == y) and type(x) is type(y)
