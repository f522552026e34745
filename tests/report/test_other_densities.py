"""The scores that a run predicts for other densities: exact where its law holds, and nothing without evidence."""

import json
import math
import random
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
from made_up_run import REPORT
from page_reader import Reader
from typer.testing import CliRunner

from secateur.cli import app
from secateur.report.other_densities import DENSITIES, Point, Walk, layer_bytes, predict, walk_of
from secateur.report.other_densities_section import sentence
from secateur.report.report import Report
from secateur.report.report_text import to_markdown
from secateur.report.run_log import RunLog
from secateur.report.run_page import to_html
from secateur.run import pipeline

PASSED = (0.6, 0.4, 0.2, 0.1, 0.05)
NOTHING = RunLog((), None, None, 0)
RAMP = {
    "metric": "accuracy",
    "rows": 200,
    "teacher": 0.98,
    "points": [
        {"step": 9, "density": 0.4, "score": 0.94, "standard_error": 0.01},
        {"step": 30, "density": 0.05, "score": 0.9, "standard_error": None},
    ],
}
WALKED = replace(REPORT, ramp=RAMP, standard_error=0.01)


def true_walk(before, left, own=0.05, **changed):
    """A walk without noise: `before(d)` is lost on the ramp, of which `left(d)` is still lost after recovery."""
    points = tuple(Point(density, 0.98 - before(density)) for density in PASSED if density >= own)
    return replace(Walk(own, 0.9 - before(own) * left(own), 0.9, points, 0.98), **changed)


