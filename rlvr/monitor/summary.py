"""The few numbers that tell how runs went, for the table on the terminal, the page and the card."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.monitor import metrics
from rlvr.monitor.law import fit
from rlvr.monitor.store import Run


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    label: str
    unit: str
    cells: tuple[str, ...]
    """One per run; an empty string where the run did not measure it."""


def final_values(runs: Sequence[Run]) -> list[Row]:
    """Return the table of last values; `0.57 → 0.26` where the way there matters."""
    rows = [
        Row("update", "", tuple(progress(run) for run in runs)),
        _row(runs, "reward", arrow=True),
        _row(runs, "entropy", arrow=True),
    ]
    names = dict.fromkeys(name for run in runs for name in run.columns)
    for name in names:
        parts = name.split("/")
        is_curve = len(parts) == 3 and (parts[2].startswith("pass@") or parts[2] in _EVALUATION)
        if parts[0] == "eval" and is_curve:
            rows.append(_row(runs, name, arrow=True))
    sets = dict.fromkeys(name.split("/")[1] for name in names if name.startswith("eval/"))
    rows += [
        Row(f"{name} pass@1 at entropy 0", "0..1, fit", tuple(_ceiling(run, name) for run in runs))
        for name in sets
    ]
    rows.append(Row("dropped verdicts", "0..1", tuple(_dropped(run) for run in runs)))
    rows += [_row(runs, "length/mean", arrow=True), _row(runs, "length/truncated_fraction")]
    return [row for row in rows if any(row.cells)]


_EVALUATION = ("distinct_correct", "entropy")
_LAW_POINTS = 4
"""Evaluations from which the law of entropy and accuracy is fitted: a line through fewer says little."""


def _ceiling(run: Run, name: str) -> str:
    """Return `0.61 (a 0.25)`, the fitted accuracy without entropy and the rate a of rlvr/monitor/law.py."""
    columns = (f"eval/{name}/entropy", f"eval/{name}/pass@1")
    if any(column not in run.columns for column in columns):
        return ""
    entropies, accuracies = (run.columns[column].tolist() for column in columns)
    measured = [
        h
        for h, r in zip(entropies, accuracies, strict=True)
        if math.isfinite(h) and math.isfinite(r)
    ]
    if len(set(measured)) < _LAW_POINTS:
        return ""
    law = fit(entropies, accuracies)
    return f"{number(law.ceiling)} (a {number(law.a)})"


def progress(run: Run) -> str:
    """Return `120/200`, or `120` if the recipe does not say how many updates there will be."""
    training = run.recipe.get("training") or {}
    total = training.get("updates")
    done = int(run.updates[-1])
    return f"{done}/{total}" if total else str(done)


def dropped_fraction(run: Run) -> float:
    """Return the share of completions of the last update whose verdict says nothing about them."""
    values = [run.last(f"verdict/{outcome}") for outcome in metrics.DROPPED_OUTCOMES]
    known = [v for v in values if not math.isnan(v)]
    return sum(known) if known else math.nan


def number(value: float) -> str:
    """Return a number with three digits that matter; an empty string for NaN.

    Example:
        >>> number(0.12345), number(1234.5), number(0.0), number(1e-6), number(float("nan"))
        ('0.123', '1234', '0', '1e-06', '')
    """
    if math.isnan(value):
        return ""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    return (
        f"{value:.3g}"
        if abs(value) < 0.01
        else f"{value:.3f}"
        if abs(value) < 10
        else f"{value:.1f}"
    )


def _row(runs: Sequence[Run], name: str, *, arrow: bool = False) -> Row:
    label = name.removeprefix("eval/").replace("/", " ").replace("_", " ")
    if not name.startswith("eval/"):
        label = {"length/mean": "completion length"}.get(name, label)
    return Row(label, metrics.unit(name), tuple(_cell(run, name, arrow=arrow) for run in runs))


def _cell(run: Run, name: str, *, arrow: bool) -> str:
    count = len(run.series(name)[1])
    last = number(run.last(name))
    return f"{number(run.first(name))} → {last}" if arrow and count > 1 else last


def _dropped(run: Run) -> str:
    return number(dropped_fraction(run))
