"""A teacher of another depth than its student: the plan fits the student, and the whole job is done."""

import json

import pytest
import torch
from interrupted_runs import CopyAt, copy_of
from safetensors.torch import load_file
from small_world import ROUNDS, recipe_values, write_data, write_model

from secateur.run import pipeline, recipe
from secateur.surgery.checkpoint import load


def values_of(folder, layers):
    """A recipe of a student of two layers, and of a teacher of more."""
    teacher = write_model(folder / "teacher", ["bad", "good"], layers=layers)
    own = {"teacher": teacher, "distillation.start": "model", "training.evaluations": 0}
    return recipe_values(write_model(folder / "student"), write_data(folder / "data.csv")) | own


@pytest.mark.parametrize("rate", [None, 1e-4])
def test_a_student_may_be_less_deep_than_its_teacher(tmp_path, rate):
    values = values_of(tmp_path, 3) | {
        "distillation.hidden": None,
        "training.epochs": 1,
        "training.freeze_embeddings": "all",
    }
    if rate:
        values |= {"training.decay": "stage", "training.recover_learning_rate": rate}
    report = pipeline.run(recipe.make(values), tmp_path / "run")
    assert len(report.structure) >= 2 and 0 < report.density["prunable"] <= values["target.density"]
    assert 3 * report.unpruned["layer_bytes"] == 2 * report.bytes["teacher"]["layers"] > 0
    made, student = load(tmp_path / "run" / "model"), load_file(tmp_path / "student" / "model.safetensors")
    assert made.config.num_hidden_layers == 2
    frozen = {f"bert.{name}": weight for name, weight in student.items() if name.startswith("embeddings.")}
    assert any("LayerNorm" in name for name in frozen)
    assert all(torch.equal(made.state_dict()[name], weight) for name, weight in frozen.items())
    assert report.parameters["teacher"] > report.parameters["model"]


@pytest.mark.parametrize("rounds", [{}, ROUNDS | {"target.layers": 1}], ids=["finer units", "in rounds"])
def test_hidden_states_of_the_same_relative_depth_are_distilled_with_the_defaults(tmp_path, rounds):
    """In both stages, whose projections go on where a kill has left them."""
    wanted = recipe.make(values_of(tmp_path, 4) | {"training.epochs": 3} | rounds)
    assert wanted.distillation.hidden == "every 2" and wanted.distillation.match == "same"
    points = (("prune", 5), ("prune", 11), ("recover", 4))
    report = pipeline.run(wanted, tmp_path / "run", [CopyAt(tmp_path / "run", tmp_path / "copies", *points)])
    stages = {line["stage"] for line in logged(tmp_path / "run") if line.get("loss_hidden", 0) > 0}
    assert {"prune", "recover"} <= stages
    layers = [row for row in report.structure if not row.get("ffn", "0/").startswith("0/")]
    assert len(layers) == (1 if rounds else 2) and 0 < report.density["prunable"] <= wanted.target.density
    whole = load(tmp_path / "run" / "model").state_dict()
    for point in points:
        resumed = pipeline.run(wanted, copy_of(tmp_path / "copies", *point))
        assert resumed.scores == report.scores and resumed.structure == report.structure
        mine = load(copy_of(tmp_path / "copies", *point) / "model").state_dict()
        assert all(torch.equal(mine[name], weight) for name, weight in whole.items())


def test_which_layers_are_compared_is_said_once_in_each_run(tmp_path, caplog):
    """Also in the second run of a process."""
    wanted = recipe.make(values_of(tmp_path, 4) | {"training.epochs": None, "training.steps": 4})
    for run in ("first", "second"):
        caplog.clear()
        with caplog.at_level("INFO"):
            pipeline.run(wanted, tmp_path / run)
        assert caplog.text.count("layers 0, 2, 4 of the teacher are compared with 0, 1, 2 of the model") == 1


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