@pytest.mark.parametrize("own", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_scores_are_exact_where_the_law_holds(own, share):
    def before(density):
        return 0.05 * math.log(1 / density) ** 0.5

    def left(density):
        return share * math.log(density) / math.log(0.05)

    expected = {one.density: one for one in predict(true_walk(before, left, own))}
    for density in PASSED:
        if density > own:
            assert expected[density].score == pytest.approx(0.9 - before(density) * left(density), abs=1e-12)
    (beyond,) = (one for one in expected.values() if one.extrapolated)
    assert beyond.density == max(density for density in DENSITIES if density < own)
    flat = before(own) * left(beyond.density)  # the ramp says nothing of what it has not passed
    assert beyond.score == pytest.approx(0.9 - flat, abs=1e-12) and own not in expected


def test_the_numbers_of_a_walk_by_hand():
    walk = Walk(0.05, 0.87, 0.9, (Point(0.4, 0.94, 0.02), Point(0.05, 0.9)), 0.98, error=0.01)
    one = predict(walk, (0.4,))[0]
    removed = math.log(0.4) / math.log(0.05)  # 0.306 of the way down
    assert one.score == pytest.approx(0.9 - 0.03 * (0.04 / 0.08) * removed)
    noise = 2 * math.hypot(0.01, 0.03 / 0.08 * removed * 0.02)
    assert one.low == pytest.approx(0.9 - 0.03 * 0.5 - noise) and one.high == pytest.approx(
        0.9 - 0.03 * 0.5 * removed**2 + noise
    )


@pytest.mark.parametrize("seed", range(20))
def test_scores_fall_with_the_density_between_teacher_and_chance_whatever_the_noise(seed):
    drawn = random.Random(seed)
    points = tuple(Point(density, drawn.uniform(0.3, 1.0), drawn.uniform(0, 0.05)) for density in PASSED)
    walk = Walk(0.05, drawn.uniform(0.55, 0.95), 0.9, points, drawn.uniform(0.9, 1.0), 0.01, constant=0.5)
    expected = predict(walk)
    assert [one.density for one in expected] == [0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.03]
    assert all(left.score >= right.score for left, right in pairwise(expected))
    assert all(0.5 <= one.low <= one.score <= one.high and one.score <= 0.9 for one in expected)


@pytest.mark.parametrize(
    ("reach", "expected"),
    [((0.01, 0.33), [0.3, 0.2, 0.1, 0.03]), ((0.04, 1.0), [0.8, 0.6, 0.4, 0.3, 0.2, 0.1]), ((0.0, 0.05), [0.03])],
)
def test_densities_that_the_recipe_cannot_reach_are_left_out(reach, expected):
    walk = Walk(0.05, 0.87, 0.9, (Point(0.3, 0.94), Point(0.05, 0.9)), 0.98)
    everywhere = {one.density: one for one in predict(walk)}
    assert predict(replace(walk, reach=reach)) == [everywhere[density] for density in expected]


def in_rounds(ramp, layers=2):
    """The made-up run with that number of layers, and its scores."""
    return replace(WALKED, ramp=ramp, recipe=REPORT.recipe | {"target": {"density": 0.05, "layers": layers}})


def test_a_run_in_rounds_predicts_runs_with_as_many_layers():
    report = in_rounds(RAMP | {"reach": [0.02, 0.33]})
    assert [one.density for one in predict(walk_of(report))] == [0.3, 0.2, 0.1, 0.03]
    assert "of a run with this recipe and 2 layers at another density" in to_markdown(report)
    assert "of a run with this recipe at another density" in to_markdown(WALKED)
    assert "and 12 layers at" in to_markdown(replace(WALKED, depth={"layers": 12, "of": 12, "trials": [], "rows": 9}))


def test_no_interval_of_a_fraction_goes_above_1():
    near = replace(true_walk(lambda density: 0.01, lambda density: 0.1), score=0.995, teacher=0.997, error=0.01)
    assert max(one.high for one in predict(near)) == 1
    bleu = replace(near, score=37.0, teacher=38.0, error=1.0, constant=0.0)
    assert max(one.high for one in predict(bleu)) > 38


def test_a_ramp_that_rises_again_counts_by_its_average():
    noisy = (Point(0.4, 0.90), Point(0.2, 0.94), Point(0.05, 0.86))
    pooled = (Point(0.4, 0.92), Point(0.2, 0.92), Point(0.05, 0.86))
    walks = [Walk(0.05, 0.87, 0.9, points, 0.98) for points in (noisy, pooled)]
    for one, other in zip(*map(predict, walks), strict=True):
        assert (one.score, one.low, one.high) == pytest.approx((other.score, other.low, other.high))


def test_a_ramp_that_lost_nothing_leaves_the_logarithm_alone():
    walk = Walk(0.05, 0.87, 0.9, (Point(0.4, 0.99), Point(0.05, 0.99)), 0.98)
    assert predict(walk, (0.4,))[0].score == pytest.approx(0.9 - 0.03 * math.log(0.4) / math.log(0.05))
    assert all(
        one.score == 0.9 for one in predict(replace(walk, score=0.91))
    )  # a model that is better than its teacher


@pytest.mark.parametrize(
    "report",
    [
        in_rounds(RAMP),
        in_rounds(RAMP | {"reach": [0.04, 0.05]}),
        replace(WALKED, ramp=None),
        replace(WALKED, ramp=RAMP | {"points": RAMP["points"][:1]}),
        replace(WALKED, baseline=0.9),
        replace(WALKED, density=REPORT.density | {"prunable": 1.0}),
        replace(WALKED, greater_is_better=False),
    ],
    ids=[
        "scores of all rounds",
        "nothing in reach",
        "no scores",
        "one score",
        "no teacher",
        "nothing removed",
        "less is better",
    ],
)
def test_nothing_is_shown_where_there_is_nothing_to_show(report):
    assert walk_of(report) is None and sentence(report) is None
    assert "Other densities" not in to_markdown(report) + to_html(report, NOTHING)


def test_the_pages_show_each_density_and_the_run_itself(tmp_path):
    WALKED.save(tmp_path)
    report = Report.load(tmp_path)
    page, text = Reader(to_html(report, NOTHING)).text, to_markdown(report)
    for one in predict(walk_of(report)):
        name = f"{one.density:g}" + (", extrapolated" if one.extrapolated else "")
        cells = name, f"{one.score:.3f}", f"{one.low:.3f} to {one.high:.3f}"
        assert "".join(cells) in page and "| " + " | ".join(cells) + " |" in text
    assert "0.0499, this run0.8730, measured" in page
    lines = text.splitlines()
    rows = [line.split()[1].rstrip(",") for line in lines[lines.index("## Other densities") + 4 :][:8]]
    assert rows == ["0.8", "0.6", "0.4", "0.3", "0.2", "0.1", "0.0499", "0.03"]
    assert sentence(report).startswith("At other densities expect accuracy at 0.1 about 0.8")


def test_the_command_names_the_nearest_densities_and_gives_all_as_json(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "run", lambda *arguments: WALKED)
    words = ["prune", "m", "--data", "d", "--output", str(tmp_path / "run")]
    assert sentence(WALKED) in CliRunner().invoke(app.app, words).stdout.replace("\n", " ")
    shown = json.loads(CliRunner().invoke(app.app, [*words, "--json"]).stdout)
    assert shown["other_densities"] == [asdict(one) for one in predict(walk_of(WALKED))]


def test_a_report_of_an_earlier_version_has_no_ramp(tmp_path):
    REPORT.save(tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    del values["ramp"]
    (tmp_path / "report.json").write_text(json.dumps(values))
    assert Report.load(tmp_path) == REPORT


def test_bytes_of_the_layers_are_linear_in_the_density():
    teacher, model = 42_588_000, 1_500_000
    assert layer_bytes(REPORT, 1.0) == pytest.approx(teacher) and layer_bytes(REPORT, 0.0499) == pytest.approx(model)
    middle = (1 + 0.0499) / 2
    assert layer_bytes(REPORT, middle) == pytest.approx((teacher + model) / 2)
    smaller = {"units": 12, "layer_bytes": 9_000_000}
    other = replace(REPORT, unpruned=smaller)  # than the teacher's
    assert layer_bytes(other, 1.0) == pytest.approx(9_000_000) and layer_bytes(other, 0.0499) == pytest.approx(model)
    unknown = REPORT.recipe | {"teacher": "larger", "distillation": {"start": "model"}}
    assert layer_bytes(replace(REPORT, recipe=unknown), 0.4) is None
    assert layer_bytes(replace(REPORT, recipe=unknown, unpruned=smaller), 1.0) == pytest.approx(9_000_000)
    assert layer_bytes(replace(REPORT, recipe=unknown | {"distillation": {"start": "teacher"}}), 1.0) == teacher
    half = replace(REPORT, recipe=REPORT.recipe | {"storage": {"dtype": "fp16"}})
    assert layer_bytes(half, 1.0) == pytest.approx(teacher / 2)
    assert layer_bytes(replace(REPORT, bytes=None), 0.4) is None
    assert layer_bytes(replace(REPORT, density=REPORT.density | {"filled": 0.1}), 0.4) is None
