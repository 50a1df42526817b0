"""Curves of one or several runs as a PNG image and as one HTML file that needs no network."""

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.monitor.panels import DASHES, RUN_COLORS, Line, Panel, make_panels, run_names, smooth
from rlvr.monitor.store import Run
from rlvr.monitor.summary import final_values
from rlvr.whole_file import whole_file

INK = "#2b2f36"
GREY = "#6b7280"
GRID = "#e8eaee"


def draw(runs: Sequence[Run], stem: Path, *, title: str = "") -> tuple[Path, Path]:
    """Draw the curves of `runs`; returns the paths `<stem>.png` and `<stem>.html`.

    Each file is written beside its place and renamed, so that a viewer never sees a half.

    Raises:
        ValueError: No run has anything to draw.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, page = (stem.with_name(stem.name + end) for end in (".png", ".html"))
    for path, write in ((png, draw_png), (page, draw_html)):
        with whole_file(path) as partial:
            write(runs, partial, title=title)
    return png, page


def draw_png(runs: Sequence[Run], path: Path, *, title: str = "", columns: int = 3) -> None:
    """Draw the curves as a PNG image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = _require(make_panels(runs))
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = 4.9 * columns, 3.1 * rows + 0.75
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for column in range(columns):  # the lowest panel of each column names the x axis
        lowest = [i for i in range(len(panels)) if i % columns == column][-1]
        grid.flat[lowest].set_xlabel("update", fontsize=8.5, color=GREY)
    top = 1 - 0.62 / height
    figure.tight_layout(rect=(0, 0, 1, top), h_pad=1.6, w_pad=1.6)
    names = run_names(runs)
    if title:
        figure.text(
            0.012, 1 - 0.16 / height, title, fontsize=12, weight="bold", color=INK, va="top"
        )
    handles = [Line2D([], [], color=_color(i), lw=2.5) for i in range(len(names))]
    figure.legend(
        handles, names, loc="upper right" if title else "upper left", ncols=min(len(names), 5),
        bbox_to_anchor=(0.995, 1 - 0.08 / height) if title else (0.005, 1 - 0.08 / height),
        frameon=False, fontsize=10, labelcolor=INK,
    )  # fmt: skip
    figure.savefig(path, dpi=130, format="png")


def _draw_panel(axes: Any, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=10.5, color=INK, loc="left", weight="bold", pad=7)
    axes.set_title(panel.unit, fontsize=8.5, color=GREY, loc="right", pad=7)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=GREY, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c4c8cf")
    if panel.stacked:
        axes.stackplot(
            panel.lines[0].x, [line.y for line in panel.lines],
            colors=[line.color for line in panel.lines], labels=[line.label for line in panel.lines], lw=0,
        )  # fmt: skip
        axes.set_ylim(0, 1)
        axes.margins(x=0)
        axes.legend(fontsize=7.5, loc="lower left", framealpha=0.85, edgecolor="none", ncols=2)
        return
    for line in panel.lines:
        _draw_line(axes, line)
    if panel.log:
        axes.set_yscale("log")
    elif (
        min(float(line.y.min()) for line in panel.lines)
        < 0
        < max(float(line.y.max()) for line in panel.lines)
    ):
        axes.axhline(0, color="#9aa1ac", lw=0.8, zorder=1)
    if panel.labels:
        from matplotlib.lines import Line2D

        handles = [
            Line2D([], [], color=GREY, lw=1.6, ls=_mpl_dash(s)) for s in panel.labels.values()
        ]
        axes.legend(
            handles, list(panel.labels), fontsize=7.5, frameon=True, framealpha=0.8,
            edgecolor="none", loc="best", handlelength=2.6, labelcolor=INK,
        )  # fmt: skip


def _draw_line(axes: Any, line: Line) -> None:
    color = _color(line.run)
    style = _mpl_dash(line.style)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.10, lw=0)
    if not line.smooth:
        axes.plot(line.x, line.y, color=color, lw=1.8, ls=style, marker="o", ms=3.5)
        return
    smoothed = smooth(line.y)
    if smoothed is not line.y:
        axes.plot(line.x, line.y, color=color, lw=0.7, alpha=0.25)
    single = {"marker": "o", "ms": 3.5} if len(line.x) == 1 else {}
    axes.plot(line.x, smoothed, color=color, lw=1.8, ls=style, **single)


def draw_html(runs: Sequence[Run], path: Path, *, title: str = "", columns: int = 3) -> None:
    """Draw the curves as one HTML file with hover, zoom and a table of final values."""
    panels = _require(make_panels(runs))
    figure = _plotly_figure(panels, run_names(runs), min(columns, len(panels)))
    body = figure.to_html(
        full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True}
    )
    title = title or ", ".join(run_names(runs))
    path.write_text(
        _PAGE.format(title=html.escape(title), runs=_legend(runs), table=_table(runs), figure=body),
        encoding="utf-8",
    )


