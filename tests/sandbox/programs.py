"""Helpers of the sandbox's tests: one sandbox a module, and programs that try what they may not."""

import time
from pathlib import Path

import pytest

from rlvr.rewards.sandbox.probe import probe
from rlvr.rewards.sandbox.request import ExecutionRequest, Limits

LIMITS = Limits(seconds=5)

needs_locks = pytest.mark.skipif(
    not probe().strong, reason="this machine has no Landlock or no seccomp; see rlvr doctor"
)

# prints the lines of what went through; a refusal prints nothing
ATTEMPTS = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def attempt(name, action):
    try:
        result = action()
    except (OSError, ImportError, ValueError):
        return
    if not (isinstance(result, int) and result == -1):
        print(name)

"""


def attempts(**actions):
    """Return a program that prints the names of the actions that were not refused."""
    lines = [f"attempt({name!r}, lambda: {action})" for name, action in actions.items()]
    return ATTEMPTS + "\n".join(lines) + "\nprint('done')\n"


def run(box, program, stdin="", limits=LIMITS):
    return box.run(ExecutionRequest(program, stdin, limits))


def processes():
    """Process ids of this machine, zombies included."""
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def below(pid):
    """Process ids below pid, zombies included."""
    found = [child for child in processes() if parent_of(child) == pid]
    return found + [grandchild for child in found for grandchild in below(child)]


def gone(pid, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.02)
    return False
