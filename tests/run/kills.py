"""Kill a run with signal 9 again and again, go on with `--resume` each time, and compare with one that was left alone.

    python -m tests.run.kills                            # 20 kills of a run in one process
    python -m tests.run.kills --processes 2 --kills 5
    python -m tests.run.kills --fresh                    # every start a new interpreter, or torchrun: as a user starts it
    python -m tests.run.kills --sweep                    # a short run, killed once at each change that it makes in its folder

Says every kill and its moment, and ends with exit code 1 if anything differs.
"""

import argparse
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlvr.console import say
from tests.run import launch, mortal
from tests.run.mortal import Living

UPDATES = 24
# 3 updates a rollout and checkpoints every 2: some lie inside a rollout, some at its end. Refills and leftovers, an
# anchor that is measured once, a state that moves with every update, prompts drawn by what the run remembers of them,
# held-out evaluation in between.
ARGUMENTS = (
    *launch.SMALL,
    "rollout.prompts_per_rollout=6",
    "rollout.dynamic_sampling={max_refills: 2, keep_leftovers: true}",
    "rollout.difficulty={min_pass_rate: 0.05, max_pass_rate: 0.95, weight_floor: 0.05}",
    "entropy=[{siren: {coef: 0.1}}, {entropy_budget: {target: 0.3}}]",
    "training.micro_batch_size=2",
    "training.save_every=2",
    "training.keep_checkpoints=2",
    "training.lr_scheduler_type=linear",
    "evaluation.every=5",
)
PATIENCE = 300.0
"""Seconds in which a start must end or come to its moment."""
LEFT = 10.0
"""Seconds in which what a killed run started must have ended."""
# of this start or of this folder, or with times
_ITS_OWN = (
    "training_args.bin",
    "run.json",
    "resolved.yaml",
    "metrics.jsonl",
    "heartbeat",
    "set_aside",
)
_TEMPORARY = ("*.partial", "*.tmp", ".*")


@dataclass(frozen=True)
class Moment:
    """When and how a start of a run is killed."""

    after: str
    """`start`, `row` of metrics, new name below `checkpoint`s, `change` of the run folder by its first process."""
    count: int
    """How many of them have come; a change itself has not."""
    seconds: float
    """Since then."""
    rank: int | None
    """Which process is killed; None: all of them."""
    workers: bool
    """Whether reward workers are killed with it."""

    def __str__(self) -> str:
        if self.after == "change":
            return f"change {self.count} of rank {self.rank or 0}"
        when = (
            f"{self.after} {self.count} + {self.seconds * 1e3:.1f} ms"
            if self.count
            else f"{self.seconds:.2f} s"
        )
        whom = (
            "every process"
            if self.workers
            else "all ranks"
            if self.rank is None
            else f"rank {self.rank}"
        )
        return f"{when}, {whom}"


def draw(chance: random.Random, *, start: float, update: float, processes: int) -> Moment:
    """Return a random moment.

    Args:
        chance: Where it comes from.
        start: Seconds until a run's first row.
        update: Seconds between two rows.
        processes: Of the run.
    """
    after = chance.choice(("start", "row", "checkpoint", "change"))
    count, seconds = 0, chance.uniform(0, 1.5 * start)
    if after == "row":
        count, seconds = chance.randint(1, 6), chance.uniform(0, 1.5 * update)
    elif after == "checkpoint":
        count, seconds = chance.randint(1, 4), chance.uniform(0, 0.03)
    elif after == "change":  # about ten of each checkpoint, and as many at the start
        count, seconds = chance.randint(1, 50), 0.0
    rank = chance.choice([None, *range(processes)]) if processes > 1 else None
    return Moment(after, count, seconds, rank, workers=rank is None and chance.random() < 0.5)


