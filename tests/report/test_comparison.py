"""Comparisons: the Pareto front of score and cost."""

import re
from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from page_reader import Reader

from secateur.report.comparison import RUN, Comparison, Criterion, Point, ScoredModel
from secateur.report.comparison_page import to_html
from secateur.report.comparison_text import notes, table
from secateur.run.comparable_times import criteria

PLACE = Criterion("density", lambda entry: entry.density, "{:.2f}".format)
SCORED = [(0.9, None), (0.8, 0.03), (0.7, 0.01)]
"""Scores of models with their standard errors."""
FASTER = replace(PLACE, name="speed-up", less=False)


def made(places, greater=True):
    points = [
        Point(str(n), RUN, "made", (ScoredModel(str(n), score=score, density=x, parameters=1, bytes=1),))
        for n, (x, score) in enumerate(places)
    ]
    return Comparison("accuracy", greater, "0123", 100, tuple(points), (PLACE,))


def test_the_front_by_hand():
    found = made(
        [(1.0, 0.90), (0.5, 0.89), (0.5, 0.88), (0.2, 0.89), (0.1, 0.80), (0.1, 0.80), (0.05, 0.70), (None, 1)]
    )
    assert [point.name for point in found.front(PLACE)] == ["6", "4", "5", "3", "0"]
    assert [point.name for point in found.front(FASTER)] == ["0"]
    assert [point.name for point in replace(found, greater=False).front(PLACE)] == ["6"]


NUMBERS = st.integers(0, 4).map(float)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), st.booleans(), st.booleans())
def test_what_is_off_the_front_is_beaten_by_what_is_on_it(places, less, greater):
    found, criterion = made(places, greater), replace(PLACE, less=less)

    def beats(one, other):
        gains = ((one[0] - other[0]) * (-1 if less else 1), (one[1] - other[1]) * (1 if greater else -1))
        return min(gains) >= 0 and max(gains) > 0

    front = [places[int(point.name)] for point in found.front(criterion)]
    assert front and not any(beats(a, b) for a, b in product(front, front))
    assert all(place in front or any(beats(one, place) for one in front) for place in places)


def test_models_below_a_megabyte_are_told_apart_by_size():
    """The larger of the two is off the front though both have the same score; a third differs in the third digit."""
    sizes = [620_000, 580_000, 580_400, 12_345_678, 12_350_000]
    models = [ScoredModel(str(size), 0.9, density=None, parameters=1, bytes=size) for size in sizes]
    points = tuple(Point(model.place, RUN, "made", (model,)) for model in models)
    (size,) = (one for one in criteria(points, measured=False) if one.name == "weights, MB")
    found = Comparison("accuracy", True, "0123", 100, points, (size,))
    assert [row[-1] for row in table(found)[1]] == ["0.62", "0.58*", "0.58*", "12.3", "12.3"]


def test_a_quantity_that_no_model_has_gets_no_picture():
    found = made([(1.0, 0.9), (0.5, 0.8)])
    empty = replace(PLACE, name="nothing", of=lambda entry: None)
    page = to_html(replace(found, criteria=(PLACE, empty)))
    assert page.count("<svg") == 1 and "accuracy against nothing" not in page


def test_every_point_has_a_label_for_pointer_finger_and_keyboard():
    found = made([(1.0, 0.9), (0.5, 0.89), (0.5, 0.7), (None, 0.6)])
    long = replace(found.points[2], name="<a name> " + "x" * 80)
    page = to_html(replace(found, points=(*found.points[:2], long, found.points[3])))
    points = [a for tag, a in Reader(page).elements if tag == "g" and a.get("class") == "point"]
    assert [a["aria-label"] for a in points[:2]] == ["1 0, 0.9000 at 1.00", "2 1, 0.8900 at 0.50"]
    assert [a["tabindex"] for a in points] == ["0"] * 3, "the last one has no density"
    label = points[2]["aria-label"]
    assert label.startswith("3 <a name> xxx") and "x…, 0.7000 at 0.50" in label and len(label) < 75
    assert Reader(page).named("svg")[0]["role"] == "group" and Reader(page).named("script")
    assert "<table" in page and ">1 0</th>" in page.replace("> 1 0<", ">1 0<")


def test_points_that_lie_on_each_other_have_one_label():
    page = Reader(to_html(made([(1.0, 0.9), (0.5, 0.7), (1.0, 0.9)])))
    labels = [a["aria-label"] for tag, a in page.elements if tag == "g" and a.get("class") == "point"]
    assert labels == ["1 0, 0.9000 at 1.00, 3 2, 0.9000 at 1.00", "2 1, 0.7000 at 0.50"]


def test_the_noise_is_the_standard_error_of_the_best_point_that_has_one():
    models = [ScoredModel(str(n), score, 1.0, 1, 1, standard_error=error) for n, (score, error) in enumerate(SCORED)]
    points = tuple(Point(model.place, RUN, "made", (model,)) for model in models)
    for greater, best in ((True, "0.8000 of 1 has a standard error of 0.0300"), (False, "0.7000 of 2 has .* 0.0100")):
        (note,) = (one for one in notes(Comparison("f1", greater, "0123", 1000, points, (PLACE,))) if "noise" in one)
        assert re.search(f"f1 {best} on 1,000 rows; smaller differences are not significant", note)
    unknown = Comparison("f1", True, "0123", 1000, points[:1], (PLACE,))
    assert not any("noise" in one for one in notes(unknown))
