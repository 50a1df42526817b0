"""Which curves a figure shows: runs -> panels of lines, independent of the drawing library.

Colour says which run, line style says which quantity of a panel, so that one legend serves all
panels. A panel without data is not made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rlvr.monitor import metrics
from rlvr.monitor.store import Run

FloatArray = npt.NDArray[np.float64]

RUN_COLORS = (
    "#1f6fb4", "#e0702b", "#2e9e5b", "#a23b8f", "#8a6d1f", "#d1495b", "#3aa6b9", "#5b5f97",
)  # fmt: skip
OUTCOME_COLORS = {
    "correct": "#4caf78",
    "wrong": "#c9ced6",
    "partial": "#a9d6b8",
    "unparsable": "#f0b95a",
    "timeout": "#d1495b",
    "crashed": "#8c2f39",
    "skipped": "#7d8597",
}
DASHES = ("solid", "dash", "dot", "dashdot")

_MOST_RUNS_STACKED = 4  # one panel of verdict shares per run; more would hide the rest


@dataclass(frozen=True)
class Line:
    """One curve."""

    run: int
    """Index of the run."""
    label: str
    """The quantity, where a panel shows several."""
    x: FloatArray
    y: FloatArray
    style: int = 0
    """Index into DASHES."""
    smooth: bool = True
    """Draw a smoothed line over the faint raw one; else the points themselves."""
    low: FloatArray | None = None
    high: FloatArray | None = None
    color: str | None = None
    """Instead of the run's colour (stacked panels)."""


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    unit: str
    lines: list[Line] = field(repr=False)
    stacked: bool = False
    log: bool = False

    @property
    def labels(self) -> dict[str, int]:
        """Quantities shown, with their line styles; empty if there is only one."""
        labels = {line.label: line.style for line in self.lines}
        return labels if len(labels) > 1 and not self.stacked else {}


def make_panels(runs: Sequence[Run]) -> list[Panel]:
    """Return the panels for which at least one run has data, most telling first."""
    names = list(dict.fromkeys(name for run in runs for name in run.columns))
    panels = [
        _panel(runs, "Reward", {"reward": "reward"}),
        _panel(runs, "Entropy", {"entropy": "entropy"}, zero=True),
        *_evaluation(runs, names),
        _panel(runs, "Covariance of log-prob and advantage", {"covariance": "entropy/covariance"}),
        _panel(
            runs,
            "Entropy change per update",
            {"measured": "entropy/measured_change", "predicted": "entropy/predicted_change"},
        ),
        _touched(runs, names),
        *_verdicts(runs),
        _panel(runs, "Completion length", {"mean": "length/mean", "max": "length/max"}),
        _panel(runs, "Truncated completions", {"truncated": "length/truncated_fraction"}),
        _panel(
            runs, "Groups without a signal", {"zero advantage": "group/zero_advantage_fraction"}
        ),
        _panel(
            runs, "Clipped tokens", {"above": "clip/high_fraction", "below": "clip/low_fraction"}
        ),
        _panel(runs, "Loss", {"loss": "loss"}),
        _panel(runs, "Gradient norm", {"grad norm": "grad_norm"}),
        _panel(runs, "KL from the initial policy", {"kl": "kl"}),
        *_control_statistics(runs, names),
    ]
    return [panel for panel in panels if panel is not None and panel.lines]


