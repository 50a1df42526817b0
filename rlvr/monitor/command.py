"""`rlvr monitor`: the curves of runs as a picture and as a page, where they stand as a table, and what each rank does."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live

from rlvr.console import plain_table, say
from rlvr.monitor.folders import run_folders
from rlvr.monitor.store import METRICS_FILE, Run, read_run
from rlvr.watch.beat import FOLDER, status

if TYPE_CHECKING:
    from rich.table import Table

POLL = 2.0
"""Seconds between two looks at the files while watching."""
_REST = 4.0
"""Drawing may take one part in 1 + this of the time: the run needs the processor."""


def monitor(runs: Sequence[Path], output: Path | None = None, *, watch: bool = False) -> None:
    """Print what the ranks of runs do and where the runs stand, and draw `curves.png` and a self-contained `curves.html`.

    Args:
        runs: Run folders, or folders of runs.
        output: Folder of the two files; None: the first of `runs`.
        watch: Draw again whenever a run has written more; ends with Ctrl-C.

    Raises:
        ValueError: If one of `runs` holds no run, or a run has nothing yet and `watch` is off.
    """
    stem = (output or runs[0]) / "curves"
    if watch:
        _watch(runs, stem)
        return
    # before what may be wrong: a run that hangs in its first rollout has no metrics
    for line in now(runs):
        say(line)
    loaded = [read_run(folder) for folder in _folders(runs)]
    paths = _draw(loaded, stem)
    Console().print(table(loaded))
    say(f"figure    {paths[0]}")
    say(f"page      {paths[1]}")


def table(runs: Sequence[Run]) -> "Table":
    """Return the last values of runs, one column each."""
    from rlvr.monitor.panels import run_names
    from rlvr.monitor.summary import final_values

    out = plain_table()
    out.add_column("")
    for name in run_names(runs):
        out.add_column(name, justify="right")
    out.add_column("", style="dim")
    for row in final_values(runs):
        unit = "" if row.unit == "0..1" else row.unit
        out.add_row(row.label, *row.cells, unit)
    return out


def now(runs: Sequence[Path]) -> list[str]:
    """Return what each rank of runs that have not finished does, a line each.

    Args:
        runs: Run folders, or folders of runs.
    """
    inside = [file.parent for path in runs for file in sorted(path.glob(f"*/{FOLDER}"))]
    found = {folder: lines for folder in [*runs, *inside] if (lines := status(folder))}
    several = len(found) > 1
    return [
        f"now       {f'{folder}, ' if several else ''}{line}"
        for folder, lines in found.items()
        for line in lines
    ]


def _folders(runs: Sequence[Path]) -> list[Path]:
    """Return every run once, in the order given."""
    found = [folder for path in runs for folder in run_folders(path)]
    return list({folder.resolve(): folder for folder in reversed(found)}.values())[::-1]


def _draw(runs: Sequence[Run], stem: Path) -> tuple[Path, Path]:
    from rlvr.monitor.figure import draw

    return draw(runs, stem)


def _watch(runs: Sequence[Path], stem: Path) -> None:
    seen: dict[Path, int] = {}
    shown: Table | str = ""
    _folders(runs)  # what is no run is said before waiting
    say(f"watching  {', '.join(map(str, runs))}; Ctrl-C ends")
    try:
        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                pause = POLL
                sizes = {folder: _size(folder) for folder in _folders(runs)}
                if sizes != seen and (loaded := [read_run(f) for f, size in sizes.items() if size]):
                    seen, start = sizes, time.monotonic()
                    shown = table(loaded)
                    live.update(Group(shown, *now(runs)), refresh=True)
                    png, html = _draw(loaded, stem)
                    if not live.console.is_terminal:
                        rows = sum(len(run.updates) for run in loaded)
                        say(f"drawn     {png} and {html.name} from {rows} rows")
                    pause = max(POLL, _REST * (time.monotonic() - start))
                live.update(Group(shown, *now(runs)), refresh=True)
                time.sleep(pause)
    except KeyboardInterrupt:
        say(f"figure    {stem}.png")
        say(f"page      {stem}.html")


def _size(folder: Path) -> int:
    """Return the length of a run's metrics; 0 before its first row is whole."""
    data = (folder / METRICS_FILE).read_bytes()
    return data.rfind(b"\n") + 1
