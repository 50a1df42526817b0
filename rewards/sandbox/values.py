"""Plain values as JSON with exact types: what may cross between a program, a judge and the trainer.

Standard library only: it is loaded by the process that forks the executions. None, bool, int,
float, str and list are JSON's own (an int is no float); every other type is an object with one key,
its name. An instance of a subclass crosses as the plain value that it holds, so whatever its class
overrides stays behind. Nothing is unpickled, and nothing that arrives can run.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

MAX_BYTES = 4 << 20  # of one message
MAX_DEPTH = 100
MAX_NODES = 500_000
_JSON_INT = 1 << 63  # longer ones travel as hexadecimal: reading them takes linear time
_MAX_EQUAL_HASHES = 64  # in one set; more are made to be slow
_PLAIN: tuple[Any, ...] = (int, float, str, list, tuple, dict, set, frozenset, bytes, bytearray)
_PLAIN += (complex, range)
_TYPES: dict[str, Any] = {kind.__name__: kind for kind in (*_PLAIN, bool, object, type, type(None))}

Reference = Callable[[Any], int | None]


class NotPlain(TypeError):
    """A value that cannot cross: what it is stands in the message."""


class Malformed(ValueError):
    """A message that is not an encoded value."""


def dumps(message: Any) -> bytes:
    """Return the message as one line."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def loads(line: bytes) -> Any:
    """Return the message of one line; raises Malformed."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {type(error).__name__}") from None


def encode(value: Any, reference: Reference | None = None) -> Any:
    """Return the value as a JSON tree.

    Args:
        value: Anything.
        reference: Gives an object that is no plain value its number, or None to refuse it.

    Raises:
        NotPlain: For what is neither.

    Example:
        >>> encode((1, {2.0: b"x"}))
        {'tuple': [1, {'dict': [[2.0, {'bytes': 'x'}]]}]}
    """
    return _Encoder(reference).tree(value, MAX_DEPTH)


class _Encoder:
    def __init__(self, reference: Reference | None) -> None:
        self._reference = reference
        self._left = MAX_NODES

    def tree(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth < 0 or self._left < 0:
            raise NotPlain("a value too deep or too large")
        kind = type(value)
        if value is None or kind is bool or kind is float or kind is str:
            return value
        if kind not in _PLAIN:
            found = _plain_base(value)
            if found is None:
                return self._other(value, depth)
            kind, value = found
            if kind is float or kind is str:
                return value
        return self._plain(kind, value, depth)

    def _plain(self, kind: type, value: Any, depth: int) -> Any:
        if kind is int:
            return value if -_JSON_INT < value < _JSON_INT else {"int": hex(value)}
        if kind is list:
            return self._all(value, depth)
        if kind is dict:
            return {"dict": [self._all(pair, depth) for pair in value.items()]}
        if kind is bytes or kind is bytearray:
            return {kind.__name__: value.decode("latin-1")}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is range:
            return {"range": self._all((value.start, value.stop, value.step), depth)}
        return {kind.__name__: self._all(value, depth)}

    def _other(self, value: Any, depth: int) -> Any:
        if isinstance(value, Iterator):
            return {"iterator": self._all(islice(value, self._left + 1), depth)}
        for name, kind in _TYPES.items():
            if value is kind:
                return {"type": name}
        if callable(getattr(value, "tolist", None)) and not isinstance(value, type):
            return self.tree(value.tolist(), depth - 1)  # arrays and their scalars
        number = None if self._reference is None else self._reference(value)
        if number is None:
            raise NotPlain(f"{_article(type(value).__name__)}, which is no plain value")
        return {"object": number}

    def _all(self, values: Iterable[Any], depth: int) -> list[Any]:
        return [self.tree(value, depth - 1) for value in values]


def _plain_base(value: Any) -> tuple[type, Any] | None:
    """Return the plain type that a subclass's instance is of, and the value without the subclass."""
    base: Any
    for base in _PLAIN:
        if isinstance(value, base):
            if base is dict:
                return base, dict(dict.items(value))
            if base in (list, tuple, set, frozenset):
                return base, base(base.__iter__(value))
            if base is int or base is float:
                return base, base.__pos__(value)
            return base, str.__str__(value) if base is str else base(value)
    return None


def decode(tree: Any, proxy: Callable[[int], Any] | None = None) -> Any:
    """Return the value of a JSON tree in time linear in its size.

    Args:
        tree: From `loads`.
        proxy: Makes what stands for a numbered object; None refuses those.

    Raises:
        Malformed: For a tree that `encode` does not make.

    Example:
        >>> decode({"tuple": [1, {"set": [True]}]})
        (1, {True})
    """
    return _Decoder(proxy).value(tree, MAX_DEPTH)


class _Decoder:
    def __init__(self, proxy: Callable[[int], Any] | None) -> None:
        self._proxy = proxy

    def value(self, tree: Any, depth: int) -> Any:
        if depth < 0:
            raise Malformed("too deep")
        if isinstance(tree, list):
            return self._all(tree, depth)
        if not isinstance(tree, dict):
            return tree
        if len(tree) != 1:
            raise Malformed("an object without a type")
        ((name, content),) = tree.items()
        try:
            return self._typed(name, content, depth)
        except Malformed:
            raise
        except (TypeError, ValueError, KeyError, UnicodeError, OverflowError) as error:
            raise Malformed(f"{name}: {type(error).__name__}") from None

    def _typed(self, name: str, content: Any, depth: int) -> Any:
        if name == "int":
            return int(content, 16)
        if name in ("bytes", "bytearray"):
            return _TYPES[name](content, "latin-1")
        if name == "type":
            return _TYPES[content]
        if name == "object":
            if self._proxy is None or type(content) is not int:
                raise Malformed("an object")
            return self._proxy(content)
        if name == "dict":
            pairs = [self._all(pair, depth) for pair in content]
            _refuse_collisions(key for key, _ in pairs)
            return dict(pairs)
        items = self._all(content, depth)
        if name in ("set", "frozenset"):
            _refuse_collisions(items)
        kinds: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
        kinds["iterator"] = iter
        if name in ("complex", "range"):
            return _TYPES[name](*items)
        return kinds[name](items)

    def _all(self, trees: list[Any], depth: int) -> list[Any]:
        if not isinstance(trees, list):
            raise Malformed("no list")
        return [self.value(tree, depth - 1) for tree in trees]


def _refuse_collisions(keys: Iterable[Any]) -> None:
    # different values of equal hash make a set slow: 50,000 of them take minutes
    common = Counter(map(hash, keys)).most_common(1)
    if common and common[0][1] > _MAX_EQUAL_HASHES:
        raise Malformed("a set made to be slow")


def _article(name: str) -> str:
    return ("an " if name[:1] in "aeiouAEIOU" else "a ") + name[:80]
