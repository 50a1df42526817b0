"""The commands `rlvr reward ...`. Heavy imports happen inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

reward_app = typer.Typer(no_args_is_help=True, help="Verifiers: built-in ones and your own.")

Verifier = Annotated[
    str,
    typer.Argument(metavar="NAME|FILE.py:FUNCTION", help="The verifier.", show_default=False),
]
VerifierOptions = Annotated[
    list[str] | None,
    typer.Option("--options", help="Of the verifier: KEY=VALUE or JSON; may be repeated."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes; default: one a core.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@reward_app.command("test")
def try_reward(
    verifier: Verifier,
    data: Annotated[
        str | None, typer.Option("--data", help="Rows to try it on; default: built-in ones.")
    ] = None,
    options: VerifierOptions = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Check that a verifier holds to what every reward should; exit code 1 where it does not."""
    from rlvr.reward.command import try_out

    if not try_out(verifier, data=data, options=options or (), workers=workers, as_json=as_json):
        raise typer.Exit(1)


@reward_app.command("bench")
def bench_reward(
    file: Annotated[Path, typer.Argument(help="Labelled completions: .jsonl, .jsonl.gz, ...")],
    verifier: Annotated[
        str | None,
        typer.Option("--verifier", help="Name or FILE.py:FUNCTION; auto: by each row's domain."),
    ] = None,
    options: VerifierOptions = None,
    workers: Workers = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Rows from the start; default: all.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of other files that the bench needs.")
    ] = None,
    failures: Annotated[
        Path | None, typer.Option("--failures", help="Where failures are written as JSONL.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how often a verifier says what the labels of a file say."""
    from rlvr.reward.bench import bench

    bench(
        file,
        verifier=verifier,
        options=options or (),
        workers=workers,
        limit=limit,
        data=data,
        failures=failures,
        as_json=as_json,
    )


@reward_app.command("audit")
def audit_reward(
    dataset: Annotated[str, typer.Argument(help="A file, a folder or a hub id.")],
    verifier: Annotated[str, typer.Option("--verifier", help="Name or FILE.py:FUNCTION.")] = "math",
    second: Annotated[
        str | None, typer.Option("--second", help="Another verifier to compare with.")
    ] = None,
    options: VerifierOptions = None,
    split: Annotated[str, typer.Option("--split", help="Of a hub data set or a folder.")] = "train",
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", help="OURS=THEIRS, as answer=final; default: known layouts."),
    ] = None,
    wrap: Annotated[
        str | None,
        typer.Option("--wrap", help="How golds are stated: box, phrase, tag, hash, fence, bare."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Where rows with a problem are written as JSONL.")
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Check that the gold answers of a data set verify against themselves; exit code 1 if not."""
    from rlvr.reward.audit import audit

    if not audit(
        dataset,
        verifier=verifier,
        second=second,
        options=options or (),
        split=split,
        columns=columns or (),
        wrap=wrap,
        to=to,
        workers=workers,
        as_json=as_json,
    ):
        raise typer.Exit(1)


@reward_app.command("new")
def new_reward(
    name: Annotated[str, typer.Argument(help="Of the file and its function.")],
    style: Annotated[
        str, typer.Option("--style", help="sample, async, batch, group or trl.")
    ] = "sample",
) -> None:
    """Write a reward of your own from a template."""
    from rlvr.reward.new import new

    new(name, style)
