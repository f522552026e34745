"""Runs of version 0.1.0: finished ones are read, interrupted ones go on, and other recipes are still refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_world import recipe_values
from transformers import TrainerCallback

from secateur.report.report import Report
from secateur.report.report_text import target_text
from secateur.run import pipeline, recipe
from secateur.run.density_sweep import sweep
from secateur.run.finished_runs import read
from secateur.run.run_comparison import compare
from secateur.run.run_folder import claim
from secateur.system.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
VALUES = recipe_values("model", "rows.csv")
"""The recipe of the fixtures (`make_0_1_0.py`), whose paths are relative to their folder."""
DENSITIES = {"target.density": "0.5,0.3", "distillation.label_smoothing": 0.1}
TIMED = {"target.speedup": 1.2, "target.density": None, "target.latency_table": "table.json"}


class Starts(TrainerCallback):
    """The step at which each stage starts to train."""

    def __init__(self):
        self.steps = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps[Path(args.output_dir).name] = state.global_step


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A copy of the fixtures, as the working directory."""
    shutil.copytree(FIXTURES, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


@pytest.mark.parametrize(("stage", "step"), [("prune", 4), ("recover", 5)])
def test_an_interrupted_run_resumes_from_its_checkpoint_to_the_same_model(world, stage, step):
    starts, folder = Starts(), world / f"interrupted-{stage}"
    report = pipeline.run(recipe.make(VALUES), folder, [starts])
    assert starts.steps == ({"prune": step, "recover": 0} if stage == "prune" else {"recover": step})
    then = Report.load("finished")
    assert report.density == then.density and report.recipe == recipe.make(VALUES).to_dict()
    ours, theirs = (load_file(place / "model" / "model.safetensors") for place in (folder, world / "finished"))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "own"), [("finished", {}), ("timed", TIMED)])
def test_a_finished_run_is_returned_as_it_is(world, name, own):
    starts = Starts()
    report = pipeline.run(recipe.make(VALUES | own), name, [starts])
    assert report == Report.load(name) and starts.steps == {}


def test_finished_runs_of_several_densities_are_returned_as_they_are(world):
    starts = Starts()
    reports = sweep(recipe.make(VALUES | DENSITIES), "two-densities", [starts])
    assert [target_text(report) for report in reports] == ["density 0.5", "density 0.3"] and starts.steps == {}


def test_reports_of_both_versions_count_as_one_recipe(world):
    older = json.loads(Path("finished/report.json").read_text())
    assert older["recipe"]["epochs"] == 4.0, "the fixture is flat"
    assert Report.load("finished").recipe["training"]["epochs"] == 4.0
    shutil.copytree("finished", "rewritten")
    Path("rewritten/report.json").write_text(
        json.dumps(older | {"recipe": recipe.make(VALUES | {"seed": 1}).to_dict()})
    )
    comparison = compare(read(["finished", "rewritten"]))
    assert [len(point.models) for point in comparison.points if point.origin == "run"] == [2]


def test_another_recipe_is_refused_by_the_keys_that_differ(world):
    other = recipe.make(VALUES | {"training.epochs": 5, "method.options": {"beta": 0.5}})
    with pytest.raises(UserError, match=r"another recipe \(it differs in method.options, training.epochs\)"):
        claim(Path("finished"), other)


@pytest.mark.parametrize("key", ["distillation.terms", "training.evaluations", "measurement.repeats"])
def test_a_key_that_the_older_version_did_not_have_has_its_default(world, key):
    path = Path("finished/recipe.yaml")
    older = recipe.upgrade(yaml.safe_load(path.read_text()))
    group, name = key.split(".")
    older[group].pop(name, None)
    path.write_text(yaml.safe_dump(older))
    default = recipe.KEYS[key].get_default(call_default_factory=True)
    claim(Path("finished"), recipe.make(VALUES | {key: default}))


@pytest.mark.parametrize("text", ["epochs", "- epochs", "epochs: 3", "model: [", ""])
def test_a_damaged_recipe_is_refused(world, text):
    Path("finished/recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=r"another recipe \(it differs in its keys\)|is not YAML"):
        claim(Path("finished"), recipe.make(VALUES))


def test_files_have_a_version_and_those_of_later_versions_are_refused(tmp_path):
    report = Report.load(FIXTURES / "finished")
    report.save(tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["version"] == 2 and Report.load(tmp_path) == report
    (tmp_path / "report.json").write_text(json.dumps(written | {"version": 3, "new key": 1}))
    with pytest.raises(UserError, match=r"report\.json has version 3, and this secateur reads 1 to 2"):
        Report.load(tmp_path)
    wanted = recipe.read(FIXTURES / "finished" / "recipe.yaml", {})
    (tmp_path / "recipe.yaml").write_text(wanted.to_yaml())
    assert wanted.to_yaml().startswith("version: 2\n") and recipe.read(tmp_path / "recipe.yaml", {}) == wanted
    (tmp_path / "recipe.yaml").write_text("version: 3\nnew key: 1\n")
    with pytest.raises(UserError, match=r"recipe\.yaml has version 3, and this secateur reads 1 to 2"):
        recipe.read(tmp_path / "recipe.yaml", {})
