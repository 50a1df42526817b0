"""The training process's side of its heartbeat: it says which phase it is in, and its watcher writes that down.

    with watched(folder, rank=0, processes=1, every=5.0, stall_after=1440.0, patience=1800.0) as heartbeat:
        with heartbeat.phase("rollout", update=3), heartbeat.phase("scoring"):
            ...                                   # RUN/heartbeat/rank-00000.json: "phase": "rollout/scoring"

Saying it is one write to memory: no thread, no lock, nothing that could block.
"""

import faulthandler
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from rlvr.watch.beat import FOLDER
from rlvr.watch.record import Record, write
from rlvr.watch.watcher import Task

logger = logging.getLogger(__name__)

BETWEEN = "between phases"
_LOADING = "loading"
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from rlvr.watch.watcher import main; main(sys.argv[2])"
)
_END_DEADLINE = 5.0
"""Seconds in which a watcher ends; only a file system that hangs makes it longer."""


class Heartbeat:
    """What a process does, for its watcher; without one it does nothing.

    Args:
        record: Descriptor of the file that the watcher reads; None: there is no watcher.
    """

    def __init__(self, record: int | None = None) -> None:
        self._record = record
        self._phases: tuple[str, ...] = ()
        self._update = 0
        self._said = Record(_LOADING, 0, time.monotonic())
        if record is not None:
            write(record, self._said)

    @contextmanager
    def phase(self, name: str, update: int | None = None) -> Iterator[None]:
        """Say that the block is this phase, within the one that it stands in.

        After an error the phase stays on record until the next begins: a run that ends by it ended there.

        Args:
            name: Of the phase, as users know it.
            update: Optimizer steps done; None: as was said last.
        """
        outer = self._phases
        self.begin(name, update)
        try:
            yield
        except BaseException:
            self._phases = outer
            raise
        self.end()

    def begin(self, name: str, update: int | None = None) -> None:
        """Say that a phase begins; for those that do not end in the function in which they begin."""
        self._phases = (*self._phases, name)
        self._update = self._update if update is None else update
        self._say()

    def end(self) -> None:
        """Say that the phase begun last has ended."""
        self._phases = self._phases[:-1]
        self._say()

    def _say(self) -> None:
        if self._record is None:
            self._phases = ()
            return
        self._said = Record("/".join(self._phases) or BETWEEN, self._update, time.monotonic())
        write(self._record, self._said)

    def finish(self) -> None:
        """Say that the process has done all it should."""
        if self._record is not None:
            said = self._said
            write(self._record, Record(said.phase, said.update, said.since, finished=True))


NO_HEARTBEAT = Heartbeat()
"""Of a process that nobody watches."""


@contextmanager
def watched(
    run: Path,
    *,
    rank: int,
    processes: int,
    every: float,
    stall_after: float,
    patience: float,
) -> Iterator[Heartbeat]:
    """Have a watcher write what this process does while the block runs.

    Args:
        run: The run folder; it is made only when there is something to write.
        rank: Of this process.
        processes: Of the run.
        every: Seconds between two beats; 0: there is no watcher.
        stall_after: Seconds in one phase after which the run is said to stall.
        patience: Seconds after which a collective ends the run.
    """
    if every == 0 or sys.platform != "linux":  # signals, /proc and unnamed files are Linux's
        yield NO_HEARTBEAT
        return
    with ExitStack() as files:
        record, stacks = (files.enter_context(_unnamed(name)) for name in ("record", "stacks"))
        number = stack_signal()
        heartbeat = Heartbeat(record)
        task = Task(
            folder=str(run.absolute() / FOLDER),
            rank=rank,
            processes=processes,
            pid=os.getpid(),
            every=every,
            stall_after=stall_after,
            patience=patience,
            record=record,
            stacks=stacks,
            signal=number,
        )
        # before there is a watcher: without a handler its signal would end this process
        faulthandler.register(number, file=stacks, all_threads=True, chain=False)
        watcher = _start(task)
        try:
            yield heartbeat
            heartbeat.finish()
        finally:
            if watcher is not None:
                _stop(watcher)
            faulthandler.unregister(number)


def stack_signal() -> int:
    """Return the signal that has a process write its Python stacks.

    A real-time one that nobody has: SIGUSR1 and SIGUSR2 are what SLURM is told to send before the time is up, and what
    torchrun forwards.
    """
    numbers = range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1)
    return next(n for n in numbers if signal.getsignal(n) is signal.SIG_DFL)


@contextmanager
def _unnamed(name: str) -> Iterator[int]:
    """Open a file in memory, not in the place of a closed stdin, stdout or stderr."""
    made = os.memfd_create(f"rlvr-heartbeat-{name}")
    file = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(made)
    try:
        yield file
    finally:
        os.close(file)


def _start(task: Task) -> "subprocess.Popen[bytes] | None":
    package = Path(__file__).parents[2]
    try:
        return subprocess.Popen(
            # standard library only, whatever the environment says: it starts in milliseconds
            [sys.executable, "-I", "-S", "-c", _BOOT, str(package), json.dumps(asdict(task))],
            stdin=subprocess.PIPE,  # it ends when this process, which holds the other end, has ended
            stdout=subprocess.DEVNULL,
            stderr=None if _is_open(2) else subprocess.DEVNULL,
            pass_fds=[task.record, task.stacks],
            start_new_session=True,  # Ctrl-C in the terminal is for the trainer
        )
    except OSError as error:
        logger.warning("there is no heartbeat: its process cannot be started (%s)", error)
        return None


def _stop(watcher: "subprocess.Popen[bytes]") -> None:
    assert watcher.stdin is not None  # a pipe, by _start
    with suppress(BrokenPipeError):  # it was killed
        # a process that was forked here may hold the pipe open too
        watcher.stdin.write(b"end")
        watcher.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        watcher.wait(_END_DEADLINE)
        return
    watcher.kill()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
