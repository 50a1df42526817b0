"""The watcher of one training process: a small process beside it, which writes what it does.

It is a process of its own because a training process in a C call that holds Python's lock, or stopped, or in a collective
cannot write anything. It only looks: at the record that the training process keeps (`record.py`) and at /proc; its one
touch is a signal that has the training process write its Python stacks, when a run stalls. It ends with its training
process, however that ends.

A stall is a phase that lasts longer than `stall_after` and, unless it is waiting for others, twice as long as any before of
its name: a rollout that always takes an hour is none. The watcher that sees one asks all of the run's for their stacks, by a
file in the run folder, and the one of the lowest rank writes the report. Once for each stall.
"""

import json
import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlvr.watch.beat import (
    ENDED,
    FINISHED,
    STOPPED,
    Beat,
    path_of,
    read_beat,
    read_beats,
    write_beat,
    write_whole,
)
from rlvr.watch.record import WAITING, Record, read
from rlvr.watch.stall import report

_REQUEST = "stall-request.json"
_STATES = {"R": "running", "D": "waiting for a disk", "T": STOPPED, "t": STOPPED}
_STACK_DEADLINE = 2.0
"""Seconds in which a process writes its stacks, if it takes the signal."""
_STACK_PAUSE = 0.1
"""Seconds without a further line after which stacks are whole."""
_ANSWER_DEADLINE = 5.0
"""Seconds, besides two beats, in which every watcher answers a request."""


@dataclass(frozen=True)
class Task:
    """What a watcher is started with."""

    folder: str
    """Of the heartbeat files; the run folder is the one above."""
    rank: int
    processes: int
    pid: int
    """Of the training process, the watcher's parent."""
    every: float
    """Seconds between two beats."""
    stall_after: float
    """Seconds."""
    patience: float
    """Seconds after which a collective ends the run."""
    record: int
    """Descriptor of what the training process says."""
    stacks: int
    """Descriptor of the file to which the training process writes its stacks."""
    signal: int
    """Has it write them."""


@dataclass(frozen=True)
class Request:
    """Asks every watcher of a run for its stacks."""

    rank: int
    """Who asks."""
    time: float
    """Seconds since 1970; with the rank it is the request's name."""


