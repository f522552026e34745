"""What the report of a run draws. A row is a layer, and the filled part of a box is the part that is kept.

Every function gives the figure alone; `pictures.svg` makes it text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from secateur.report.svg import COLOURS, SERIES, WIDTH, figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve: TypeAlias = tuple[Sequence[float], Sequence[float]]
Corners: TypeAlias = Sequence[tuple[float, float]]

ROW = 22  # pixels
LEFT, RIGHT = 26, 6
MOST_NUMBERS = 16  # that fit above the heads
FILLED, TRACK = COLOURS["series-1"], COLOURS["track"]


def by_head(kept: Sequence[Sequence[int]], size: int, labels: Sequence[str] = ()) -> Figure:
    """A box for each head, `kept[layer][head]` of its `size` dims filled; a dead head's is empty."""
    with style():
        drawn, axes = _rows(len(kept), heading=20, labels=labels)
        heads = max(map(len, kept))
        boxes = [(head + 0.07, layer, 0.86, n / size) for layer, row in enumerate(kept) for head, n in enumerate(row)]
        _fill(axes, [_box(x, row, width) for x, row, width, _ in boxes], TRACK)
        _fill(axes, [_box(x, row, width * share) for x, row, width, share in boxes if share], FILLED)
        axes.set_xlim(0, heads)
        axes.xaxis.tick_top()
        numbered = range(0, heads, -(-heads // MOST_NUMBERS))
        axes.set_xticks([head + 0.5 for head in numbered], [str(head) for head in numbered])
    return drawn


def by_layer(rows: Sequence[tuple[str, int, int]]) -> Figure:
    """A bar for each row (what, kept, total), with its numbers."""
    with style():
        widest = max(len(f"{kept:,} / {total:,}") for _, kept, total in rows)
        drawn, axes = _rows(len(rows), heading=20, labels=[what for what, _, _ in rows], right=8 + 7 * widest)
        _fill(axes, [_box(0, row, 1) for row in range(len(rows))], TRACK)
        _fill(axes, [_box(0, row, kept / total) for row, (_, kept, total) in enumerate(rows) if kept], FILLED)
        axes.set_xlim(0, 1)
        axes.set_xticks([])
        for row, (_, kept, total) in enumerate(rows):
            text = f"{kept:,} / {total:,}"
            axes.annotate(text, (1, row + 0.5), (6, 0), textcoords="offset pixels", va="center")
    return drawn


def by_time(curves: Sequence[tuple[str, Curve, int]], steps: int) -> Figure:
    """A band for each (what, units kept over steps, total): as high as the part that is kept at that step."""
    with style():
        drawn, axes = _rows(len(curves), heading=0, labels=[what for what, _, _ in curves], below=20)
        _fill(axes, [_box(0, row, steps) for row in range(len(curves))], TRACK)
        _fill(axes, [_band(row, curve, total, steps) for row, (_, curve, total) in enumerate(curves)], FILLED)
        axes.set_xlim(0, steps)
        axes.set_xticks([0, steps], ["0", f"{steps:,} steps"])
        _inward(axes)
    return drawn


def over_stages(
    stages: Sequence[tuple[str, int, Mapping[str, Curve]]],
    *,
    level: tuple[str, float] | None = None,
    log: bool = False,
    floor: float | None = None,
) -> Figure:
    """Lines over steps, a panel for each stage (its name, its steps, and what is drawn in it: name -> curve).

    Args:
        level: something to compare with, as a dashed line across all panels.
        log: whether equal factors are equal heights; only for what is above 0.
        floor: where the axis begins.
    """
    with style():
        drawn = figure(WIDTH, 190)
        names = list(dict.fromkeys(name for _, _, curves in stages for name in curves))
        panels: Any = drawn.subplots(1, len(stages), sharey=True, squeeze=False)[0]
        colours = dict(zip(names, SERIES, strict=False))
        for axes, (stage, steps, curves) in zip(panels, stages, strict=True):
            _panel(axes, stage, steps, level)
            for name, (x, y) in curves.items():
                marker = "o" if len(x) < 12 else ""
                axes.plot(x, y, color=colours.get(name, SERIES[-1]), marker=marker, clip_on=False)
        _scale(panels[0], log, floor)
        _legend(drawn, {name: colours.get(name, SERIES[-1]) for name in names}, level)
    return drawn


def _rows(
    count: int, *, heading: int, labels: Sequence[str] = (), right: int = RIGHT, below: int = 6
) -> tuple[Figure, Axes]:
    """A figure whose rows are `ROW` pixels high, the first on top, numbered or labelled at the left."""
    names = list(labels) or [str(row) for row in range(count)]
    left = max(LEFT, 12 + 7 * max(map(len, names)))
    height = heading + ROW * count + below
    drawn = figure(WIDTH, height)
    drawn.set_layout_engine("none")
    axes = drawn.add_axes((left / WIDTH, below / height, (WIDTH - left - right) / WIDTH, ROW * count / height))
    axes.set_ylim(count, 0)
    axes.set_yticks([row + 0.5 for row in range(count)], names)
    axes.tick_params(length=0, pad=4)
    axes.spines[:].set_visible(False)
    return drawn, axes


def _box(x: float, row: int, width: float) -> Corners:
    top, bottom = row + 0.14, row + 0.86
    return [(x, top), (x + width, top), (x + width, bottom), (x, bottom)]


def _band(row: int, curve: Curve, total: int, steps: int) -> Corners:
    """All kept until the first count; a count holds until the next one, and the last until the end."""
    edges = [(0.0, total), *zip(*curve, strict=True), (float(steps), curve[1][-1])]
    bottom, height = row + 0.86, 0.72
    corners = [(0.0, bottom)]
    for (x, kept), (until, _) in pairwise(edges):
        corners += [(x, bottom - height * kept / total), (until, bottom - height * kept / total)]
    return [*corners, (float(steps), bottom)]


def _fill(axes: Axes, shapes: Sequence[Corners], colour: str) -> None:
    """Many shapes as one path: a picture of a large model stays small."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if shapes:
        closed = [Path([*corners, corners[0]], closed=True) for corners in shapes]
        axes.add_patch(PathPatch(Path.make_compound_path(*closed), facecolor=colour, edgecolor="none"))


def _inward(axes: Axes) -> None:
    """The first and last label of the x-axis stand within its ends."""
    labels = axes.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")


def _panel(axes: Axes, stage: str, steps: int, level: tuple[str, float] | None) -> None:
    axes.set_xlim(0, steps)
    axes.set_xticks([steps / 2], [f"{stage}\n{steps:,} steps"])
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    if level is not None:
        axes.axhline(level[1], color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 3)))


def _scale(axes: Axes, log: bool, floor: float | None) -> None:
    """Few labels, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axes.margins(y=0.08)
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.set_ylim(bottom=floor)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("e-0", "e-")))


def _legend(drawn: Figure, colours: Mapping[str, str], level: tuple[str, float] | None) -> None:
    """Names of the lines above them; none for a single line, which the caption names."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    if level is not None:
        handles.append(Line2D([], [], color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 3)), label=level[0]))
    if len(handles) > 1:
        drawn.legend(handles=handles, loc="outside upper left", ncols=3, borderpad=0, columnspacing=1.2)