@dataclass(frozen=True)
class Killer:
    """Starts a run and kills it."""

    output: Path
    processes: int
    fresh: bool
    """Whether every start is a new interpreter."""
    updates: int = UPDATES

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.output.with_suffix(".log")

    def start(self, *options: str, **environment: str) -> Living:
        """Start the run, or with `--resume` go on with it."""
        own = [f"training.updates={self.updates}", f"output={self.output}"]
        begin = mortal.spawn if self.fresh else mortal.fork
        arguments = ["demo", *ARGUMENTS, *own, *options]
        return begin(arguments, self.processes, self.log, **environment)

    def finish(self, *options: str) -> None:
        """Start the run and let it end, which it must do well."""
        run = self.start(*options)
        run.wait(PATIENCE)
        assert not any(run.codes()), f"{run.codes()}\n{self.log.read_text()[-3000:]}"

    def go_on(self) -> list[str]:
        """Return the options of the next start."""
        return ["--resume"] if self.output.exists() else []

    def kill(self, moment: Moment) -> bool:
        """Start the run, or go on with it, and kill it; returns False if it ended before its moment.

        Raises:
            AssertionError: If it ends by itself otherwise than well, or leaves something running.
        """
        environment = {}
        if moment.after == "change":
            environment[mortal.DIES_AT] = f"{moment.rank or 0}:{moment.count}"
        watch = self._watch(moment)
        run = self.start(*self.go_on(), **environment)
        begun = time.monotonic()
        killed = False
        while not run.ended():
            assert time.monotonic() - begun < PATIENCE, f"no {moment} in {PATIENCE} s"
            if watch():
                time.sleep(moment.seconds)
                run.kill_all() if moment.workers else run.kill(moment.rank)
                killed = not run.ended()
                break
            time.sleep(0.0005)
        run.wait(PATIENCE)
        end = time.monotonic() + LEFT
        while left := run.left():
            assert time.monotonic() < end, f"{left} outlive the run that was killed: {moment}"
            time.sleep(0.02)
        codes = run.codes()
        if not killed and any(codes):
            assert moment.after == "change", f"{codes}\n{self.log.read_text()[-3000:]}"
            killed = True
        return killed

    def _watch(self, moment: Moment) -> Callable[[], bool]:
        """Return what says whether the moment has come."""
        if moment.after == "start":
            return lambda: True
        if moment.after == "change":  # the process counts
            return lambda: False
        look = _rows_seen(self.output) if moment.after == "row" else _names_seen(self.output)
        return lambda: look() >= moment.count


def _rows_seen(output: Path) -> Callable[[], int]:
    """Return a function that returns how often the metrics were seen to have changed."""
    path = output / "metrics.jsonl"

    def stamp() -> tuple[int, ...]:
        try:
            found = path.stat()
        except FileNotFoundError:
            return ()
        return (found.st_ino, found.st_size)

    last, times = stamp(), 0

    def look() -> int:
        nonlocal last, times
        if (now := stamp()) != last:
            last, times = now, times + 1
        return times

    return look


def _names_seen(output: Path) -> Callable[[], int]:
    """Return a function that returns how many new names it has seen below the checkpoints."""
    folder = output / "checkpoints"

    def names() -> set[str]:
        return {path.name for path in folder.glob("*")}

    known, new = names(), 0

    def look() -> int:
        nonlocal known, new
        now = names()
        new += len(now - known)
        known |= now
        return new

    return look


# ---------------------------------------------------------------------- the comparison


def differences(output: Path, whole: Path) -> list[str]:
    """Return what distinguishes a finished run from another one of the same recipe; times do not."""
    found = [*_leftovers(output)]
    rows, expected = ([launch.numbers(row) for row in launch.rows(run)] for run in (output, whole))
    found += [
        f"metrics of {theirs['update']}"
        for ours, theirs in zip(rows, expected, strict=False)
        if ours != theirs
    ]
    if len(rows) != len(expected):
        found.append(f"{len(rows)} rows of metrics, expected {len(expected)}")
    return [*found, *_different_files(output, whole)]


def _leftovers(output: Path) -> Iterator[str]:
    """Yield what should not be in the folder of a run that has ended."""
    for pattern in _TEMPORARY:
        for path in output.rglob(pattern):
            yield f"left over: {path.relative_to(output)}"


def _different_files(folder: Path, whole: Path) -> Iterator[str]:
    """Yield the files of two folders that are not there in both, or not equal."""
    ours, theirs = (
        {path.relative_to(place) for path in place.rglob("*") if path.is_file()}
        for place in (folder, whole)
    )
    for path in sorted(ours | theirs):
        if not set(path.parts).isdisjoint(_ITS_OWN):
            continue
        if path not in ours & theirs:
            yield f"{path}: in one of two"
        elif not _equal_files(folder / path, whole / path):
            yield f"{path}: not equal"


def _equal_files(one: Path, other: Path) -> bool:
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix in (".pt", ".pth", ".bin"):
        return _equal(*(torch.load(path, weights_only=False) for path in (one, other)))
    if one.suffix == ".json":
        return _equal(*(json.loads(path.read_text()) for path in (one, other)))
    return False


