"""Run a recipe: load, train, evaluate, save. `python -m rlvr.train RECIPE ...` is `rlvr train RECIPE ...`."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.check.combination import collective_timeout
from rlvr.check.plan import BatchPlan, check_difficulty, plan_batches
from rlvr.check.resume import changes
from rlvr.checkpoint import CHECKPOINTS, checkpoints, is_whole, tidy, update_of
from rlvr.compose import Origins
from rlvr.console import is_first_process, plural, process_count, process_rank, say
from rlvr.final import FINAL, Final, without_final
from rlvr.lock import locked
from rlvr.provenance import write_provenance
from rlvr.recipe import Recipe, write_resolved
from rlvr.watch.beat import FOLDER as HEARTBEATS
from rlvr.watch.heartbeat import Heartbeat, watched
from rlvr.zero import check_layout

if TYPE_CHECKING:
    from rlvr.inputs import HeldOut, Inputs
    from rlvr.monitor.progress import Progress
    from rlvr.monitor.store import RunWriter
    from rlvr.trainer import Trainer

_ROOM = 2**16
"""Bytes without which no run is begun."""
_STALL = 0.8
"""Of the seconds after which waiting processes end a run: then it is said to stall."""


def run(recipe: Recipe, origins: Origins, *, resume: bool = False) -> None:
    """Train a recipe that has passed its checks, in this process's share of the run.

    Args:
        recipe: As `load_recipe` returns it.
        origins: Of its values, for `resolved.yaml`.
        resume: Go on from the last whole checkpoint of the run folder.

    Raises:
        ValueError: For whatever a user can mend, before a model is loaded where it can be known.
    """
    plan = plan_batches(recipe, process_count())
    checkpoint = _resumed(recipe) if resume else None
    if not resume:
        _refuse_other_run(recipe.output)
    _try_to_write(recipe.output)
    if recipe.export.to:
        from rlvr.export import check_destination

        check_destination(recipe.output, recipe.name, recipe.export.to)
    from rlvr.inputs import load_inputs

    with (
        _no_folder_of_nothing(recipe.output),
        locked(recipe.output) if is_first_process() else nullcontext(),
        _watched(recipe) as heartbeat,
        closing(load_inputs(recipe)) as inputs,
    ):
        for note in inputs.notes:
            say(f"note      {note}")
        updates = count_updates(recipe, plan, len(inputs.rows))
        if checkpoint is not None and update_of(checkpoint) >= updates:
            say(f"resume    the run is finished: {checkpoint} is its last update; nothing to do")
            if is_first_process():  # it may have been killed after its last update
                tidy(checkpoint.parent, recipe.training.keep_checkpoints)
            if not (recipe.output / FINAL).exists():
                say(f"note      {without_final(recipe.output)}")
            return
        _train(recipe, origins, plan, inputs, updates, checkpoint, heartbeat)
        leave()


@contextmanager
def _no_folder_of_nothing(folder: Path) -> Iterator[None]:
    """Leave no run folder where a mistake of the user's ends the run before there is anything but heartbeats in it."""
    is_new = not folder.exists()
    try:
        yield
    except ValueError:
        if is_new and folder.exists() and {path.name for path in folder.iterdir()} <= {HEARTBEATS}:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _watched(recipe: Recipe) -> AbstractContextManager[Heartbeat]:
    """Have this process watched as the recipe says."""
    patience = collective_timeout(recipe)
    return watched(
        recipe.output,
        rank=process_rank(),
        processes=process_count(),
        every=recipe.monitor.heartbeat_every,
        stall_after=recipe.monitor.stall_after or _STALL * patience,
        patience=patience,
    )


