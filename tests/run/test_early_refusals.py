"""What needs no training and no measurement to be refused is refused before either."""

from types import SimpleNamespace

import pytest
import torch
from small_world import recipe_values, write_world
from tiny_models import tiny

from secateur.methods import METHODS
from secateur.run import pipeline, post_training, recipe
from secateur.run.recipe_groups import MethodRecipe
from secateur.run.recipe_target import TargetRecipe
from secateur.run.stages import check
from secateur.run.sweep.check import _differing
from secateur.run.target import unmeasured_method
from secateur.system.errors import UserError

VALUES = {"model": "m", "data": "d", "target.density": 0.5, "method": "magnitude"}


def context(**changed):
    """A stand-in for the context of a run, with what the check of a student reads of it."""
    made, task = recipe.make(VALUES | changed), SimpleNamespace(of_one_width=False)
    return SimpleNamespace(recipe=made, recipes=(made,), data=SimpleNamespace(task=task), distillation=None)


def test_word_embeddings_in_int8_are_refused_for_a_model_without_words_before_it_is_trained():
    images = tiny("vit", dtype=torch.float32)
    with pytest.raises(UserError, match="word embeddings in int8 of a 'vit' model is not possible"):
        check.check_unmeasured(context(**{"storage.embeddings": "int8"}), images)


def test_a_sweep_checks_each_kind_of_storage():
    made = [recipe.make(VALUES | {"storage.embeddings": rows}) for rows in ("fp32", "int8", "fp32")]
    assert [one.storage.embeddings for _, one in _differing([({}, one) for one in made])] == ["fp32", "int8"]


TIMED = {"target.density": None, "target.speedup": 2, "measurement.shapes": [[1, 4]]}
CANNOT_BE_TIMED = [
    ({"method": "cofi"}, "Cofi follows a budget of parameters, and this space counts latency"),
    ({"method.options": {"seed": 1}}, "the options of 'magnitude' do not fit"),
    (
        {"method": "grain", "method.options": {"beta": "0,99"}},
        "beta is '0,99': expected a number from 0 on and below 1",
    ),
    ({"target.units": ["ffn/4x8"]}, "a latency does not depend on tiles"),
    ({"method": "grain", "target.units": ["layer", "ffn"], "target.layers": 3}, "3"),
    ({"storage.embeddings": "int8"}, "word embeddings in int8"),
]


@pytest.mark.parametrize(("changed", "match"), CANNOT_BE_TIMED)
def test_what_no_latency_decides_is_refused_before_one_is_measured(changed, match):
    model = tiny("vit" if "storage.embeddings" in changed else "bert", dtype=torch.float32)
    with pytest.raises(UserError, match=match):
        check.check_unmeasured(context(**TIMED | changed), model)


def test_layers_are_refused_among_the_units_of_uniform_sizes():
    uniform = {"target.units": ["layer", "ffn"], "target.uniform": True, "method": "grain"}
    said = (
        "^layer cannot be pruned to the same sizes in every layer: choose the units from .*ffn.*, or leave uniform out"
    )
    with pytest.raises(UserError, match=said):
        check.check_unmeasured(context(**uniform), tiny("bert", dtype=torch.float32))


@pytest.mark.parametrize("name", sorted(METHODS.all()))
def test_a_method_that_follows_a_latency_is_made_without_one(name):
    kind = METHODS.get(name)
    model, made = tiny("bert", dtype=torch.float32), recipe.make(VALUES | TIMED | {"method": name})
    if kind.budgets is None or "latency" in kind.budgets:
        assert isinstance(unmeasured_method(made, model), kind)


def test_a_run_measures_latencies_after_all_that_is_checked_without_them(tmp_path, monkeypatch):
    write_world(tmp_path)
    monkeypatch.setattr(check, "latency_table", lambda *_: pytest.fail("it would be measured"))
    values = recipe_values(str(tmp_path / "classifier"), str(tmp_path / "data.csv"))
    wrong = {"distillation.hidden": None, "distillation.terms": {"hidden": {"project": False}}}
    units = {"target.units": ["hidden", "ffn"], "target.speedup": 2, "target.density": None}
    with pytest.raises(UserError, match="need projections"):
        pipeline.run(recipe.make(values | wrong | units), tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (MethodRecipe(name="cofi"), "Cofi follows a budget"),
        (MethodRecipe(name="fisher"), "'fisher' chooses by rows of data"),
        (MethodRecipe(name="magnitude", options={"seed": 1}), "the options of 'magnitude' do not fit"),
        (MethodRecipe(name="random", options={"seed": 0.5}), "seed is 0.5: expected a whole number"),
    ],
)
def test_a_cut_measures_latencies_after_its_method_is_checked(method, match, monkeypatch):
    monkeypatch.setattr(post_training, "measured_table", lambda *_: pytest.fail("it would be measured"))
    model, target = tiny("bert", dtype=torch.float32), TargetRecipe(density=None, speedup=2)
    with pytest.raises(UserError, match=match):
        post_training.cut_without_training(model, target, method)
