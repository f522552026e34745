"""The stages of a run: which of them a folder still needs, who decides it, and which models each of them holds."""

import dataclasses
import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from transformers import PreTrainedModel, Trainer, TrainerCallback

from secateur.report.report_text import footnotes
from secateur.run import pipeline, recipe
from secateur.run.context import Context
from secateur.run.run_data import RunData
from secateur.system import processes
from secateur.system.errors import UserError

SHORT = {"training.epochs": 1, "training.evaluations": 0, "training.checkpoints": 0}
ALL = ["teacher", "outputs", "prune", "recover", "measure"]


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "model", ["bad", "good"])
    return recipe_values(model, write_data(folder / "data.csv")) | SHORT


def context(values, folder, **own):
    wanted = recipe.make(values)
    return Context(wanted, folder, RunData(wanted), **own)


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ((), ALL),
        (("teacher",), ALL[1:]),
        (("teacher", "prune"), ALL[1:]),
        (("teacher", "cut"), ALL[3:]),
        (("teacher", "cut", "recover"), ALL[3:]),
        (("teacher", "cut", "model"), ALL[4:]),
        (("cut", "model"), ["teacher", "measure"]),  # a teacher that was removed is needed to measure
        (("model", "report.json"), []),
    ],
)
def test_a_folder_says_which_stages_it_needs(values, tmp_path, present, missing):
    bare = write_model(tmp_path / "bare")  # without a head, so that a teacher is trained first
    for name in present:
        (tmp_path / "run" / name).mkdir(parents=True)
    if "report.json" in present:
        (tmp_path / "run" / "report.json").rmdir()
        (tmp_path / "run" / "report.json").touch()
    assert pipeline._to_run(context(values | {"model": bare}, tmp_path / "run")) == missing


def test_a_model_that_is_fine_tuned_needs_no_teacher(values, tmp_path):
    assert pipeline._to_run(context(values, tmp_path / "run")) == ALL[1:]
    uncached = context(values | {"distillation.cache": False}, tmp_path / "run")
    assert pipeline._to_run(uncached) == ALL[2:]


def test_a_shared_folder_may_hold_the_teacher(values, tmp_path):
    bare = values | {"model": write_model(tmp_path / "bare")}
    (tmp_path / "shared" / "teacher").mkdir(parents=True)
    assert "teacher" not in pipeline._to_run(context(bare, tmp_path / "run", shared=tmp_path / "shared"))


def test_a_process_runs_the_stages_that_the_main_process_names(values, tmp_path, monkeypatch):
    """Whatever it finds on the disk itself."""
    ran = []
    stages = [pipeline.Stage(name, lambda _: True, lambda _, name=name: ran.append(name)) for name in ALL]
    monkeypatch.setattr(pipeline, "STAGES", stages)
    monkeypatch.setattr(processes, "on_main", lambda work: ["prune", "recover"])
    monkeypatch.setattr(pipeline.Report, "load", lambda folder: None)
    pipeline.complete(context(values, tmp_path / "run"))
    assert ran == ["prune", "recover"]


class Models(TrainerCallback):
    """Counts the models that are in memory when the training of a stage begins."""

    def __init__(self):
        self.before, self.alive = {id(model) for model in models()}, {}

    def on_train_begin(self, args, state, control, **kwargs):
        new = [model for model in models() if id(model) not in self.before]
        self.alive[Path(args.output_dir).name] = len(new)


def models():
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, PreTrainedModel) and one.base_model is not one]


@pytest.fixture
def left(monkeypatch):
    """The models, trainers and optimizers that are in memory before each stage, while Python collects no garbage."""
    at_first, found = {id(one) for one in large()}, []

    def watched(stage):
        def run(context):
            found.extend((stage.name, type(one).__name__) for one in large() if id(one) not in at_first)
            stage.run(context)

        return dataclasses.replace(stage, run=run)

    monkeypatch.setattr(pipeline, "STAGES", [watched(stage) for stage in pipeline.STAGES])
    gc.disable()
    yield found
    gc.enable()


def large():
    kinds = PreTrainedModel | Trainer | torch.optim.Optimizer
    return [one for one in gc.get_objects() if isinstance(one, kinds)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_stage_holds_no_model_that_it_does_not_train_with(values, tmp_path, left, count):
    """Only the student where the teacher's outputs are cached: neither the teacher nor the dense student stays.

    Where they are larger than the limit the run trains with the teacher beside the student, and reports it: the first
    command of the README, whose model has no head, so that its teacher is trained first.
    Nothing large is left of the stages before: the memory of their optimizers is free when the next stage loads models.
    """
    watch = Models()
    above = {} if count == 1 else {"model": write_model(tmp_path / "bare"), "distillation.cache_gb": 1e-6}
    report = pipeline.run(recipe.make(values | above), tmp_path / "run", [watch])
    assert watch.alive == ({"teacher-training": 1} if above else {}) | {"prune": count, "recover": count} and not left
    assert report.outputs["cached"] == ("cache" in report.seconds) == (count == 1)
    notes = [note for note in footnotes(report) if "beside the student" in note]
    assert len(notes) == count - 1 and all("distillation.cache_gb is 1e-06" in note for note in notes)


def test_a_run_is_refitted_where_its_recipe_says_so(values, tmp_path):
    """From the same seed: units that leave at random are the same, and the weights that read them are not."""
    files = []
    for refit in (False, True):
        changed = {"method.name": "random", "method.refit": refit, "method.end": 1.0, "target.density": 0.5}
        pipeline.run(recipe.make(values | changed), tmp_path / str(refit))
        files.append(load_file(tmp_path / str(refit) / "model" / "model.safetensors"))
    assert files[0].keys() == files[1].keys()
    readers = [name for name in files[0] if name.endswith("output.dense.weight")]
    assert readers and not any(torch.equal(files[0][name], files[1][name]) for name in readers)


@pytest.mark.parametrize("name", ["cofi", "movement", "subset", "voita"])
def test_a_refit_without_removals_is_refused_before_the_folder_is_touched(values, tmp_path, name):
    changed = {"method.name": name, "method.refit": True, "target.units": ["head", "ffn"], "target.density": 0.5}
    with pytest.raises(UserError, match=rf"{name.capitalize()} closes units that may return"):
        pipeline.run(recipe.make(values | changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tiles_are_not_refitted_and_refused_before_the_folder_is_touched(values, tmp_path):
    tiled = values | {"method.name": "random", "method.refit": True, "target.units": ["ffn/4x4"], "target.density": 0.9}
    with pytest.raises(UserError, match=r"tiles cannot be refitted"):
        pipeline.run(recipe.make(tiled), tmp_path / "run")
    assert not (tmp_path / "run").exists()
