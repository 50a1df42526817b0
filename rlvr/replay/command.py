"""`rlvr replay`: what every method does to one rollout of a run, as a table and a picture."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rlvr.console import console_for_tables, plural, process_count, say
from rlvr.recipe import Recipe, parse_recipe_arguments
from rlvr.replay.place import INITIAL, RESOLVED, Place, find

if TYPE_CHECKING:
    from rlvr.inputs import Inputs
    from rlvr.replay.candidates import Candidate
    from rlvr.replay.replay import Result
    from rlvr.replay.rollout import Frozen


def replay(
    run: Path,
    arguments: Sequence[str] = (),
    *,
    methods: str | None = None,
    checkpoint: str | None = None,
    after: int = 1,
    to: Path | None = None,
    fresh: bool = False,
) -> "Result":
    """Freeze a rollout of a run, put it through methods, print a table, write `replay.json` and `replay.png`.

    Args:
        run: A run folder, or a frozen rollout.
        arguments: `[OVERLAY.yaml ...] [KEY=VALUE ...]` over the run's recipe.
        methods: As `candidates` takes them; None: all.
        checkpoint: Its update, or `initial`; None: the final weights.
        after: Updates of plain GRPO on the rollout before the methods act.
        to: Folder of what is written; None: `replay/` in the run folder, or the frozen rollout's.
        fresh: Whether a frozen rollout that is there is replaced.

    Raises:
        ValueError: If there is no run or no weights, an unknown method, or a frozen rollout that does not fit.
    """
    from rlvr.check.methods import check_device
    from rlvr.replay.candidates import candidates

    if (processes := process_count()) > 1:
        raise ValueError(f"a replay runs in one process, not in {processes}: rlvr replay {run}")
    place = find(run, checkpoint, to, fresh=fresh)
    recipe, _ = parse_recipe_arguments([str(place.run / RESOLVED), *arguments])
    chosen, left_out = candidates(recipe, methods)
    check_device(recipe)
    result = _replay(place, recipe, chosen, after, fresh=fresh)
    result.left_out.update(left_out)
    from rlvr.replay.report import WIDE, figure, summary, table, write

    console = console_for_tables(WIDE)
    console.print(table(result, width=console.width))
    for line in summary(result):
        say(line)
    written = write(result, place.file.with_name("replay.json"), _protocol(place, recipe, after))
    say(f"written   {written}")
    say(f"figure    {figure(result, place.file.with_name('replay.png'))}")
    return result


def _replay(
    place: Place, recipe: Recipe, chosen: "Sequence[Candidate]", after: int, *, fresh: bool
) -> "Result":
    from rlvr.assemble import build_objective, build_trainer
    from rlvr.check.plan import plan_batches
    from rlvr.inputs import load_inputs
    from rlvr.replay.replay import plans, replay
    from rlvr.replay.rollout import check_same, check_weights, freeze, load, save

    plan = plan_batches(recipe)
    frozen: Frozen | None = None
    if place.file.is_file() and not fresh:
        frozen = load(place.file)
        check_same(frozen, recipe, place.weights, place.file)
    objective = build_objective(recipe.model_copy(update={"entropy": ()}))
    states = _states(place)
    with tempfile.TemporaryDirectory(prefix="rlvr-replay-") as scratch:
        bare = _bare(recipe, Path(scratch))
        inputs = load_inputs(bare) if frozen is None else _without_data(bare)
        try:
            trainer = build_trainer(bare, plan, inputs, updates=1)
            if frozen is None:
                say(
                    f"freezing  {plural(plan.completions_per_rollout, 'completion')} of {place.run} ({place.weights})"
                )
                wanted = plans(chosen, states)
                frozen = freeze(trainer, recipe, plan, objective, wanted, place.run, place.weights)
                save(frozen, place.file)
                say(f"frozen    {place.file}")
            else:
                say(f"rollout   {place.file}")
                if place.weights != INITIAL:
                    trainer.load_weights(place.run / place.weights)
                check_weights(frozen, trainer, place.file)
        finally:
            inputs.close()
        return replay(
            trainer, frozen, objective, plan, chosen, states=states, after=after, steps=_shown
        )


def _bare(recipe: Recipe, scratch: Path) -> Recipe:
    """Return the recipe for a trainer that samples and steps, but neither evaluates nor writes."""
    from rlvr.recipe import Evaluation, Export, Monitor

    return recipe.model_copy(
        update={
            "output": scratch,
            "entropy": (),
            # without a second model: log-probs of the initial policy are in the frozen rollout
            "algorithm": recipe.algorithm.model_copy(update={"kl_coef": 0.0}),
            "rollout": recipe.rollout.model_copy(
                update={"engine": "transformers", "dynamic_sampling": None}
            ),
            "training": recipe.training.model_copy(update={"save_every": 0}),
            "monitor": Monitor(progress=False),
            "evaluation": Evaluation(),
            "export": Export(),
        }
    )


def _without_data(recipe: Recipe) -> "Inputs":
    """Return inputs of a trainer that samples nothing."""
    from rlvr.inputs import Inputs, load_tokenizer, make_scorer

    scorer = make_scorer(recipe, recipe.rewards.verifiers)
    return Inputs(load_tokenizer(recipe), [{"prompt": ""}], scorer, [], [])


def _states(place: Place) -> dict[str, Any]:
    """Return the states of the run's controls beside the weights; {} if none were saved."""
    from rlvr.trainer import CONTROL_STATE

    path = place.run / place.weights / CONTROL_STATE
    return json.loads(path.read_text())["controls"] if path.is_file() else {}


def _shown(prepared: Sequence[Any]) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    from rlvr.monitor.progress import SECONDS

    console = Console()
    if not console.is_terminal:
        shown_at = monotonic()
        for number, one in enumerate(prepared, start=1):
            yield one
            if monotonic() - shown_at > SECONDS:
                shown_at = monotonic()
                say(f"replay    {number}/{len(prepared)}")
        return
    shown: Iterable[Any] = track(prepared, "replay", console=console, transient=True)
    yield from shown


def _protocol(place: Place, recipe: Recipe, after: int) -> dict[str, Any]:
    return {
        "run": str(place.run),
        "weights": place.weights,
        "rollout": str(place.file),
        "after": after,
        "learning_rate": recipe.training.learning_rate,
        "seed": recipe.training.seed,
    }
