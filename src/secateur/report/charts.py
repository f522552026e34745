"""Charts of a run's report. A row is a layer, and the filled part of a box is the part that was kept.

Every function returns a figure; `svg.svg` makes an SVG element of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from secateur.report.svg import COLOURS, SERIES, WIDTH, figure, plain_powers, style
from secateur.system.quantities import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Steps, and a value at each of them."""
Corners: TypeAlias = Sequence[tuple[float, float]]
"""The points (x, y) of a polygon."""

ROW = 22
"""Height of a row in pixels."""
LEFT, RIGHT = 26, 6
"""Margins in pixels."""
MOST_NUMBERS = 16
"""Numbers of heads that fit above a chart."""
FILLED, TRACK = COLOURS["series-1"], COLOURS["track"]


def by_head(kept: Sequence[Sequence[int]], size: int, labels: Sequence[str] = ()) -> Figure:
    """A box for each head, of whose `size` dims `kept[layer][head]` are filled; that of a removed head is empty."""
    with style():
        chart, axes = _rows(len(kept), heading=20, labels=labels)
        heads = max(map(len, kept))
        boxes = [(head + 0.07, layer, 0.86, n / size) for layer, row in enumerate(kept) for head, n in enumerate(row)]
        _fill(axes, [_box(x, row, width) for x, row, width, _ in boxes], TRACK)
        _fill(axes, [_box(x, row, width * share) for x, row, width, share in boxes if share], FILLED)
        axes.set_xlim(0, heads)
        axes.xaxis.tick_top()
        numbered = range(0, heads, -(-heads // MOST_NUMBERS))
        axes.set_xticks([head + 0.5 for head in numbered], [str(head) for head in numbered])
    return chart


def by_layer(rows: Sequence[tuple[str, int, int]]) -> Figure:
    """A bar for each row (label, kept, total), with its numbers."""
    return bars([(label, kept / total, f"{kept:,} / {total:,}") for label, kept, total in rows])


def bars(rows: Sequence[tuple[str, float, str]]) -> Figure:
    """A bar for each row (label, filled fraction, text beside it)."""
    with style():
        widest = max(len(text) for _, _, text in rows)
        chart, axes = _rows(len(rows), heading=20, labels=[label for label, _, _ in rows], right=8 + 7 * widest)
        _fill(axes, [_box(0, row, 1) for row in range(len(rows))], TRACK)
        _fill(axes, [_box(0, row, fraction) for row, (_, fraction, _) in enumerate(rows) if fraction], FILLED)
        axes.set_xlim(0, 1)
        axes.set_xticks([])
        for row, (_, _, text) in enumerate(rows):
            axes.annotate(text, (1, row + 0.5), (6, 0), textcoords="offset pixels", va="center")
    return chart


def stacked(rows: Sequence[tuple[str, Mapping[str, float], str]]) -> Figure:
    """A bar for each row (label, part -> value, text beside it), of one coloured piece for each part.

    The longest bar has the whole width.
    """
    with style():
        widest = max(len(text) for _, _, text in rows)
        chart, axes = _rows(len(rows), heading=24, labels=[label for label, _, _ in rows], right=8 + 7 * widest)
        axes.set_xlim(0, max(sum(parts.values()) for _, parts, _ in rows) or 1)
        axes.set_xticks([])
        names = list(dict.fromkeys(name for _, parts, _ in rows for name in parts))
        colours = dict(zip(names, SERIES, strict=False))
        for name, colour in colours.items():
            _fill(axes, [_piece(row, parts, name) for row, (_, parts, _) in enumerate(rows) if parts.get(name)], colour)
        for row, (_, parts, text) in enumerate(rows):
            axes.annotate(text, (sum(parts.values()), row + 0.5), (6, 0), textcoords="offset pixels", va="center")
        _legend(chart, colours, None, marker="s")
    return chart


def _piece(row: int, parts: Mapping[str, float], name: str) -> Corners:
    """The box of a part, after those of the parts before it."""
    before = list(parts)[: list(parts).index(name)]
    return _box(sum(parts[one] for one in before), row, parts[name])


def by_time(curves: Sequence[tuple[str, Curve, int]], steps: int, borders: Sequence[float] = ()) -> Figure:
    """A band for each (label, units kept over steps, total), as high as the part that is kept at each step.

    Args:
        borders: steps at which a dashed line crosses all bands.
    """
    with style():
        chart, axes = _rows(len(curves), heading=0, labels=[label for label, _, _ in curves], below=20)
        _fill(axes, [_box(0, row, steps) for row in range(len(curves))], TRACK)
        _fill(axes, [_band(row, curve, total, steps) for row, (_, curve, total) in enumerate(curves)], FILLED)
        for step in borders:
            axes.axvline(step, color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlim(0, steps)
        axes.set_xticks([0, steps], ["0", quantity(steps, "step")])
        _inward(axes)
    return chart


def over_stages(
    stages: Sequence[tuple[str, int, Mapping[str, Curve]]],
    *,
    level: tuple[str, float] | None = None,
    log: bool = False,
    floor: float | None = None,
) -> Figure:
    """Lines over steps, in a panel for each stage.

    Args:
        stages: for each stage its name, its number of steps, and label -> curve.
        level: label and value of a dashed line across all panels, to compare with.
        log: whether the y-axis is logarithmic; a curve has a gap where it is not positive.
        floor: the lowest value of the y-axis.
    """
    with style():
        chart = figure(WIDTH, 190)
        names = list(dict.fromkeys(name for _, _, curves in stages for name in curves))
        panels: Any = chart.subplots(1, len(stages), sharey=True, squeeze=False)[0]
        colours = dict(zip(names, SERIES, strict=False))
        for axes, (stage, steps, curves) in zip(panels, stages, strict=True):
            _panel(axes, stage, steps, level)
            for name, (x, y) in curves.items():
                marker = "o" if len(x) < 12 else ""
                axes.plot(x, y, color=colours.get(name, SERIES[-1]), marker=marker, clip_on=False)
        _scale(panels[0], log, floor)
        _legend(chart, {name: colours.get(name, SERIES[-1]) for name in names}, level)
    return chart


def expected(
    rows: Sequence[tuple[float, float, float, float]], measured: tuple[float, float], level: tuple[str, float]
) -> Figure:
    """Expected values over the density, on a logarithmic scale, as a line in a band, and the one measured as a dot.

    Args:
        rows: (density, expected, lowest, highest).
        measured: density and value.
        level: label and value of a dashed line, to compare with.
    """
    with style():
        chart = figure(WIDTH, 210)
        axes = chart.add_subplot()
        densities, _, low, high = zip(*sorted(rows), strict=True)
        axes.fill_between(densities, low, high, color=FILLED, alpha=0.18, linewidth=0)
        line = sorted([*((density, value) for density, value, _, _ in rows), measured])
        axes.plot(*zip(*line, strict=True), color=FILLED)
        axes.plot(*measured, "o", color=SERIES[1], clip_on=False)
        axes.axhline(level[1], color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xscale("log")
        plain_powers(axes.xaxis)
        axes.grid(axis="y")
        axes.set_xlabel("density")
        _scale(axes, False, None)
        _legend(chart, {"expected": FILLED, "this run": SERIES[1]}, level)
    return chart


def described(name: str, curve: Curve) -> str:
    """The first and the last value of a curve in words, for screen readers."""
    return f"{name} from {curve[1][0]:.6g} to {curve[1][-1]:.6g}"


def _rows(
    count: int, *, heading: int, labels: Sequence[str] = (), right: int = RIGHT, below: int = 6
) -> tuple[Figure, Axes]:
    """A figure with rows of `ROW` pixels, the first on top, labelled (by default numbered) at the left."""
    names = list(labels) or [str(row) for row in range(count)]
    left = max(LEFT, 12 + 7 * max(map(len, names)))
    height = heading + ROW * count + below
    chart = figure(WIDTH, height)
    chart.set_layout_engine("none")
    axes = chart.add_axes((left / WIDTH, below / height, (WIDTH - left - right) / WIDTH, ROW * count / height))
    axes.set_ylim(count, 0)
    axes.set_yticks([row + 0.5 for row in range(count)], names)
    axes.tick_params(length=0, pad=4)
    axes.spines[:].set_visible(False)
    return chart, axes


def _box(x: float, row: int, width: float) -> Corners:
    top, bottom = row + 0.14, row + 0.86
    return [(x, top), (x + width, top), (x + width, bottom), (x, bottom)]


def _band(row: int, curve: Curve, total: int, steps: int) -> Corners:
    """The shape of a step function: all units until the first count, and each count until the next one or the end."""
    edges = [(0.0, total), *zip(*curve, strict=True), (float(steps), curve[1][-1])]
    bottom, height = row + 0.86, 0.72
    corners = [(0.0, bottom)]
    for (x, kept), (until, _) in pairwise(edges):
        corners += [(x, bottom - height * kept / total), (until, bottom - height * kept / total)]
    return [*corners, (float(steps), bottom)]


def _fill(axes: Axes, shapes: Sequence[Corners], colour: str) -> None:
    """Draw the shapes as one path, so that the SVG of a large model remains small."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if shapes:
        closed = [Path([*corners, corners[0]], closed=True) for corners in shapes]
        axes.add_patch(PathPatch(Path.make_compound_path(*closed), facecolor=colour, edgecolor="none"))


def _inward(axes: Axes) -> None:
    """Align the first and the last label of the x-axis within its ends."""
    labels = axes.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")


def _panel(axes: Axes, stage: str, steps: int, level: tuple[str, float] | None) -> None:
    axes.set_xlim(0, steps)
    axes.set_xticks([steps / 2], [f"{stage}\n{quantity(steps, 'step')}"])
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    if level is not None:
        axes.axhline(level[1], color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 3)))


def _scale(axes: Axes, log: bool, floor: float | None) -> None:
    """Label the y-axis with few, plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axes.margins(y=0.08)
    if log:
        axes.set_yscale("log", nonpositive="mask")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.set_ylim(bottom=floor)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("e-0", "e-")))


def _legend(chart: Figure, colours: Mapping[str, str], level: tuple[str, float] | None, marker: str = "") -> None:
    """Add a legend above the panels; a single line needs none, as the caption names it.

    Args:
        marker: what stands for a colour, in place of a line.
    """
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=name, marker=marker, linestyle="" if marker else "-")
        for name, colour in colours.items()
    ]
    if level is not None:
        handles.append(Line2D([], [], color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 3)), label=level[0]))
    if len(handles) > 1:
        chart.legend(handles=handles, loc="outside upper left", ncols=3, borderpad=0, columnspacing=1.2)
