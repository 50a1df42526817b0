"""Checkpoints that are there whole or not at all: written under another name, made durable, renamed.

    checkpoints/checkpoint-20      whole
    checkpoints/.writing/...       being written, or left by a process that was killed

A process that is killed while it writes leaves `.writing`, which the next run removes; one that is killed while it deletes
leaves `.deleting`.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlvr.processes import Processes

CHECKPOINTS = "checkpoints"
"""Of a run folder."""
PREFIX = "checkpoint-"
WRITING = ".writing"
DELETING = ".deleting"
_LAST_WRITTEN = "trainer_state.json"
"""By transformers."""


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name[len(PREFIX) :].isdigit()]
    return sorted(found, key=update_of, reverse=True)


def update_of(checkpoint: Path) -> int:
    """Return the update after which a checkpoint was made.

    Example:
        >>> update_of(Path("runs/demo/checkpoints/checkpoint-20"))
        20
    """
    return int(checkpoint.name.removeprefix(PREFIX))


def is_whole(checkpoint: Path) -> bool:
    """Return whether everything of a checkpoint was written: by its last file, which is JSON that can be read."""
    try:
        json.loads((checkpoint / _LAST_WRITTEN).read_text())
    except (OSError, ValueError):
        return False
    return True


def size(found: Iterable[Path]) -> int:
    """Return the bytes of checkpoints."""
    files = (path for folder in found for path in _files(folder) if path.is_file())
    return sum(path.stat().st_size for path in files)


def place(folder: Path) -> Path:
    """Return an empty place in which a checkpoint is written."""
    remains(folder)
    path = folder / WRITING
    path.mkdir(parents=True)
    return path


def remains(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for name in (WRITING, DELETING):
        shutil.rmtree(folder / name, ignore_errors=True)


def in_steps(processes: "Processes", *steps: Callable[[], Any] | None) -> str | None:
    """Take the steps of saving on every process, each when all have ended the one before; return why one failed.

    Args:
        processes: Of the run.
        steps: Of this process; None: it has nothing to do in that one.
    """
    for step in steps:
        problems = processes.gather_list([None if step is None else _tried(step)])
        problem = next(filter(None, problems), None)
        if problem is not None:
            return problem
    return None


def _tried(step: Callable[[], Any]) -> str | None:
    """Take a step; return why it failed, in a line."""
    from safetensors import SafetensorError

    try:
        step()
    except OSError as error:
        return error.strerror or str(error)
    # of safetensors, of torch.save, of parts that are elsewhere
    except (SafetensorError, RuntimeError, ValueError) as error:
        return str(error).strip().partition("\n")[0]
    return None


def publish(folder: Path, name: str, keep: int | None) -> None:
    """Give a checkpoint that was written its name, and remove the oldest beyond `keep`.

    Raises:
        OSError: If the disk is full: then the checkpoint is not there, and the older ones are.
    """
    written = folder / WRITING / name
    for path in _files(written):
        _flush(path)
    _delete(folder / name)  # a run that goes back writes it again
    written.rename(folder / name)
    _flush(folder)
    tidy(folder, keep)


def tidy(folder: Path, keep: int | None) -> None:
    """Remove the oldest checkpoints beyond `keep`, and what processes that were killed have left."""
    for old in checkpoints(folder)[keep:] if keep else ():
        _delete(old)
    remains(folder)


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)
        yield Path(root)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(folder: Path) -> None:
    """Remove a folder that may hold a checkpoint: it is gone before its first file is."""
    if not folder.exists():
        return
    gone = folder.parent / DELETING
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
