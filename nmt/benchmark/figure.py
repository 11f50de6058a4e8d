"""Plots that read well: plain numbers at the axes, and names that say no more than what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

MANY_DECADES = 1e3
LOG_FROM = 4.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


def new_figure(width: float, height: float) -> Figure:
    """A figure that draws without a display; what lies beside its axes gets its room."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def log_ticks(axis: Axis) -> None:
    """Tick labels 10, 20, 50 on a logarithmic axis; 10, 100, 1,000 on one of many decades."""
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low < MANY_DECADES else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_formatter(NullFormatter())


def scale_cost(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with plain ticks where values differ much, and room for what stands beside the points."""
    if min(values) > 0 and max(values) / min(values) >= LOG_FROM:
        axes.set_xscale("log")
        log_ticks(axes.xaxis)
    axes.margins(x=0.12, y=0.12)


def distinct_names(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """A name for each row, of the values that are not the same in all rows; of the last key where all are.

    Args:
        rows: with ``keys``; a checkpoint is called by the last part of its path unless two end alike.
        keys: what a name may hold, in its order.
    """
    ends: dict[str, str] = {}
    if "checkpoint" in keys:
        paths = dict.fromkeys(str(row["checkpoint"]) for row in rows)
        names = [Path(path).name for path in paths]
        ends = {path: name if names.count(name) == 1 else path for path, name in zip(paths, names)}
    values = [{key: ends.get(str(row[key]), str(row[key])) for key in keys} for row in rows]
    differing = [key for key in keys if len({value[key] for value in values}) > 1] or [keys[-1]]
    return [", ".join(f"beam {v[key]}" if key == "beam" else v[key] for key in differing) for v in values]


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]], colours: Sequence[str]) -> None:
    """Write a name near each point, in its colour, where it covers no other name or point and nothing cuts it.

    Args:
        axes: with its scales and limits settled.
        points: x, y and name.
        colours: of the names.
    """
    axes.figure.canvas.draw()
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform([p[:2] for p in points])]
    for (x, y, name), colour in zip(points, colours, strict=True):
        label = axes.annotate(name, (x, y), (6, 6), textcoords="offset points", fontsize="small", color=colour)
        for place in [(side, up) for far in (6, 12, 20, 30, 42) for side in (far, -far) for up in (far, -far)]:
            label.set_position(place)
            label.set(ha="left" if place[0] > 0 else "right", va="bottom" if place[1] > 0 else "top")
            box = label.get_window_extent()
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(label.get_window_extent())