def smooth(y: FloatArray) -> FloatArray:
    """Return an exponential moving average over about a twentieth of the points.

    The weights of what is there are normalised, so that the start is not biased.

    Example:
        >>> smooth(np.array([1.0, 2.0]))
        array([1., 2.])
    """
    span = len(y) / 20
    if span < 1:
        return y
    decay = span / (span + 1)
    total = weight = 0.0
    out = np.empty_like(y)
    for i, value in enumerate(y):
        total = decay * total + value
        weight = decay * weight + 1
        out[i] = total / weight
    return out


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a different name for each run: its own, with its folder where another has the same."""
    names = [run.name for run in runs]
    folders = [run.folder.resolve().name for run in runs]
    short = [f"{name} ({folder})" for name, folder in zip(names, folders, strict=True)]
    return [
        name
        if names.count(name) == 1
        else brief
        if short.count(brief) == 1
        else f"{name} ({run.folder})"
        for name, brief, run in zip(names, short, runs, strict=True)
    ]


def _panel(
    runs: Sequence[Run],
    title: str,
    series: dict[str, str],
    *,
    is_smooth: bool = True,
    zero: bool = False,
    bands: bool = False,
) -> Panel:
    lines = []
    for style, (label, name) in enumerate(series.items()):
        for index, run in enumerate(runs):
            x, y = run.series(name)
            if not len(x):
                continue
            low, high = (run.series(f"{name}/{end}")[1] for end in ("low", "high"))
            banded = bands and len(low) == len(high) == len(x)
            lines.append(
                Line(
                    index, label, x, y, style % len(DASHES), is_smooth,
                    low if banded else None, high if banded else None,
                )
            )  # fmt: skip
    unit = metrics.unit(next(iter(series.values()), ""))
    return Panel(title, unit, lines, log=not zero and unit == "0..1" and _spans_decades(lines))


def _spans_decades(lines: Sequence[Line]) -> bool:
    """Whether the typical values of the lines differ so much that a linear axis hides some."""
    typical = [float(np.median(line.y)) for line in lines]
    positive = [v for v in typical if v > 0]
    always = all((line.y > 0).all() for line in lines)
    return always and len(positive) > 1 and max(positive) / min(positive) > 50


def _evaluation(runs: Sequence[Run], names: Sequence[str]) -> list[Panel]:
    sets = dict.fromkeys(n.split("/")[1] for n in names if n.startswith("eval/"))
    panels = []
    for name in sets:
        ks = sorted(
            int(n.rsplit("@", 1)[1]) for n in names if n.startswith(f"eval/{name}/pass@") and n.count("/") == 2
        )  # fmt: skip
        # pass@1 and the largest k: those between lie between.
        shown = {f"pass@{k}": f"eval/{name}/pass@{k}" for k in dict.fromkeys(ks[:1] + ks[-1:])}
        title = f"{name}: {' and '.join(shown)}"
        panels.append(_panel(runs, title, shown, is_smooth=False, bands=True, zero=True))
        distinct = {"distinct": f"eval/{name}/distinct_correct"}
        panels.append(_panel(runs, f"{name}: distinct correct", distinct, is_smooth=False))
        entropy = {"entropy": f"eval/{name}/entropy"}
        panels.append(_panel(runs, f"{name}: entropy", entropy, is_smooth=False))
    return panels


def _controls(names: Sequence[str], keep: Callable[[str], bool]) -> list[str]:
    return sorted(
        n for n in names if n.count("/") == 1 and n.split("/")[0] not in metrics.RESERVED and keep(n)
    )  # fmt: skip


def _touched(runs: Sequence[Run], names: Sequence[str]) -> Panel:
    touched = _controls(names, lambda n: n.endswith("_fraction"))
    labels = {n.removesuffix("_fraction").replace("/", ": ").replace("_", " "): n for n in touched}
    return _panel(runs, "Tokens touched by controls", labels)


def _control_statistics(runs: Sequence[Run], names: Sequence[str]) -> list[Panel]:
    others = _controls(names, lambda n: not n.endswith("_fraction"))
    return [_panel(runs, n.replace("/", ": ").replace("_", " "), {"": n}) for n in others]


def _verdicts(runs: Sequence[Run]) -> list[Panel]:
    if len(runs) > _MOST_RUNS_STACKED:
        dropped = {o: f"verdict/{o}" for o in ("unparsable", *metrics.DROPPED_OUTCOMES)}
        return [_panel(runs, "Verdicts that are neither right nor wrong", dropped, zero=True)]
    panels = []
    for index, (run, name) in enumerate(zip(runs, run_names(runs), strict=True)):
        shares = {
            o: run.columns[f"verdict/{o}"]
            for o in metrics.OUTCOMES
            if f"verdict/{o}" in run.columns
        }
        if not shares:
            continue
        known = ~np.isnan(np.stack(list(shares.values()))).all(axis=0)
        lines = [
            Line(
                index,
                o,
                run.updates[known],
                smooth(np.nan_to_num(y[known])),
                smooth=False,
                color=OUTCOME_COLORS[o],
            )
            for o, y in shares.items()
            if np.nan_to_num(y).any()
        ]
        title = "Verdicts" if len(runs) == 1 else f"Verdicts, {name}"
        panels.append(Panel(title, "share", lines, stacked=True))
    return panels
