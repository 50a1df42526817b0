"""`rlvr data split`: prompts that the initial policy masters apart from those it has yet to explore (DPH-RL).

    mastered   at least `min_pass_rate` of `samples` completions are right: rehearsed, not trained on
    explore    the others: trained on

Of each mastered prompt one right completion goes into the rehearsal buffer, with its log-probs under the policy that
sampled it. What is written depends on the recipe and its seed alone.

Paper: The Choice of Divergence: A Neglected Key to Mitigating Diversity Collapse in RLVR https://arxiv.org/abs/2509.07430
"""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rlvr.check.plan import BatchPlan, plan_batches
from rlvr.console import is_first_process, plain_table, plural, process_count, say
from rlvr.recipe import NamedItem, Recipe, parse_recipe_arguments

if TYPE_CHECKING:
    from rich.table import Table

    from rlvr.batch import RolloutBatch
    from rlvr.inputs import Inputs
    from rlvr.rollout.difficulty import Memory

BUFFER, MASTERED, EXPLORE, SUMMARY = (
    "rehearsal.pt",
    "mastered.jsonl",
    "explore.jsonl",
    "split.json",
)
PASS_RATE = "initial_pass_rate"
"""Column that the written rows have besides those of the data."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Division:
    """What the initial policy makes of every row of the data."""

    samples: int
    """Completions per prompt."""
    right: list[int]
    """Right completions of each row."""
    mastered: list[bool]
    rehearsal: "RolloutBatch | None"
    """A right completion of each mastered row; None where none is."""


def split(
    arguments: Sequence[str],
    to: Path | None = None,
    *,
    samples: int | None = None,
    min_pass_rate: float | None = None,
) -> None:
    """Sample the policy of a recipe on its data, write the two parts and the buffer, and say how to train on them.

    Args:
        arguments: `RECIPE [OVERLAY.yaml ...] [KEY=VALUE ...]`.
        to: Folder to write to; None: `split` in the run folder.
        samples: Completions per prompt; None: those of the recipe's rehearsing control, else 8.
        min_pass_rate: Share of them that must be right, 0..1; None: as `samples`, else 1.

    Raises:
        ValueError: For whatever a user can mend, and if no prompt is mastered.
    """
    from rlvr.check.methods import check_device, check_methods

    recipe, origins = parse_recipe_arguments(arguments)
    plan = plan_batches(recipe, process_count())
    check_methods(recipe, origins)
    check_device(recipe)
    folder = to or recipe.output / "split"
    _refuse_other_split(folder)
    own_samples, own_rate = _options(recipe)
    samples = own_samples if samples is None else samples
    min_pass_rate = own_rate if min_pass_rate is None else min_pass_rate
    sampling = _sampling_recipe(recipe)
    from rlvr.inputs import load_inputs

    inputs = load_inputs(sampling)
    try:
        rows = _checked(inputs.rows)
        division = _divide(sampling, plan, inputs, samples, min_pass_rate)
    finally:
        inputs.close()
    if is_first_process():
        _write(recipe, division, rows, min_pass_rate, folder)
        _report(recipe, plan, division, arguments, rows, folder)
    if division.rehearsal is None:
        raise ValueError(
            f"the initial policy masters none of {plural(len(rows), 'prompt')}: none has at least {min_pass_rate:.0%} "
            "right; there is no buffer. Lower --min-pass-rate"
        )


def _refuse_other_split(folder: Path) -> None:
    if (folder / SUMMARY).exists():
        raise ValueError(
            f"{folder} holds another split; nothing was changed. Set --to a new folder"
        )


def _options(recipe: Recipe) -> tuple[int, float]:
    """Return samples and pass rate of the control that rehearses, or DPH-RL's own."""
    from rlvr.controls import build_chain
    from rlvr.entropy.dph import Config

    chain = build_chain(recipe)
    wanted = chain.plan(chain.init()).rehearsal or Config()
    return wanted.samples, wanted.min_pass_rate