def leave() -> None:
    """End the process group: threads of it that outlive the interpreter abort the process."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def count_updates(recipe: Recipe, plan: BatchPlan, rows: int) -> int:
    """Return the updates of the run."""
    # raises where the data do not fill one rollout, also where `updates` is given
    by_epochs = plan.updates(rows, recipe.training.epochs or 1)
    updates = recipe.training.updates or by_epochs
    check_difficulty(recipe, plan, rows, updates)
    say(
        f"data      {plural(rows, 'prompt')}; {plural(updates, 'update')} on {plural(plan.rollouts(updates), 'rollout')}"
    )
    return updates


def _refuse_other_run(folder: Path) -> None:
    holds = [(folder / name).exists() for name in ("metrics.jsonl", FINAL)]
    if any(holds) or any((folder / CHECKPOINTS).glob("*")):
        raise ValueError(
            f"{folder} holds another run; nothing was changed. Continue it with --resume, or set output= to a new "
            "folder."
        )


def _try_to_write(folder: Path) -> None:
    """Raise if the first process cannot write the run folder; leaves nothing."""
    if not is_first_process():
        return
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        raise ValueError(
            f"output: {folder} cannot be written ({error.strerror}: {there}); set output= to another folder, or make "
            "room there"
        ) from None


def _resumed(recipe: Recipe) -> Path | None:
    """Return the checkpoint to go on from; None starts the run again."""
    folder = recipe.output
    checkpoint = _last_checkpoint(folder)
    if checkpoint is None and (folder / FINAL).exists():
        raise ValueError(
            f"{folder} is finished ({FINAL}/ is there) and has no checkpoint to go on from; to train its model "
            f"further, start a new run with model.path={folder / FINAL}"
        )
    if checkpoint is not None:
        check_layout(checkpoint, process_count())
    for line in changes(recipe, folder / "resolved.yaml"):
        say(f"resume    {line}")
    return checkpoint


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written whole; None starts the run again."""
    if not folder.exists():
        raise ValueError(f"--resume: there is no run at {folder}; start it without --resume")
    for path in checkpoints(folder / CHECKPOINTS):
        if is_whole(path):
            return path
        say(f"resume    {path} is not whole; going back")
    say("resume    there is no checkpoint yet: the run starts from its beginning")
    return None


def _train(
    recipe: Recipe,
    origins: Origins,
    plan: BatchPlan,
    inputs: "Inputs",
    updates: int,
    checkpoint: Path | None,
    heartbeat: Heartbeat,
) -> None:
    from rlvr.assemble import build_trainer
    from rlvr.monitor.progress import Progress
    from rlvr.trainer import Hooks

    evaluation = recipe.evaluation
    start = 0 if checkpoint is None else update_of(checkpoint)
    trainer = build_trainer(recipe, plan, inputs, updates)
    trainer.processes.heartbeat = heartbeat
    say(f"log-probs {trainer.describe_kernel()}")
    writer = _writer(recipe, start, resume=checkpoint is not None)
    progress = Progress(updates, done=start) if writer and recipe.monitor.progress else None
    measure = evaluator(recipe, inputs.sets, progress) if inputs.sets else None
    final = Final(recipe.output)
    trainer.hooks = Hooks(
        write=partial(_record, writer, progress) if writer else None,
        # asked for on every process, called on the first
        write_completions=writer.completions if writer else (lambda *_: None),
        completions_every=recipe.monitor.completions_every,
        before=_self_test(inputs) if recipe.rollout.engine == "vllm" else None,
        evaluate=measure,
        evaluate_every=evaluation.every,
        evaluate_at_start=evaluation.at_start,
        evaluate_at_end=evaluation.at_end,
        save=final.save,
    )
    if checkpoint is not None:
        trainer.restore(checkpoint)
        say(f"resume    from update {start} ({checkpoint})")
    if writer:
        write_resolved(recipe, origins, recipe.output / "resolved.yaml")
        write_provenance(recipe.output)
    lacking = None
    try:
        with progress or nullcontext():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        if writer and (lacking := writer.close()):
            say(f"warning   {lacking}")
    if final.problem:  # there may be room by now
        final.save(trainer)
    missing = [lacking, final.missing()]
    if recipe.export.to and writer and not final.problem:
        with heartbeat.phase("exporting"):
            missing.append(_export_problem(recipe))
    if found := [item for item in missing if item]:
        raise ValueError("training is over, but " + "\n".join(found))


