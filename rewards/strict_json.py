"""JSON as the standard has it: read strictly, within limits, and compared by value.

Python's reader also takes NaN, repeated keys, numbers beyond any range, and nests as deep as the stack.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

MAX_DIGITS = 308  # of an integer: the range of floats
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)

Path = tuple[str | int, ...]


def parse(text: str, *, max_chars: int = 100_000, max_depth: int = 64) -> Any:
    """Return the value of a JSON text.

    Args:
        text: One value, with nothing but white space around it.
        max_chars: Longest text.
        max_depth: Deepest nesting of arrays and objects.

    Raises:
        ValueError: Where it is no JSON or beyond a limit; says where.

    Example:
        >>> parse('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: the key 'a' is there twice
    """
    if len(text) > max_chars:
        raise ValueError(f"it has {len(text):,} characters; at most {max_chars:,} are read")
    if _depth(text) > max_depth:
        raise ValueError(f"it nests deeper than {max_depth}")
    return json.loads(
        text,
        object_pairs_hook=_object,
        parse_constant=_no_number,
        parse_float=_float,
        parse_int=_int,
    )


def equal(a: Any, b: Any) -> bool:
    """Return whether two values are the same JSON: numbers by value, keys in any order.

    Example:
        >>> equal({"a": [1, None], "b": 2.0}, {"b": 2, "a": [1, None]}), equal(True, 1)
        (True, False)
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return _kind(a) == _kind(b) and bool(a == b)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Return each path to a value that holds no other, and that value.

    Example:
        >>> list(leaves({"a": [1, {}], "b": None}))
        [(('a', 0), 1), (('a', 1), {}), (('b',), None)]
    """
    if value and isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def _depth(text: str) -> int:
    depth = deepest = 0
    for match in _BRACKET.finditer(text):
        depth += (match[0] in "[{") - (match[0] in "]}")
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r:.80} is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text:.80} is out of range")
    return number


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"the number {text[:20]}... is out of range")
    return int(text)


def _kind(value: Any) -> type:
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)
