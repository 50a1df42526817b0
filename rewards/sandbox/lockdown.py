"""What an execution gives up before the first line of untrusted code: everything it does not need.

Standard library only: it is loaded by the process that forks the executions. The order matters:
limits and user id first, then the tie to the parent's life (a change of the user id unties it),
then the locks that cannot be undone.
"""

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Sequence

from rlvr.rewards.sandbox import landlock, seccomp

FIRST_UID = 60_000  # ids that belong to nobody; processes are counted per id
UIDS = 4_000
THREADS = 64  # of one execution; enforced by the kernel where the user id changes
OPEN_FILES = 64
FILE_BYTES = 16 << 20  # of one file
SCRATCH_BYTES = 64 << 20  # of all files together
SCRATCH_FILES = 500

_FORGET = 100  # executions

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CHANGE_USER = 1 << 0 | 1 << 6 | 1 << 7  # CAP_CHOWN, CAP_SETGID, CAP_SETUID
_CAPSET = {0: 126, 1: 91}  # by the column of the machine
_CAPABILITY_VERSION = 0x20080522
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom")


def load_libc() -> ctypes.CDLL:
    """Return the C library, with errors kept for `ctypes.get_errno`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
    libc.syscall.restype = ctypes.c_long
    return libc


class Locksmith:
    """Locks executions with what this machine has.

    Args:
        places: What programs may read besides the system's libraries.
        number: Of the worker: each has a user id of its own, where ids can be changed.
    """

    def __init__(self, places: Sequence[str | int], number: int) -> None:
        self.libc = load_libc()
        self.uid = FIRST_UID + number % UIDS if can_change_uid() else None
        self._filter = seccomp.template() if seccomp.available(self.libc) else None
        self._rules: list[tuple[str | int, int]] = [
            (place, landlock.READ) for place in (*_SYSTEM_LIBRARIES, *_SYSTEM_FILES, *places)
        ]
        self._rules.append(("/dev/null", landlock.READ_FILE | landlock.WRITE_FILE))
        self._bare, self._with_scratch = self._ruleset(), self._ruleset()
        self._allowed = 0

    def allow(self, scratch: str) -> None:
        """Let the next programs write into this folder."""
        if self._with_scratch is None:
            return
        self._allowed += 1
        if self._allowed % _FORGET == 0:  # a ruleset keeps the folders that are gone
            os.close(self._with_scratch)
            self._with_scratch = landlock.ruleset(self.libc, self._rules)
        landlock.add(self.libc, self._with_scratch, scratch, landlock.SCRATCH)

    def descriptors(self) -> list[int]:
        """Return the descriptors that `enter` needs, and closes."""
        return [d for d in (self._bare, self._with_scratch) if d is not None]

    def enter(self, *, scratch: bool, memory: int, cpu: int) -> None:
        """Lock this process, a fresh fork.

        Args:
            scratch: It may write into the folder that was allowed last.
            memory: Bytes of address space.
            cpu: Seconds of processor time.
        """
        parent = os.getppid()
        _limit(memory, cpu, threads=self.uid is not None)
        if self.uid is not None:
            _become(self.uid)
        _prctl(self.libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _prctl(self.libc, _PR_SET_DUMPABLE, 0)
        _prctl(self.libc, _PR_SET_NO_NEW_PRIVS, 1)
        _drop_capabilities(self.libc)
        rules = self._with_scratch if scratch else self._bare
        if rules is not None:
            landlock.restrict(self.libc, rules)
        for descriptor in self.descriptors():
            os.close(descriptor)
        if self._filter is not None:
            seccomp.install(self.libc, self._filter)

    def _ruleset(self) -> int | None:
        return landlock.ruleset(self.libc, self._rules) if landlock.version(self.libc) else None


def can_change_uid() -> bool:
    """Return whether this process may become another user, one of those that are used here."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            rights = next(int(line[8:], 16) for line in file if line.startswith("CapEff:"))
        with open("/proc/self/uid_map", encoding="utf-8") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
    except (OSError, StopIteration, ValueError):
        return False
    mapped = any(
        first <= FIRST_UID and first + size >= FIRST_UID + UIDS for first, _, size in ranges
    )
    return mapped and rights & _CHANGE_USER == _CHANGE_USER


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _limit(memory: int, cpu: int, *, threads: bool) -> None:
    wanted = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if threads:  # an id that is shared with others counts their threads too
        wanted[resource.RLIMIT_NPROC] = THREADS
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    # a root that cannot become another user keeps none of root's rights
    name = seccomp.machine()
    if name is None:
        return
    number = _CAPSET[0 if name == "x86_64" else 1]
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    if libc.syscall(number, header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")
