"""Whole runs on a GPU: every method, interrupted and resumed, and two densities from one pruning with a new teacher."""

import math

import pytest
import torch
from fake_clock import timer
from interrupted_runs import InterruptAt, NoTraining
from small_world import recipe_values, write_data, write_model
from tiny_models import METHODS
from transformers import AutoModelForSequenceClassification

from secateur.budget.latency import LatencyTable
from secateur.report.report import Report
from secateur.run import pipeline, recipe
from secateur.run.density_sweep import sweep
from secateur.surgery.checkpoint import load

# What fits the small model where the defaults of a method do not: heads alone have a floor, and tiles must divide.
CHANGES = {
    **{name: {"target.density": 0.6} for name in ("michel", "subset", "voita")},
    "movement": {"target.units": ["attention/8x8", "ffn"]},
}


@pytest.fixture(scope="module")
def values(device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    own = recipe_values(write_model(folder / "model"), write_data(folder / "data.csv"))
    return own | {"training.bf16": True, "training.evaluations": 1}


@pytest.fixture(scope="module")
def teacher(device, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("teacher") / "model", ["bad", "good"])


def assert_finished(report, folder, density):
    assert 0 < report.density["prunable"] <= density
    assert 0 <= report.scores["accuracy"] <= 1 and all(map(math.isfinite, report.scores.values()))
    assert all(one["latency_ms"] > 0 for one in report.latency)
    assert Report.load(folder).scores == report.scores
    assert load(folder / "model").num_parameters() == report.parameters["model"] < report.parameters["teacher"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finishes_after_two_interrupts(name, values, teacher, tmp_path):
    own = recipe.make(values | {"teacher": teacher, "method": name} | CHANGES.get(name, {}))
    for stage, step in (("prune", 9), ("recover", 12)):
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(own, tmp_path / "run", [InterruptAt(stage, step)])
    report = pipeline.run(own, tmp_path / "run")
    assert_finished(report, tmp_path / "run", own.target.density)


def test_two_densities_come_from_one_pruning(values, device, tmp_path):
    """A teacher is trained first. A finished sweep trains nothing more."""
    own = recipe.make(values | {"target.density": (0.6, 0.3)})
    reports = sweep(own, tmp_path / "run")
    for density, report in zip((0.6, 0.3), reports, strict=True):
        assert_finished(report, tmp_path / "run" / str(density), density)
        assert {one["protocol"]["device"] for one in report.latency} == {str(torch.empty(0, device=device).device)}
    again = sweep(own, tmp_path / "run", [NoTraining()])
    assert [report.scores for report in again] == [report.scores for report in reports]


def test_a_speed_up_is_measured_on_the_device_of_its_table(values, teacher, tmp_path):
    """The table, of a clock that does not tick, is of the CPU; the result has been scored on the GPU."""
    dense = AutoModelForSequenceClassification.from_pretrained(teacher)
    LatencyTable.measure(dense, "ffn", "qk", "vo", tokens=8, timer=timer(tokens=8)).save(tmp_path / "table.json")
    own = {name: value for name, value in values.items() if name != "target.density"}
    own |= {"model": teacher, "target.speedup": 1.5, "target.round_to": 2}
    report = pipeline.run(recipe.make(own | {"target.latency_table": str(tmp_path / "table.json")}), tmp_path / "run")
    assert report.target["protocol"]["device"] == "cpu" and report.target["measured_ms"] > 0
