"""The page of a comparison: what a score costs, drawn, the table, and where the models are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.report import html, svg
from secateur.report.comparison import OUTSIDE, RUN, TEACHER, Axis, Comparison, Point, score_of


def to_html(found: Comparison) -> str:
    """A page of its own: the pictures, the table, the notes, and where the models are."""
    drawn = html.Gallery([html.Picture(_drawn(found, axis), _caption(found, axis)) for axis in found.axes])
    places = [
        [f"{number} {point.name}", ", ".join(entry.place for entry in point.entries)]
        for number, point in enumerate(found.points, 1)
    ]
    sections = [
        html.Section("What a score costs", [drawn, html.Notes(found.notes())]),
        html.Section("Every model", [html.Table("Mean (lowest-highest); *: on the front", *found.table())]),
        html.Section("Where they are", [html.Table("Folders", ["", "folders"], places)]),
    ]
    return html.render(found.title, sections, f"all on the same {found.rows:,} validation rows")


# Drawn


def _drawn(found: Comparison, axis: Axis) -> str:
    """Score against one axis: a dot a point, a line from its lowest to its highest, the front joined."""
    with svg.style():
        figure = svg.figure(height=300)
        axes = figure.add_subplot()
        for series, look in _looks(found).items():
            _dots(axes, axis, [point for point in found.points if point.series == series], look)
        _joined(found, axes, axis)
        if axis.logarithmic:
            axes.set_xscale("log")
            svg.plain_powers(axes.xaxis)
        axes.grid(True, axis="y")
        figure.legend(loc="outside lower center", ncols=3, columnspacing=1.0, handletextpad=0.2)
        best = ", ".join(f"{point.name} {point.score:.4f}" for point in found.front(axis))
        return svg.svg(figure, _caption(found, axis), f"On the front: {best}.")


def _caption(found: Comparison, axis: Axis) -> str:
    return f"{found.metric} against {axis.name}"


def _looks(found: Comparison) -> dict[str, tuple[str, str]]:
    """Series -> colour and marker: ink for what is dense or from outside, a colour for each method."""
    series = list(dict.fromkeys(point.series for point in found.points if point.kind == RUN))
    looks = {name: (svg.SERIES[n % len(svg.SERIES)], "o") for n, name in enumerate(series)}
    there = {point.kind for point in found.points}
    fixed = {TEACHER: (svg.COLOURS["ink"], "D"), OUTSIDE: (svg.COLOURS["muted"], "s")}
    return {**{kind: look for kind, look in fixed.items() if kind in there}, **looks}


def _dots(axes: Any, axis: Axis, points: Sequence[Point], look: tuple[str, str]) -> None:
    colour, marker = look
    label = points[0].series
    for point in points:
        x, scores = axis.value(point), point.values(score_of)
        if x is not None:
            axes.plot([x, x], [min(scores), max(scores)], color=colour, linewidth=1.2, alpha=0.6)
            axes.plot([x], [point.score], marker, color=colour, label=label)
            label = "_"  # matplotlib leaves such names out of the legend


def _joined(found: Comparison, axes: Any, axis: Axis) -> None:
    """The front as a line, each of its points with its number in the table."""
    front = found.front(axis)
    xs, scores = [axis.value(point) for point in front], [point.score for point in front]
    axes.plot(xs, scores, color=svg.COLOURS["muted"], linewidth=1.0, zorder=1)
    for point, x in zip(front, xs, strict=True):
        number = str(found.points.index(point) + 1)
        axes.annotate(number, (x, point.score), (0, 6), textcoords="offset points", ha="center", fontsize=9)
