"""A program against its tests in a sandbox: which pass, and what the first failure was.

A program that ends, or runs out of time, fails that test; the tests after it get a new process, as
long as time is left. Tests that are not reached are failed.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from reprlib import Repr
from typing import Any

from rlvr.rewards.program.asserts import CallCase, CallTests, JudgedTests, Unusable, definitions_of
from rlvr.rewards.program.compare import Comparison
from rlvr.rewards.sandbox.channel import LocalSession, Reports
from rlvr.rewards.sandbox.local import LocalSandbox, ending
from rlvr.rewards.sandbox.request import (
    ExecutionRequest,
    ExecutionResult,
    Limits,
    Runner,
    Status,
    Stopped,
)
from rlvr.rewards.sandbox.session import ENDED, ProgramEnded, ProgramRaised, Remote

_OUTPUT = 64 << 10  # bytes that may be printed beyond twice what is expected


@dataclass
class Score:
    """Which tests a program passes.

    Attributes:
        total: Number of tests.
        first_failure_ends: The tests after it are not run.
        seconds: Wall time for all of them.
    """

    total: int
    first_failure_ends: bool
    seconds: float
    reason: str = ""
    passed: int = 0
    decided: int = 0
    _began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left for all tests."""
        return self._began + self.seconds - time.monotonic()

    @property
    def open(self) -> bool:
        """Whether there is a test to run."""
        if self.decided == self.total or (self.first_failure_ends and self.passed < self.decided):
            return False
        if self.left <= 0:
            self.fail(f"not reached in {self.seconds:g} s", self.total - self.decided)
            return False
        return True

    def decide(self, passed: bool, reason: str) -> None:
        """Note the verdict on the next test."""
        if passed:
            self.passed += 1
            self.decided += 1
        else:
            self.fail(reason)

    def fail(self, reason: str, tests: int | None = None) -> None:
        """Fail the next tests: one, or as many as said."""
        if not self.reason:
            self.reason = f"test {self.decided + 1} of {self.total}: {reason}"
        self.decided += 1 if tests is None else tests

    def fail_all(self, reason: str) -> None:
        """Fail every test that is not decided: the program cannot be loaded."""
        self.reason = self.reason or reason
        self.decided = self.total


def run_stdio(
    box: Runner,
    program: str,
    cases: Sequence[tuple[str, str]],
    limits: Limits,
    comparison: Comparison,
    score: Score,
) -> None:
    """Run the program once a case and compare what it prints."""

    def requests() -> Iterator[ExecutionRequest]:
        for given, expected in cases:
            room = 2 * len(expected.encode("utf-8", "surrogatepass")) + _OUTPUT
            yield ExecutionRequest(program, given, replace(limits, output=room), score.left)

    for result, (_, expected) in zip(box.run_all(requests()), cases, strict=False):
        score.decide(*_compare_output(result, expected, comparison))
        if not score.open:
            return


def _compare_output(
    result: ExecutionResult, expected: str, comparison: Comparison
) -> tuple[bool, str]:
    if result.status is not Status.FINISHED:
        return False, result.reason
    printed = result.stdout.decode("utf-8", "replace")
    if comparison.same_output(printed, expected):
        return True, ""
    return False, f"printed {short(printed)}, expected {short(expected)}"


def run_calls(
    box: LocalSandbox,
    program: str,
    tests: CallTests,
    limits: Limits,
    comparison: Comparison,
    score: Score,
) -> None:
    """Call the function case by case and compare what it returns."""
    definitions = definitions_of(tests.setup)
    while score.open:
        with box.session(replace(limits, total=score.left)) as session:
            try:
                session.begin(limits.seconds, score.left)
                session.load(definitions, program)
                function = session.evaluate(find_function(tests.function))
            except (ProgramRaised, ProgramEnded, Stopped) as error:
                score.fail_all(_why(error, session))
                return
            if not isinstance(function, Remote):
                score.fail_all(f"{tests.function} is no function")
                return
            _run_cases(session, function, tests.cases, limits, comparison, score)


def _run_cases(
    session: LocalSession,
    function: Remote,
    cases: Sequence[CallCase],
    limits: Limits,
    comparison: Comparison,
    score: Score,
) -> None:
    """Go on from the first undecided case until the program ends."""
    while score.open:
        case = cases[score.decided]
        session.begin(limits.seconds, score.left)
        try:
            got = session.call(function, case.args, case.kwargs)
        except ProgramRaised as error:
            score.fail(str(error))
        except (ProgramEnded, Stopped) as error:
            score.fail(_why(error, session))
            return
        else:
            score.decide(*compare_value(got, case, comparison))


def compare_value(got: Any, case: CallCase, comparison: Comparison) -> tuple[bool, str]:
    """Return whether a returned value is one of the expected ones, and else what it is."""
    kind = replace(comparison, like_json=case.like_json)
    if any(kind.equal(got, expected) for expected in case.expected):
        return True, ""
    return False, f"returned {short(got)}, expected {short(case.expected[0])}"


def find_function(name: str) -> str:
    """Return the expression that finds a function: by its name, or as a method of `Solution`.

    Example:
        >>> find_function("Solution().add")
        'Solution().add'
    """
    if not name.isidentifier():
        return name
    return f"{name} if {name!r} in globals() else Solution().{name}"


def run_judged(
    box: LocalSandbox, program: str, tests: JudgedTests, limits: Limits, score: Score
) -> None:
    """Run test statements in a second process, which calls the program's.

    Raises:
        Unusable: Where a test passes the program what no channel carries.
    """
    fixed = {
        "definitions": definitions_of(tests.setup),
        "program": program,
        "names": {name: find_function(where) for name, where in tests.names.items()},
    }
    while score.open:
        task = {**fixed, "statements": _from_test(tests.statements, score.decided)}
        with box.judge(task, replace(limits, total=score.left)) as reports:
            _follow(reports, limits, score)


def _from_test(statements: Sequence[tuple[str, bool]], first: int) -> list[tuple[bool, str]]:
    """Return the preparations, and the tests from the first undecided one on."""
    kept: list[tuple[bool, str]] = []
    number = 0
    for source, counts in statements:
        if not counts or number >= first:
            kept.append((counts, source))
        number += counts
    return kept


def _follow(reports: Reports, limits: Limits, score: Score) -> None:
    """Note what a judge reports until it, or the program, ends."""
    loaded = False
    try:
        reports.begin(limits.seconds, score.left)
        for report in reports:
            if "unloaded" in report:
                score.fail_all(_ended(report["unloaded"], reports))
                return
            if report.get("unusable"):
                raise Unusable(report["reason"])
            if "passed" in report:
                score.decide(report["passed"], _ended(report.get("reason", ""), reports))
            if "done" in report or report.get("ended") or not score.open:
                return
            loaded = True
            reports.begin(limits.seconds, score.left)
        score.fail("the process that runs the tests ended")
    except Stopped as stop:
        (score.fail if loaded else score.fail_all)(str(stop))


def _ended(reason: str, execution: LocalSession | Reports) -> str:
    return f"the program ended: {ending(execution.ending())}" if reason == ENDED else reason


def _why(error: Exception, session: LocalSession) -> str:
    return _ended(str(error), session)


_REPR = Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 4, 80, 80, 60


def short(value: Any) -> str:
    """Return a value as a few words, whatever its size."""
    try:
        return _REPR.repr(value)
    except ValueError:
        return "a very long number"
