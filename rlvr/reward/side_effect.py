"""What untrusted completions left on the machine: files that must not be there, processes that live on."""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from rlvr.rewards.orphans import adopt_orphans, children

GRACE = 1.0  # seconds; a killed process takes a moment to end
_PATH = re.compile(r"(?<![\w/])/(?:[\w.\-]+/)*[\w.\-]+")


class Watch:
    """Sees which of some paths appear, and which processes are left, while it is open.

    Orphans of any depth become children of this process meanwhile (on Linux), so that none is missed
    and none of another program is counted.

    Args:
        paths: Those that must not appear; what is there before counts for nothing.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._absent = {path for path in paths if not Path(path).exists()}
        self.appeared: set[str] = set()
        self.processes: list[str] = []
        """Command lines of the processes that were left."""

    @staticmethod
    def paths_in(text: str) -> list[str]:
        """Return the absolute paths that a sentence names.

        Example:
            >>> Watch.paths_in("/tmp/marker exists on the host")
            ['/tmp/marker']
        """
        return _PATH.findall(text)

    def left_by(self, text: str) -> list[str]:
        """Return which of the paths in a sentence appeared."""
        return [path for path in self.paths_in(text) if path in self.appeared]

    def __enter__(self) -> Self:
        self._before = children()
        self._adopted = adopt_orphans(True)
        return self

    def __exit__(self, *_: object) -> None:
        self.appeared = {path for path in self._absent if Path(path).exists()}
        end = time.monotonic() + GRACE
        left = _alive(children() - self._before)
        while left and time.monotonic() < end:
            time.sleep(0.01)
            left = _alive(children() - self._before)
        self.processes = [_command(pid) for pid in sorted(left)]
        adopt_orphans(self._adopted)


def _alive(pids: set[int]) -> set[int]:
    """Return those of our children that live; the others are reaped."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                found.add(pid)
    return found


def _command(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return f"process {pid}"
    return line.replace(b"\0", b" ").decode(errors="replace").strip()[:200] or f"process {pid}"