def _self_test(inputs: "Inputs") -> "Callable[[Trainer], None]":
    """Return what compares the sampling engine with the policy before the first update."""
    from rlvr.rollout.self_test import PROMPTS, check_sampler

    prompts = [row["prompt"] for row in inputs.rows[:PROMPTS]]
    return lambda trainer: say(f"sampler   {check_sampler(trainer, prompts)}")


def _writer(recipe: Recipe, start: int, *, resume: bool) -> "RunWriter | None":
    """Return the run folder's writer on the first process; the others write nothing."""
    from rlvr.monitor.store import RunWriter

    if not is_first_process():
        return None
    has_rows = (recipe.output / "metrics.jsonl").exists()
    writer = RunWriter(recipe.output, resume_from=start if resume or has_rows else None)
    for note in writer.notes:
        say(f"resume    {note}")
    return writer


def _record(writer: "RunWriter", progress: "Progress | None", row: dict[str, Any]) -> None:
    """Take the metrics of one update: to the run folder, then to the screen."""
    writer.log(row)
    if progress:
        progress.update(row)


def evaluator(
    recipe: Recipe, sets: "list[HeldOut]", progress: "Progress | None"
) -> "Callable[[Trainer], dict[str, float]]":
    """Return what measures a policy on held-out sets while it is trained; every process calls it."""
    from rlvr.evaluate.suite import Generation, Prompt, evaluate_set
    from rlvr.rollout.draws import seed_of

    evaluation = recipe.evaluation

    def measure(trainer: "Trainer") -> dict[str, float]:
        # the same seeds at every evaluation: what changes between two is the policy
        seed = recipe.training.seed
        heartbeat = trainer.processes.heartbeat

        def generate(prompts: list[Prompt], n: int) -> list[list[Generation]]:
            with heartbeat.phase("sampling"):
                completions = trainer.complete(
                    [prompt for prompt in prompts for _ in range(n)],
                    seeds=[seed_of(seed, prompt, i) for prompt in prompts for i in range(n)],
                    temperature=evaluation.temperature,
                    top_p=evaluation.top_p,
                    max_tokens=evaluation.max_completion_length,
                    together=evaluation.batch_size,
                )
            entropies = trainer.mean_entropies(completions)
            drawn = [
                Generation(item.text, len(item.completion_ids), item.truncated, entropy)
                for item, entropy in zip(completions, entropies, strict=True)
            ]
            return [drawn[i : i + n] for i in range(0, len(drawn), n)]

        metrics: dict[str, float] = {}
        for held_out in sets:
            values, _ = evaluate_set(
                held_out.name,
                held_out.rows,
                generate,
                held_out.scorer,
                samples=evaluation.samples,
                ks=evaluation.k,
                batch_size=evaluation.batch_size,
                rank=trainer.accelerator.process_index,
                world=trainer.accelerator.num_processes,
                gather=trainer.processes.gather_list,
                left_out=held_out.left_out,
                steps=progress.steps if progress else None,
            )
            metrics |= values
        return metrics

    def evaluate(trainer: "Trainer") -> dict[str, float]:
        with trainer.processes.heartbeat.phase("evaluating"):
            return measure(trainer)

    return evaluate


def _export_problem(recipe: Recipe) -> str | None:
    """Publish the run; return why that failed."""
    from rlvr.export import export

    try:
        export(recipe.output, recipe.export.to or "", private=recipe.export.private)
    except ValueError as error:
        return f"the run in {recipe.output}, which is whole, was not exported: {error}"
    return None


def _command() -> None:
    """Run `rlvr train` as a process of its own."""
    from rlvr.cli import main

    code: Any = 0
    try:
        main(["train", *sys.argv[1:]])
    except SystemExit as end:
        code = end.code
    if process_count() > 1:
        # until torch > 2.13: threads of gloo's can abort an interpreter that is ending, and with it a run that is done
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    sys.exit(code)


if __name__ == "__main__":
    _command()
