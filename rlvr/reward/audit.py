"""`rlvr reward audit`: do the gold answers of a data set verify against themselves?

Each gold is stated as an ordinary completion would state it. A row is unusable where the verifier
can say so beforehand; it fails where its own gold is not taken for right.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlvr.console import plain_table, plural, say
from rlvr.reward.judge import UNHURRIED
from rlvr.reward.rows import Row, read_rows
from rlvr.reward.verifier import Options, parse_options
from rlvr.reward.wrapping import ORDINARY, WRAPPINGS
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Outcome, Sample, Verdict
from rlvr.suggest import unknown_name

UNUSABLE, FAILS, DISAGREES = "unusable", "fails", "disagrees"
SHOWN = 12  # problems on the screen; all are written with --to


@dataclass(frozen=True)
class Problem:
    """A row whose gold answer does not stand up.

    Attributes:
        row: Its number, from 1.
        kind: UNUSABLE, FAILS or DISAGREES.
        answer: The gold.
        outcome: Of the first verifier; "" where it was not asked.
        reason: In one line.
        second: Outcome of the second verifier; "" without one.
    """

    row: int
    kind: str
    answer: Any
    outcome: str
    reason: str
    second: str = ""


def audit(
    dataset: str,
    *,
    verifier: str = "math",
    second: str | None = None,
    options: Sequence[str] = (),
    split: str = "train",
    columns: Sequence[str] = (),
    wrap: str | None = None,
    to: Path | None = None,
    workers: int | None = None,
    as_json: bool = False,
) -> bool:
    """Check the golds of a data set, print what was found, and return whether all stand up.

    Args:
        dataset: File, folder or hub id.
        verifier: Name or `file.py:function`.
        second: Another one, asked about the same completions; rows on which they differ are listed.
        options: Of the first verifier.
        split: Of a hub data set, or of a folder.
        columns: `OURS=THEIRS`.
        wrap: Name of the wrapping of golds; None: what is usual for the verifier.
        to: Where all problems are written, one a line.
        workers: Processes; None: one a core.
        as_json: Print one JSON object and nothing else.

    Raises:
        ValueError: For whatever a user can mend.
    """
    wrap = ORDINARY.get(verifier, "box") if wrap is None else wrap
    if wrap not in WRAPPINGS:
        raise ValueError(unknown_name("wrapping", wrap, WRAPPINGS))
    first_options = parse_options(options)
    rows = read_rows(dataset, split=split, columns=columns)
    if all(row.get("answer") is None for row in rows):
        have = ", ".join(rows[0])
        raise ValueError(
            f"{dataset}: no row has an answer; say which with --column answer=COLUMN. Columns: {have}"
        )
    problems = find(rows, wrap, (verifier, first_options), second, workers)
    figures = summarize(rows, problems) | {"dataset": dataset, "verifier": verifier}
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(asdict(problem), default=str) for problem in problems]
        to.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if as_json:
        listed = [asdict(problem) for problem in problems]
        say(json.dumps(figures | {"problems": listed}, default=str))
    else:
        _show(figures, problems, to)
    return not problems


def find(
    rows: Sequence[Row],
    wrap: str,
    verifier: tuple[str, Options],
    second: str | None = None,
    workers: int | None = None,
) -> list[Problem]:
    """Return the problems of rows, in their order.

    Args:
        rows: With `answer` and what else the verifier needs.
        wrap: Name of the wrapping.
        verifier: Name and options.
        second: Name of another verifier; None: none.
        workers: Processes; None: one a core.
    """
    settings: dict[str, Any] = {"workers": workers, "batch_deadline": UNHURRIED}
    problems = []
    with Scorer([{verifier[0]: verifier[1]}], **settings) as scorer:
        faults = {number: scorer.fault(row) for number, row in enumerate(rows, start=1)}
        usable = [number for number, reason in faults.items() if reason is None]
        samples = [_sample(rows[number - 1], wrap) for number in usable]
        verdicts = [item.verdict for item in scorer.score(samples, usable, progress=verifier[0])]
    others: list[Verdict | None] = [None] * len(usable)
    if second is not None:
        with Scorer([second], **settings) as scorer:
            others = [item.verdict for item in scorer.score(samples, usable, progress=second)]
    for number, reason in faults.items():
        if reason is not None:
            answer = rows[number - 1].get("answer")
            problems.append(Problem(number, UNUSABLE, answer, "", reason))
    for number, verdict, other in zip(usable, verdicts, others, strict=True):
        found = _problem(number, rows[number - 1].get("answer"), verdict, other)
        if found is not None:
            problems.append(found)
    return sorted(problems, key=lambda problem: problem.row)


def _sample(row: Row, wrap: str) -> Sample:
    answer = row.get("answer")
    gold = answer[0] if isinstance(answer, list) and answer else answer
    return Sample(row.get("prompt") or "", WRAPPINGS[wrap](str(gold)), answer, row)


def _problem(number: int, answer: Any, verdict: Verdict, other: Verdict | None) -> Problem | None:
    is_right = verdict.outcome is Outcome.CORRECT
    differs = other is not None and (other.outcome is Outcome.CORRECT) != is_right
    if is_right and not differs:
        return None
    second = "" if other is None else other.outcome.value
    if verdict.outcome is Outcome.SKIPPED:
        return Problem(number, UNUSABLE, answer, verdict.outcome.value, verdict.reason, second)
    reason = verdict.reason if not is_right else (other.reason if other is not None else "")
    kind = DISAGREES if differs else FAILS
    return Problem(number, kind, answer, verdict.outcome.value, reason, second)


def summarize(rows: Sequence[Row], problems: Sequence[Problem]) -> dict[str, Any]:
    """Return how many rows are usable, and how many of them verify."""
    unusable = sum(problem.kind == UNUSABLE for problem in problems)
    failing = [p for p in problems if p.kind != UNUSABLE and p.outcome != Outcome.CORRECT]
    usable = len(rows) - unusable
    return {
        "rows": len(rows),
        "golds": len({str(row.get("answer")) for row in rows}),
        "unusable": unusable,
        "usable": usable,
        "verified": usable - len(failing),
        "verified_share": round(1 - len(failing) / usable, 6) if usable else None,
        "disagreements": sum(problem.kind == DISAGREES for problem in problems),
    }


def _show(figures: Mapping[str, Any], problems: Sequence[Problem], to: Path | None) -> None:
    from rich.console import Console
    from rich.text import Text

    say(f"audit     {figures['dataset']} with {figures['verifier']}")
    say(
        f"rows      {figures['rows']}, {plural(figures['golds'], 'different gold')}, {figures['unusable']} unusable"
    )
    if figures["usable"]:
        share = figures["verified_share"]
        say(f"verified  {figures['verified']} of {figures['usable']} usable ({share:.2%})")
    if problems:
        table = plain_table("row", "problem", "gold", "why")
        for item in problems[:SHOWN]:
            second = f" (second: {item.second})" if item.second else ""
            why = f"{item.outcome or UNUSABLE}: {item.reason}{second}"
            table.add_row(str(item.row), item.kind, Text(_short(item.answer)), Text(why))
        Console().print(table)
    if len(problems) > SHOWN and to is None:
        say(f"more      {len(problems) - SHOWN}; write all with --to FILE.jsonl")
    if to is not None:
        say(f"written   {to}: {plural(len(problems), 'row')}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
