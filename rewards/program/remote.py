"""Calls of a program's function at a sandbox service that runs scripts only.

Each case is a run of its own: a script that reads the program and the arguments from its standard
input and prints the returned value in the exact types of `sandbox/values.py`. The expected values
stay here, so what the program prints in its place is a claim like any other.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from rlvr.rewards.program.asserts import CallCase, CallTests, definitions_of
from rlvr.rewards.program.compare import Comparison
from rlvr.rewards.program.run import Score, compare_value, find_function
from rlvr.rewards.sandbox import values
from rlvr.rewards.sandbox.request import ExecutionRequest, ExecutionResult, Limits, Runner, Status

_DRIVER = """
import os, sys
task = loads(sys.stdin.readline())
answer = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
namespace = {"__name__": "solution"}
try:
    try:
        exec(task["definitions"], namespace)
    except Exception:
        pass
    exec(task["program"], namespace)
    function = eval(task["function"], namespace)
    args = [decode(tree) for tree in task["args"]]
    kwargs = {name: decode(tree) for name, tree in task["kwargs"].items()}
    reply = {"value": encode(function(*args, **kwargs))}
except BaseException as error:
    reply = {"error": type(error).__name__ + ": " + str(error)[:300]}
os.write(answer, dumps(reply)) if len(dumps(reply)) < 65536 else open(answer, "wb").write(dumps(reply))
"""


def run_remote_calls(
    box: Runner,
    program: str,
    tests: CallTests,
    limits: Limits,
    comparison: Comparison,
    score: Score,
) -> None:
    """Call the function case by case and compare what it returns."""
    script = inspect.getsource(values) + _DRIVER
    fixed = {
        "definitions": definitions_of(tests.setup),
        "program": program,
        "function": find_function(tests.function),
    }

    def requests() -> Iterator[ExecutionRequest]:
        for case in tests.cases:
            kwargs = {name: values.encode(value) for name, value in case.kwargs.items()}
            arguments = {"args": [values.encode(value) for value in case.args], "kwargs": kwargs}
            given = values.dumps(fixed | arguments).decode("ascii")
            yield ExecutionRequest(script, given, limits, score.left)

    for result, case in zip(box.run_all(requests()), tests.cases, strict=False):
        score.decide(*_compare(result, case, comparison))
        if not score.open:
            return


def _compare(result: ExecutionResult, case: CallCase, comparison: Comparison) -> tuple[bool, str]:
    if result.status is not Status.FINISHED:
        return False, result.reason
    try:
        reply: Any = values.loads(result.stdout)
        if not isinstance(reply, dict):
            return False, "a reply that is no value"
        if "error" in reply:
            return False, str(reply["error"])
        return compare_value(values.decode(reply.get("value")), case, comparison)
    except values.Malformed as error:
        return False, f"a reply that is no value ({error})"
