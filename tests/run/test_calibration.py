"""Cuts by rows of data, without training: what methods learn from them, and the refit."""

import copy
from dataclasses import replace

import pytest
import torch
from small_world import recipe_values, tokenizer, write_data, write_model, write_world

from secateur.budget.space import Space
from secateur.methods import METHODS
from secateur.methods.schedules import linear
from secateur.run import pipeline, recipe
from secateur.run.calibration import Calibration
from secateur.run.post_training import cut_without_training
from secateur.run.recipe_groups import MethodRecipe
from secateur.run.recipe_target import TargetRecipe
from secateur.run.run_data import RunData
from secateur.surgery.opening import open_model
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.head import SentenceHead
from secateur.system.errors import UserError
from secateur.tasks.task import open_task

HALF = TargetRecipe(units=("head", "ffn"), density=0.5)
TEXTS = [" ".join(("a", one, other)) for one in ("fine", "bad", "good") for other in ("film", "book", "dull")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A classifier, its data as a calibration, and the recipe of a run on it."""
    folder = tmp_path_factory.mktemp("calibration")
    write_world(folder)
    model = open_model(folder / "classifier")
    data = write_data(folder / "more.csv")
    task = open_task("classification", str(data), {}, metric=None, seed=0, rows=None).fitted(model, "model")
    return (
        model,
        Calibration.sampled(task, tokenizer(), 24, count=20),
        recipe_values(str(folder / "classifier"), str(data)),
    )


@pytest.mark.parametrize("name", ["fisher", "grain", "michel"])
def test_what_a_method_observes_is_the_gradient_of_the_task(world, name):
    """That of each batch, whose rows are of similar lengths."""
    model, calibration, _ = world
    space = Space(model, "head", "ffn")
    seen = []
    method = METHODS.get(name)(space, linear(1.0, 0.5, begin=0.0, end=1.0))
    method.observe = seen.append
    calibration.teach(method)
    assert len(seen) == len(calibration.batches) == 1 and seen[0].shape == (len(space),)
    neuron = space.slices["0.ffn"].start + 3
    weight = model.bert.encoder.layer[0].output.dense.weight
    (gradient,) = torch.autograd.grad(model(**calibration.batches[0]).loss, weight)
    wanted = (gradient * weight.detach())[:, 3].sum()
    assert float(seen[0][neuron].detach()) == pytest.approx(float(wanted), abs=1e-6)
    assert model.config.problem_type is None or model.config.problem_type == "single_label_classification"


def test_the_refit_brings_the_outputs_nearer_to_those_of_the_dense_model(world):
    model, calibration, _ = world
    batch = {name: value for name, value in calibration.batches[0].items() if name != "labels"}
    with torch.no_grad():
        wanted = model(**batch).logits
        errors = []
        for refit in (False, True):
            own = replace(calibration, refit=refit)
            small, _ = cut_without_training(model, HALF, MethodRecipe(name="obs"), calibration=own)
            errors.append(float((small(**batch).logits - wanted).square().mean()))
    assert errors[1] < errors[0]


def test_rows_longer_than_the_model_are_refused_before_it_runs(world):
    model, calibration, _ = world
    long = {**calibration.rows[0], "input_ids": [5] * 40, "attention_mask": [1] * 40}
    calibration = replace(calibration, rows=(*calibration.rows, long))
    for method in ("fisher", "obs", "magnitude"):
        with pytest.raises(UserError, match="max_length is 40: give at most 32, which the model takes"):
            cut_without_training(model, HALF, MethodRecipe(name=method), calibration=calibration)


def test_texts_without_labels_are_for_methods_that_read_inputs(world, tmp_path):
    encoder = attach_head(open_model(write_model(tmp_path / "encoder")), SentenceHead(["mean"], width=16))
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    task = open_task("embedding", str(tmp_path / "texts.txt"), {}, metric=None, seed=0, rows=None)
    calibration = Calibration.sampled(task.fitted(encoder, "model"), tokenizer(), 24)
    small, _ = cut_without_training(encoder, HALF, MethodRecipe(name="obs"), calibration=calibration)
    assert small.plan["achieved"]["prunable"] <= 0.5
    with pytest.raises(UserError, match=r"'fisher' observes the loss of labels.*--method obs"):
        cut_without_training(encoder, HALF, MethodRecipe(name="fisher"), calibration=calibration)


def test_a_run_by_obs_keeps_what_its_teacher_says_on_the_training_rows(world, tmp_path):
    *_, values = world
    units = {"target.units": ["head", "ffn"]}
    made = recipe.make(values | {"method": "obs", "target.density": 0.5, "teacher": values["model"]} | units)
    pipeline.run(made, tmp_path / "run")
    method = METHODS.get("obs")(Space(open_model(made.model), *units["target.units"]))
    Calibration.of_run(data := RunData(made), data.train_rows).teach(method)
    plan, kept = method.plan(0.5), open_model(tmp_path / "run" / "model").plan
    assert kept["method"] == "obs" and kept["groups"] == plan.to_dict(method.space)["groups"]


def test_gradients_that_are_not_finite_end_a_cut(world):
    model, calibration, _ = world
    broken = copy.deepcopy(model)
    broken.classifier.weight.data.fill_(float("nan"))
    method = METHODS.get("fisher")(Space(broken, "head", "ffn"), linear(1.0, 0.5, begin=0.0, end=1.0))
    with pytest.raises(UserError, match=r"the gradient of the masks is not finite on these rows"):
        calibration.teach(method)
