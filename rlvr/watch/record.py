"""What a training process tells its watcher: one record in memory that both see, overwritten in one call.

The memory is a file without a name, so that it cannot be full, block or be left behind, and what a process said last is
there after it was killed.
"""

import os
from dataclasses import dataclass

WAITING = "waiting for others"
"""Phase of a process that has come to a collective."""
_SIZE = 512


@dataclass(frozen=True)
class Record:
    """What a process does."""

    phase: str
    """The outermost first: rollout/scoring."""
    update: int
    """Optimizer steps done, as far as it was said."""
    since: float
    """When it began, seconds of the machine's monotonic clock."""
    finished: bool = False
    """Whether the process has ended as it should."""


def write(file: int, record: Record) -> None:
    """Replace the record of a file, given by its descriptor."""
    text = f"{record.since!r}\t{record.update}\t{record.finished:d}\t{record.phase}"
    os.pwrite(file, text.encode()[: _SIZE - 1].ljust(_SIZE), 0)


def read(file: int) -> Record:
    """Return the record of a file."""
    seen, again = b"", os.pread(file, _SIZE, 0)
    while seen != again:  # it was being written
        seen, again = again, os.pread(file, _SIZE, 0)
    since, update, finished, phase = again.decode(errors="replace").rstrip().split("\t")
    return Record(phase, int(update), float(since), finished == "1")
