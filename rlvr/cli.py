"""The `rlvr` command. Heavy imports happen inside the commands: `rlvr --help` answers at once."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlvr.console import is_first_process, plain_table, process_count, say, set_up
from rlvr.reward.app import reward_app

if TYPE_CHECKING:
    from rlvr.check.plan import BatchPlan
    from rlvr.compose import Origins
    from rlvr.recipe import Recipe

app = typer.Typer(
    name="rlvr",
    help="RLVR post-training of reasoning models: GRPO, entropy controls, verifiable rewards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes_app = typer.Typer(no_args_is_help=True, help="The shipped recipes.")
app.add_typer(recipes_app, name="recipes")
data_app = typer.Typer(no_args_is_help=True, help="Prompts, before a run.")
app.add_typer(data_app, name="data")
app.add_typer(reward_app, name="reward")

RecipeArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE [OVERLAY.yaml ...] [KEY=VALUE ...]",
        help="A file or a shipped recipe's name, files merged over it, values set over both.",
        show_default=False,
    ),
]


_PATIENCE = 30.0
"""Seconds in which the first process says what all of them met."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; `python -m rlvr.train` calls it with `["train", ...]`."""
    set_up()
    with user_errors():
        app(args=args, prog_name="rlvr")


@contextmanager
def user_errors() -> Iterator[None]:
    """Print errors that are messages to the user without a traceback, and exit with code 2.

    Those are ValueErrors raised by this package; others keep their traceback. RLVR_TRACEBACK=1 shows all.
    """
    try:
        yield
    except ValueError as error:
        if os.environ.get("RLVR_TRACEBACK") or not _is_ours(error):
            raise
        if not is_first_process():
            # a launcher ends all processes when one ends: the first speaks for all, and ends this one while it waits;
            # who is still there then met an error of its own
            time.sleep(_PATIENCE)
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


def _is_ours(error: ValueError) -> bool:
    """Return whether the error was raised in a file of this package, not in one it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).resolve().parent
    homes = [package, *((package / link).resolve() for link in ("rewards", "kernels"))]
    place = Path(frames[-1].filename).resolve()
    return any(place.is_relative_to(home) for home in homes)


def _prepare(args: list[str], processes: int) -> "tuple[Recipe, Origins, BatchPlan]":
    """Return a recipe after every check that needs neither a model nor data, its plan printed."""
    from rlvr.check.plan import plan_batches
    from rlvr.compose import placed
    from rlvr.recipe import parse_recipe_arguments

    recipe, origins = parse_recipe_arguments(args)
    with placed(origins):
        plan = plan_batches(recipe, processes)
    from rlvr.check.methods import check_methods

    check_methods(recipe, origins)
    controls = " -> ".join(map(str, recipe.entropy)) or "none (plain GRPO)"
    algorithm = recipe.algorithm
    say(f"{recipe.name}: {recipe.model.path} on {recipe.data.path or recipe.data.task}")
    say(plan.describe())
    if recipe.rollout.dynamic_sampling is not None:
        say(
            f"refills   up to {recipe.rollout.dynamic_sampling.max_refills} x {plan.prompts_per_rollout} prompts in place "
            "of groups with one outcome"
        )
    if recipe.rollout.difficulty is not None:
        say(f"prompts   {recipe.rollout.difficulty.describe()}")
    say(f"loss      {algorithm.surrogate}, {algorithm.aggregate}, {algorithm.advantage}")
    say(f"entropy   {controls}")
    say(f"output    {recipe.output}")
    return recipe, origins, plan


@app.command()
def train(
    arguments: RecipeArguments,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the run folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print the plan and every value, and stop.")
    ] = False,
    verify: Annotated[
        int | None,
        typer.Option(
            "--verify-resume",
            min=1,
            metavar="K",
            help="Compute K updates of the run again from a checkpoint, compare, and stop; exit code 1 if a number differs.",
        ),
    ] = None,
) -> None:
    """Train a recipe: rlvr train clip_cov training.updates=200.

    On several GPUs: accelerate launch -m rlvr.train RECIPE ...
    """
    if verify is not None and (resume or dry_run):
        raise ValueError(
            f"--verify-resume only reads the run: give it without {'--resume' if resume else '--dry-run'}"
        )
    recipe, origins, _ = _prepare(arguments, process_count())
    if dry_run:
        from rlvr.recipe import resolved_text

        say(f"\n{resolved_text(recipe, origins)}")
        return
    from rlvr.check.methods import check_device
    from rlvr.compose import placed
    from rlvr.train import run

    with placed(origins):
        check_device(recipe)
    if verify is not None:
        from rlvr.verify_resume import verify_resume

        if not verify_resume(recipe, verify):
            raise typer.Exit(1)
        return
    with placed(origins):
        run(recipe, origins, resume=resume)


@app.command()
def check(
    arguments: RecipeArguments,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Plan for this many processes (GPUs)."),
    ] = None,
    data: Annotated[
        bool, typer.Option("--data/--no-data", help="Read local data and make tasks.")
    ] = True,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="h100, a100-40, ...; default: the one here, else h100."),
    ] = None,
    zero: Annotated[
        int | None,
        typer.Option("--zero", min=0, max=3, help="Stage of DeepSpeed's ZeRO; 0: without it."),
    ] = None,
    accelerate_config: Annotated[
        str | None,
        typer.Option(
            "--accelerate-config", help="Stage, offload and processes from a file, or from zero3."
        ),
    ] = None,
    model_size: Annotated[
        str | None,
        typer.Option("--model-size", help="7b: where the model's configuration is out of reach."),
    ] = None,
    mean_length: Annotated[
        int | None,
        typer.Option(
            "--mean-length", min=1, help="Tokens of a completion, for the time; default: the limit."
        ),
    ] = None,
) -> None:
    """Say in seconds, without a GPU, whether a recipe can run, fits, and how long it takes.

    Exit code 1: it does not fit on the GPU that is here or was named.
    """
    from rlvr.check.hardware import layout_of
    from rlvr.check.plan import check_difficulty

    launched = processes or (process_count() if process_count() > 1 else None)
    layout = layout_of(zero, accelerate_config, launched)
    recipe, origins, plan = _prepare(arguments, layout.processes)
    from rlvr.check.fit import Machine, report
    from rlvr.compose import placed

    rows = None
    if data:
        from rlvr.check.inputs import check_inputs

        with placed(origins):
            rows = check_inputs(recipe, plan)

    training = recipe.training
    updates = training.updates
    if updates is None and training.epochs is not None and rows is not None:
        updates = plan.updates(rows, training.epochs)
    if updates is not None and rows is not None:
        check_difficulty(recipe, plan, rows, updates)
    if not report(recipe, plan, Machine(layout, gpu, model_size, mean_length), updates):
        raise typer.Exit(1)
    say("ok")


@app.command()
def monitor(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders of runs.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the figures; default: the first run's."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Draw again when a run has written more; Ctrl-C ends.")
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            "--report-to", help="Send the rows to tensorboard, trackio or wandb instead of drawing."
        ),
    ] = None,
) -> None:
    """Draw the curves of one or several runs: curves.png and a self-contained curves.html."""
    if report_to:
        from rlvr.monitor.trackers import send

        for run in runs:
            send(run, report_to)
        return
    from rlvr.monitor.command import monitor as draw

    draw(runs, output, watch=watch)


@app.command("eval")
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="Run folder, model or hub id.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE ...]", help="Sets and sampling; default: the run's."
        ),
    ] = None,
) -> None:
    """Measure held-out pass@k of a run or a model."""
    from rlvr.evaluate.command import evaluate as measure

    measure(run, arguments or [])


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="Run folder, or a frozen rollout.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE ...]", help="Values over the run's recipe."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="steer,kl_cov or '[{kl_cov: {fraction: 0.1}}]'; default: all."
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", help="Its update, or initial; default: the final weights."),
    ] = None,
    after: Annotated[
        int,
        typer.Option("--after", min=0, help="Updates of plain GRPO before; 0: on-policy."),
    ] = 1,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder of the files; default: RUN/replay.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Sample a new rollout in place of the frozen one.")
    ] = False,
) -> None:
    """Put one rollout of a run through every entropy control: what does each do to it?"""
    from rlvr.replay.command import replay as show

    show(
        run,
        arguments or [],
        methods=methods,
        checkpoint=checkpoint,
        after=after,
        to=to,
        fresh=fresh,
    )


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(help="Run folder, or a checkpoint in it.", show_default=False)
    ],
    to: Annotated[str, typer.Option("--to", help="Folder, or user/name on the hub.")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Of a hub repository that is created.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be published, and stop.")
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", help="Its update; default: the final weights."),
    ] = None,
) -> None:
    """Publish the weights of a run with a model card."""
    from rlvr.export import export as publish

    publish(run, to, private=private, dry_run=dry_run, checkpoint=checkpoint)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the runs.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Watch entropy fall under plain GRPO and hold under a control, in minutes on a CPU."""
    from rlvr.demo import main as show

    show(output)


