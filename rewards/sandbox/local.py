"""The sandbox of this machine, seen from the worker: programs run in locked forks of a zygote.

One execution at a time, or a pair: a judge and the program that it calls. Time is measured here.
What goes wrong on our side is SandboxBroken; the next execution then starts a new zygote.
"""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlvr.rewards.sandbox.channel import LocalSession, Reports, Streams
from rlvr.rewards.sandbox.control import Control
from rlvr.rewards.sandbox.lockdown import SCRATCH_BYTES, SCRATCH_FILES, THREADS
from rlvr.rewards.sandbox.request import (
    WALL,
    ExecutionRequest,
    ExecutionResult,
    Limits,
    SandboxBroken,
    Status,
    Stopped,
)

_TICK = 0.1  # seconds between looks at what an execution uses
_STDERR = 4096  # bytes that are read; the rest is thrown away
_ENDED_BY = {9: "killed (out of memory?)", 24: "more processor time than it may use"}


class LocalSandbox:
    """Runs programs in locked forks of a clean interpreter.

    Args:
        packages: Packages that programs may import besides the standard library.
        bwrap: Put the zygote into bubblewrap's namespaces.
    """

    def __init__(self, packages: Sequence[str] = (), *, bwrap: bool = False) -> None:
        self._packages = list(packages)
        self._bwrap = bwrap
        self._control: Control | None = None
        self._lock = threading.Lock()

    def run(self, request: ExecutionRequest) -> ExecutionResult:
        """Run a program as a script."""
        limits = request.limits
        with contextlib.ExitStack() as stack:
            streams = Streams(stack, request.program, request.stdin, limits.output, _STDERR)
            fork = [("program", streams.theirs)]
            with self._running(fork, limits) as execution:
                streams.close_theirs()
                execution.begin(limits.seconds, request.wall)
                try:
                    streams.pump(execution.wait)
                except Stopped as stop:
                    return ExecutionResult(stop.status, streams.stdout, str(stop))
                code = execution.end()
                return _result(code, streams.stdout, streams.stderr)

    def run_all(self, requests: Iterable[ExecutionRequest]) -> Iterator[ExecutionResult]:
        """Run programs one after the other, each when its result is asked for."""
        return map(self.run, requests)

    @contextlib.contextmanager
    def session(self, limits: Limits) -> Iterator[LocalSession]:
        """Start a process that serves a program's functions."""
        ours, theirs = socket.socketpair()
        with ours, theirs, self._running([("session", [theirs.fileno()])], limits) as execution:
            theirs.close()
            yield LocalSession(ours, execution)

    @contextlib.contextmanager
    def judge(self, task: Mapping[str, Any], limits: Limits) -> Iterator[Reports]:
        """Start a process that runs tests, and one that serves the program to it."""
        calls, program = socket.socketpair()
        ours, theirs = socket.socketpair()
        with calls, program, ours, theirs:
            pair = [
                ("session", [program.fileno()]),
                ("judge", [calls.fileno(), theirs.fileno()]),
            ]
            with self._running(pair, limits) as execution:
                for end in (calls, program, theirs):
                    end.close()
                yield Reports(ours, execution, task)

    def close(self) -> None:
        """End all processes and remove the scratch folder; the next execution starts anew."""
        if self._control is not None:
            self._control.close()
            self._control = None

    @contextlib.contextmanager
    def _running(
        self, forks: Sequence[tuple[str, list[int]]], limits: Limits
    ) -> Iterator["Execution"]:
        with self._lock:
            if self._control is None or not self._control.alive():
                self.close()
                self._control = Control(self._packages, bwrap=self._bwrap)
            try:
                with Execution(self._control, forks, limits) as execution:
                    yield execution
            except SandboxBroken:
                self.close()
                raise


class Execution:
    """Forks that belong together: what they use, and how they end."""

    def __init__(
        self, control: Control, forks: Sequence[tuple[str, list[int]]], limits: Limits
    ) -> None:
        self._control = control
        self._pids: list[int] = []
        self._ending: int | None = None
        use = {"memory": limits.memory, "cpu": math.ceil(limits.total) + 1}
        for kind, descriptors in forks:
            self._pids.append(control.ask({"fork": kind, **use}, descriptors)["pid"])
        self.begin(limits.seconds)

    def __enter__(self) -> "Execution":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, seconds: float, wall: float = math.inf) -> None:
        """Start the clock of one test."""
        self._seconds = seconds
        self._wall = min(wall, WALL * seconds)
        self._began = time.monotonic()
        self._next_look = self._began + _TICK
        self._before: float | None = None

    def wait(self) -> float:
        """Return how long to wait for an event; raises Stopped past a limit."""
        now = time.monotonic()
        if now - self._began >= self._wall:
            raise Stopped(Status.TIMEOUT, f"no answer after {self._wall:.3g} s")
        if now >= self._next_look:
            self._look()
            self._next_look = now + _TICK
        return max(0.0, min(self._next_look, self._began + self._wall) - now)

    def end(self) -> int:
        """Kill what still runs; return the exit code of the first: negative for a signal."""
        if self._ending is None:
            status = self._control.ask({"end": self._pids})["endings"][0]
            self._ending = os.waitstatus_to_exitcode(status)
        return self._ending

    def _look(self) -> None:
        used = [self._control.ask({"usage": pid}) for pid in self._pids]
        cpu = sum(use["cpu"] for use in used)
        if self._before is None:  # the first look of this test comes early in it
            self._before = cpu
        if cpu - self._before > self._seconds:
            raise Stopped(Status.TIMEOUT, f"more than {self._seconds:g} s of processor time")
        if max(use["threads"] for use in used) > THREADS:
            raise Stopped(Status.LIMIT, f"more than {THREADS} threads")
        if used[0]["files"] > SCRATCH_FILES or used[0]["bytes"] > SCRATCH_BYTES:
            raise Stopped(Status.LIMIT, f"more than {SCRATCH_BYTES >> 20} MiB of files")


def _result(code: int, stdout: bytes, stderr: str) -> ExecutionResult:
    if code == 0:
        return ExecutionResult(Status.FINISHED, stdout)
    if code == -24:  # the kernel's own limit
        return ExecutionResult(Status.TIMEOUT, stdout, ending(code))
    said = stderr.strip().rpartition("\n")[2]
    return ExecutionResult(Status.FAILED, stdout, said or ending(code))


def ending(code: int) -> str:
    """Return how a process ended, in words."""
    return _ENDED_BY.get(-code, f"signal {-code}") if code < 0 else f"exit code {code}"
