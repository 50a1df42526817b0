"""What a sandbox is asked to run, and what it says of it: the interface of every back end."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class SandboxBroken(Exception):
    """The sandbox itself failed; it says nothing about the program."""


class Status(StrEnum):
    """How an execution ended."""

    FINISHED = "finished"
    """By itself, with exit code 0."""
    FAILED = "failed"
    """By an exception, another exit code or a signal."""
    TIMEOUT = "timeout"
    LIMIT = "limit"
    """It wrote, or started, more than it may."""


@dataclass(frozen=True)
class Limits:
    """What one execution may use.

    Attributes:
        seconds: Processor time of one test. Wall time is limited to `WALL` times as much:
            other processes share the machine.
        memory: Bytes of address space.
        output: Bytes of standard output.
        total: Processor time of a process over all its tests, enforced by the kernel.
    """

    seconds: float = 5.0
    memory: int = 1 << 30
    output: int = 1 << 20
    total: float = 60.0


WALL = 3.0
"""Wall time of a test over its processor time, at most."""


@dataclass(frozen=True)
class ExecutionRequest:
    """A program to run as a script.

    Attributes:
        program: Python source.
        stdin: What it reads.
        limits: What it may use.
        wall: Seconds of wall time at most, where less is left than the limits allow.
    """

    program: str
    stdin: str
    limits: Limits
    wall: float = float("inf")


@dataclass(frozen=True)
class ExecutionResult:
    """What became of it.

    Attributes:
        status: How it ended.
        stdout: What it printed, cut at the limit.
        reason: Why it did not finish, for a person; "" where it did.
    """

    status: Status
    stdout: bytes
    reason: str = ""


class Runner(Protocol):
    """A back end."""

    def run_all(self, requests: Iterable[ExecutionRequest]) -> Iterator[ExecutionResult]:
        """Yield what becomes of each; raises SandboxBroken where that says nothing about it."""

    def close(self) -> None:
        """Give everything back; a later run starts anew."""


class Stopped(Exception):
    """An execution used more than it may; the message says of what."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
