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
    """

    landlock: int
    seccomp: bool
    uid: bool
    limits: bool

    @property
    def strong(self) -> bool:
        """Whether the back end `local` may run untrusted code."""
        return self.landlock > 0 and self.seccomp


@cache
def probe() -> Probe:
    """Look at this machine; nothing is changed."""
    if platform.system() != "Linux":
        return Probe(0, seccomp=False, uid=False, limits=False)
    libc = lockdown.load_libc()
    return Probe(
        landlock.version(libc),
        seccomp.available(libc),
        lockdown.can_change_uid(),
        hasattr(resource, "RLIMIT_AS"),
    )


def rows() -> list[tuple[str, str, str]]:
    """Return what there is as (name, state, detail), for a table."""
    found = probe()
    machine = f"{platform.system()} {platform.release()}, {platform.machine()}"
    failure = bubblewrap.failure()
    namespaces = failure is None
    table = [
        (
            "sandbox",
            "strong" if found.strong or namespaces else "weak",
            _advice(found, namespaces=namespaces),
        ),
        ("landlock", f"version {found.landlock}" if found.landlock else "no", _files(found)),
        ("seccomp", _yes(found.seccomp), f"filter of system calls; {machine}"),
        ("user id", _yes(found.uid), "executions run as nobody's user" if found.uid else _user()),
        ("limits", _yes(found.limits), "memory, processor time, files, size of files"),
        ("bubblewrap", _yes(namespaces), failure or "namespaces, with backend: bwrap"),
    ]
    return table


def refusal(backend: Literal["local", "bwrap"], *, unsafe: bool) -> str | None:
    """Return why untrusted code is not run here; None where it may be."""
    if platform.system() != "Linux":
        return f"this is {platform.system()}; use backend: http with a sandbox service"
    if backend == "bwrap":
        reason = bubblewrap.failure()
        return reason and f"backend is bwrap, but {reason}; install bubblewrap, or use local"
    found = probe()
    if found.strong or unsafe:
        return None
    there = {"Landlock": found.landlock > 0, "seccomp": found.seccomp}
    missing = " and no ".join(name for name, has in there.items() if not has)
    other = bubblewrap.failure() or "it works here"
    return (
        f"this machine has no {missing}, so a program could reach its files, processes and "
        f"network. Use backend: bwrap ({other}), backend: http with a sandbox service, or "
        "unsafe: true to run programs all the same"
    )


def _advice(found: Probe, *, namespaces: bool) -> str:
    if found.strong:
        return "verifier code runs programs here"
    if namespaces:
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
