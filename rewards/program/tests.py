"""The forms in which data sets write a program's tests, read into one of three kinds.

`StdioTests`: texts in and out. `CallTests`: arguments and returned values. `JudgedTests`: statements
that only Python can judge (`asserts.py`), which run in a process of their own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.rewards.program.asserts import CallCase, CallTests, JudgedTests, Unusable, read_statements

__all__ = ["CallCase", "CallTests", "JudgedTests", "StdioTests", "Tests", "Unusable", "read_tests"]


@dataclass(frozen=True)
class StdioTests:
    """Runs of the whole program: what it reads, and what it must print."""

    cases: tuple[tuple[str, str], ...]


Tests = StdioTests | CallTests | JudgedTests


def read_tests(tests: Any, entry_point: str | None, setup: str) -> Tests:
    """Return the tests of a row.

    Args:
        tests: Text, list or mapping, or JSON of these.
        entry_point: The function under test, where the tests do not name it.
        setup: Code that runs before the tests.

    Raises:
        Unusable: Where no test can be read from it; the message says why.
    """
    try:
        return _read(
            _from_json(tests.tolist() if hasattr(tests, "tolist") else tests), entry_point, setup
        )
    except RecursionError:
        raise Unusable("the tests are nested too deeply") from None


def _read(tests: Any, entry_point: str | None, setup: str) -> Tests:
    if isinstance(tests, str):
        return read_statements(tests, entry_point, setup)
    if isinstance(tests, Mapping):
        return _of_mapping(tests, entry_point, setup)
    if not isinstance(tests, Sequence) or not tests:
        raise Unusable("there are no tests")
    if all(isinstance(test, str) for test in tests):
        return read_statements("\n".join(tests), entry_point, setup)
    if not all(isinstance(test, Mapping) for test in tests):
        raise Unusable("the tests are neither all texts nor all mappings")
    return _of_cases([dict(test) for test in tests], entry_point, setup)


def _from_json(tests: Any) -> Any:
    for _ in range(2):  # some data sets encode twice
        if not isinstance(tests, str) or tests.lstrip()[:1] not in ("[", "{", '"'):
            break
        try:
            tests = json.loads(tests)
        except (ValueError, RecursionError):
            break
    return tests


def _of_mapping(tests: Mapping[str, Any], entry_point: str | None, setup: str) -> Tests:
    if isinstance(text := tests.get("functional"), str):
        return read_statements(text, entry_point, setup)
    if "inputs" not in tests or "outputs" not in tests:
        raise Unusable(
            f"the tests' keys are {', '.join(map(str, tests))}; they need inputs and outputs"
        )
    inputs, outputs = _listed(tests["inputs"]), _listed(tests["outputs"])
    if len(inputs) != len(outputs):
        raise Unusable(f"the tests have {len(inputs)} inputs and {len(outputs)} outputs")
    function = tests.get("fn_name")
    if function is None and not all(isinstance(i, str) or _are_lines(i) for i in inputs):
        function = entry_point
    if function is None:
        return _stdio([(i, o) for i, o in zip(inputs, outputs, strict=True)])
    # some data sets put each output into a list
    wrapped = all(isinstance(o, list) and len(o) == 1 for o in outputs)
    cases = []
    for given, expected in zip(inputs, outputs, strict=True):
        either = (expected, expected[0]) if wrapped else (expected,)
        cases.append(CallCase(_arguments(given), {}, either, like_json=True))
    return _calls(str(function), setup, cases)


def _of_cases(tests: list[dict[str, Any]], entry_point: str | None, setup: str) -> Tests:
    first = tests[0]
    if "stdin" in first:
        return _stdio([(t.get("stdin"), t.get("stdout")) for t in tests])
    if "args" in first or "kwargs" in first:
        cases = []
        for test in tests:
            if "expected" not in test:
                raise Unusable("a test has no `expected`")
            args, kwargs = test.get("args") or [], test.get("kwargs") or {}
            cases.append(CallCase(_arguments(args), kwargs, (test["expected"],), like_json=True))
        return _calls(entry_point, setup, cases)
    if "input" not in first or "output" not in first:
        raise Unusable(
            f"a test's keys are {', '.join(map(str, first))}; known are input and output, stdin and "
            "stdout, args and expected"
        )
    kind = str(first.get("testtype") or first.get("type") or "")
    if not kind.startswith("func"):
        return _stdio([(t.get("input"), t.get("output")) for t in tests])
    cases = [
        CallCase(_arguments(t.get("input")), {}, (_value(t.get("output")),), like_json=True)
        for t in tests
    ]
    return _calls(first.get("fn_name") or entry_point, setup, cases)


def _stdio(cases: Sequence[tuple[Any, Any]]) -> StdioTests:
    if not cases:
        raise Unusable("there are no tests")
    read = tuple((_text(given), _text(expected)) for given, expected in cases)
    return StdioTests(read)


def _calls(function: str | None, setup: str, cases: Sequence[CallCase]) -> CallTests:
    if not cases:
        raise Unusable("there are no tests")
    if not function:
        raise Unusable("the tests call a function, but neither they nor `entry_point` name it")
    if not all(part.isidentifier() for part in function.replace("()", "").split(".")):
        raise Unusable(f"{function!r} is no name of a function")
    return CallTests(function, setup, tuple(cases))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if _are_lines(value):
        return "\n".join(value)
    raise Unusable(f"a test's text is {type(value).__name__}")


def _are_lines(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def _listed(value: Any) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Unusable("inputs and outputs must be lists")
    return list(value)


def _arguments(given: Any) -> tuple[Any, ...]:
    """Return the arguments of one call: a list, or text with one JSON value a line."""
    if isinstance(given, str):
        given = [_value(line) for line in given.split("\n") if line.strip()]
    if not isinstance(given, Sequence):
        raise Unusable(f"a test's arguments are {type(given).__name__}; they must be a list")
    return tuple(given)


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Unusable("a test's value is no JSON") from None
