"""The worker's end of a zygote: start it, ask it, end it, and remove what dead workers left behind."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rlvr
from rlvr.rewards.sandbox import bubblewrap
from rlvr.rewards.sandbox.request import SandboxBroken
from rlvr.rewards.sandbox.zygote import MAX_MESSAGE

_BOOT = (
    "import sys; library = list(sys.path); sys.path.append(sys.argv[1]); "
    "from rlvr.rewards.sandbox.zygote import boot; sys.path[:] = library; boot(sys.argv[2])"
)
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a program that prints a set has the same verdict everywhere
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_PREFIX = "rlvr-sandbox-"
_STARTUP = 60.0  # seconds; a cold disk can take long
_CONTROL = 30.0  # seconds for a fork or a kill
_OLD = 60.0  # seconds after which a folder that nobody holds is left over


class Control:
    """A running zygote.

    Args:
        packages: Packages that programs may import.
        bwrap: Start it inside bubblewrap.
    """

    def __init__(self, packages: Sequence[str], *, bwrap: bool) -> None:
        _sweep()
        self._scratch = tempfile.mkdtemp(prefix=_PREFIX)
        self._lock = _lock(self._scratch)
        self._owner = os.getpid()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                self._command(theirs.fileno(), bwrap=bwrap, packages=bool(packages)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), self._lock],
                start_new_session=True,  # it outlives a killed worker by what cleaning up takes
                env=_ENVIRONMENT,
            )
        self._finalizer = weakref.finalize(
            self, _end, self._owner, self._process, self._socket, self._lock, self._scratch
        )
        setup = {
            "scratch": self._scratch,
            "packages": list(packages),
            "search": _search(),
            "number": os.getpid(),
        }
        try:
            self.ask(setup, seconds=_STARTUP)
        except SandboxBroken:
            self.close()
            raise

    def alive(self) -> bool:
        """Return whether it can be asked from this process."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(
        self, message: Mapping[str, Any], descriptors: Sequence[int] = (), seconds: float = _CONTROL
    ) -> dict[str, Any]:
        """Return the answer to a message; raises SandboxBroken."""
        self._socket.settimeout(seconds)
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], descriptors)
            answer = self._socket.recv(MAX_MESSAGE)
        except OSError as error:  # also a timeout
            raise SandboxBroken(f"the sandbox does not answer: {error}") from None
        if not answer:
            raise SandboxBroken("the sandbox's process ended; its messages are on stderr")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise SandboxBroken(f"an execution could not be locked: {found['error']}")
        return found

    def close(self) -> None:
        """End it, with all that it forked."""
        self._finalizer()

    def _command(self, descriptor: int, *, bwrap: bool, packages: bool) -> list[str]:
        project = str(Path(rlvr.__file__).parents[1])
        python = [sys.executable, "-s", "-S", "-P", "-B", "-c", _BOOT, project, str(descriptor)]
        return [*bubblewrap.prefix(self._scratch, packages=packages), *python] if bwrap else python


def _end(
    owner: int, process: subprocess.Popen[bytes], control: socket.socket, lock: int, scratch: str
) -> None:
    # no method: the finalizer must not keep the object alive
    control.close()
    os.close(lock)
    if os.getpid() != owner:
        return
    try:
        process.wait(_CONTROL)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(scratch, ignore_errors=True)


def _search() -> list[str]:
    return [path for path in sys.path if path and Path(path).is_dir()]


def _lock(folder: str) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _sweep() -> None:
    """Remove the scratch folders whose workers and zygotes were killed together."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_ctime < _OLD:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