def _plotly_figure(panels: Sequence[Panel], names: Sequence[str], columns: int) -> Any:
    from plotly.subplots import make_subplots

    rows = math.ceil(len(panels) / columns)
    height = 285 * rows
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=[_panel_title(p) for p in panels],
        vertical_spacing=72 / height, horizontal_spacing=0.055,
    )  # fmt: skip
    for index, panel in enumerate(panels):
        at = {"row": index // columns + 1, "col": index % columns + 1}
        for line in panel.lines:
            for trace in _traces(panel, line, names[line.run]):
                figure.add_trace(trace, **at)
        figure.update_yaxes(type="log" if panel.log else "linear", **at)
        if panel.stacked:
            figure.update_yaxes(range=[0, 1], **at)
    figure.update_annotations(font_size=13, font_color=INK)
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor="#c4c8cf", tickfont_size=10)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor="#c4c8cf", tickfont_size=10)
    figure.update_layout(
        height=height + 60, margin={"l": 50, "r": 20, "t": 50, "b": 40}, plot_bgcolor="white",
        paper_bgcolor="white", showlegend=False, hovermode="x", font={"color": GREY},
        hoverlabel={"font_size": 11},
    )  # fmt: skip
    return figure


def _traces(panel: Panel, line: Line, name: str) -> list[Any]:
    from plotly import graph_objects as go

    color = line.color or _color(line.run)
    label = (
        name if not line.label or not (panel.labels or panel.stacked) else f"{name}: {line.label}"
    )
    x = line.x.tolist()
    hover = {"name": label, "hovertemplate": f"%{{y:.4g}} {html.escape(label)}<extra></extra>"}
    if panel.stacked:
        style = {"width": 0, "color": color}
        return [go.Scatter(x=x, y=line.y.tolist(), stackgroup="shares", fillcolor=color, line=style, **hover)]  # fmt: skip
    style = {"color": color, "width": 2, "dash": DASHES[line.style]}
    if not line.smooth:
        bars = {}
        if line.low is not None and line.high is not None:
            bars["error_y"] = {
                "array": (line.high - line.y).tolist(), "arrayminus": (line.y - line.low).tolist(),
                "thickness": 1, "width": 3, "color": color,
            }  # fmt: skip
        return [
            go.Scatter(x=x, y=line.y.tolist(), mode="lines+markers", line=style, **bars, **hover)
        ]
    smoothed = smooth(line.y)
    traces = [go.Scatter(x=x, y=smoothed.tolist(), mode="lines" if len(x) > 1 else "markers", line=style, marker={"color": color}, **hover)]  # fmt: skip
    if smoothed is not line.y:
        raw = {"color": color, "width": 1}
        traces.insert(0, go.Scatter(x=x, y=line.y.tolist(), mode="lines", line=raw, opacity=0.25, hoverinfo="skip"))  # fmt: skip
    return traces


def _panel_title(panel: Panel) -> str:
    title = f"<b>{html.escape(panel.title)}</b> <span style='color:{GREY}'>{panel.unit}</span>"
    if panel.stacked:
        keys = [
            f"<span style='color:{line.color}'>■</span> {html.escape(line.label)}"
            for line in panel.lines
        ]
    else:
        marks = {"solid": "──", "dash": "╌╌", "dot": "┈┈", "dashdot": "─·"}
        keys = [f"{marks[DASHES[s]]} {html.escape(name)}" for name, s in panel.labels.items()]
    return f"{title}<br><span style='font-size:10px'>{'  '.join(keys)}</span>" if keys else title


def _legend(runs: Sequence[Run]) -> str:
    return "".join(
        f'<span class="run"><i style="background:{_color(i)}"></i>{html.escape(name)}'
        f"<small>{html.escape(str(run.folder))}, {int(run.updates[-1])} updates</small></span>"
        for i, (name, run) in enumerate(zip(run_names(runs), runs, strict=True))
    )


def _table(runs: Sequence[Run]) -> str:
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in run_names(runs))
    rows = "".join(
        f"<tr><td>{html.escape(row.label)}<small>{html.escape(row.unit)}</small></td>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells)
        + "</tr>"
        for row in final_values(runs)
    )
    return f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _color(run: int) -> str:
    return RUN_COLORS[run % len(RUN_COLORS)]


def _mpl_dash(style: int) -> Any:
    return ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))[style]


def _require(panels: list[Panel]) -> list[Panel]:
    if not panels:
        raise ValueError("there is nothing to draw: the runs have no metrics but the update")
    assert all(np.isfinite(line.y).all() for p in panels for line in p.lines), "store reads NaN out"
    return panels


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; color: #2b2f36; margin: 24px auto; max-width: 1500px; padding: 0 20px; }}
h1 {{ font-size: 20px; margin: 0 0 10px; }}
.run {{ display: inline-block; margin: 0 26px 8px 0; font-weight: 600; }}
.run i {{ display: inline-block; width: 22px; height: 4px; border-radius: 2px; margin-right: 8px; vertical-align: middle; }}
small {{ color: #6b7280; font-weight: 400; margin-left: 8px; }}
table {{ border-collapse: collapse; margin: 10px 0 18px; }}
th, td {{ padding: 3px 16px 3px 0; text-align: right; border-bottom: 1px solid #e8eaee; font-variant-numeric: tabular-nums; }}
td:first-child {{ text-align: left; }}
p {{ color: #6b7280; }}
</style></head><body>
<h1>{title}</h1>
<div>{runs}</div>
{table}
{figure}
<p>Smoothed lines over faint raw ones; drag to zoom, double-click to reset. An arrow in the table goes from the
first to the last value.</p>
</body></html>
"""
