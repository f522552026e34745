"""Charts: filled areas are the parts that were kept, and lines are the logged values."""

import numpy as np
import pytest

from secateur.report import charts
from secateur.report.svg import COLOURS, SERIES


def area(figure, colour):
    """The total area of the shapes of one colour, in the units of the axes."""
    from matplotlib.colors import to_hex

    (axes,) = figure.axes
    shapes = [patch for patch in axes.patches if to_hex(patch.get_facecolor()) == colour]
    polygons = [polygon for shape in shapes for polygon in shape.get_path().to_polygons(closed_only=False)]
    return sum(abs(np.sum(p[:-1, 0] * p[1:, 1] - p[1:, 0] * p[:-1, 1])) / 2 for p in map(np.asarray, polygons))


def filled(figure):
    """The part of the boxes' area that is filled."""
    return area(figure, charts.FILLED) / area(figure, charts.TRACK)


def test_the_filled_part_of_the_boxes_is_the_part_of_the_dims_that_heads_kept():
    assert filled(charts.by_head([[32, 0, 8], [0, 0, 1]], 32)) == pytest.approx(41 / (6 * 32))
    assert area(charts.by_head([[0, 0]], 32), charts.FILLED) == 0


def test_the_filled_part_of_the_bars_is_the_mean_part_kept():
    assert filled(charts.by_layer([("0", 12, 48), ("1", 0, 48), ("2", 48, 48)])) == pytest.approx(1.25 / 3)


def test_bars_have_their_numbers():
    (axes,) = charts.by_layer([("0", 1234, 3072), ("stream", 5, 768)]).axes
    assert [text.get_text() for text in axes.texts] == ["1,234 / 3,072", "5 / 768"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "stream"]


def test_the_first_layer_is_on_top():
    for figure in (charts.by_head([[1], [2]], 4), charts.by_layer([("0", 1, 2), ("1", 1, 2)])):
        bottom, top = figure.axes[0].get_ylim()
        assert bottom > top


@pytest.mark.parametrize(("heads", "labels"), [(3, ["0", "1", "2"]), (40, [str(head) for head in range(0, 40, 3)])])
def test_heads_are_numbered_as_far_as_labels_fit(heads, labels):
    (axes,) = charts.by_head([[1] * heads], 4).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == labels


def test_a_band_is_a_step_function_that_starts_whole():
    # 10 of 10 until step 20, 5 until step 50, 2 until the end at 100
    figure = charts.by_time([("0", ([20, 50], [5, 2]), 10)], 100)
    assert filled(figure) == pytest.approx((20 * 1.0 + 30 * 0.5 + 50 * 0.2) / 100)


def test_borders_cross_all_bands():
    figure = charts.by_time([("0", ([20], [5]), 10), ("1", ([20], [5]), 10)], 100, borders=[25, 50])
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines] == [
        ([25, 25], [0, 1]),  # of the height of all rows
        ([50, 50], [0, 1]),
    ]


def test_a_panel_for_each_stage_with_its_lines():
    curve, short = (list(range(20)), [1.0] * 20), ([3, 9], [2.0, 4.0])
    figure = charts.over_stages([("prune", 20, {"a": curve, "b": short}), ("recover", 10, {"b": short})])
    names = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert names == [["prune\n20 steps"], ["recover\n10 steps"]]
    lines = [{line.get_color(): list(line.get_ydata()) for line in axes.lines} for axes in figure.axes]
    assert lines == [{SERIES[0]: [1.0] * 20, SERIES[1]: [2.0, 4.0]}, {SERIES[1]: [2.0, 4.0]}]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_a_single_line_has_a_legend_only_with_a_level():
    stages = [("prune", 20, {"a": ([3, 9], [2.0, 4.0])})]
    assert charts.over_stages(stages).legends == []
    figure = charts.over_stages(stages, level=("teacher", 5.0))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "teacher"]
    assert {line.get_color() for line in figure.axes[0].lines} == {SERIES[0], COLOURS["muted"]}


def test_all_lines_are_drawn_even_if_colours_repeat():
    curves = {str(number): ([1, 2], [number, number]) for number in range(len(SERIES) + 3)}
    assert len(charts.over_stages([("prune", 2, curves)]).axes[0].lines) == len(curves)


def test_a_logarithmic_line_has_a_gap_where_it_is_zero():
    # gates have no gradient at first; the line went down through the whole page, and matplotlib gave up its layout
    stages = [("prune", 40, {"a": ([0, 10, 20, 30], [0.0, 0.001, 0.0, 0.1]), "b": ([0, 40], [1e-6, 1e-5])})]
    (axes,) = charts.over_stages(stages, log=True).axes
    axes.figure.draw_without_rendering()  # a warning is an error
    bottom, top = axes.get_ylim()
    assert 1e-7 < bottom < 1e-6 and 0.1 < top < 1
    drawn = axes.lines[0].get_path().transformed(axes.transScale).vertices
    assert [bool(finite) for finite in np.isfinite(drawn[:, 1])] == [False, True, False, True]


def test_labels_are_plain_numbers():
    stages = [("prune", 20, {"a": ([3, 9], [0.02, 4000.0])})]
    for scale in ({"log": True}, {"floor": 0}):
        axes = charts.over_stages(stages, **scale).axes[0]
        axes.figure.draw_without_rendering()
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert ("0.1" if "log" in scale else "2,000") in labels
        assert not set("".join(labels)) - set("0123456789.,")
