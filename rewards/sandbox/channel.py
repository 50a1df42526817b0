"""What flows between the worker and an execution: streams of a script, calls, reports of a judge.

Nothing blocks without a limit: `wait` says how long the next event may take and raises Stopped when
the time is over.
"""

import contextlib
import math
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from rlvr.rewards.sandbox.request import Status, Stopped
from rlvr.rewards.sandbox.session import EARLY, ENDED, ProgramEnded, Session, read_reply
from rlvr.rewards.sandbox.values import MAX_BYTES, dumps, loads

_PIECE = 1 << 16


class Clock(Protocol):
    """The limits of an execution."""

    def begin(self, seconds: float, wall: float = ...) -> None:
        """Start the clock of one test."""

    def wait(self) -> float:
        """Return how long to wait for an event; raises Stopped past a limit."""

    def end(self) -> int:
        """End the execution; return its exit code."""


class Streams:
    """The standard streams of a script, and the pipe that brings its source.

    Args:
        stack: Closes our ends.
        source: The program.
        stdin: What it reads.
        output: Bytes of standard output at most.
        stderr: Bytes of standard error that are kept.
    """

    def __init__(
        self, stack: contextlib.ExitStack, source: str, stdin: str, output: int, stderr: int
    ) -> None:
        pipes = [os.pipe() for _ in range(4)]
        (self._in, self._out, self._err, self._source) = pipes
        self.theirs = [self._in[0], self._out[1], self._err[1], self._source[0]]
        self._open = set(sum(pipes, ()))
        stack.callback(self._close_all)
        self._sent = {
            self._source[1]: memoryview(source.encode("utf-8", "surrogatepass")),
            self._in[1]: memoryview(stdin.encode("utf-8", "surrogatepass")),
        }
        self._read = {self._out[0]: bytearray(), self._err[0]: bytearray()}
        self._room = {self._out[0]: output, self._err[0]: stderr}
        for descriptor in (*self._sent, *self._read):
            os.set_blocking(descriptor, False)

    @property
    def stdout(self) -> bytes:
        """What was printed."""
        return bytes(self._read[self._out[0]])

    @property
    def stderr(self) -> str:
        """The beginning of what was complained about."""
        return self._read[self._err[0]].decode("utf-8", "replace")

    def close_theirs(self) -> None:
        """Close the ends that the program holds."""
        for descriptor in self.theirs:
            self._close(descriptor)

    def pump(self, wait: Callable[[], float]) -> None:
        """Write and read until the program has closed its output and its errors."""
        while reading := [d for d in self._read if d in self._open]:
            writing = [d for d in self._sent if d in self._open]
            readable, writable = _ready(reading, writing, wait())
            for descriptor in writable:
                self._write(descriptor)
            for descriptor in readable:
                self._receive(descriptor)

    def _write(self, descriptor: int) -> None:
        left = self._sent[descriptor]
        try:
            self._sent[descriptor] = left = left[os.write(descriptor, left[:_PIECE]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more
            left = memoryview(b"")
        if not left:
            self._close(descriptor)

    def _receive(self, descriptor: int) -> None:
        piece = os.read(descriptor, _PIECE)
        if not piece:
            self._close(descriptor)
            return
        read = self._read[descriptor]
        read += piece[: self._room[descriptor] - len(read)]
        if len(read) >= self._room[descriptor] and descriptor == self._out[0]:
            raise Stopped(Status.LIMIT, f"more than {len(read)} bytes of output")

    def _close_all(self) -> None:
        for descriptor in list(self._open):
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        os.close(descriptor)


class LocalSession(Session):
    """Calls a program's functions from the worker, each with a limit.

    Args:
        channel: To the program's process.
        clock: Of its execution.
    """

    def __init__(self, channel: socket.socket, clock: Clock) -> None:
        super().__init__(self._exchange)
        self._channel, self._clock = channel, clock
        channel.setblocking(False)

    def begin(self, seconds: float, wall: float) -> None:
        """Start the clock of one test."""
        self._clock.begin(seconds, wall)

    def ending(self) -> int:
        """End the program; return its exit code."""
        return self._clock.end()

    def _exchange(self, message: Mapping[str, Any]) -> Any:
        try:
            with contextlib.suppress(BlockingIOError):
                self._channel.recv(1, socket.MSG_PEEK)
                raise ProgramEnded(EARLY)
            outgoing = memoryview(dumps(message))
            line = bytearray()
            while not line.endswith(b"\n"):
                here = self._channel.fileno()
                readable, writable = _ready([here], [here] if outgoing else [], self._clock.wait())
                if writable:
                    outgoing = outgoing[self._channel.send(outgoing[:_PIECE]) :]
                if readable:
                    piece = self._channel.recv(_PIECE)
                    line += piece
                    if not piece or len(line) > MAX_BYTES or outgoing:
                        break
        except OSError:
            raise ProgramEnded(ENDED) from None
        if outgoing:
            raise ProgramEnded(EARLY if line else ENDED)
        return read_reply(line)


class Reports:
    """What a judge reports.

    Args:
        channel: To the judge's process.
        clock: Of the execution.
        task: The program and its tests.
    """

    def __init__(self, channel: socket.socket, clock: Clock, task: Mapping[str, Any]) -> None:
        self._channel, self._clock = channel, clock
        self._outgoing = memoryview(dumps(task))
        self._received = bytearray()
        channel.setblocking(False)

    def begin(self, seconds: float, wall: float) -> None:
        """Start the clock of one test."""
        self._clock.begin(seconds, wall)

    def ending(self) -> int:
        """End the program; return its exit code."""
        return self._clock.end()

    def next(self) -> Mapping[str, Any] | None:
        """Return the next report; None where the judge has ended."""
        while b"\n" not in self._received:
            here = self._channel.fileno()
            writing = [here] if self._outgoing else []
            readable, writable = _ready([here], writing, self._clock.wait())
            try:
                if writable:
                    sent = self._channel.send(self._outgoing[:_PIECE])
                    self._outgoing = self._outgoing[sent:]
                piece = self._channel.recv(_PIECE) if readable else None
            except OSError:
                piece = b""
            if piece == b"":
                return None
            self._received += piece or b""
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        report: Mapping[str, Any] = loads(bytes(line))
        return report

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        while (report := self.next()) is not None:
            yield report


def _ready(
    reading: Sequence[int], writing: Sequence[int], seconds: float
) -> tuple[list[int], list[int]]:
    """Return the descriptors that can be read, or are at their end, and those to be written."""
    poll = select.poll()  # unlike select, it takes descriptors above 1023
    for descriptor in {*reading, *writing}:
        events = select.POLLIN if descriptor in reading else 0
        poll.register(descriptor, events | (select.POLLOUT if descriptor in writing else 0))
    ended = select.POLLHUP | select.POLLERR
    found = dict(poll.poll(math.ceil(seconds * 1000)))
    readable = [d for d in reading if found.get(d, 0) & (select.POLLIN | ended)]
    return readable, [d for d in writing if found.get(d, 0) & (select.POLLOUT | ended)]
