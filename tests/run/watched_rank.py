"""A rank that is watched, without torch: `python watched_rank.py RUN RANK PROCESSES STALL_AFTER SCENARIO`."""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rlvr.watch.heartbeat import Heartbeat, watched
from rlvr.watch.record import WAITING

EVERY = 0.1
LONG = 60.0


def score(heartbeat: Heartbeat) -> None:
    with heartbeat.phase("rollout", update=3), heartbeat.phase("scoring"):
        a_verifier_that_hangs()


def a_verifier_that_hangs() -> None:
    time.sleep(LONG)


def wait(heartbeat: Heartbeat) -> None:
    with heartbeat.phase("rollout", update=3), heartbeat.phase(WAITING):
        time.sleep(LONG)


def hold_the_lock(heartbeat: Heartbeat) -> None:
    """Spend the time in a C call that never lets another Python thread run."""
    with heartbeat.phase("statistics"):
        ctypes.PyDLL(None).sleep(int(LONG))


def fork(heartbeat: Heartbeat) -> None:
    """Leave a child that has everything that was open here."""
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
    score(heartbeat)


def fail(heartbeat: Heartbeat) -> None:
    with heartbeat.phase("rollout"), heartbeat.phase("sampling"):
        time.sleep(3 * EVERY)
        raise RuntimeError("out of memory")


def succeed(heartbeat: Heartbeat) -> None:
    with heartbeat.phase("training", update=7):
        time.sleep(3 * EVERY)


def cycle(heartbeat: Heartbeat) -> None:
    """Spend ever the same time in a phase, longer than is usual for others."""
    for update in range(4):
        with heartbeat.phase("sampling", update):
            time.sleep(0.8)


def go_on(heartbeat: Heartbeat) -> None:
    """Sleep in calls that a signal could cut short, then end as it should."""
    with heartbeat.phase("training"):
        before = time.monotonic()
        ctypes.CDLL(None).poll(None, 0, 1500)
        time.sleep(max(0.0, 1.5 - (time.monotonic() - before)))


SCENARIOS: dict[str, Callable[[Heartbeat], None]] = {
    function.__name__: function
    for function in (score, wait, hold_the_lock, fork, fail, succeed, cycle, go_on)
}


def meet(folder: Path, rank: int, processes: int) -> None:
    """Return when every rank has come here."""
    (folder / f"ready-{rank}").touch()
    while not all((folder / f"ready-{other}").exists() for other in range(processes)):
        time.sleep(0.01)


if __name__ == "__main__":
    folder, rank, processes, stall_after, scenario = sys.argv[1:]
    meet(Path(folder), int(rank), int(processes))
    with watched(
        Path(folder),
        rank=int(rank),
        processes=int(processes),
        every=EVERY,
        stall_after=float(stall_after),
        patience=2 * float(stall_after),
    ) as own:
        SCENARIOS[scenario](own)
