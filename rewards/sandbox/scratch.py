"""The folder where one execution may write: made for it, removed with it.

Standard library only: it is loaded by the process that forks the executions. Its owner holds a lock
on it, so that a folder whose owner was killed is known, and removed, by the next sandbox.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable

PREFIX = "rlvr-sandbox-"
_YOUNG = 2.0  # seconds in which a folder may not be locked yet


class Scratch:
    """Makes and removes the folder.

    Args:
        base: Folder for it.
        uid: User who may write there; None is the present one.
    """

    def __init__(self, base: str, uid: int | None) -> None:
        self._base, self._uid = base, uid
        self._lock: int | None = None
        self.path: str | None = None

    def make(self) -> str:
        """Return the path of a new, empty folder."""
        self.path = tempfile.mkdtemp(prefix=PREFIX, dir=self._base)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if self._uid is not None:
            os.chown(self.path, self._uid, self._uid)
        return self.path

    def use(self) -> tuple[int, int]:
        """Return the number of files in the folder and the bytes that they hold."""
        count = size = 0
        with contextlib.suppress(OSError), os.scandir(self.path or ".") as entries:
            for entry in entries:
                count += 1
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_size
        return count, size

    def remove(self) -> None:
        """Remove the folder, whatever an execution made of it."""
        if self.path is not None:
            _remove(self.path)
            self.path = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep(base: str) -> None:
    """Remove the folders whose owners were killed."""
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_left(entry.path)


def _remove_if_left(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if time.time() - os.fstat(descriptor).st_ctime > _YOUNG:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
    finally:
        os.close(descriptor)


def _remove(folder: str) -> None:
    def open_up(_: Callable[..., object], path: str, __: object) -> None:
        # where programs can make folders (no Landlock), they can close them too
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), stat.S_IRWXU)
            os.unlink(path) if not os.path.isdir(path) else os.chmod(path, stat.S_IRWXU)

    for _ in range(2):
        shutil.rmtree(folder, onerror=open_up)
        if not os.path.lexists(folder):
            return
