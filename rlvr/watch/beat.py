"""Heartbeat files: what each rank of a run does, as its watcher saw it last. `RUN/heartbeat/rank-00003.json`."""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = "heartbeat"
ENDED, FINISHED, STOPPED = "ended", "finished", "stopped"
_GRACE = 10.0
"""Seconds that a file may be late, besides three beats, before its watcher counts as gone."""


@dataclass(frozen=True)
class Beat:
    """What one rank does."""

    rank: int
    processes: int
    """Of the run."""
    host: str
    pid: int
    """Of the training process."""
    state: str
    """Of the process: running, sleeping, waiting for a disk, stopped; ended (killed, or an error) or finished."""
    phase: str
    """The outermost first: rollout/scoring."""
    seconds: float
    """In the phase."""
    update: int
    """Optimizer steps done."""
    cores: float
    """Processor time per second since the beat before."""
    cpu_seconds: float
    """Processor time since the process started."""
    time: float
    """Of the beat, seconds since 1970."""
    every: float
    """Seconds between two beats."""

    @property
    def doing(self) -> str:
        """The innermost phase."""
        return self.phase.rpartition("/")[2]

    @property
    def is_over(self) -> bool:
        """Whether the process is gone."""
        return self.state in (ENDED, FINISHED)

    def is_silent(self, now: float) -> bool:
        """Whether the watcher is gone too, or its machine."""
        return not self.is_over and now - self.time > 3 * self.every + _GRACE


def path_of(folder: Path, rank: int) -> Path:
    """Return the file of a rank."""
    return folder / f"rank-{rank:05d}.json"


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen in part."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_beat(folder: Path, beat: Beat) -> None:
    """Replace the file of a rank."""
    write_whole(path_of(folder, beat.rank), json.dumps(asdict(beat), indent=1) + "\n")


def read_beat(folder: Path, rank: int) -> Beat | None:
    """Return the last beat of a rank; None: there is none."""
    with suppress(OSError, ValueError, TypeError):
        return Beat(**json.loads(path_of(folder, rank).read_text(encoding="utf-8")))
    return None


def read_beats(folder: Path) -> list[Beat]:
    """Return the last beat of every rank that has one."""
    ranks = sorted(int(path.stem.removeprefix("rank-")) for path in folder.glob("rank-*.json"))
    return [beat for rank in ranks if (beat := read_beat(folder, rank)) is not None]


def describe(beat: Beat, now: float) -> str:
    """Return what a rank does, in words.

    Example:
        >>> beat = Beat(3, 8, "node1", 4711, "sleeping", "rollout/scoring", 410.0, 17, 0.0, 99.0, 1000.0, 5.0)
        >>> describe(beat, now=1002.0)
        'rank 3: scoring, 412 s'
        >>> describe(beat, now=1300.0)
        'rank 3: no sign of it for 300 s; it was scoring on node1'
    """
    if beat.state == FINISHED:
        return f"rank {beat.rank}: finished"
    if beat.state == ENDED:
        return f"rank {beat.rank}: ended in {beat.doing}"
    late = now - beat.time
    if beat.is_silent(now):
        return (
            f"rank {beat.rank}: no sign of it for {late:.0f} s; it was {beat.doing} on {beat.host}"
        )
    stopped = ", stopped by a signal" if beat.state == STOPPED else ""
    return f"rank {beat.rank}: {beat.doing}, {beat.seconds + max(late, 0.0):.0f} s{stopped}"


def status(run: Path, now: float | None = None) -> list[str]:
    """Return what each rank of a run does, a line each; nothing when all have finished or none was watched."""
    beats = read_beats(run / FOLDER)
    if all(beat.state == FINISHED for beat in beats):
        return []
    now = time.time() if now is None else now
    return [describe(beat, now) for beat in beats]


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as words.

    Example:
        >>> ranges([0, 2, 3, 4, 7])
        '0, 2-4, 7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
