"""What a fork does once it is locked: run a program, serve its functions, or judge with tests.

Standard library only. Untrusted code runs in the first two; it may change anything in its process,
which knows nothing but the program and the arguments of the calls so far. Each function ends the
process.
"""

import atexit
import builtins
import contextlib
import io
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from rlvr.rewards.sandbox.session import (
    EARLY,
    ENDED,
    Ask,
    ProgramEnded,
    ProgramRaised,
    Session,
    read_reply,
)
from rlvr.rewards.sandbox.values import MAX_BYTES, NotPlain, decode, dumps, encode, loads

_MAX_TEXT = 300  # characters of an error


def run_program(source_descriptor: int) -> None:
    """Run the program that the descriptor holds, with standard streams, as a script."""
    with open(source_descriptor, "rb") as file:
        source = file.read().decode("utf-8", "surrogatepass")
    module = _module("__main__")
    code = 0
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as end:
        code = _exit_code(end.code)
    except BaseException as error:
        _complain(describe(error))
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined] # waits for the program's threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        _complain(describe(error))
        code = code or 1
    os._exit(code)


def serve_program(descriptor: int) -> None:
    """Load a program, then answer calls of its functions until the channel closes."""
    channel = socket.socket(fileno=descriptor)
    module = _module("solution")
    objects: list[Any] = []

    def keep(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    for line in channel.makefile("rb"):
        message = loads(line)
        reply = {"token": message["token"]}
        try:
            reply["value"] = _answer(message, module.__dict__, objects, keep)
        except BaseException as error:
            reply["error"], reply["raised"] = _refusal(error), _builtin_name(error)
        answer = dumps(reply)
        if len(answer) > MAX_BYTES:
            answer = dumps({"token": reply["token"], "error": "returned too large a value"})
        channel.sendall(answer)
    os._exit(0)


def _answer(
    message: Mapping[str, Any],
    namespace: dict[str, Any],
    objects: list[Any],
    keep: Callable[[Any], int],
) -> Any:
    """Do what is asked; return the JSON tree of the answer."""
    if "load" in message:
        definitions, source = message["load"]
        with contextlib.suppress(Exception):
            exec(compile(definitions, "setup.py", "exec", dont_inherit=True), namespace)
        exec(compile(source, "program.py", "exec", dont_inherit=True), namespace)
        return None
    if "evaluate" in message or "get" in message:
        if "get" in message:
            value = getattr(objects[message["get"]], message["name"])
        else:
            value = eval(message["evaluate"], namespace)
        # also a builtin type under a name of the program's is called here, not where tests run
        return {"object": keep(value)} if callable(value) else encode(value, keep)
    if "set" in message:
        value = decode(message["value"], objects.__getitem__)
        setattr(objects[message["set"]], message["name"], value)
        return None
    args = [decode(tree, objects.__getitem__) for tree in message["args"]]
    kwargs = {name: decode(tree, objects.__getitem__) for name, tree in message["kwargs"].items()}
    return encode(objects[message["call"]](*args, **kwargs), keep)


def judge(program: int, report: int) -> None:
    """Run test statements against a program; report one line a test.

    Args:
        program: Descriptor of the channel to the program's process.
        report: Descriptor of the channel to the trainer: one message with the tests comes in.
    """
    reports = socket.socket(fileno=report)
    task = loads(reports.makefile("rb").readline())
    session = Session(_blocking(program))
    namespace = _module("tests").__dict__
    try:
        session.load(task["definitions"], task["program"])
        for name, expression in task["names"].items():
            with contextlib.suppress(
                ProgramRaised
            ):  # a test that needs it says that it is not there
                namespace[name] = session.evaluate(expression)
    except (ProgramEnded, ProgramRaised) as error:
        reports.sendall(dumps({"unloaded": str(error), "ended": isinstance(error, ProgramEnded)}))
        os._exit(0)
    reports.sendall(dumps({"loaded": True}))
    for counts, source in task["statements"]:
        outcome = _try(source, namespace)
        if counts or outcome.get("unusable"):
            reports.sendall(dumps(outcome))
    reports.sendall(dumps({"done": True}))
    os._exit(0)


def _try(source: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run one statement; return whether it passed, and else why not."""
    try:
        exec(compile(source, "tests.py", "exec", dont_inherit=True), namespace)
    except ProgramEnded as error:
        return {"passed": False, "ended": True, "reason": str(error)}
    except ProgramRaised as error:
        return {"passed": False, "reason": str(error)}
    except NotPlain as error:
        return {"passed": False, "unusable": True, "reason": f"the test passes {error}"}
    except AssertionError:
        return {"passed": False, "reason": ""}
    except BaseException as error:
        return {"passed": False, "reason": f"the test raises {describe(error)}"}
    return {"passed": True}


def _blocking(descriptor: int) -> Ask:
    channel = socket.socket(fileno=descriptor)

    def ask(message: Mapping[str, Any]) -> Any:
        try:
            with contextlib.suppress(BlockingIOError):
                early = channel.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
                raise ProgramEnded(EARLY if early else ENDED)
            channel.sendall(dumps(message))
            line = bytearray()
            while not line.endswith(b"\n"):
                piece = channel.recv(1 << 16)
                line += piece
                if not piece or len(line) > MAX_BYTES:
                    break
        except OSError:
            raise ProgramEnded(ENDED) from None
        return read_reply(line)

    return ask


def describe(error: BaseException) -> str:
    """Return an exception as one line, whatever its class does."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:
        text = type(error).__name__
    return " ".join(text[:_MAX_TEXT].split())


def _builtin_name(error: BaseException) -> str:
    """Return the name of the builtin exception that it is."""
    for kind in type(error).__mro__:
        if getattr(builtins, kind.__name__, None) is kind:
            return kind.__name__
    return "Exception"


def _refusal(error: BaseException) -> str:
    return f"returned {error}" if isinstance(error, NotPlain) else describe(error)


def _complain(text: str) -> None:
    with contextlib.suppress(BaseException):
        os.write(2, text.encode("utf-8", "replace") + b"\n")


def _exit_code(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _complain(str(code)[:_MAX_TEXT])
    return 1


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(__builtins__=builtins, __file__=f"{name}.py")
    sys.modules[name] = module
    return module


def set_streams(descriptors: Mapping[int, int]) -> None:
    """Make these descriptors the standard streams, and the objects of `sys` fresh."""
    for standard, descriptor in descriptors.items():
        os.dup2(descriptor, standard)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        raw = io.FileIO(number, mode, closefd=False)
        buffer: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        text = io.TextIOWrapper(
            buffer, "utf-8", errors="surrogateescape", line_buffering=name == "stderr"
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
