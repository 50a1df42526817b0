"""What a replay is of: a run folder and weights in it, or a file that was frozen before."""

from dataclasses import dataclass
from pathlib import Path

from rlvr.checkpoint import CHECKPOINTS, PREFIX, checkpoints, update_of
from rlvr.final import FINAL
from rlvr.monitor.folders import nearby

RESOLVED = "resolved.yaml"
FOLDER, ROLLOUT = "replay", "rollout.pt"
INITIAL = "initial"
"""The weights before training."""


@dataclass(frozen=True)
class Place:
    """What is replayed, and where its files are."""

    run: Path
    """Run folder."""
    weights: str
    """`initial`, or the folder of the weights in the run folder."""
    file: Path
    """Of the frozen rollout."""


def find(run: Path, checkpoint: str | None, to: Path | None, *, fresh: bool) -> Place:
    """Return what is replayed.

    Raises:
        ValueError: If there is no run, or it has no such weights.
    """
    if run.is_file():
        if fresh or checkpoint is not None:
            raise ValueError(
                f"{run} is a frozen rollout: its weights are known, and --fresh would replace it; give the run "
                "folder for --checkpoint and --fresh"
            )
        from rlvr.replay.rollout import load

        frozen = load(run)
        inside = run.resolve().parent.parent
        folder = inside if (inside / RESOLVED).is_file() else Path(frozen.run)
        if not (folder / RESOLVED).is_file():
            raise ValueError(
                f"{run} was frozen from the run {folder}, which is not there: a replay needs its recipe and weights"
            )
        if to is not None:
            raise ValueError(f"--to goes with a run folder; the files come beside {run}")
        return Place(folder, _weights(folder, frozen.weights), run)
    if not (run / RESOLVED).is_file():
        what = f"has no {RESOLVED}" if run.is_dir() else "does not exist"
        raise ValueError(f"{run} {what}; give the folder of a run. {nearby(run)}")
    return Place(run, _weights(run, checkpoint), (to or run / FOLDER) / ROLLOUT)


def _weights(run: Path, asked: str | None) -> str:
    """Return `initial`, or the folder of a run's weights."""
    saved = map(update_of, checkpoints(run / CHECKPOINTS))
    there = [FINAL] if (run / FINAL).is_dir() else []
    there += [INITIAL, *map(str, sorted(saved))]
    if asked is None:
        if FINAL in there:
            return FINAL
        raise ValueError(
            f"{run} is not finished: it has no {FINAL}/; name its weights with --checkpoint: {', '.join(there)}"
        )
    name = asked.removeprefix(f"{CHECKPOINTS}/").removeprefix(PREFIX)
    if name not in there:
        raise ValueError(f"--checkpoint {asked}: {run} has no such weights, but {', '.join(there)}")
    return f"{CHECKPOINTS}/{PREFIX}{name}" if name.isdigit() else name
