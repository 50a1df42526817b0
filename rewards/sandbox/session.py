"""Calls of a program's functions across a process boundary, seen from the side that asks.

Standard library only: the process that runs tests loads it too. A reply carries the random number
of its question, and nothing may stand in the channel before a question: a program cannot answer in
advance, and cannot shift the answers. What it replies are values, never code.
"""

import builtins
import os
from collections.abc import Callable, Mapping
from typing import Any

from rlvr.rewards.sandbox.values import MAX_BYTES, Malformed, decode, encode, loads

EARLY = "it answered before it was asked"
ENDED = "its process ended"
Ask = Callable[[Mapping[str, Any]], Any]


class ProgramEnded(Exception):
    """The program can answer no more: it ended, broke the protocol or was stopped."""


class ProgramRaised(Exception):
    """The program raised, or returned what is no plain value; its text is in the message."""


class Session:
    """Asks a program.

    Args:
        ask: Sends a message and returns the reply's JSON tree; raises ProgramEnded.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def load(self, definitions: str, source: str) -> None:
        """Run the program's definitions and statements; raises ProgramRaised."""
        self._reply({"load": [definitions, source]})

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the program's namespace."""
        return self._reply({"evaluate": expression})

    def call(self, target: "Remote", args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return what the program's function returns."""
        plain = {name: _encoded(value) for name, value in kwargs.items()}
        return self._reply(
            {"call": number_of(target), "args": [_encoded(a) for a in args], "kwargs": plain}
        )

    def get(self, target: "Remote", name: str) -> Any:
        """Return an attribute of the program's object."""
        return self._reply({"get": number_of(target), "name": name})

    def set(self, target: "Remote", name: str, value: Any) -> None:
        """Set an attribute of the program's object."""
        self._reply({"set": number_of(target), "name": name, "value": _encoded(value)})

    def _reply(self, message: Mapping[str, Any]) -> Any:
        token = os.urandom(8).hex()
        reply = self._ask({"token": token, **message})
        if not isinstance(reply, dict) or reply.get("token") != token:
            raise ProgramEnded("it answered what was not asked")
        if "error" in reply:
            raise _raised(reply.get("raised"))(str(reply["error"])[:300])
        try:
            return decode(reply.get("value"), lambda number: Remote(self, number))
        except (Malformed, RecursionError) as error:
            raise ProgramRaised(f"a reply that is no value ({error})") from None


class Remote:
    """An object of the program. It can be called, and its attributes read and set; nothing else.

    It equals nothing and is neither true nor false: what the program's class says of that would be
    the program's own verdict.
    """

    def __init__(self, session: Session, number: int) -> None:
        object.__setattr__(self, "_place", (session, number))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it in the program's process."""
        return _session_of(self).call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _session_of(self).get(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _session_of(self).set(self, name, value)

    def __bool__(self) -> bool:
        raise TypeError("an object of the program has no truth value here")

    def __eq__(self, other: object) -> bool:
        raise TypeError("an object of the program cannot be compared here")

    def __ne__(self, other: object) -> bool:
        raise TypeError("an object of the program cannot be compared here")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<an object of the program>"


def number_of(value: Any) -> int | None:
    """Return the number of a remote object; None for anything else."""
    return object.__getattribute__(value, "_place")[1] if type(value) is Remote else None


def read_reply(line: bytes | bytearray) -> Any:
    """Return the tree of one reply; raises ProgramEnded for what is not exactly one."""
    if not line.endswith(b"\n"):
        raise ProgramEnded(ENDED if len(line) <= MAX_BYTES else "it answered too much")
    if line.find(b"\n") != len(line) - 1:
        raise ProgramEnded(EARLY)
    try:
        return loads(bytes(line))
    except Malformed as error:
        raise ProgramEnded(f"it answered what is {error}") from None


def _raised(name: Any) -> type[ProgramRaised]:
    """Return ProgramRaised as the builtin exception of this name, so that tests can expect it."""
    base = getattr(builtins, name, None) if isinstance(name, str) else None
    if not isinstance(base, type) or not issubclass(base, Exception):
        return ProgramRaised
    # one takes more than a text; a test fails by itself; and `all(map(f, ...))` would end, satisfied
    if issubclass(base, UnicodeError | AssertionError | StopIteration | StopAsyncIteration):
        return ProgramRaised
    return type(base.__name__, (ProgramRaised, base), {})


def _session_of(remote: Remote) -> Session:
    return object.__getattribute__(remote, "_place")[0]


def _encoded(value: Any) -> Any:
    return encode(value, number_of)
