"""Integers from the columns of a row or from text, whichever way they were stored."""

import json
import re
from typing import Any

_INTEGER = re.compile(r"[-+]?\d{1,30}", re.ASCII)


def integer(value: Any) -> int | None:
    """Return the value as an integer; None if it is not one.

    Example:
        >>> integer("12"), integer(3.0), integer("x")
        (12, 3, None)
    """
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value) else None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == value else None


def integers(value: Any) -> list[int] | None:
    """Return a list of integers from a list, an array or a JSON string; None if it is not one.

    Example:
        >>> integers("[1, 2]"), integers([1, "x"])
        ([1, 2], None)
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict) or not hasattr(value, "__iter__"):
        return None
    found = [integer(item) for item in value]
    return None if None in found else [item for item in found if item is not None]
