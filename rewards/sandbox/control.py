"""The worker's end of a zygote: start it, ask it, end it, and remove what dead workers left behind."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rlvr
from rlvr.rewards.sandbox import bubblewrap
from rlvr.rewards.sandbox.request import SandboxBroken
from rlvr.rewards.sandbox.scratch import sweep
from rlvr.rewards.sandbox.zygote import MAX_MESSAGE

_BOOT = (
    "import sys; library = list(sys.path); sys.path.append(sys.argv[1]); "
    "from rlvr.rewards.sandbox.zygote import main; sys.path[:] = library; main(sys.argv[2])"
)
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a program that prints a set has the same verdict everywhere
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_STARTUP = 60.0  # seconds; a cold disk can take long
_CONTROL = 30.0  # seconds for a fork or a kill


class Control:
    """A running zygote.

    Args:
        packages: Packages that programs may import.
        bwrap: Start it inside bubblewrap.
    """

    def __init__(self, packages: Sequence[str], *, bwrap: bool) -> None:
        base = tempfile.gettempdir()
        sweep(base)
        self._owner = os.getpid()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                self._command(theirs.fileno(), bwrap=bwrap, packages=bool(packages)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # it outlives a killed worker by what cleaning up takes
                env=_ENVIRONMENT,
            )
        self._finalizer = weakref.finalize(self, _end, self._owner, self._process, self._socket)
        setup = {
            "packages": list(packages),
            "search": _search() if packages else [],
            "base": bubblewrap.SCRATCH if bwrap else base,
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
        return [*bubblewrap.prefix(packages=packages), *python] if bwrap else python


def _end(owner: int, process: subprocess.Popen[bytes], control: socket.socket) -> None:
    # no method: the finalizer must not keep the object alive
    control.close()
    if os.getpid() != owner:
        return
    try:
        process.wait(_CONTROL)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _search() -> list[str]:
    return [path for path in sys.path if path and Path(path).is_dir()]
