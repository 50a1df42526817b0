"""Processes whose parent ended: who adopts them can find, end and reap them (Linux)."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


def load_prctl() -> Callable[..., int]:
    """Return the C library's `prctl`; where there is none, a function that returns -1."""
    return getattr(ctypes.CDLL(None), "prctl", lambda *_: -1)


def adopt_orphans(wanted: bool) -> bool:
    """Let this process adopt its orphaned descendants, or not; return whether it did before."""
    prctl = load_prctl()
    before = ctypes.c_int(0)
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)
    return bool(before.value)


def children() -> set[int]:
    """Return the ids of this process's children, adopted ones and those that ended among them."""
    found: set[int] = set()
    with contextlib.suppress(OSError):  # not on every system
        for thread in Path("/proc/self/task").iterdir():
            found.update(map(int, (thread / "children").read_text().split()))
    return found
