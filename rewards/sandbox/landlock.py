"""Landlock through ctypes: which files sandboxed code may open, no TCP, signals kept inside.

Standard library only: it is loaded by the process that forks the executions. A ruleset is made once
and entered by each execution. It holds for whoever runs it, root included.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # on every machine
_VERSION = 1
_PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG, TRUNCATE = 1 << 5, 1 << 8, 1 << 14
READ = READ_FILE | READ_DIR
# plain files only: no folder to nest, no link, no socket, no device
SCRATCH = READ | WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE
_OF_FILES = READ_FILE | WRITE_FILE | TRUNCATE
# bits of the file accesses that each version knows
_FILE_ACCESSES = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP = 0b11  # bind and connect, since version 4
_SCOPES = 0b11  # abstract sockets and signals, since version 6
_QUIET = 0b1  # denials are no audit records, since version 7


def version(libc: ctypes.CDLL) -> int:
    """Return the kernel's Landlock version; 0 where there is none, or where it is off."""
    return max(0, libc.syscall(_CREATE, None, 0, _VERSION))


def ruleset(libc: ctypes.CDLL, rules: Iterable[tuple[str | int, int]]) -> int:
    """Return a descriptor of a ruleset that allows nothing but these.

    Args:
        libc: The C library.
        rules: What `add` takes.
    """
    known = version(libc)
    attributes = struct.pack(
        "=QQQ", _known_files(libc), _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0
    )
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    descriptor = libc.syscall(_CREATE, attributes, size, 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "a Landlock ruleset was refused")
    for place, accesses in rules:
        add(libc, descriptor, place, accesses)
    return descriptor


def restrict(libc: ctypes.CDLL, descriptor: int) -> None:
    """Put this process under the ruleset for good; `no_new_privs` must be set."""
    flags = _QUIET if version(libc) >= 7 else 0
    if libc.syscall(_RESTRICT, descriptor, flags) != 0:
        raise OSError(ctypes.get_errno(), "Landlock was refused")


def add(libc: ctypes.CDLL, descriptor: int, place: str | int, accesses: int) -> None:
    """Allow accesses below a path, or an open folder; a path that is not there is left out."""
    try:
        beneath = os.open(place, os.O_PATH | os.O_CLOEXEC) if isinstance(place, str) else place
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            accesses &= _OF_FILES
        rule = struct.pack("=Qi", accesses & _known_files(libc), beneath)
        if libc.syscall(_ADD, descriptor, _PATH_BENEATH, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), f"Landlock refused a rule for {place}")
    finally:
        if isinstance(place, str):
            os.close(beneath)


def _known_files(libc: ctypes.CDLL) -> int:
    return (1 << _FILE_ACCESSES[min(version(libc), 5)]) - 1
