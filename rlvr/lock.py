"""One run trains in a folder at a time.

A launcher that is killed with signal 9 leaves its processes training, and a start with `--resume` would write the same
folder as they do: it is refused. The lock is on the folder itself; the system takes it from a process that ends,
however it ends.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a folder, which is made if it is missing, to this process alone.

    Raises:
        ValueError: If another process has it.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise ValueError(
            f"{folder} is being trained by another process ({'' if holder is None else f'number {holder}, '}perhaps left by "
            "a launcher that was killed); wait until it has ended, or end it. Nothing was changed."
        ) from None
    except OSError:  # some network file systems have no locks
        pass
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):  # something is in it
                folder.rmdir()
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    """Return the process that has a file locked, where the system tells (Linux)."""
    found = os.fstat(descriptor)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4711 fd:01:131 0 EOF
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == place:
                return int(fields[4])
    return None
