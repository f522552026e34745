"""The time left of a run, from what is expected of its stages and what they have taken."""

import pytest

from secateur.cli.progress import stage_name
from secateur.cli.time_left import TimeLeft
from secateur.run.expected_stage import ExpectedStage

STAGES = [ExpectedStage("outputs", 0.0, result="cached"), ExpectedStage("prune", 40.0), ExpectedStage("recover", 60.0)]


def test_it_is_what_is_expected_if_all_goes_as_expected():
    left = TimeLeft(STAGES, began=1_000.0)
    assert left.seconds(1, 0.0, 1_000.0) == pytest.approx(100)
    assert left.seconds(1, 0.5, 1_020.0) == pytest.approx(80)
    assert left.seconds(2, 1.0, 1_100.0) == pytest.approx(0)


def test_it_follows_a_run_that_takes_twice_as_long():
    left = TimeLeft(STAGES, began=0.0)
    assert left.seconds(1, 0.05, 4.0) == pytest.approx(98 * 14 / 12)  # a part of what it will be: it is early
    assert left.seconds(2, 0.5, 140.0) == pytest.approx(30 * 2, rel=0.1)


def test_nothing_is_known_where_nothing_is_expected():
    assert TimeLeft((), 0.0).seconds(0, 0.5, 1.0) is None
    assert TimeLeft([ExpectedStage("prune", None)], 0.0).seconds(0, 0.5, 1.0) is None


def test_stages_have_names_for_people():
    assert [
        stage_name(folder)
        for folder in ("teacher-training", "prune", "depth-3", "depth-3-recover", "density-0.1-recover", "other")
    ] == [
        "teacher",
        "prune",
        "3 layers (trial)",
        "3 layers (trial, recover)",
        "density 0.1 (trial, recover)",
        "other",
    ]
