"""Numbers of points on a picture: none lies on another one, however near the points are."""

from itertools import combinations

import pytest

from secateur.report import svg
from secateur.report.point_numbers import number_points

STEEP = {"11": (9.44, 0.835), "19": (9.54, 0.79), "15": (7.4, 0.89), "17": (7.7, 0.86), "22": (11.46, 0.745)}
"""A Pareto front that falls almost straight down."""
SAME = {"1": (1.0, 1.0), "2": (1.0, 1.0), "3": (1.001, 1.0), "40": (1.0, 1.001)}


@pytest.mark.parametrize("points", [STEEP, SAME], ids=["steep", "same"])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_numbers_lie_on_no_others(points, scale):
    with svg.style():
        figure = svg.figure(height=300)
        axes = figure.add_subplot()
        axes.plot([0.5, 12], [0.4, 1.2], "o")
        axes.set_xscale(scale)
        number_points(axes, points)
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == list(points)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
