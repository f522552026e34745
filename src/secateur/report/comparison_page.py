"""The page of a comparison: the score against each criterion in pictures, the table, and the folders of the models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.report import html, svg
from secateur.report.comparison import BASELINE, OUTSIDE, RUN, TEACHER, Comparison, Criterion, Point, score_of
from secateur.report.comparison_text import notes, table, title
from secateur.report.point_numbers import number_points
from secateur.tasks.splits import is_path

LONGEST = 54
"""Letters of a label, which fit the width of a picture."""

LEGEND = {TEACHER: "dense teacher", OUTSIDE: "model of no run"}
"""Origin of points -> what the legend calls them; a series of runs has its own name."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def to_html(comparison: Comparison) -> str:
    """A standalone page: the pictures, the table, the notes, and the folders of the models."""
    pictures = [
        html.Picture(_picture(comparison, criterion), _caption(comparison, criterion))
        for criterion in comparison.criteria
        if comparison.front(criterion)  # which is empty if no model has a value
    ]
    places = [
        [f"{number} {point.name}", ", ".join(_near(model.place) for model in point.models)]
        for number, point in enumerate(comparison.points, 1)
    ]
    head, rows = table(comparison)
    models = html.DataTable("Mean (lowest-highest); *: on the Pareto front", ["model", *head[1:]], rows, sortable=True)
    sections = [
        html.Section("Score against density, size and speed", [html.Gallery(pictures), html.Notes(notes(comparison))]),
        html.Section("Models", [models]),
        html.Section("Folders", [html.DataTable("Folders of the models", ["", "folders"], places)]),
    ]
    return html.render(title(comparison), sections, f"all on the same {comparison.scored_rows}")


def _near(place: str) -> str:
    """A folder by its last two parts, which tell runs apart on a page that is read elsewhere; a name on the hub."""
    return "/".join(Path(place).parts[-2:]) if is_path(place) else place


def _picture(comparison: Comparison, criterion: Criterion) -> str:
    """A dot for each point, with a label, a bar from its lowest to its highest score, and the Pareto front."""
    with svg.style():
        figure = svg.figure(height=300)
        axes = figure.add_subplot()
        for series, marker in _markers(comparison).items():
            own = [(n, point) for n, point in enumerate(comparison.points) if point.series == series]
            _dots(axes, criterion, own, marker)
        if criterion.logarithmic:
            axes.set_xscale("log")
            svg.plain_powers(axes.xaxis)
        axes.grid(True, axis="y")
        figure.legend(loc="outside lower center", ncols=3, columnspacing=1.0, handletextpad=0.2)
        _front(comparison, axes, criterion)
        best = ", ".join(f"{point.name} {point.score:.4f}" for point in comparison.front(criterion))
        labels = {_gid(n): _lines(comparison, criterion, n) for n in range(len(comparison.points))}
        return svg.svg(figure, _caption(comparison, criterion), f"On the Pareto front: {best}.", labels)


def _gid(number: int) -> str:
    return f"point-{number}"


def _lines(comparison: Comparison, criterion: Criterion, number: int) -> tuple[str, str]:
    """The label of a point: its number and name, as in the table, and what it is at."""
    point = comparison.points[number]
    value = criterion.value(point)
    name = f"{number + 1} {point.name}"
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return short, f"{point.score:.4f} at {'-' if value is None else criterion.form(value)}"


def _caption(comparison: Comparison, criterion: Criterion) -> str:
    return f"{comparison.metric} against {criterion.name}"


def _markers(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Series -> colour and marker: a colour for each method, neutral ones for dense models and models of no run."""
    series = list(dict.fromkeys(point.series for point in comparison.points if point.origin == RUN))
    markers = {name: (svg.SERIES[n % len(svg.SERIES)], "o") for n, name in enumerate(series)}
    origins = {point.origin for point in comparison.points}
    fixed = {TEACHER: (svg.COLOURS["ink"], "D"), OUTSIDE: (svg.COLOURS["muted"], "s")}
    fixed[BASELINE] = (svg.COLOURS["muted"], "^")
    return {**{origin: marker for origin, marker in fixed.items() if origin in origins}, **markers}


def _dots(axes: Axes, criterion: Criterion, points: Sequence[tuple[int, Point]], marker: tuple[str, str]) -> None:
    colour, symbol = marker
    series = points[0][1].series
    label = LEGEND.get(series, series)
    for number, point in points:
        x, scores = criterion.value(point), point.values(score_of)
        if x is not None:
            axes.plot([x, x], [min(scores), max(scores)], color=colour, linewidth=1.2, alpha=0.6)
            axes.plot([x], [point.score], symbol, color=colour, label=label, gid=_gid(number))
            label = "_"  # matplotlib leaves such labels out of the legend


def _front(comparison: Comparison, axes: Axes, criterion: Criterion) -> None:
    """The Pareto front as a line; each of its points has its number in the table."""
    placed = [(criterion.value(point), point) for point in comparison.front(criterion)]
    front = [(x, point) for x, point in placed if x is not None]
    axes.plot(
        [x for x, _ in front], [point.score for _, point in front], color=svg.COLOURS["muted"], linewidth=1.0, zorder=1
    )
    number_points(axes, {str(comparison.points.index(point) + 1): (x, point.score) for x, point in front})
