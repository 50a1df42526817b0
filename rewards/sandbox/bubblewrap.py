"""bubblewrap around a zygote: mount, process, network and IPC namespaces of its own.

The namespaces are made once a worker, so an execution costs what it costs without them.
"""

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import rlvr
from rlvr.rewards.sandbox.lockdown import SCRATCH_BYTES

SCRATCH = "/scratch"  # inside, a file system of its own, in memory and limited
_CHECK = 10.0  # seconds
# a zygote that is root keeps what it needs to make its forks somebody else, and to end them
_ROOT = ("SETUID", "SETGID", "KILL", "CHOWN", "DAC_OVERRIDE", "SYS_PTRACE")


def prefix(*, packages: bool) -> list[str]:
    """Return the command that the zygote's own command is appended to.

    Args:
        packages: Show where installed packages are looked for.
    """
    command = ["bwrap", "--die-with-parent", "--new-session", "--unshare-ipc", "--unshare-pid"]
    command += ["--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if os.geteuid() == 0:
        for capability in _ROOT:
            command += ["--cap-add", f"CAP_{capability}"]
    else:
        command += ["--unshare-user"]
    for folder in _visible(packages=packages):
        command += ["--ro-bind-try", folder, folder]
    command += ["--proc", "/proc", "--dev", "/dev"]
    return [*command, "--size", str(2 * SCRATCH_BYTES), "--tmpfs", SCRATCH, "--"]


@cache
def failure() -> str | None:
    """Return None where bubblewrap works here, else why not."""
    if platform.system() != "Linux":
        return "bubblewrap needs Linux"
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    command = [*prefix(packages=False), sys.executable, "-I", "-S", "-c", ""]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_CHECK, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start: {error}"
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or "bubblewrap fails"


def _visible(*, packages: bool) -> list[str]:
    """Return the folders that the zygote needs to see."""
    package = Path(rlvr.__file__).parent
    folders = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime"]
    folders += [sys.base_prefix, sys.prefix, str(package)]
    folders += sys.path if packages else []
    folders += [str(Path(__file__).resolve().parent.parent)]  # where rlvr/rewards is a link
    return [folder for folder in dict.fromkeys(folders) if folder and Path(folder).exists()]
