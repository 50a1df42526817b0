"""Which locks this machine has, and whether they are enough for untrusted code."""

import os
import platform
import resource
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rlvr.rewards.sandbox import bubblewrap, landlock, lockdown, seccomp


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        landlock: The kernel's version of it; 0 where there is none.
        seccomp: A filter of system calls can be installed.
        uid: Executions run as a user of their own.
        limits: Memory, time and files of a process can be limited.
        bwrap: Why bubblewrap's namespaces cannot be had; None where they can.
    """

    landlock: int
    seccomp: bool
    uid: bool
    limits: bool
    bwrap: str | None

    @property
    def strong(self) -> bool:
        """Whether the back end `local` may run untrusted code."""
        return self.landlock > 0 and self.seccomp


@cache
def probe() -> Probe:
    """Look at this machine; nothing is changed, and bubblewrap is started once."""
    if platform.system() != "Linux":
        return Probe(0, False, False, False, "bubblewrap needs Linux")
    libc = lockdown.load_libc()
    return Probe(
        landlock.version(libc),
        seccomp.available(libc),
        lockdown.can_change_uid(),
        hasattr(resource, "RLIMIT_AS"),
        bubblewrap.works(),
    )


def rows() -> list[tuple[str, str, str]]:
    """Return what there is as (name, state, detail), for a table."""
    found = probe()
    machine = f"{platform.system()} {platform.release()}, {platform.machine()}"
    namespaces = found.bwrap is None
    table = [
        ("sandbox", "strong" if found.strong or namespaces else "weak", _advice(found)),
        ("landlock", f"version {found.landlock}" if found.landlock else "no", _files(found)),
        ("seccomp", _yes(found.seccomp), f"filter of system calls; {machine}"),
        ("user id", _yes(found.uid), "executions run as nobody's user" if found.uid else _user()),
        ("limits", _yes(found.limits), "memory, processor time, files, size of files"),
        ("bubblewrap", _yes(namespaces), found.bwrap or "namespaces with backend: bwrap"),
    ]
    return table


def refusal(backend: Literal["local", "bwrap"], *, unsafe: bool) -> str | None:
    """Return why untrusted code is not run here; None where it may be."""
    found = probe()
    if backend == "bwrap":
        return (
            found.bwrap and f"backend is bwrap, but {found.bwrap}; install bubblewrap, or use local"
        )
    if found.strong or unsafe:
        return None
    missing = [
        name
        for name, there in (("Landlock", found.landlock), ("seccomp", found.seccomp))
        if not there
    ]
    other = "set backend: bwrap" if found.bwrap is None else f"({found.bwrap})"
    return (
        f"this machine has no {' and no '.join(missing)}, so a program could reach its files, "
        f"processes and network. Use bubblewrap {other}, or backend: http with a sandbox service, "
        "or unsafe: true to run programs all the same"
    )


def _advice(found: Probe) -> str:
    if found.strong:
        return "verifier code runs programs here"
    if found.bwrap is None:
        return "verifier code needs backend: bwrap"
    return "verifier code is refused without backend: http or unsafe: true"


def _files(found: Probe) -> str:
    if found.landlock >= 6:
        return "files, TCP, signals, abstract sockets"
    return (
        "files, TCP"
        if found.landlock >= 4
        else "files"
        if found.landlock
        else "kernel 5.13 or later"
    )


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def _user() -> str:
    return f"executions run as user {os.geteuid()}, whose other processes the filter shields"
