"""Is a resumed run the run that was not stopped? Some of its updates are computed again from a checkpoint, and compared.

The run is only read: what is computed again is written to a temporary folder, without trackers, checkpoints or export.
On a CPU every number comes out bitwise equal, or something that decides about it is not as it was.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.check.plan import BatchPlan, plan_batches
from rlvr.check.resume import changes
from rlvr.checkpoint import CHECKPOINTS, checkpoints, is_whole, update_of
from rlvr.console import (
    console_for_tables,
    is_first_process,
    plain_table,
    plural,
    process_count,
    say,
)
from rlvr.monitor.store import METRICS_FILE, RECIPE_FILE, plain_row, read_rows
from rlvr.provenance import moved
from rlvr.recipe import Recipe

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from rlvr.inputs import Inputs

Row = Mapping[str, Any]

_TIMES = "time/"
_HELD_OUT = "eval/"
_WIDTH = 120


@dataclass(frozen=True)
class Start:
    """From where updates are computed again."""

    checkpoint: Path
    rows: list[Row]
    """What the run recorded of the updates after it, one after the other."""


@dataclass(frozen=True)
class Parting:
    """A metric that is not what the run recorded."""

    name: str
    equal: int
    """Rows in which it is equal, bitwise."""
    rows: int
    """Rows that have it, in the run or computed again."""
    largest: float
    """Relative difference, of the larger value; infinite where one has no number."""
    first: int
    """Update."""


def verify_resume(recipe: Recipe, updates: int) -> bool:
    """Compute updates of a run again from one of its checkpoints, say what differs, and return whether nothing does.

    Args:
        recipe: The run's.
        updates: K: so many, or as many as the run has recorded after a checkpoint.

    Raises:
        ValueError: If there is no run, or nothing to compare with.
    """
    plan = plan_batches(recipe, process_count())
    start = find_start(recipe.output, updates)
    changed = changes(recipe, recipe.output / RECIPE_FILE)
    count = len(start.rows)
    last = update_of(start.checkpoint) + count
    if count < updates:
        say(
            f"verify    only {count} of {plural(updates, 'update')} are recorded after a checkpoint"
        )
    say(
        f"verify    {plural(count, 'update')}, to {last}, computed again from {start.checkpoint}; the run is only read"
    )
    from rlvr.inputs import load_inputs

    inputs = load_inputs(recipe)
    try:
        with tempfile.TemporaryDirectory(prefix="rlvr-verify-") as scratch:
            again, is_equal = _computed_again(recipe, plan, inputs, start, last, Path(scratch))
    finally:
        inputs.close()
    if is_first_process():
        _show(start.rows, again, [*changed, *moved(recipe.output)], recipe)
    return is_equal


def find_start(folder: Path, updates: int) -> Start:
    """Return the newest whole checkpoint with so many recorded updates after it, or the one with the most.

    Args:
        folder: The run folder.
        updates: Wanted after it.

    Raises:
        ValueError: If there is no run, no whole checkpoint, or no update after one.
    """
    if not (folder / METRICS_FILE).is_file():
        raise ValueError(
            f"--verify-resume: there is no run at {folder} ({METRICS_FILE} is missing); train it first, with "
            "training.save_every, or give its recipe and output="
        )
    whole = [path for path in checkpoints(folder / CHECKPOINTS) if is_whole(path)]
    if not whole:
        raise ValueError(
            f"--verify-resume: {folder} has no whole checkpoint to start from; train with training.save_every=N"
        )
    recorded = {row["update"]: row for row in read_rows(folder)}
    best = Start(whole[0], [])
    for checkpoint in whole:
        rows = list(_following(recorded, update_of(checkpoint)))[:updates]
        if len(rows) > len(best.rows):
            best = Start(checkpoint, rows)
        if len(rows) == updates:
            break
    if not best.rows:
        raise ValueError(
            f"--verify-resume: {folder} has recorded no update after {whole[0].name}, so there is nothing to compare "
            "with; train further, or keep an earlier checkpoint (training.keep_checkpoints of 2 or more)"
        )
    return best


def _following(recorded: Mapping[int, Row], update: int) -> Iterator[Row]:
    """Yield the rows after an update, as far as none is missing."""
    while (update := update + 1) in recorded:
        yield recorded[update]


def _computed_again(
    recipe: Recipe, plan: BatchPlan, inputs: "Inputs", start: Start, last: int, scratch: Path
) -> tuple[list[Row], bool]:
    """Return the rows of the updates after a checkpoint (on the first process), and whether they are the recorded ones."""
    from rlvr.assemble import build_trainer
    from rlvr.rollout.generation import REHEARSAL
    from rlvr.train import count_updates, evaluator, leave
    from rlvr.trainer import Hooks

    if (recipe.output / REHEARSAL).exists():
        shutil.copy(recipe.output / REHEARSAL, scratch / REHEARSAL)
    whole = max(last, count_updates(recipe, plan, len(inputs.rows)))
    trainer = build_trainer(_quiet(recipe, scratch), plan, inputs, whole)
    evaluation = recipe.evaluation
    was_evaluated = any(name.startswith(_HELD_OUT) for row in start.rows for name in row)
    again: dict[int, dict[str, Any]] = {}

    def record(row: Row) -> None:
        again.setdefault(row["update"], {}).update(plain_row(row))

    trainer.hooks = Hooks(
        write=record,
        evaluate=evaluator(recipe, inputs.sets, None) if inputs.sets and was_evaluated else None,
        evaluate_every=evaluation.every,
        evaluate_at_end=evaluation.at_end,
    )
    trainer.restore(start.checkpoint)
    trainer.add_callback(_stop_after(last))
    trainer.train(resume_from_checkpoint=str(start.checkpoint))
    rows: list[Row] = [again[update] for update in sorted(again)]
    # every process ends with the same answer
    [is_equal] = trainer.processes.gather_list([not compare(start.rows, rows)])[:1]
    leave()
    return rows, is_equal


def _stop_after(update: int) -> "TrainerCallback":
    """Return what ends training after an update that need not be the run's last."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            control.should_training_stop |= state.global_step >= update

    return Stop()