@recipes_app.command("list")
def list_recipes() -> None:
    """List the shipped recipes with what to expect of them."""
    from rlvr.compose import SHIPPED, shipped_recipes
    from rlvr.recipe_yaml import read_yaml

    rows = []
    for name in shipped_recipes():
        values, _ = read_yaml((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"), name)
        rows.append((name, str(values.get("expect", ""))))
    _table(("recipe", "expect"), rows)


@recipes_app.command("show")
def show_recipe(arguments: RecipeArguments) -> None:
    """Print every value of a recipe with its origin."""
    from rlvr.recipe import parse_recipe_arguments, resolved_text

    recipe, origins = parse_recipe_arguments(arguments)
    say(resolved_text(recipe, origins))


@data_app.command("split")
def split_data(
    arguments: RecipeArguments,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder; default: split in the run folder.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Completions per prompt; default: dph's, or 8."),
    ] = None,
    min_pass_rate: Annotated[
        float | None,
        typer.Option(
            "--min-pass-rate", min=0, max=1, help="Share of them to be right; default: dph's, or 1."
        ),
    ] = None,
) -> None:
    """Split a recipe's prompts by what its policy masters before training, for rehearsal (dph)."""
    from rlvr.data.mastery import split

    split(arguments, to, samples=samples, min_pass_rate=min_pass_rate)


@app.command()
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Say what of this machine and installation works; exit code 1 if something needed does not."""
    from rlvr.doctor import doctor as examine

    if not examine(as_json=as_json):
        raise typer.Exit(1)


@app.command()
def methods() -> None:
    """List the entropy controls."""
    from rlvr.catalog import methods as find

    rows = [(item.name, item.summary, item.paper or "") for item in find("entropy").values()]
    _table(("control", "what it does", "paper"), rows, whole=(0, 2))


def _table(
    header: tuple[str, ...], rows: list[tuple[Any, ...]], whole: tuple[int, ...] = (0,)
) -> None:
    """Print rows; the columns `whole` are never broken, so that they can be copied."""
    from rich.console import Console

    table = plain_table(*header)
    for column in whole:
        table.columns[column].no_wrap = True
    for row in rows:
        table.add_row(*row)
    Console().print(table)
