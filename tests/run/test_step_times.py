"""Timing steps before a run: it finds the costs of every kind of run, and changes nothing of the run."""

import logging
import random

import numpy as np
import pytest
import torch
from small_world import ROUNDS, recipe_values, write_questions, write_sentences, write_world

from secateur.run import outlook, pipeline, recipe, step_times
from secateur.run.expected_stage import StageWatch


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def timed(monkeypatch):
    monkeypatch.setattr(outlook, "measured", step_times.measured)


def values(world, model="classifier", **changed):
    return recipe_values(str(world / model), str(world / "data.csv")) | changed


def test_a_dry_run_names_the_time_of_each_stage_the_disk_and_the_memory(world, tmp_path):
    ahead = pipeline.dry_run(recipe.make(values(world, model="encoder")), tmp_path / "run")
    said = dict(ahead.lines)
    assert [stage.name for stage in ahead.stages] == ["teacher", "outputs", "prune", "recover", "measure"]
    assert said["time"].startswith("about ") and ": teacher 1 s, outputs 1 s, prune " in said["time"]
    assert said["disk"].startswith("at most ") and said["disk"].endswith(" are free")
    assert said["memory"].startswith("about ") and said["memory"].endswith("B resident")
    expected = ahead.to_dict()["expected"]
    assert all(stage["seconds"] > 0 and stage["result"] is None for stage in expected["stages"])
    assert expected["disk_bytes"] > 0 and expected["memory_bytes"]["resident"] > 0


def random_state():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


class Watch(StageWatch):
    stages = ()

    def expect(self, stages):
        self.stages = [stage.name for stage in stages]


def test_a_run_that_has_been_timed_has_the_same_weights_and_random_state(world, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "secateur")  # as for users of the library, who need not read the first lines
    made = recipe.make(values(world, **{"training.epochs": 1, "training.evaluations": 1, "training.checkpoints": 0}))
    states = []

    def measured(*args):
        states.append(random_state())
        try:
            return step_times.measured(*args)
        finally:
            states.append(random_state())

    with monkeypatch.context() as patch:
        patch.setattr(outlook, "measured", measured)
        pipeline.dry_run(made, tmp_path / "dry")
    assert states[0] == states[1] and not (tmp_path / "dry").exists()
    watch = Watch()
    pipeline.run(made, tmp_path / "timed", [watch])
    assert watch.stages == ["outputs", "prune", "recover", "measure"]
    monkeypatch.setattr(outlook, "measured", lambda *_: pytest.fail("nobody reads what would be measured"))
    pipeline.run(made, tmp_path / "untimed")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("timed", "untimed")]
    assert weights[0] == weights[1]
    assert {path.name for path in (tmp_path / "timed").iterdir()} == {p.name for p in (tmp_path / "untimed").iterdir()}


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "cofi", "distillation.cache_gb": 1e-6},
        {"target.units": ["head"], "target.density": None, "target.keep": 3, "training.accumulate": 2},
        {"target.units": ["hidden", "ffn"], "training.augment": 1, "training.select": 4},
        {**ROUNDS, "target.layers": "auto"},
        {"target.embedding_rank": 4, "training.average": 0.5},
        {"method.train": "scores", "method": "subset", "target.density": 0.5},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_kind_of_recipe_is_timed(world, tmp_path, changed):
    ahead = pipeline.dry_run(recipe.make(values(world, **changed)), tmp_path / "run")
    assert all(stage.seconds > 0 for stage in ahead.stages)
    cached = "distillation.cache_gb" not in changed
    assert ("outputs" in [stage.name for stage in ahead.stages]) == cached


@pytest.mark.parametrize(("write", "task"), [(write_sentences, "tokens"), (write_questions, "questions")])
def test_every_task_is_timed(world, tmp_path, write, task):
    changed = {"data": write(tmp_path / "rows.jsonl"), "data.task": task}
    ahead = pipeline.dry_run(recipe.make(values(world, model="encoder", **changed)), tmp_path / "run")
    assert all(stage.seconds > 0 for stage in ahead.stages)
