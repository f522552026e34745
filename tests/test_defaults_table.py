"""The tables of `benchmarks/defaults.py`, of made-up runs: the marks of issue 24 are columns."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_run import REPORT

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def defaults(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("defaults")


def write(folder, density, score, **seconds):
    recipe = {**REPORT.recipe, "target": {"density": density}}
    folder.mkdir(parents=True)
    replace(REPORT, recipe=recipe, scores={"accuracy": score}, seconds=seconds, baseline=0.5).save(folder)


def test_the_table_shows_what_was_expected_and_the_smallest_density_that_keeps_the_score(defaults, capsys, tmp_path):
    folder = defaults.place("SST-2")
    write(folder / "densities" / "0.2", 0.2, 0.89, recover=600.0, measure=120.0)
    write(folder / "densities" / "0.1", 0.1, 0.88, recover=600.0, measure=120.0)
    write(folder / "densities" / "0.05", 0.05, 0.87, teacher=300.0, prune=300.0, recover=600.0, measure=120.0)
    stages = [{"name": "teacher", "seconds": 600.0}, {"name": "measure", "seconds": None}]
    (folder / "densities.expected.json").write_text(json.dumps({"expected": {"stages": stages}}))
    assert [place.name for place, _ in defaults.commands("SST-2", tmp_path)] == ["densities", "seed-1", "kept"]
    write(folder / "kept", 0.1, 0.88, recover=60.0)
    *_, (place, words) = defaults.commands("SST-2", tmp_path)
    assert place == folder / "walk" and words[-1] == "0.15,0.07,0.05"
    for density, score in ((0.15, 0.89), (0.07, 0.875), (0.05, 0.87)):
        write(place / str(density), density, score, recover=60.0)
    (folder / "kept.expected.json").write_text("")
    defaults.table(tmp_path)
    head, _, row = (line.split(" | ") for line in capsys.readouterr().out.splitlines())
    assert head[-2:] == ["smallest that keeps 0.97", "minutes, expected / taken |"]
    assert row[-2:] == ["0.07 (+1 steps)", "10 / 46, - / 1, - / 3 |"]


def test_a_walk_ends_at_its_smallest_density(defaults):
    write(defaults.place("RTE") / "kept", 0.03, 0.88)
    assert defaults._beside(defaults.place("RTE") / "kept") == ["0.05"]
