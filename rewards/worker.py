"""The processes that verify: a nursery, and the workers that it forks.

The nursery is a fresh interpreter that imports the built-in verifiers once and never runs one. It
has one thread and no CUDA, so forking it is safe, and a killed worker is replaced in milliseconds
instead of the seconds that importing sympy takes. A worker loads the user's functions itself,
limits its memory, and answers one request at a time until it is killed or its socket closes.
What a worker started and left behind becomes the nursery's child, which kills and reaps it.
"""

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from rlvr.rewards import plugin_call
from rlvr.rewards.calling import Judge, as_judge, describe
from rlvr.rewards.orphans import adopt_orphans, children, load_prctl
from rlvr.rewards.verdict import Sample, crashed
from rlvr.rewards.wire import pack, unpack, verdict_message

PARENT_CHECK = 2.0  # seconds between looks at whether the trainer still lives
MAX_CONTROL = 4096  # bytes of a control message; they are sent one at a time
_PR_SET_PDEATHSIG = 1


def nursery(control_fd: int) -> None:
    """Fork and reap workers as the trainer asks, until it says exit or is gone."""
    trainer = os.getppid()
    os.dup2(2, 1)  # what a verifier prints goes to stderr
    warnings.simplefilter("ignore")
    control = socket.socket(fileno=control_fd)
    setup = _read_setup(control)
    built = _build(setup["builtin"])
    prctl = load_prctl()
    adopt_orphans(True)
    workers: set[int] = set()
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the shared pages
    control.sendall(pack({"ready": True}))
    while _wait_for(control, trainer, workers):
        line, descriptors, _, _ = socket.recv_fds(control, MAX_CONTROL, 1)
        message = unpack(line) if line else {"exit": True}
        if "exit" in message:
            break
        if "stop" in message:
            control.sendall(pack({"status": _stop(message["stop"], workers)}))
            continue
        pid = os.fork()
        if pid == 0:
            _worker(control, descriptors[0], setup, built, prctl)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here as well as in the worker: whoever is first
        os.close(descriptors[0])
        workers.add(pid)
        control.sendall(pack({"pid": pid}))
    for pid in list(workers):
        _stop(pid, workers)


def _wait_for(control: socket.socket, trainer: int, workers: set[int]) -> bool:
    """Return True once the trainer says something, False if it is gone; reap meanwhile."""
    # a process that the trainer forked may hold the socket open: end-of-file is not enough
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while not poll.poll(PARENT_CHECK * 1000):
        if os.getppid() != trainer:
            return False
        for orphan in children() - workers:
            os.waitpid(orphan, os.WNOHANG)
    return True


def _read_setup(control: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        if not (piece := control.recv(65536)):
            os._exit(0)
        line += piece
    return unpack(line)


def _build(builtin: Mapping[str, Any]) -> dict[int, Judge]:
    if not builtin:
        return {}
    from rlvr.rewards import registry  # pydantic is slow to import, and users' functions need none

    return {
        int(index): as_judge(registry.build(name, options), deadline)
        for index, (name, options, deadline) in builtin.items()
    }


def _stop(pid: int, workers: set[int]) -> int:
    """Kill a worker with everything that it started; return the status of `waitpid`."""
    _kill(pid)
    status = os.waitpid(pid, 0)[1]
    workers.discard(pid)
    while orphans := children() - workers:
        for orphan in orphans:
            _kill(orphan)
            os.waitpid(orphan, 0)
    return status


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _worker(
    control: socket.socket,
    descriptor: int,
    setup: Mapping[str, Any],
    built: Mapping[int, Judge],
    prctl: Callable[[int, int], int],
) -> None:
    nursery_pid = os.getppid()
    try:
        os.setpgid(0, 0)
        control.close()
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == nursery_pid:
            _limit(setup["memory"])
            _serve(socket.socket(fileno=descriptor), setup["plugin"], built)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the trainer is gone
    finally:
        os._exit(0)  # never back into the nursery's loop


def _limit(memory: int | None) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        with contextlib.suppress(ValueError, OSError):  # not on every system
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _serve(
    connection: socket.socket, plugins: Mapping[str, Any], built: Mapping[int, Judge]
) -> None:
    judges = dict(built)
    errors: dict[int, str] = {}
    for index, (reference, deadline, form) in plugins.items():
        try:
            judges[int(index)] = plugin_call.load(reference, deadline, form)
        except BaseException as error:  # the user's module may raise anything
            errors[int(index)] = f"{reference}: {describe(error)}"
    connection.sendall(pack({"ready": True, "errors": errors}))
    for line in connection.makefile("rb"):
        message = unpack(line)
        index = message["verifier"]
        samples = [Sample(**item) for item in message["samples"]]
        if index in errors:
            connection.sendall(pack({"failed": verdict_message(crashed(errors[index]))}))
        else:
            connection.sendall(pack(_answer(judges[index], samples)))


def _answer(judge: Judge, samples: list[Sample]) -> dict[str, Any]:
    try:
        return {"verdicts": [verdict_message(verdict) for verdict in judge(samples)]}
    except BaseException as error:  # the user's function may raise anything
        return {"failed": verdict_message(crashed(describe(error)))}
