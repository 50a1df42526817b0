"""The process that forks executions: a clean interpreter with warm imports that runs no code itself.

Standard library only. It is started with an empty environment and sees no sample: a program's text,
its inputs and the tests go to the forks, through their own channels. It keeps the rights that the
forks give up, answers one message at a time, and when the worker is gone it kills what runs,
removes the scratch folder and ends.
"""

import builtins
import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Mapping
from typing import Any

from rlvr.rewards.sandbox import execution, lockdown, modules

MAX_MESSAGE = 1 << 16
_PARENT_CHECK = 2.0  # seconds between looks at whether the worker still lives
_PR_SET_CHILD_SUBREAPER = 36


def main(control_descriptor: int) -> None:
    """Serve one worker until it says so or is gone."""
    worker = os.getppid()
    control = socket.socket(fileno=control_descriptor)
    setup = _receive(control)[0]
    if setup is None:
        return
    scratch: str = setup["scratch"]
    finder = modules.prepare(setup["packages"], setup["search"])
    _imitate_site()
    locks = lockdown.make_locks(scratch, modules.readable(finder), setup["number"])
    if locks.uid is not None:
        os.chown(scratch, locks.uid, locks.uid)
    locks.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ.pop("PWD", None)  # where bubblewrap was started
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    os.chdir(scratch)
    kept = (*finder.descriptors(), control_descriptor)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the shared pages
    _send(control, {"uid": locks.uid})
    try:
        while True:
            # a process that the worker forked may hold the channel open: its end is not enough
            while not select.select([control], [], [], _PARENT_CHECK)[0]:
                if os.getppid() != worker:
                    return
            message, descriptors = _receive(control)
            if message is None:
                return
            _send(control, _serve(message, descriptors, locks, scratch, kept))
    finally:
        _end_all()
        shutil.rmtree(scratch, ignore_errors=True)


def _serve(
    message: Mapping[str, Any],
    descriptors: list[int],
    locks: lockdown.Locks,
    scratch: str,
    kept: tuple[int, ...],
) -> dict[str, Any]:
    if "fork" in message:
        try:
            return _fork(message, descriptors, locks, kept)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    if "usage" in message:
        return _usage(message["usage"], scratch)
    endings = [_end(pid) for pid in message["end"]]
    _end_all()
    _clean(scratch)
    return {"endings": endings}


def _receive(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    try:
        line, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE, 8)
    except OSError:
        return None, []
    return (json.loads(line) if line else None), descriptors


def _send(control: socket.socket, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the worker is gone: the next read says so
        control.send(json.dumps(message).encode())


def _imitate_site() -> None:
    # `python -S` leaves out what programs call to end
    from _sitebuiltins import Quitter

    for name in ("exit", "quit"):
        setattr(builtins, name, Quitter(name, "Ctrl-D"))


def _fork(
    message: Mapping[str, Any], descriptors: list[int], locks: lockdown.Locks, kept: tuple[int, ...]
) -> dict[str, Any]:
    """Fork an execution and wait until it is locked."""
    ready, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready)
            _become_execution(message, descriptors, locks, kept, theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    with open(ready, "rb") as file:
        said = file.read(1000)
    if said == b"locked":
        return {"pid": pid}
    _end(pid)
    return {"error": said.decode("utf-8", "replace") or "a fork died before it was locked"}


def _become_execution(
    message: Mapping[str, Any],
    descriptors: list[int],
    locks: lockdown.Locks,
    kept: tuple[int, ...],
    ready: int,
) -> None:
    kind = message["fork"]
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        streams = descriptors[:3] if kind == "program" else [null, null, null]
        execution.set_streams(dict(enumerate(streams)))
        own = [d for d in descriptors if d not in streams]
        held = {*own, *kept[:-1], ready, *_rules(locks)}
        _close_all_but(held)
        lockdown.enter(locks, judge=kind == "judge", memory=message["memory"], cpu=message["cpu"])
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


def _close_all_but(held: set[int]) -> None:
    first = 3
    for descriptor in sorted(held):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 1024)


def _rules(locks: lockdown.Locks) -> list[int]:
    return [d for d in (locks.judge_rules, locks.solution_rules) if d is not None]


def _usage(pid: int, scratch: str) -> dict[str, Any]:
    """Return what an execution has used; zeros where it is gone."""
    cpu = threads = 0.0
    with contextlib.suppress(OSError):
        cpu = time.clock_gettime((~pid << 3) | 2)  # the processor clock of another process
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        threads = next((int(line[8:]) for line in file if line.startswith("Threads:")), 0)
    count = size = 0
    with contextlib.suppress(OSError), os.scandir(scratch) as entries:
        for entry in entries:
            count += 1
            with contextlib.suppress(OSError):
                size += entry.stat(follow_symlinks=False).st_size
    return {"cpu": cpu, "threads": threads, "files": count, "bytes": size}


def _end(pid: int) -> int:
    """Kill an execution if it still runs; return the status of `waitpid`."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, 0)[1]
    return -1


def _end_all() -> None:
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


def _clean(scratch: str) -> None:
    """Empty the folder, whatever an execution made of it."""
    with contextlib.suppress(OSError), os.scandir(scratch) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    os.chmod(entry.path, stat.S_IRWXU)
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def boot(control_descriptor: str) -> None:
    """Entry point of the command line."""
    sys.argv[:] = [""]
    main(int(control_descriptor))