class Watcher:
    """Looks, writes, and asks, a beat at a time."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._folder = Path(task.folder)
        self._started = time.time()
        self._last: Beat | None = None
        self._seen = read(task.record)
        self._longest: dict[str, float] = {}
        self._told: float | None = None
        self._request: Request | None = None
        self._requested = 0.0
        self._reporting = False

    def run(self) -> None:
        """Beat until the training process has ended."""
        while not self._has_ended():
            # a full disk, a folder that is gone: perhaps it is better at the next beat
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._beat()
        if self._folder.parent.is_dir():  # a wrong recipe leaves no folder
            with suppress(OSError):
                self._folder.mkdir(exist_ok=True)
                self._end()

    def _has_ended(self) -> bool:
        """Return, a beat later or as soon as it is so, whether the training process is gone."""
        # the other end of stdin is held by the training process, and by what it may have forked
        closed, _, _ = select.select([0], [], [], self._task.every)
        return bool(closed) or os.getppid() != self._task.pid

    def _beat(self) -> None:
        record = read(self._task.record)
        before = self._seen
        if record.since != before.since:
            lasted = record.since - before.since
            self._longest[before.phase] = max(lasted, self._longest.get(before.phase, 0.0))
            self._seen = record
        if self._last is None:
            self._forget_earlier_run()
        beat = self._look(record)
        write_beat(self._folder, beat)
        if record.since != self._told and beat.seconds >= self._bound(record.phase):
            self._ask()
        if (request := self._read_request()) not in (None, self._request):
            self._answer(request)
        if self._reporting:
            self._report()

    def _end(self) -> None:
        record = read(self._task.record)
        write_beat(self._folder, self._look(record, FINISHED if record.finished else ENDED))
        if self._reporting:
            self._report(wait=False)

    def _look(self, record: Record, state: str | None = None) -> Beat:
        now = time.time()
        found, used = (state, None) if state else _process(self._task.pid)
        last = self._last
        spent = last.cpu_seconds if last else 0.0
        used = spent if used is None else used
        elapsed = max(now - (last.time if last else self._started), 1e-3)
        beat = Beat(
            rank=self._task.rank,
            processes=self._task.processes,
            host=os.uname().nodename,
            pid=self._task.pid,
            state=found,
            phase=record.phase,
            seconds=round(time.monotonic() - record.since, 1),
            update=record.update,
            cores=round((used - spent) / elapsed, 2) if last else 0.0,
            cpu_seconds=round(used, 2),
            time=round(now, 2),
            every=self._task.every,
        )
        self._last = beat
        return beat

    def _forget_earlier_run(self) -> None:
        """Remove the files of ranks that this run does not have, and pass over what was asked before it began."""
        self._take(self._read_request())
        if self._task.rank == 0:
            for beat in read_beats(self._folder):
                if beat.rank >= self._task.processes:
                    path_of(self._folder, beat.rank).unlink(missing_ok=True)

    # ------------------------------------------------------------------ a stall

    def _bound(self, phase: str) -> float:
        """Return the seconds after which a phase is a stall."""
        if phase.endswith(WAITING):
            return self._task.stall_after
        return max(self._task.stall_after, 2 * self._longest.get(phase, 0.0))

    def _ask(self) -> None:
        path = self._folder / _REQUEST
        waited = time.monotonic() - self._requested
        if self._request and self._read_request() == self._request and waited > 2 * self._deadline:
            path.unlink(missing_ok=True)  # who should have reported is gone
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Request(self._task.rank, time.time()))))

    def _read_request(self) -> Request | None:
        with suppress(OSError, ValueError, TypeError):
            return Request(**json.loads((self._folder / _REQUEST).read_text(encoding="utf-8")))
        return None

    def _take(self, request: Request | None) -> None:
        self._request, self._requested = request, time.monotonic()

    def _answer(self, request: Request) -> None:
        """Write this process's stacks; the lowest rank that is there will report."""
        self._take(request)
        self._told = self._seen.since
        answer = asdict(request) | {"stacks": self._stacks()}
        write_whole(self._stack_file(self._task.rank), json.dumps(answer))
        now = time.time()
        lower = (read_beat(self._folder, rank) for rank in range(self._task.rank))
        self._reporting = not any(
            beat and not beat.is_over and not beat.is_silent(now) for beat in lower
        )

    def _stacks(self) -> str:
        """Return the Python stacks of the training process, or why there are none."""
        task = self._task
        state, _ = _process(task.pid)
        if state == STOPPED:
            return "no stack: the process is stopped by a signal (kill -CONT lets it go on)"
        # without a handler the signal would end the process
        if not _catches(task.pid, task.signal):
            return f"no stack: the process does not take signal {task.signal}"
        start = size = os.fstat(task.stacks).st_size
        os.kill(task.pid, task.signal)
        deadline = time.monotonic() + _STACK_DEADLINE
        while time.monotonic() < deadline:
            time.sleep(_STACK_PAUSE)
            before, size = size, os.fstat(task.stacks).st_size
            if start < size == before:
                break
        if size == start:
            return f"no stack within {_STACK_DEADLINE:g} s: the process is {state}"
        return os.pread(task.stacks, size - start, start).decode(errors="replace")

    def _report(self, *, wait: bool = True) -> None:
        """Write the report when every rank has answered, or cannot be expected to."""
        assert self._request is not None  # _answer takes one
        now = time.time()
        beats = read_beats(self._folder)
        expected = {b.rank for b in beats if not b.is_over and not b.is_silent(now)}
        answers = {b.rank: self._answer_of(b.rank) for b in beats}
        stacks = {rank: text for rank, text in answers.items() if text is not None}
        is_late = time.monotonic() - self._requested > self._deadline
        if wait and not is_late and not expected <= set(stacks):
            return
        self._reporting = False
        task = self._task
        text, head = report(beats, stacks, task.processes, patience=task.patience, now=now)
        name = time.strftime("stall-%Y%m%d-%H%M%S.txt", time.localtime(self._request.time))
        write_whole(self._folder / name, text)
        for rank in stacks:
            self._stack_file(rank).unlink(missing_ok=True)
        (self._folder / _REQUEST).unlink(missing_ok=True)
        with suppress(OSError):
            os.write(2, f"stall     {head}; all stacks: {self._folder / name}\n".encode())

    def _answer_of(self, rank: int) -> str | None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            answer = json.loads(self._stack_file(rank).read_text(encoding="utf-8"))
            if Request(answer["rank"], answer["time"]) == self._request:
                return answer["stacks"]
        return None

    def _stack_file(self, rank: int) -> Path:
        return self._folder / f"stack-{rank:05d}.json"

    @property
    def _deadline(self) -> float:
        return _ANSWER_DEADLINE + 2 * self._task.every


def _process(pid: int) -> tuple[str, float | None]:
    """Return the state of a process and its processor time, seconds; None: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ENDED, None
    # the name in brackets may hold blanks
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return _STATES.get(fields[0], "sleeping"), ticks / os.sysconf("SC_CLK_TCK")


def _catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, mask = line.partition(":")
            if name == "SigCgt":
                return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def main(argument: str) -> None:
    """Watch until the training process has ended."""
    # Ctrl-C and a launcher's SIGTERM are for the training process; who watches it ends with it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Watcher(Task(**json.loads(argument))).run()
