"""The trainer's end of the nursery: start it, have workers forked and reaped, end it.

The nursery is started with a plain command line, so it never imports the trainer's `__main__` and
works from scripts, notebooks, pytest, torchrun and threads.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from rlvr.rewards.wire import pack, unpack

STARTUP_DEADLINE = 120.0  # seconds; a cold disk can take long over sympy or a user's torch
CONTROL_DEADLINE = 30.0  # seconds for a fork or a kill
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from rlvr.rewards.worker import nursery; nursery(int(sys.argv[1]))"
)
# one thread a worker: there is a worker for each core, and a nursery must not hold threads
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class NurseryDied(Exception):
    """The nursery process is gone, and with it all its workers."""


class Nursery:
    """A process that forks workers.

    Args:
        setup: What the nursery is told once: `builtin`, `plugin` and `memory`.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._control, theirs = _pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), _path()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if _is_open(2) else subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is for the trainer
                env=os.environ | dict.fromkeys(_THREADS, "1"),
            )
        self._owner = os.getpid()
        try:
            self._ask(pack(setup), STARTUP_DEADLINE)
        except BaseException:
            self.close()
            raise

    def fork(self) -> tuple[int, socket.socket]:
        """Return the process id of a new worker and the socket to talk to it."""
        ours, theirs = _pair()
        try:
            with theirs:
                answer = self._ask(pack({"fork": True}), CONTROL_DEADLINE, theirs)
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        return answer["pid"], ours

    def stop(self, pid: int) -> str:
        """Kill and reap a worker; return how it ended, such as "exit code 3"."""
        return _ending(self._ask(pack({"stop": pid}), CONTROL_DEADLINE)["status"])

    def close(self) -> None:
        """End the nursery and its workers; harmless when it is gone."""
        if os.getpid() == self._owner:
            with contextlib.suppress(OSError):
                self._control.settimeout(CONTROL_DEADLINE)
                self._control.sendall(pack({"exit": True}))
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            self._process.kill()
            self._process.wait()
        self._control.close()

    def _ask(
        self, line: bytes, seconds: float, descriptor: socket.socket | None = None
    ) -> dict[str, Any]:
        self._control.settimeout(seconds)
        try:
            if descriptor is None:
                self._control.sendall(line)
            else:
                socket.send_fds(self._control, [line], [descriptor.fileno()])
            answer = self._control.recv(4096)
        except OSError as error:  # also a timeout
            raise NurseryDied(str(error)) from None
        if not answer:
            raise NurseryDied("it ended")
        return unpack(answer)


def _pair() -> list[socket.socket]:
    """Return two connected sockets, neither in the place of a closed stdin, stdout or stderr."""
    return [_above_stderr(end) for end in socket.socketpair()]


def _above_stderr(end: socket.socket) -> socket.socket:
    if end.fileno() > 2:
        return end
    with end:
        return socket.socket(fileno=fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _path() -> str:
    return json.dumps([os.fspath(item) for item in sys.path])  # it may hold a Path


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    if code == -signal.SIGKILL:
        return "SIGKILL (out of memory?)"
    return f"{signal.strsignal(-code)} (signal {-code})"
