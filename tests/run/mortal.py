"""`python -m rlvr.train` in processes that can be killed at any moment; `python -m tests.run.mortal` is one of them.

A process kills itself with signal 9 before the change of its run folder that `DIES_AT` numbers ("rank:change", from 1):
opening a file to write, making, renaming or removing one. That is exact, where a clock seldom strikes what takes a
millisecond. What a library writes without Python (weights, parquet) is between two of them, for the clock.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from tests.run import launch

DIES_AT = "RLVR_TEST_DIES_AT"
MARK = "RLVR_TEST_MARK"
_CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"}
# what a run imports before its first update, and what takes the time
_PRELOADED = (
    *("rlvr.train", "rlvr.assemble", "rlvr.trainer", "rlvr.check.methods", "rlvr.inputs"),
    *("rlvr.evaluate.suite", "rlvr.monitor.progress", "rlvr.monitor.store", "pyarrow.parquet"),
    *("transformers.models.llama.modeling_llama", "transformers.models.auto.tokenization_auto"),
)


def main() -> None:
    """Train as the command line says, and die where the environment says."""
    arguments = sys.argv[1:]
    [output] = [item.partition("=")[2] for item in arguments if item.startswith("output=")]
    rank, _, change = os.environ.get(DIES_AT, "").partition(":")
    if change and rank == os.environ.get("RANK", "0"):
        die_at(int(change), Path(output))
    from rlvr import train

    train._command()


def die_at(number: int, folder: Path) -> None:
    """Kill this process when it is about to change something in a folder for this time."""
    inside = str(folder)
    done = 0

    def see(event: str, values: tuple[Any, ...]) -> None:
        nonlocal done
        if event in _CHANGES and _writes(event, values) and _path(values).startswith(inside):
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(see)


def _writes(event: str, values: tuple[Any, ...]) -> bool:
    return event != "open" or bool(int(values[2]) & (os.O_WRONLY | os.O_RDWR))


def _path(values: tuple[Any, ...]) -> str:
    """Return what is changed; `shutil.rmtree` names it within a folder that it has opened."""
    path, folder = os.fsdecode(values[0]) if not isinstance(values[0], int) else "", values[-1]
    if os.path.isabs(path) or not isinstance(folder, int) or folder < 0:
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)


@dataclass(frozen=True)
class Living:
    """The processes of one start of a run."""

    ranks: tuple[Any, ...]
    """One of `multiprocessing` for each rank, or one of `subprocess`, which has the launcher and all ranks below it."""
    mark: str
    """In the environment of every program that the run starts."""
    log: Path
    """What they print."""

    def ended(self) -> bool:
        """Whether the run is over; as a launcher does, ends the other ranks when one failed."""
        codes = self.codes()
        if any(codes):
            self.kill()
        return None not in codes

    def codes(self) -> list[int | None]:
        """Return the exit code of each process, None while it lives."""
        return [
            process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
            for process in self.ranks
        ]

    def kill(self, rank: int | None = None) -> None:
        """Kill the training processes, or one of them, with signal 9; what they started is left to itself."""
        for process in self.ranks:
            if isinstance(process, subprocess.Popen):
                chosen = [pid for pid in self._python() if rank is None or _rank(pid) == rank]
                for pid in [process.pid, *chosen] if rank is None else chosen:
                    _kill(pid)
            elif rank is None or process is self.ranks[rank]:
                _kill(process.pid)

    def kill_all(self) -> None:
        """Kill every process of the run with signal 9, reward workers among them."""
        for pid in (*[process.pid for process in self.ranks], *self.left()):
            _kill(pid)

    def wait(self, seconds: float) -> None:
        """Return when the training processes have ended, which they must within some seconds."""
        end = time.monotonic() + seconds
        while not self.ended():
            assert time.monotonic() < end, f"still alive: {self.codes()}"
            time.sleep(0.01)

    def left(self) -> list[int]:
        """Return the programs that the run started and that are still there."""
        return [pid for pid, environment in _environments() if self.mark in environment]

    def _python(self) -> list[int]:
        """Return the training processes below a launcher."""
        return [
            pid
            for pid, text in _environments()
            if self.mark in text and "tests.run.mortal" in _command(pid)
        ]


def fork(arguments: Sequence[str], processes: int, log: Path, **environment: str) -> Living:
    """Start a run in forks of a process that has imported what a run imports: in a second instead of ten."""
    mark = f"{MARK}={time.monotonic_ns()}"
    name, _, value = mark.partition("=")
    port = _free_port()
    ranks = []
    for rank in range(processes):
        own = environment | {name: value}
        if processes > 1:
            own |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        process = server().Process(target=_run, args=(list(arguments), own, str(log)))
        process.start()
        ranks.append(process)
    return Living(tuple(ranks), mark, log)


def spawn(arguments: Sequence[str], processes: int, log: Path, **environment: str) -> Living:
    """Start a run as a user does, on several processes by `torchrun`."""
    mark = f"{MARK}={time.monotonic_ns()}"
    name, _, value = mark.partition("=")
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    modules = [*(launcher if processes > 1 else []), "tests.run.mortal"]
    with log.open("a") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", *modules, *arguments],
            cwd=launch.ROOT,
            env=launch.environment(**environment, **{name: value}),
            stdout=printed,
            stderr=printed,
        )
    return Living((process,), mark, log)


def _run(arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    """Be a run, in a process that was forked."""
    os.environ |= environment
    printed = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(printed, stream)
    sys.argv = ["rlvr/train.py", *arguments]
    main()


@cache
def server() -> ForkServerContext:
    """Return what forks processes that have imported what a run imports, ready."""
    os.environ |= launch.environment()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, __name__])
    first = context.Process(target=os.getpid)
    first.start()
    first.join()
    return context


def _environments() -> list[tuple[int, str]]:
    """Return the processes of this machine and the environments that they were started with."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "environ").read_bytes().decode(errors="replace")
            except OSError:  # ended, or not ours
                continue
            found.append((int(folder.name), text))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _rank(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/environ").read_text()
    except OSError:
        return None
    for item in text.split("\0"):
        if item.startswith("RANK="):
            return int(item.removeprefix("RANK="))
    return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    main()
