"""Finding run folders, and saying which ones there are when a path is none."""

from pathlib import Path

from rlvr.monitor.store import METRICS_FILE
from rlvr.suggest import closest

_SHOWN = 6


def run_folders(path: Path) -> list[Path]:
    """Return the run folders that a path stands for: itself, or the runs directly in it.

    Args:
        path: A run folder, or a folder of runs (`runs/demo` with `grpo/` and `kl_cov/`).

    Raises:
        ValueError: There is no run; with those found nearby.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder of the run: {path.parent}")
    if (path / METRICS_FILE).is_file():
        return [path]
    if path.is_dir() and (runs := _runs_in(path)):
        return runs
    if (path.parent / METRICS_FILE).is_file():
        raise ValueError(f"{path} is a part of a run; give the folder of the run: {path.parent}")
    reason = f"has no {METRICS_FILE}, and no run is in it" if path.is_dir() else "does not exist"
    raise ValueError(f"{path} {reason}. {nearby(path)}")


def nearby(path: Path) -> str:
    """Return sentences that name the runs near a path that is none, the likeliest first."""
    around = path.parent
    while not around.is_dir() and around != around.parent:
        around = around.parent
    found = list(
        dict.fromkeys([*_runs_in(around), *_runs_in(Path("runs")), *_deeper(Path("runs"))])
    )
    if not found:
        return "A run folder is made by rlvr train RECIPE: runs/<name>, or what output= says."
    guess = closest(path.name, {run.name for run in found})
    likeliest = [run for run in found if run.name == guess]
    question = f"Did you mean {likeliest[0]}? " if likeliest else ""
    others = [str(run) for run in found[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{question}Runs nearby: {', '.join(others)}{more}."


def _runs_in(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob(f"*/{METRICS_FILE}"))


def _deeper(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob(f"*/*/{METRICS_FILE}"))
