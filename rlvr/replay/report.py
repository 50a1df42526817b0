"""A replay as a table, as numbers in a file and as one picture."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlvr.console import plain_table, plural
from rlvr.monitor.figure import GREY, GRID, INK
from rlvr.monitor.panels import RUN_COLORS
from rlvr.replay.replay import STEPS, Effect, Result
from rlvr.whole_file import whole_file

if TYPE_CHECKING:
    from rich.table import Table

EDGES = (-math.inf, *(round(-0.5 + 0.1 * i, 1) for i in range(31)), math.inf)
"""Of the histogram of weights."""
WIDE = 106
"""Characters of the whole table."""
_LABELS = {"optimizer": "the recipe's optimizer", "sgd": "gradient descent"}


def table(result: Result, *, width: int = WIDE) -> "Table":
    """Return what the methods do, a line each; entropy changes in thousandths of a nat.

    Args:
        result: Of a replay.
        width: Characters there are; with few, the range of weights and the norm are left to the picture.
    """
    columns = _columns(result.effects)
    if width < WIDE:
        columns = {name: cells for name, cells in columns.items() if name not in _DISPENSABLE}
    out = plain_table(gap=2 if width >= WIDE else 1)
    out.add_column("", no_wrap=True)
    for heading in columns:
        out.add_column(heading, justify="right", no_wrap=True)
    for index, effect in enumerate(result.effects):
        out.add_row(effect.name, *(cells[index] for cells in columns.values()))
    return out


_DISPENSABLE = ("weight\n5..95 %", "norm")


def _columns(effects: Sequence[Effect]) -> dict[str, list[str]]:
    def of(cell: Callable[[Effect], str]) -> list[str]:
        return [cell(effect) for effect in effects]

    return {
        "touched": of(lambda effect: _share(effect.touched)),
        "dropped": of(lambda effect: _share(effect.dropped)),
        "added": of(lambda effect: _share(effect.added)),
        "weight\n5..95 %": of(_range),
        "cosine": of(lambda effect: _number(effect.cosine, ".4f")),
        "norm": of(lambda effect: _number(effect.norm_ratio, ".3f")),
        "predicted\nη = 1": of(lambda effect: _number(1000 * effect.predicted, "+.3f")),
        "measured\nSGD": of(lambda effect: _number(1000 * effect.measured["sgd"], "+.3f")),
        "measured\noptimizer": of(
            lambda effect: _number(1000 * effect.measured["optimizer"], "+.3f")
        ),
    }


def _range(effect: Effect) -> str:
    low, high = _quantile(effect, 0.05), _quantile(effect, 0.95)
    return "-" if low is None or high is None else f"{low:.2f}..{high:.2f}"


def _share(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.2%}" if value < 0.0995 else f"{value:.0%}"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _quantile(effect: Effect, share: float) -> float | None:
    values = effect.weights.double().numpy()
    return float(np.quantile(values, share)) if len(values) else None


def summary(result: Result) -> list[str]:
    """Return what the table does not say, a line each."""
    facts = result.facts
    lines = [
        "entropy changes are in thousandths of a nat; docs/replay.md says what each column is",
        f"update    {plural(int(facts['completions']), 'completion')}, {plural(int(facts['tokens']), 'token')}, of "
        f"which {int(facts['tokens_with_gradient'])} have a gradient under plain GRPO; entropy {facts['entropy']:.4f} nats",
    ]
    if len(result.effects) > 2:
        found = correlations(result)
        for name, label in (("predicted", "predicted"), ("first_order", "first order in weights")):
            parts = [f"{_number(found[name][kind], '.2f')} {_LABELS[kind]}" for kind in STEPS]
            lines.append(f"correlation of {label} with measured: {', '.join(parts)}")
    lines += [f"left out  {name}: {why}" for name, why in result.left_out.items()]
    return lines


def correlations(result: Result) -> dict[str, dict[str, float]]:
    """Return the correlations of foretold and measured changes over the methods, by kind of step; NaN: one is constant."""
    found: dict[str, dict[str, float]] = {"predicted": {}, "first_order": {}}
    for kind in STEPS:
        measured = np.array([effect.measured[kind] for effect in result.effects])
        predicted = np.array([effect.predicted for effect in result.effects])
        linear = np.array([effect.first_order[kind] for effect in result.effects])
        found["predicted"][kind] = _correlation(predicted, measured)
        found["first_order"][kind] = _correlation(linear, measured)
    return found


def _correlation(x: Any, y: Any) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else math.nan


def write(result: Result, path: Path, protocol: dict[str, Any]) -> Path:
    """Write every number with what it depends on."""
    content = {
        "protocol": protocol,
        "update": result.facts,
        "correlation": correlations(result),
        "weight_edges": EDGES,
        "methods": [_entry(effect) for effect in result.effects],
        "left_out": result.left_out,
        "versions": {name: version(name) for name in ("rlvr", "torch", "transformers", "trl")},
    }
    path.write_text(json.dumps(_jsonable(content), indent=1, default=str) + "\n", encoding="utf-8")
    return path


def _jsonable(value: Any) -> Any:
    """Return a value whose numbers JSON can hold: null for NaN, a word for infinity."""
    if isinstance(value, dict):
        return {key: _jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _entry(effect: Effect) -> dict[str, Any]:
    quantiles = {f"{share:g}": _quantile(effect, share) for share in (0.05, 0.25, 0.5, 0.75, 0.95)}
    values = effect.weights.double()
    return {
        "name": effect.name,
        "options": effect.options,
        "touched": effect.touched,
        "dropped": effect.dropped,
        "added": effect.added,
        "revived": effect.revived,
        "weight": {
            "mean": float(values.mean()) if len(values) else None,
            "quantiles": quantiles,
            "counts": histogram(effect).tolist(),
        },
        "gradient_cosine": effect.cosine,
        "gradient_norm_ratio": effect.norm_ratio,
        "entropy_change": {
            "predicted": effect.predicted,
            "first_order": effect.first_order,
            "measured": effect.measured,
        },
    }


def histogram(effect: Effect) -> Any:
    """Return the tokens in each bin of `EDGES`."""
    # a weight of exactly 1 lies in the middle of a bin, not at its edge
    return np.histogram(effect.weights.double().numpy() + 0.05, bins=np.array(EDGES))[0]


def figure(result: Result, path: Path) -> Path:
    """Draw weights, gradients and entropy changes of the methods as one PNG image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    effects = result.effects
    height = max(1.6 + 0.27 * len(effects), 5.2)
    drawing = Figure(figsize=(18, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(drawing)
    weights, gradient, logits, linear = drawing.subplots(
        1, 4, gridspec_kw={"width_ratios": (1.2, 0.75, 1.1, 1.1)}
    )
    _draw_weights(weights, effects)
    _draw_gradients(gradient, effects)
    found = correlations(result)
    by_logits = {kind: [effect.predicted for effect in effects] for kind in STEPS}
    by_weights = {kind: [effect.first_order[kind] for effect in effects] for kind in STEPS}
    _draw_changes(logits, effects, by_logits, found["predicted"])
    _style(
        logits, "Entropy change, logits apart", "predicted for a step of 1 on logits, 0.001 nats"
    )
    logits.set_ylabel("measured, 0.001 nats", fontsize=8.5, color=GREY)
    _draw_changes(linear, effects, by_weights, found["first_order"])
    _style(linear, "Entropy change, weights shared", "first order in the weights, 0.001 nats")
    low, high = _span([*by_weights["optimizer"], *by_weights["sgd"]])
    linear.plot([low, high], [low, high], color="#9aa1ac", lw=0.8, ls=":", zorder=1)
    with whole_file(path) as partial:
        drawing.savefig(partial, dpi=130, format="png")
    return path


def _style(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", weight="bold", pad=7)
    axes.set_xlabel(unit, fontsize=8.5, color=GREY)
    axes.tick_params(labelsize=8, colors=GREY, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c4c8cf")
    axes.set_axisbelow(True)


def _draw_weights(axes: Any, effects: Sequence[Effect]) -> None:
    """A strip for each method: the share of tokens at each weight."""
    counts = np.stack([histogram(effect) for effect in effects]).astype(float)
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    # a share of 1 in 1000 has to be seen beside one of 999
    shown = np.where(shares > 0, np.log10(np.maximum(shares, 1e-4)), np.nan)
    left, right = EDGES[1] - 0.15, EDGES[-2] + 0.05
    drawn = axes.imshow(
        shown, aspect="auto", cmap="Blues", vmin=-4.6, vmax=0,
        extent=(left, right, len(effects) - 0.5, -0.5), interpolation="nearest",
    )  # fmt: skip
    axes.set_yticks(range(len(effects)), [effect.name for effect in effects])
    for line in np.arange(len(effects)) - 0.5:
        axes.axhline(line, color="white", lw=1.5)
    axes.axvline(1, color=RUN_COLORS[1], lw=0.8, ls=":")
    _style(axes, "Weights of tokens", "gradient of a token's loss / that of plain GRPO")
    axes.tick_params(axis="y", labelsize=9, labelcolor=INK)
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.035, pad=0.02, ticks=[-4, -3, -2, -1, 0])
    bar.ax.set_yticklabels(["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    bar.ax.tick_params(labelsize=7.5, colors=GREY, length=0)
    bar.outline.set_visible(False)


def _draw_gradients(axes: Any, effects: Sequence[Effect]) -> None:
    place = np.arange(len(effects))
    cosines = [effect.cosine if math.isfinite(effect.cosine) else 0.0 for effect in effects]
    axes.barh(place, cosines, height=0.62, color=RUN_COLORS[0], label="cosine to plain GRPO")
    axes.plot(
        [effect.norm_ratio for effect in effects], place, ls="", marker="|", ms=9, mew=2,
        color=RUN_COLORS[1], label="norm / norm of plain GRPO",
    )  # fmt: skip
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.axvline(0, color="#9aa1ac", lw=0.8)
    _style(axes, "Gradient", "")
    _legend(axes)


def _span(values: Sequence[float]) -> tuple[float, float]:
    return 1000 * min(values), 1000 * max(values)


def _draw_changes(
    axes: Any,
    effects: Sequence[Effect],
    foretold: Mapping[str, Sequence[float]],
    correlation: Mapping[str, float],
) -> None:
    """A point for each method and kind of step: foretold against measured."""
    for number, kind in enumerate(STEPS):
        x = 1000 * np.array(foretold[kind])
        y = 1000 * np.array([effect.measured[kind] for effect in effects])
        label = f"{_LABELS[kind]}, correlation {_number(correlation[kind], '.2f')}"
        axes.plot(
            x, y, ls="", marker="os"[number], ms=6, color=RUN_COLORS[1 - number], alpha=0.8,
            mec="white", label=label,
        )  # fmt: skip
        for effect, at, height in _labelled(effects, x, y):
            axes.annotate(
                effect.name, (at, height), xytext=(4, 4), textcoords="offset points",
                fontsize=7.5, color=INK,
            )  # fmt: skip
    axes.axhline(0, color="#9aa1ac", lw=0.8, zorder=1)
    axes.axvline(0, color="#9aa1ac", lw=0.8, zorder=1)
    axes.grid(color=GRID, lw=0.8)
    axes.margins(x=0.16, y=0.1)
    _legend(axes)


def _legend(axes: Any) -> None:
    axes.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(0, -0.11), frameon=False)


def _labelled(effects: Sequence[Effect], x: Any, y: Any) -> list[tuple[Effect, float, float]]:
    """Return the points that get a name: those that no earlier name would cover, plain GRPO first."""
    spans = (max(np.ptp(x), 1e-12), max(np.ptp(y), 1e-12))
    taken: list[tuple[float, float]] = []
    chosen = []
    for effect, at, height in zip(effects, x, y, strict=True):
        place = (at / spans[0], height / spans[1])
        if all(abs(place[0] - a) > 0.16 or abs(place[1] - b) > 0.05 for a, b in taken):
            taken.append(place)
            chosen.append((effect, float(at), float(height)))
    return chosen
