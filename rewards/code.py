"""Code: a Python program against tests, in a sandbox.

The program runs in a locked process that sees neither the tests nor the expected values: a script
gets one run a case, and its output is compared here; a function is called through a channel of
plain values, from here or from a second locked process where assert statements run. So the verdict
does not depend on what the program prints, exits with, overwrites or returns an object of.
An exception, a timeout and an exit of the program are wrong; a fault of the sandbox is crashed.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlvr.rewards.program.asserts import CallTests, JudgedTests, Unusable
from rlvr.rewards.program.compare import Comparison
from rlvr.rewards.program.remote import run_remote_calls
from rlvr.rewards.program.run import Score, run_calls, run_judged, run_stdio
from rlvr.rewards.program.tests import StdioTests, Tests, read_tests
from rlvr.rewards.program.text import MAX_PROGRAM, program_of
from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.probe import refusal
from rlvr.rewards.sandbox.remote import RemoteSandbox
from rlvr.rewards.sandbox.request import Limits, SandboxBroken
from rlvr.rewards.sandbox.values import NotPlain
from rlvr.rewards.verdict import Sample, Verdict, crashed, partial, skipped, unparsable, wrong

Sandbox = LocalSandbox | RemoteSandbox

COLUMNS = ("tests",)
OPTIONAL_COLUMNS = ("entry_point", "setup")
BOUNDED = False
_STARTING = 20.0  # seconds that a sandbox may take to start on a loaded machine


class Config(BaseModel):
    """Options of the code verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: Literal["all", "fraction"] = "all"
    """all: a program that fails one test is wrong, and the tests after it are not run. fraction:
    the verdict is the share of tests that pass, which also pays for constants and lucky guesses."""
    seconds: float = Field(5.0, gt=0, allow_inf_nan=False)
    """Processor time of one test. It also ends after three times as much wall time."""
    total_seconds: float = Field(30.0, gt=0, allow_inf_nan=False)
    """Wall time of all tests together; tests that are not reached are failed."""
    memory_mib: int = Field(1024, ge=64)
    """Address space of a program."""
    max_tests: int | None = Field(None, ge=1)
    """Tests that are run, spread evenly over the row's; None runs all."""
    tolerance: float = Field(0.0, ge=0, lt=1)
    """Relative or absolute difference that is allowed of numbers with a fraction, printed or
    returned; 0 demands equality. Assert statements that are more than `f(...) == value` say
    themselves what they allow."""
    strict_types: bool = False
    """Returned values must have the expected types: True is not 1, a tuple is no list."""
    packages: tuple[str, ...] = ()
    """Installed packages that programs may import besides the standard library, such as numpy."""
    backend: Literal["local", "bwrap", "http"] = "local"
    """`local`: Landlock and a filter of system calls. `bwrap`: also bubblewrap's namespaces.
    `http`: a SandboxFusion service, which takes scripts and calls with expected values."""
    url: str | None = None
    """Address of the service, such as http://localhost:8080; for `http`."""
    concurrency: int | None = Field(None, ge=1)
    """Requests that one worker has open at the service; for `http`. None: 8."""
    unsafe: bool = False
    """Run programs although this machine cannot lock them in."""


def DEADLINE(config: Config) -> float:
    """Return the seconds that the pool allows one sample."""
    return config.total_seconds + _STARTING


def ready(config: Config) -> None:
    """Raise ValueError where programs cannot be locked in here, or options have no effect."""
    if reason := _refusal(config):
        raise ValueError(f"verifier code: {reason}")