def _sampling_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe without what sampling the initial policy has no use for: controls, reference, held-out sets."""
    algorithm = recipe.algorithm.model_copy(update={"kl_coef": 0.0})
    evaluation = recipe.evaluation.model_copy(update={"sets": ()})
    return recipe.model_copy(
        update={"entropy": (), "algorithm": algorithm, "evaluation": evaluation}
    )


def _checked(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the rows, of which every value can be written: to be known before anything is sampled."""
    for row in rows:
        for column, value in row.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"data: the column {column!r} holds {type(value).__name__}, which JSON cannot; map another column"
                ) from None
    return [dict(row) for row in rows]


def _divide(
    recipe: Recipe, plan: BatchPlan, inputs: "Inputs", samples: int, min_pass_rate: float
) -> Division:
    from rlvr.assemble import build_trainer
    from rlvr.monitor.progress import Progress
    from rlvr.rollout.rehearsal import join_all

    rows = len(inputs.rows)
    say(f"data      {plural(rows, 'prompt')} x {plural(samples, 'completion')}")
    right, mastered, parts = [0] * rows, [False] * rows, []
    with TemporaryDirectory() as folder:  # a trainer makes a run folder
        sampling = recipe.model_copy(update={"output": Path(folder)})
        trainer = build_trainer(sampling, plan, inputs, updates=1)
        steps = range(-(-rows // plan.prompts_per_rollout))
        with Progress() as progress:
            bar = progress.steps(steps, "batches", "split") if is_first_process() else iter(steps)
            for _, part in zip(bar, trainer.roller.survey(samples, min_pass_rate), strict=True):
                for number, count in zip(part.numbers, part.right, strict=True):
                    right[number] = count
                for number in part.mastered:
                    mastered[number] = True
                if part.rehearsal is not None:
                    parts.append(part.rehearsal)
    return Division(samples, right, mastered, join_all(parts) if parts else None)


def _write(
    recipe: Recipe, division: Division, rows: Sequence[Row], min_pass_rate: float, folder: Path
) -> None:
    from rlvr.rollout.difficulty import DIFFICULTY, write_memory
    from rlvr.rollout.rehearsal import save_buffer

    folder.mkdir(parents=True, exist_ok=True)
    rates = [count / division.samples for count in division.right]
    for name, chosen in ((MASTERED, True), (EXPLORE, False)):
        lines = [
            json.dumps({**row, PASS_RATE: rate}, ensure_ascii=False)
            for row, rate, is_mastered in zip(rows, rates, division.mastered, strict=True)
            if is_mastered == chosen
        ]
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if division.rehearsal is not None:
        save_buffer(division.rehearsal, folder / BUFFER)
    write_memory(_memory(division), rows, folder / DIFFICULTY)
    # last: a folder with it is whole
    summary = json.dumps(_summary(recipe, division, min_pass_rate), indent=1, default=str)
    (folder / SUMMARY).write_text(f"{summary}\n", encoding="utf-8")


def _memory(division: Division) -> "Memory":
    """Return what a run with rollout.difficulty can start from."""
    import torch

    from rlvr.rollout.difficulty import Memory

    right = torch.tensor(division.right, dtype=torch.float64)
    once = torch.ones(len(right), dtype=torch.long)
    return Memory(right, torch.full_like(right, division.samples), once, torch.zeros_like(once))


def _summary(recipe: Recipe, division: Division, min_pass_rate: float) -> dict[str, Any]:
    counts = Counter(division.right)
    rollout = recipe.rollout
    return {
        "model": recipe.model.path,
        "revision": recipe.model.revision,
        "data": recipe.data.path or recipe.data.task,
        "verifiers": [item.model_dump() for item in recipe.rewards.verifiers],
        "prompts": len(division.right),
        "mastered": sum(division.mastered),
        "explore": len(division.mastered) - sum(division.mastered),
        "samples": division.samples,
        "min_pass_rate": min_pass_rate,
        "right": {str(count): counts[count] for count in range(division.samples + 1)},
        "sampling": {
            "temperature": rollout.temperature,
            "top_p": rollout.top_p,
            "top_k": rollout.top_k,
            "min_p": rollout.min_p,
            "max_completion_length": rollout.max_completion_length,
        },
        "seed": recipe.training.seed,
        "versions": {name: version(name) for name in ("rlvr", "torch", "transformers", "trl")},
    }


def _report(
    recipe: Recipe,
    plan: BatchPlan,
    division: Division,
    arguments: Sequence[str],
    rows: Sequence[Row],
    folder: Path,
) -> None:
    from rich.console import Console

    from rlvr.rollout.difficulty import DIFFICULTY

    Console().print(table(division))
    explore = len(division.mastered) - sum(division.mastered)
    written = [SUMMARY, MASTERED, EXPLORE, DIFFICULTY]
    written += [BUFFER] * (division.rehearsal is not None)
    say(f"written   {folder}: {', '.join(written)}")
    if explore < plan.prompts_per_rollout:
        say(
            f"note      {plural(explore, 'prompt')} to explore, fewer than rollout.prompts_per_rollout "
            f"{plan.prompts_per_rollout}: lower it to train on them"
        )
    if division.rehearsal is not None:
        changes = overrides(recipe, rows, folder)
        changed = {change.partition("=")[0] for change in changes}
        kept = [argument for argument in arguments if argument.partition("=")[0] not in changed]
        say(f"train     {shlex.join(['rlvr', 'train', *kept, *changes])}")


def table(division: Division) -> "Table":
    """Return how many prompts have how many right completions, a line each number."""
    out = plain_table()
    for heading in ("right", "prompts", "share", "mastered"):
        out.add_column(heading, justify="right")
    total = len(division.right)
    both = list(zip(division.right, division.mastered, strict=True))
    for count in range(division.samples + 1):
        found = [is_mastered for right, is_mastered in both if right == count]
        share = f"{len(found) / total:.1%}"
        out.add_row(f"{count}/{division.samples}", str(len(found)), share, str(sum(found)))
    mastered = sum(division.mastered)
    out.add_row("all", str(total), "", f"{mastered} ({mastered / total:.1%})")
    return out


def overrides(recipe: Recipe, rows: Sequence[Row], folder: Path) -> list[str]:
    """Return what makes the recipe train on the prompts to explore and rehearse the buffer.

    Args:
        recipe: That the split was made with.
        rows: Its data.
        folder: Of the split.
    """
    source = recipe.data
    given = {"task": source.task, "size": source.size, "template": source.template}
    given |= {"revision": source.revision, "subset": source.subset}
    changes = [f"data.{key}=null" for key, value in given.items() if value is not None]
    changes += ["data.task_options={}"] if source.task_options else []
    if source.columns or _is_detected_otherwise(rows):
        columns = sorted({"prompt", "answer", "task", *source.columns})
        changes += ["data.columns={}"] if source.columns else []
        changes += [f"data.columns.{name}={name}" for name in columns]
    return [f"data.path={folder / EXPLORE}", *changes, _rehearse(recipe.entropy, folder / BUFFER)]


def _is_detected_otherwise(rows: Sequence[Row]) -> bool:
    """Return whether a reader who is told nothing takes other columns for prompt, answer and task."""
    from rlvr.data.layout import (
        ANSWER_COLUMNS,
        PROMPT_COLUMNS,
        TASK_COLUMNS,
        clean_answer,
        detect,
    )

    known = {"prompt": PROMPT_COLUMNS, "answer": ANSWER_COLUMNS, "task": TASK_COLUMNS}
    return any(detect(rows, names) != ours for ours, names in known.items()) or any(
        clean_answer(row["answer"], "answer") != row["answer"] for row in rows
    )


def _rehearse(controls: Sequence[NamedItem], buffer: Path) -> str:
    if any(item.name == "dph" for item in controls):
        return f"entropy.dph.buffer={buffer}"
    items: list[Any] = [
        {item.name: item.options} if item.options else item.name for item in controls
    ]
    return "entropy=" + json.dumps([*items, {"dph": {"buffer": str(buffer)}}])
