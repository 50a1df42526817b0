"""What flows between the worker and an execution: streams of a script, calls, reports of a judge.

Nothing blocks without a limit: `wait` says how long the next event may take and raises Stopped when
the time is over.
"""

import contextlib
import fcntl
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
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Clock(Protocol):
    """The limits of an execution."""

    def begin(self, seconds: float, wall: float = ...) -> None:
        """Start the clock of one test."""

    def wait(self) -> float:
        """Return how long to wait for an event; raises Stopped past a limit."""

    def end(self) -> int:
        """End the execution; return its exit code."""


class Streams:
    """The standard streams of a script, and the file that holds its source.

    Args:
        stack: Closes our ends.
        source: The program.
        stdin: What it reads: a file, whose size programs may ask for.
        output: Bytes of standard output at most.
        stderr: Bytes of standard error that are kept.
    """

    def __init__(
        self, stack: contextlib.ExitStack, source: str, stdin: str, output: int, stderr: int
    ) -> None:
        (self._out, out_theirs), (self._err, err_theirs) = os.pipe(), os.pipe()
        self._open = {self._out, out_theirs, self._err, err_theirs}
        stack.callback(self._close_all)
        self.theirs = [self._file(stdin), out_theirs, err_theirs, self._file(source)]
        self._read = {self._out: bytearray(), self._err: bytearray()}
        self._room = {self._out: output, self._err: stderr}

    @property
    def stdout(self) -> bytes:
        """What was printed."""
        return bytes(self._read[self._out])

    @property
    def stderr(self) -> str:
        """The beginning of what was complained about."""
        return self._read[self._err].decode("utf-8", "replace")

    def close_theirs(self) -> None:
        """Close the ends that the program holds."""
        for descriptor in self.theirs:
            self._close(descriptor)

    def pump(self, wait: Callable[[], float]) -> None:
        """Read until the program has closed its output and its errors."""
        while reading := [descriptor for descriptor in self._read if descriptor in self._open]:
            for descriptor in _ready(reading, [], wait())[0]:
                self._receive(descriptor)

    def _file(self, text: str) -> int:
        """Return a descriptor of the text in memory, which nobody can change any more."""
        descriptor = os.memfd_create("text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._open.add(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return descriptor

    def _receive(self, descriptor: int) -> None:
        piece = os.read(descriptor, _PIECE)
        if not piece:
            self._close(descriptor)
            return
        read = self._read[descriptor]
        read += piece[: self._room[descriptor] - len(read)]
        if len(read) >= self._room[descriptor] and descriptor == self._out:
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
                raise ProgramEnded(EARLY if self._channel.recv(1, socket.MSG_PEEK) else ENDED)
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
