"""The process that forks executions: a clean interpreter with warm imports that runs no code itself.

Standard library only. It is started with an empty environment and sees no sample: a program's text,
its inputs and the tests go to the forks, through their own channels. It keeps the rights that the
forks give up, answers one message at a time, and when the worker is gone it kills what runs and ends.
"""

import builtins
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from rlvr.rewards.sandbox import execution, modules
from rlvr.rewards.sandbox.lockdown import Locksmith
from rlvr.rewards.sandbox.scratch import Scratch

MAX_MESSAGE = 1 << 16
_PARENT_CHECK = 2.0  # seconds between looks at whether the worker still lives
_PR_SET_CHILD_SUBREAPER = 36


def main(control_descriptor: str) -> None:
    """Serve one worker until it says so or is gone."""
    sys.argv[:] = [""]
    worker = os.getppid()
    control = socket.socket(fileno=int(control_descriptor))
    setup = _receive(control)[0]
    if setup is None:
        return
    zygote = Zygote(setup)
    _send(control, {"ready": True})
    try:
        while True:
            # a process that the worker forked may hold the channel open: its end is not enough
            while not select.select([control], [], [], _PARENT_CHECK)[0]:
                if os.getppid() != worker:
                    return
            message, descriptors = _receive(control)
            if message is None:
                return
            try:
                answer = zygote.serve(message, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            _send(control, answer)
    finally:
        zygote.end([])


def _receive(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    try:
        line, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE, 8)
    except OSError:
        return None, []
    return (json.loads(line) if line else None), descriptors


def _send(control: socket.socket, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the worker is gone: the next read says so
        control.send(json.dumps(message).encode())


class Zygote:
    """Forks, watches and ends executions, one or a pair at a time.

    Args:
        setup: `packages` that programs may import and folders to `search` for them, `base` for the
            scratch folder, and the `number` of the worker.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        finder = modules.prepare(setup["packages"], setup["search"])
        _imitate_site()
        self._folders = finder.descriptors()
        self._locks = Locksmith(modules.readable(finder), setup["number"])
        self._scratch = Scratch(setup["base"], self._locks.uid)
        self._locks.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        os.environ.pop("PWD", None)  # where bubblewrap was started
        os.chdir("/")
        gc.collect()
        gc.freeze()  # keeps the collector from touching, and so copying, the shared pages

    def serve(self, message: Mapping[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Do what the worker asks; return the answer."""
        if "fork" in message:
            try:
                return self._fork(message, descriptors)
            except OSError as error:
                return {"error": str(error)}
        if "usage" in message:
            return self._usage(message["usage"])
        return {"endings": self.end(message["end"])}

    def end(self, pids: list[int]) -> list[int]:
        """Kill all executions and remove their folder; return what `waitpid` says of these."""
        endings = [_end(pid) for pid in pids]
        _end_others()
        self._scratch.remove()
        return endings

    def _fork(self, message: Mapping[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Fork an execution and wait until it is locked."""
        judge = message["fork"] == "judge"
        if not judge and self._scratch.path is None:
            self._locks.allow(self._scratch.make())
        ready, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(ready)
                self._become(message, descriptors, theirs)
            finally:
                os._exit(1)
        os.close(theirs)
        with open(ready, "rb") as file:
            said = file.read(1000)
        if said == b"locked":
            return {"pid": pid}
        _end(pid)
        return {"error": said.decode("utf-8", "replace") or "a fork died before it was locked"}

    def _become(self, message: Mapping[str, Any], descriptors: list[int], ready: int) -> None:
        """Lock this process and run in it what it was forked for."""
        kind = message["fork"]
        try:
            os.setsid()
            streams = (
                descriptors[:3] if kind == "program" else [os.open("/dev/null", os.O_RDWR)] * 3
            )
            execution.set_streams(dict(enumerate(streams)))
            own = [descriptor for descriptor in descriptors if descriptor not in streams]
            _close_all_but({*own, *self._folders, ready, *self._locks.descriptors()})
            if kind != "judge" and self._scratch.path is not None:
                os.chdir(self._scratch.path)
                os.environ.update(HOME=self._scratch.path, TMPDIR=self._scratch.path)
            self._locks.enter(scratch=kind != "judge", memory=message["memory"], cpu=message["cpu"])
        except BaseException as error:
            os.write(ready, execution.describe(error).encode())
            os._exit(1)
        os.write(ready, b"locked")
        os.close(ready)
        if kind == "program":
            execution.run_program(own[0])
        elif kind == "session":
            execution.serve_program(own[0])
        else:
            execution.judge(own[0], own[1])

    def _usage(self, pid: int) -> dict[str, Any]:
        """Return what an execution has used; zeros where it is gone."""
        cpu = threads = 0.0
        with contextlib.suppress(OSError):
            cpu = time.clock_gettime((~pid << 3) | 2)  # the processor clock of another process
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
            threads = next((int(line[8:]) for line in file if line.startswith("Threads:")), 0)
        count, size = self._scratch.use()
        return {"cpu": cpu, "threads": threads, "files": count, "bytes": size}


def _imitate_site() -> None:
    # `python -S` leaves out what programs call to end
    from _sitebuiltins import Quitter

    for name in ("exit", "quit"):
        setattr(builtins, name, Quitter(name, "Ctrl-D"))


def _close_all_but(held: set[int]) -> None:
    first = 3
    for descriptor in sorted(held):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 1024)


def _end(pid: int) -> int:
    """Kill an execution if it still runs; return the status of `waitpid`."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, 0)[1]
    return -1


def _end_others() -> None:
    """Kill and reap what is left: also what an execution without a filter of calls has forked."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        me = os.getpid()
        try:
            with open(f"/proc/{me}/task/{me}/children", encoding="ascii") as file:
                left = file.read().split()
        except OSError:  # a kernel without this file
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
