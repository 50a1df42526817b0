"""How far a run is: a live bar on a terminal, a line now and then where output goes to a file.

A line is written when another tenth of the updates is done or ten seconds have passed since the
last one, whichever comes first; the last update always has one.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

from rich.console import Console

SHARE = 0.1
SECONDS = 10.0

_SHOWN = {
    "reward": "reward",
    "entropy": "entropy",
    "length/mean": "length",
    "group/zero_advantage_fraction": "no signal",
}
_WIDE = 100
_DISPENSABLE = ("length/mean",)


class Progress:
    """Shows the updates of a run and the steps of an evaluation; a context manager.

    While it is open on a terminal, what is printed appears above the bar.

    Args:
        updates: Of the whole run; 0: there are only steps.
        done: Updates that an earlier start of the run has done.
        console: None: standard output.
        clock: Seconds, from any start.
    """

    def __init__(
        self,
        updates: int = 0,
        *,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console()
        self._clock = clock
        self._updates = updates
        self._done = done
        self._shown_update, self._shown_at = done, clock()
        self._pending = ""
        self._pace: _Pace | None = None
        self._bars = _bars(self._console) if _is_terminal(self._console) else None
        self._task: Any = None

    def __enter__(self) -> Self:
        self._shown_at = self._clock()
        if self._bars:
            self._bars.start()
            if self._updates:
                self._task = self._bars.add_task(
                    "update", total=self._updates, completed=self._done, state="", left=""
                )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()
        elif self._pending:  # of a run that was interrupted
            self._print(self._pending)

    def update(self, row: Mapping[str, Any]) -> None:
        """Show one row of metrics.

        Args:
            row: As it is written to metrics.jsonl; row 0 and rows with `eval/...` tell of held-out
                sets.
        """
        update = int(row["update"])
        if "reward" in row or "loss" in row:
            self._show_update(update, row)
        for line in evaluation_lines(row):
            self._print(f"eval      update {update}, {line}")

    def steps(self, steps: Sequence[int], name: str, kind: str = "eval") -> Iterator[int]:
        """Yield from `steps` and show how far they are.

        Args:
            steps: Of the evaluation of one held-out set, or of other work.
            name: Of the set, or of what is worked on.
            kind: First word of the line.
        """
        pace = _Pace(self._clock, 0)
        shown_at = self._clock()
        task = None
        if self._bars:
            task = self._bars.add_task(kind, total=len(steps), state=name, left="")
        try:
            for done, step in enumerate(steps, start=1):
                yield step
                left = pace.left(done, len(steps))
                if self._bars and task is not None:
                    self._bars.update(task, completed=done, left=left)
                elif self._clock() - shown_at >= SECONDS:
                    shown_at = self._clock()
                    self._print(f"{kind:<10}{name} {done}/{len(steps)}  {left}".rstrip())
        finally:
            if self._bars and task is not None:
                self._bars.remove_task(task)

    def _show_update(self, update: int, row: Mapping[str, Any]) -> None:
        # the first update may hold the start of other libraries: the pace is measured after it
        left = self._pace.left(update, self._updates) if self._pace else ""
        self._pace = self._pace or _Pace(self._clock, update)
        narrow = self._bars is not None and self._console.width < _WIDE
        state = _state(row, [name for name in _SHOWN if not (narrow and name in _DISPENSABLE)])
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=update, state=state, left=left)
            return
        line = f"update    {update}/{self._updates}  {state}  {left}".rstrip()
        tenth = max(1, math.ceil(self._updates * SHARE))
        is_due = (
            update // tenth > self._shown_update // tenth
            or self._clock() - self._shown_at >= SECONDS
            or update >= self._updates
        )
        self._pending = "" if is_due else line
        if is_due:
            self._shown_update, self._shown_at = update, self._clock()
            self._print(line)

    def _print(self, line: str) -> None:
        # a log on a full disk, a terminal that is gone: a run does not end by it
        with suppress(OSError):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Pace:
    """Time left, from the mean time of what was done since the start."""

    def __init__(self, clock: Callable[[], float], done: int) -> None:
        self._clock, self._start, self._done = clock, clock(), done

    def left(self, done: int, total: int) -> str:
        if not self._done < done < total:
            return ""
        seconds = (self._clock() - self._start) / (done - self._done) * (total - done)
        return f"{timedelta(seconds=round(seconds))} left"


def evaluation_lines(row: Mapping[str, Any]) -> Iterable[str]:
    """Return one line for each held-out set of a row: pass@1, or its smallest k, and its largest.

    Example:
        >>> evaluation_lines({"update": 4, "eval/AIME/pass@1": 0.25, "eval/AIME/pass@8": 0.5})
        ['AIME: pass@1 0.250, pass@8 0.500']
    """
    sets: dict[str, list[int]] = {}
    for name in row:
        parts = name.split("/")
        if parts[0] == "eval" and len(parts) == 3 and parts[2].startswith("pass@"):
            sets.setdefault(parts[1], []).append(int(parts[2].removeprefix("pass@")))
    lines = []
    for name, ks in sets.items():
        shown = [
            f"pass@{k} {_rate(row, f'eval/{name}/pass@{k}')}" for k in sorted({min(ks), max(ks)})
        ]
        lines.append(f"{name}: {', '.join(shown)}")
    return lines


def _rate(row: Mapping[str, Any], name: str) -> str:
    low, high = (row.get(f"{name}/{end}") for end in ("low", "high"))
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{_number(row[name])}{interval}"


def _state(row: Mapping[str, Any], names: Sequence[str]) -> str:
    parts = []
    for name in names:
        if name in row:
            is_share, is_length = name.endswith("_fraction"), name.startswith("length")
            value = row[name]
            text = _number(value, ".0%" if is_share else ".1f" if is_length else ".3f")
            parts.append(f"{_SHOWN[name]} {text}")
    return "  ".join(parts)


def _number(value: Any, form: str = ".3f") -> str:
    """Return a number as text; a dash where nothing was measured."""
    return "-" if value is None or math.isnan(value) else format(float(value), form)


def _is_terminal(console: Console) -> bool:
    # rich takes FORCE_COLOR for a terminal, and a log of a build server has it often
    return console.is_interactive and not console.is_dumb_terminal and console.file.isatty()


def _bars(console: Console) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False, style="dim"),
        TextColumn("{task.fields[state]}", markup=False),
        console=console,
        refresh_per_second=4,
    )