def _refusal(config: Config) -> str | None:
    remote = config.backend == "http"
    if remote and config.url is None:
        return "backend is http, so url is needed: the address of a SandboxFusion service"
    useless = {"packages"} if remote else {"url", "concurrency"}
    if config.backend != "local":
        useless.add("unsafe")
    for name in sorted(useless):
        if getattr(config, name):
            return f"{name} has no effect with backend {config.backend}; remove it"
    for package in config.packages:
        if find_spec(package.partition(".")[0]) is None:
            return f"packages names {package}, which is not installed"
    if config.backend == "http":
        return None
    return refusal(config.backend, unsafe=config.unsafe)


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier; its processes start with the first sample. Raises as `ready`."""
    ready(config)
    boxes: dict[int, Sandbox] = {}  # by process: a worker forked later has its own

    def verify(sample: Sample) -> Verdict:
        try:
            tests = _tests_of(sample, config)
        except Unusable as error:
            return skipped(str(error))
        program = program_of(sample.completion)
        if program is None:
            return unparsable("no program")
        if len(program) > MAX_PROGRAM:
            return wrong(f"the program has more than {MAX_PROGRAM} characters")
        box = boxes.get(os.getpid()) or boxes.setdefault(os.getpid(), make_sandbox(config))
        try:
            return _verdict(_run(box, program, tests, config))
        except (Unusable, NotPlain) as error:
            return skipped(str(error))
        except SandboxBroken as error:
            return crashed(str(error))

    return verify


def fault(sample: Sample, config: Config) -> str | None:
    """Return why this row's tests cannot be used; None if they can."""
    try:
        _tests_of(sample, config)
    except Unusable as error:
        return str(error)
    return None


def answer_text(sample: Sample, config: Config) -> str:  # noqa: ARG001 - every verifier takes one
    """Return the program, where it is found again in itself."""
    program = program_of(sample.completion) or ""
    return program if (program_of(program) or "") == program else sample.completion


def make_sandbox(config: Config) -> Sandbox:
    """Return the back end that the options name."""
    if config.backend == "http":
        return RemoteSandbox(str(config.url), concurrency=config.concurrency or 8)
    return LocalSandbox(config.packages, bwrap=config.backend == "bwrap")


def _run(box: Sandbox, program: str, tests: Tests, config: Config) -> Score:
    limits = Limits(config.seconds, config.memory_mib << 20, total=config.total_seconds)
    comparison = Comparison(config.tolerance, config.strict_types)
    score = Score(_count(tests), config.score == "all", config.total_seconds)
    if isinstance(tests, StdioTests):
        run_stdio(box, program, tests.cases, limits, comparison, score)
    elif isinstance(box, RemoteSandbox):
        assert isinstance(tests, CallTests), "others are unusable there"
        run_remote_calls(box, program, tests, limits, comparison, score)
    elif isinstance(tests, CallTests):
        run_calls(box, program, tests, limits, comparison, score)
    else:
        run_judged(box, program, tests, limits, score)
    return score


def _verdict(score: Score) -> Verdict:
    failed = score.total - score.passed
    if failed and score.first_failure_ends:
        return wrong(score.reason)
    reason = f"{failed} of {score.total} tests fail; {score.reason}" if failed else ""
    return partial(score.passed / score.total, reason)


def _tests_of(sample: Sample, config: Config) -> Tests:
    tests = sample.row.get("tests")
    if tests is None:
        raise Unusable("the row has no tests")
    text = tests if isinstance(tests, str) else json.dumps(tests, default=_plain)
    entry_point, setup = sample.row.get("entry_point"), sample.row.get("setup")
    read = _read(text, _text(entry_point).strip() or None, _text(setup))
    if config.backend == "http" and isinstance(read, JudgedTests):
        raise Unusable("assert statements beyond f(...) == value need backend local or bwrap")
    return _chosen(read, config.max_tests)


@lru_cache(maxsize=64)  # the completions of a group share their row
def _read(text: str, entry_point: str | None, setup: str) -> Tests:
    return read_tests(text, entry_point, setup)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _count(tests: Tests) -> int:
    if isinstance(tests, JudgedTests):
        return sum(counts for _, counts in tests.statements)
    return len(tests.cases)


def _chosen(tests: Tests, most: int | None) -> Tests:
    """Return the tests that are run: at most so many, the first and the last among them."""
    count = _count(tests)
    if most is None or count <= most:
        return tests
    kept = {round(i * (count - 1) / max(1, most - 1)) for i in range(most)}
    if not isinstance(tests, JudgedTests):
        cases: Any = tuple(case for i, case in enumerate(tests.cases) if i in kept)
        return replace(tests, cases=cases)
    statements = []
    number = 0
    for source, counts in tests.statements:
        if not counts or number in kept:
            statements.append((source, counts))
        number += counts
    return replace(tests, statements=tuple(statements))