def _quiet(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe of the same updates, of which nothing is kept."""
    return recipe.model_copy(
        update={
            "output": folder,
            "training": recipe.training.model_copy(update={"save_every": 0}),
            "monitor": recipe.monitor.model_copy(update={"report_to": ()}),
        }
    )


def compare(recorded: Sequence[Row], again: Sequence[Row]) -> list[Parting]:
    """Return the metrics that differ, the first to part first; times are not compared.

    Args:
        recorded: Rows of the run.
        again: Of the same updates, computed again.

    Example:
        >>> compare([{"update": 5, "loss": 0.5, "time/update": 1.0}], [{"update": 5, "loss": 0.25}])
        [Parting(name='loss', equal=0, rows=1, largest=0.5, first=5)]
    """
    found = {row["update"]: row for row in again}
    pairs = [(row, found.get(row["update"], {})) for row in recorded]
    names = dict.fromkeys(name for pair in pairs for row in pair for name in row)
    partings = []
    for name in names:
        if name == "update" or name.startswith(_TIMES):
            continue
        having = [(row, other) for row, other in pairs if name in row or name in other]
        differing = [(row, other) for row, other in having if not _is_same(row, other, name)]
        if differing:
            partings.append(
                Parting(
                    name,
                    len(having) - len(differing),
                    len(having),
                    max(_difference(row.get(name), other.get(name)) for row, other in differing),
                    differing[0][0]["update"],
                )
            )
    return sorted(partings, key=lambda parting: parting.first)


def _is_same(row: Row, other: Row, name: str) -> bool:
    return name in row and name in other and row[name] == other[name]


def _difference(one: Any, other: Any) -> float:
    """Return |one - other| over the larger of both; infinity where one is no number."""
    if not all(isinstance(value, int | float) for value in (one, other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))


def _show(
    recorded: Sequence[Row], again: Sequence[Row], changed: Sequence[str], recipe: Recipe
) -> None:
    """Say whether the rows are equal, and if not, in what and why that usually is."""
    partings = compare(recorded, again)
    names = {name for row in recorded for name in row if not name.startswith(_TIMES)} - {"update"}
    if not partings:
        say(
            f"verify    equal: all {len(names)} metrics of {plural(len(recorded), 'update')}, bitwise"
        )
        return
    say(
        f"verify    not equal: {plural(len(partings), 'metric')} from update {partings[0].first} on; equal, bitwise: "
        f"{len(names - {parting.name for parting in partings})}"
    )
    table = plain_table("metric", "equal", "largest relative difference", "first at update")
    for item in partings:
        largest = f"{item.largest:.1e}" if math.isfinite(item.largest) else "one has no number"
        table.add_row(item.name, f"{item.equal} of {item.rows}", largest, str(item.first))
    console_for_tables(_WIDTH).print(table)
    for line in [
        *(f"not as it was: {line}" for line in changed),
        *_reasons(recipe, recorded, again),
    ] or [
        "nothing that decides about these numbers is known to have changed: this may be a fault of rlvr; report it with "
        f"{RECIPE_FILE}, run.json and this table"
    ]:
        say(f"verify    {line}")


def _reasons(recipe: Recipe, recorded: Sequence[Row], again: Sequence[Row]) -> Iterator[str]:
    """Yield what makes two runs of this recipe differ on the same machine."""
    import torch

    if recipe.rollout.engine == "vllm":
        yield "vLLM samples in batches that depend on timing: its log-probs, and then its tokens, are not bitwise repeatable"
    if recipe.training.device != "cpu" and torch.cuda.is_available():
        yield (
            "a GPU adds in an order that changes from run to run; training.full_determinism=true asks PyTorch for "
            "operations that do not, and is slower"
        )
    clocked = ("verdict/timeout", "verdict/crashed", "verdict/skipped")
    if any(row.get(name) for row in (*recorded, *again) for name in clocked):
        yield "verifiers timed out, crashed or did not answer: their verdicts depend on what else the machine did"
    if any(item.name == "judge" for item in recipe.rewards.verifiers):
        yield "a judge's verdicts are its server's"