def _equal(one: Any, other: Any) -> bool:
    """Whether two nested structures are equal, times apart, tensors bitwise."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, Mapping):
        one, other = (
            {
                key: value
                for key, value in each.items()
                if not str(key).startswith(launch.MEASURED_TIMES)
            }
            for each in (one, other)
        )
        return one.keys() == other.keys() and all(
            _equal(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(
            itertools.starmap(_equal, zip(one, other, strict=True))
        )
    if hasattr(one, "tobytes"):  # NumPy
        return one.tobytes() == other.tobytes()
    return bool(one == other)


# ---------------------------------------------------------------------- many kills


@dataclass(frozen=True)
class Report:
    """What came of it."""

    moments: list[Moment]
    """Of the kills."""
    runs: int
    """Runs they were spread over."""
    differences: list[str]


def torture(
    folder: Path,
    *,
    kills: int,
    processes: int = 1,
    fresh: bool = False,
    seed: int = 0,
    tell: Callable[[str], object] = lambda _: None,
) -> Report:
    """Kill runs until that many kills have struck, and compare each with one that was left alone."""
    chance = random.Random(seed)
    whole = Killer(folder / "whole", processes, fresh)
    if not fresh:
        mortal.server()
    start, update = _times(whole)
    tell(f"left alone: first row after {start:.1f} s, then one every {update * 1e3:.0f} ms")
    moments: list[Moment] = []
    found: list[str] = []
    runs = 0
    while len(moments) < kills:
        runs += 1
        killer = Killer(folder / f"run_{runs}", processes, fresh)
        while len(moments) < kills:
            moment = draw(chance, start=start, update=update, processes=processes)
            if not killer.kill(moment):
                tell(f"run {runs}: ended before {moment}")
                break
            moments.append(moment)
            tell(f"run {runs}: kill {len(moments)} at {moment}: {_state(killer.output)}")
        else:
            killer.finish(*killer.go_on())
        found += (f"run {runs}: {item}" for item in differences(killer.output, whole.output))
    return Report(moments, runs, found)


def sweep(folder: Path, tell: Callable[[str], object] = lambda _: None) -> Report:
    """Kill short runs, each at another one of the changes that it makes in its folder, and compare each with another."""
    whole = Killer(folder / "whole", 1, fresh=False, updates=6)
    whole.finish()
    moments: list[Moment] = []
    found: list[str] = []
    while True:
        moment = Moment("change", len(moments) + 1, 0.0, None, workers=False)
        killer = Killer(folder / f"run_{moment.count}", 1, fresh=False, updates=whole.updates)
        if not killer.kill(moment):
            return Report(moments, len(moments), found)
        moments.append(moment)
        tell(f"killed at {moment}: {_state(killer.output)}")
        killer.finish(*killer.go_on())
        new = [f"{moment}: {item}" for item in differences(killer.output, whole.output)]
        tell("\n".join(new) or "equal")
        found += new


def _times(whole: Killer) -> tuple[float, float]:
    """Let a run alone; returns the seconds until its first row and between two."""
    begun = time.monotonic()
    look, seen = _rows_seen(whole.output), 0.0
    run = whole.start()
    while not run.ended():
        if not seen and look():
            seen = time.monotonic()
        time.sleep(0.001)
        assert time.monotonic() - begun < PATIENCE
    assert not any(run.codes()), f"{run.codes()}\n{whole.log.read_text()[-3000:]}"
    return seen - begun, (time.monotonic() - seen) / UPDATES


def _state(output: Path) -> str:
    """Return what a killed run left."""
    names = sorted(path.name for path in (output / "checkpoints").glob("*"))
    metrics = output / "metrics.jsonl"
    rows = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    return f"{rows} rows, {' '.join(names) or 'no checkpoint'}{', final' if (output / 'final').exists() else ''}"


def main() -> int:
    """Kill as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="every start a new interpreter")
    parser.add_argument("--sweep", action="store_true", help="once at each change of the folder")
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    options = {name: getattr(given, name) for name in ("kills", "processes", "fresh", "seed")}
    report = (
        sweep(folder.resolve(), say)
        if given.sweep
        else torture(folder.resolve(), **options, tell=say)
    )
    kinds = Counter(moment.after for moment in report.moments)
    seconds = time.monotonic() - begun
    say(f"{len(report.moments)} kills of {report.runs} runs in {seconds:.0f} s: {dict(kinds)}")
    say("\n".join(report.differences) or "equal to the run that was left alone")
    if not given.folder and not report.differences:
        shutil.rmtree(folder)
    return bool(report.differences)


if __name__ == "__main__":
    sys.exit(main())
