"""Numbers beside the points of a picture, by which a table names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Place = tuple[float, float]

SIZE = 9
"""Of the numbers, in pixels."""
WIDTH, HEIGHT = 6.0, 11.0
"""Of a digit and of a line of that size, in pixels, with what sets them apart."""
OFFSETS = ((0, 11), (0, -11), (1, 0), (-1, 0), (1, 9), (-1, -9))
"""From a point to the middle of its number: sideways in widths of the number and a gap, upwards in pixels."""
GAP = 5.0
"""Pixels between a point and a number beside it."""


def number_points(axes: Axes, numbers: Mapping[str, Place]) -> None:
    """Write a number at each point, above it if no other number or point is there, else around it.

    Args:
        axes: whose scales and limits are final.
        numbers: the number of each point -> its coordinates, in the order in which they choose.
    """
    if (figure := axes.get_figure(root=True)) is not None:
        figure.draw_without_rendering()  # which places the axes
    places = axes.transData.transform(list(numbers.values()))
    taken: list[tuple[Place, float]] = [((across, up), GAP) for across, up in places]
    for (number, (x, y)), (across, up) in zip(numbers.items(), places, strict=True):
        width = WIDTH * len(number)
        offsets = [(side * (width / 2 + GAP), rise) for side, rise in OFFSETS]
        free = (one for one in offsets if _is_free((across + one[0], up + one[1]), width, taken))
        chosen = next(free, offsets[0])
        taken.append(((across + chosen[0], up + chosen[1]), width))
        axes.annotate(number, (x, y), chosen, textcoords="offset points", ha="center", va="center", fontsize=SIZE)


def _is_free(middle: Place, width: float, taken: list[tuple[Place, float]]) -> bool:
    """Whether a number of that width lies on nothing else."""
    return all(
        abs(middle[0] - other[0]) >= (width + own) / 2 or abs(middle[1] - other[1]) >= HEIGHT for other, own in taken
    )
