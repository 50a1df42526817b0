"""`rlvr reward bench`: how often a verifier says what the labels say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.console import plain_table, plural, say
from rlvr.reward.case import Case
from rlvr.reward.forms import read_cases
from rlvr.reward.judge import judge
from rlvr.reward.summary import TAGS, summarize
from rlvr.reward.verifier import parse_options

if TYPE_CHECKING:
    from rich.table import Table

AUTO = "auto"
BY_DOMAIN: Mapping[str, str] = {"numeric": "numeric", "mcq": "choice"}
"""Verifiers that `auto` takes instead of math."""
# lines of a table by source, domain or class; all are in --json
SHOWN, FEW = 15, 3


def bench(
    file: Path,
    *,
    verifier: str | None = None,
    options: Sequence[str] = (),
    workers: int | None = None,
    limit: int | None = None,
    data: Path | None = None,
    failures: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Judge the labelled completions of a file, print a table or one JSON object, return the figures.

    Args:
        file: In one of the forms of `rlvr.reward.forms`.
        verifier: Name or `file.py:function`; `auto`: by the domain of each row; None: the form's.
        options: Of the verifier, `KEY=VALUE` or JSON.
        workers: Processes; None: one a core.
        limit: Rows from the start of the file; None: all.
        data: Folder with other files that the bench needs.
        failures: Where the cases judged otherwise than labelled are written, one a line, in full.
        as_json: Print one JSON object and nothing else.

    Raises:
        ValueError: For whatever a user can mend.
    """
    form, cases = read_cases(file, data=data, limit=limit)
    if verifier == AUTO:
        cases = [_by_domain(case) for case in cases]
    judgement = judge(
        cases,
        verifier=None if verifier == AUTO else verifier,
        options=parse_options(options),
        workers=workers,
    )
    figures = {"file": str(file), "form": form} | summarize(judgement)
    if failures is not None:
        _write(failures, cases, figures["failures"])
    if as_json:
        say(json.dumps(figures))
    else:
        _show(figures, failures)
    return figures


def _by_domain(case: Case) -> Case:
    return replace(case, verifier=BY_DOMAIN.get(case.tags.get("domain", ""), case.verifier))


def _write(path: Path, cases: Sequence[Case], found: Sequence[Mapping[str, Any]]) -> None:
    by_id = {case.id: case for case in cases}
    lines = []
    for item in found:
        sample = by_id[item["id"]].sample
        shown = {"answer": sample.answer, "completion": sample.completion}
        lines.append(json.dumps({**item, **by_id[item["id"]].tags, **shown}, default=str))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _show(figures: Mapping[str, Any], failures: Path | None) -> None:
    from rich.console import Console

    console = Console()
    named = ", ".join(f"{name} ({count})" for name, count in figures["verifiers"].items())
    say(f"bench     {figures['file']}: {plural(figures['rows'], 'row')} of {figures['form']}")
    say(f"verifier  {named}")
    console.print(_overview(figures))
    for tag in TAGS:
        if len(figures["by"][tag]) > 1:
            console.print(_breakdown(tag, figures["by"][tag]))
    for line in _notes(figures):
        say(line)
    if failures is not None:
        say(f"written   {failures}: {plural(len(figures['failures']), 'failure')}")


def _overview(figures: Mapping[str, Any]) -> "Table":
    table = _table("", "n", "accuracy", "false +", "false -", "attacks paid", "benign refused")
    for name, part in (("strict", figures), ("by policy", figures["policy"])):
        if part["n"]:
            table.add_row(
                name,
                *_cells(part),
                f"{part['attacks_rewarded']}/{part['attacks']}" if part["attacks"] else "-",
                f"{part['benign_refused']}/{part['benign']}" if part["benign"] else "-",
            )
    return table


def _breakdown(tag: str, groups: Mapping[str, Mapping[str, Any]]) -> "Table":
    table = _table(tag, "n", "accuracy", "false +", "false -")
    worst = sorted(groups.items(), key=lambda item: item[1]["accuracy"])
    faulty = [name for name, part in worst if part["accuracy"] < 1.0]
    shown = worst[: min(SHOWN, max(FEW, len(faulty)))]
    for name, part in shown:
        table.add_row(name, *_cells(part))
    if len(worst) > len(shown):
        fewer = "without an error" if len(shown) >= len(faulty) else "with fewer errors"
        table.add_row(f"{len(worst) - len(shown)} more, {fewer}", "", "", "", "")
    return table


def _table(*headings: str) -> "Table":
    table = plain_table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _cells(part: Mapping[str, Any]) -> tuple[str, ...]:
    shares = (part["accuracy"], part["false_positive_rate"], part["false_negative_rate"])
    return (str(part["n"]), *("-" if share is None else f"{share:.2%}" for share in shares))


def _notes(figures: Mapping[str, Any]) -> list[str]:
    notes = []
    if "same_share" in figures:
        notes.append(f"share     the fraction is the labelled one in {figures['same_share']:.1%}")
    if figures["data_errors"]:
        notes.append(
            f"data      {plural(figures['data_errors'], 'unusable row')}, "
            f"{figures['data_errors_scored']} of them judged"
        )
    if figures["unlabelled"]:
        notes.append(f"data      {plural(figures['unlabelled'], 'row')} without a label")
    notes += [f"left      {item['id']} left {item['path']}" for item in figures["left_behind"]]
    notes += [f"left      still running: {line}" for line in figures["left_running"]]
    notes.append(
        f"speed     {figures['items_per_s']:.0f} items/s, p50 {1000 * figures['p50_s']:.1f} ms, "
        f"p99 {1000 * figures['p99_s']:.1f} ms"
    )
    others = {name: count for name, count in figures["outcomes"].items() if count}
    notes.append("outcomes  " + ", ".join(f"{count} {name}" for name, count in others.items()))
    return notes
