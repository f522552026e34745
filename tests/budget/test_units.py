"""Exactly K units: in a ranking, a plan and a whole run; refused where that is not possible."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from tiny_models import METHODS, taught, tiny
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from secateur.budget.space import Space
from secateur.budget.units import Units, choose_exactly
from secateur.cli import app
from secateur.methods.magnitude import Magnitude
from secateur.methods.random import Random
from secateur.methods.schedules import cubic
from secateur.report.report_text import target_text
from secateur.run import pipeline, recipe
from secateur.run.context import Context
from secateur.run.run_data import RunData
from secateur.run.stages.check import check
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load
from secateur.system.errors import UserError

FLAT = [("head",), ("head", "ffn"), ("sublayer",), ("qk", "ffn"), ("vo",), ("hidden",), ("hidden", "head"), ("layer",)]
NESTED = {
    ("vo", "qk"): "a unit of qk is dead when the units of vo",
    ("head", "qk"): "a unit of qk is dead when the units of head",
    ("layer", "head"): "a unit of head is dead when the units of layer",
    ("ffn", "sublayer"): "a unit of ffn is dead when the units of sublayer",
    ("ffn/8x4",): "a unit of ffn/8x4 is dead",
}


@pytest.mark.parametrize("names", FLAT, ids="-".join)
def test_exactly_the_requested_number_is_kept_in_any_flat_space(names):
    space = Space(tiny("bert"), *names)
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    for count in (1, len(space) // 2, len(space)):
        kept = choose_exactly(space, scores, count)
        assert int(kept.sum()) == int(space.closure(kept).sum()) == count
        if "hidden" not in names:
            assert set(kept.nonzero().flatten().tolist()) == set(scores.topk(count).indices.tolist())
        plan = Random(space, seed=0).plan(keep=count)
        assert (int(plan.kept.sum()), plan.keep, plan.asked) == (count, count, None)


def test_of_equal_scores_the_first_alive_units_are_kept():
    space = Space(tiny("bert"), "head")
    alive = torch.tensor([False, True, True, True, True, True, False, False])
    assert choose_exactly(space, torch.zeros(8), 2, alive).nonzero().flatten().tolist() == [1, 2]
    nan = torch.full((8,), torch.nan)
    assert choose_exactly(space, nan, 5, alive).equal(alive)
    with pytest.raises(UserError, match="keep 6: only 5 units are left to choose from"):
        choose_exactly(space, nan, 6, alive)


@pytest.mark.parametrize("names", NESTED, ids="-".join)
def test_a_number_is_refused_where_units_depend_on_each_other(names):
    space = Space(tiny("bert"), *names)
    with pytest.raises(UserError, match=f"keep 3 cannot be exact: {NESTED[names]}"):
        Magnitude(space).plan(keep=3)
    with pytest.raises(UserError, match="cannot be exact"):
        Magnitude(Space(space.model, *names, budget=Units()), 0.5)


@pytest.mark.parametrize("count", [0, 9, 2.5, True])
def test_a_number_that_the_space_does_not_have_is_refused(count):
    with pytest.raises(UserError, match="expected a whole number from 1 to 8"):
        Magnitude(Space(tiny("bert"), "head")).plan(keep=count)


def test_a_density_and_a_number_exclude_each_other():
    method = Magnitude(Space(tiny("bert"), "head"))
    for both in ({}, {"density": 0.8, "keep": 3}):
        with pytest.raises(UserError, match="give one of share, density and keep"):
            method.plan(**both)
    with pytest.raises(UserError, match="round_to 8 would add some"):
        Magnitude(Space(method.space.model, "ffn", round_to=8)).plan(keep=3)
    with pytest.raises(UserError, match="the plan keeps 8 units where keep says 3"):
        Plan.of(method.space, method.space.ones(), keep=3)


def counted(space, share):
    """The number of units kept at each step of a schedule."""
    method = Random(space, cubic(1.0, share, begin=0.2, end=0.8), seed=0)
    counts = []
    for step in range(10):
        method.advance((step + 1) / 10)
        counts.append(int(method.alive.sum()))
    return counts


def test_a_schedule_in_a_space_that_counts_units_ends_at_the_number():
    space = Space(tiny("bert", num_hidden_layers=6), "head", budget=Units())
    for last in (1, 5, 12):
        counts = counted(space, last / 24)
        assert counts[:2] == [24, 24] and counts[-3:] == [last] * 3 and len(set(counts)) > 3


LEARNS_A_DENSITY = {"cofi", "movement"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_number_or_refuses(name):
    space = Space(tiny("bert", num_hidden_layers=6), "head", budget=Units())
    if name in LEARNS_A_DENSITY:
        with pytest.raises(UserError, match="ask for"):
            taught(name, space, density=6 / 24)
        return
    method = taught(name, space, density=6 / 24)
    plan = method.plan(keep=6)
    assert int(plan.kept.sum()) == int((method.masks() > 0).sum()) == 6
    assert plan.latency is None and plan.achieved["prunable"] == space.density(plan.kept)


def test_a_saved_plan_records_the_number(tmp_path):
    model = tiny("bert")
    space = Space(model, "head")
    plan = Magnitude(space).plan(keep=3)
    plan.save(tmp_path / "plan.json", space)
    again = Plan.load(tmp_path / "plan.json", model)
    assert again.keep == 3 and torch.equal(again.masks, plan.masks)
    data = json.loads((tmp_path / "plan.json").read_text())
    for wrong, message in (("3", "keep must be a whole number"), (None, "keep must be"), (4, "keeps 3 units")):
        with pytest.raises(UserError, match=message):
            Plan.from_dict(data | {"keep": wrong}, model)


# A whole run


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A fine-tuned model of four heads, its data, and half of the heads to keep, frozen, without a recovery."""
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "model", labels=("bad", "good"))
    own = {
        "target.density": None,
        "target.keep": 2,
        "method.train": "scores",
        "method.begin": 0.2,
        "method.end": 1.0,
        "training.epochs": 1,
    }
    return recipe_values(model, write_data(folder / "data.csv")) | own


@pytest.mark.parametrize("name", ["subset", "michel"])
def test_training_the_scores_alone_leaves_the_weights_of_kept_units_unchanged(values, tmp_path, name):
    """The weights of kept units are those of the given model, bit for bit."""
    wanted = recipe.make(values | {"method": name})
    report = pipeline.run(wanted, tmp_path / "run")
    assert target_text(report) == "keep 2" and "recover" not in report.seconds
    small, given = load(tmp_path / "run" / "model"), AutoModelForSequenceClassification.from_pretrained(values["model"])
    plan = Plan.load(tmp_path / "run" / "model" / "plan.json", given)
    assert int(plan.kept.sum()) == plan.keep == 2
    cut = dict(small.named_parameters())
    assert all(torch.equal(cut[key], tensor) for key, tensor in given.named_parameters() if "attention" not in key)
    assert pipeline.run(wanted, tmp_path / "run").to_dict() == report.to_dict()


def test_training_all_parameters_changes_the_weights(values, tmp_path):
    """With trained weights the result differs, which shows that the previous test can fail."""
    pipeline.run(recipe.make(values | {"method": "subset", "method.train": "all"}), tmp_path / "run")
    found = load_file(tmp_path / "run" / "model" / "model.safetensors")
    given = load_file(f"{values['model']}/model.safetensors")
    key = "bert.encoder.layer.0.intermediate.dense.weight"
    assert not torch.equal(found[key], given[key])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target.keep": 5}, "keep 5 is not a number of units: expected a whole number from 1 to 4"),
        ({"target.units": ["ffn", "qk", "vo"]}, "keep 2 cannot be exact"),
        ({"target.density": (0.95, 0.9), "target.keep": None, "method": "subset"}, "one pruning gives one density"),
        (
            {
                "method": "movement",
                "method.options": {"variant": "filled", "tile": 4},
                "target.keep": None,
                "target.density": 0.5,
            },
            "in which what is filled is trained",
        ),
    ],
)
def test_an_impossible_run_is_refused_before_it_begins(values, tmp_path, changes, message):
    wanted = recipe.make({"method": "subset"} | values | changes)
    for one in wanted.each() if len(wanted.target.densities) > 1 else (wanted,):
        if one is wanted or one.target.toward is not None:
            with pytest.raises(UserError, match=message):
                check(Context(one, tmp_path / "run", RunData(one)))
    assert not (tmp_path / "run").exists()


def test_the_cut_command_keeps_a_number_of_units(values, tmp_path):
    words = ["cut", values["model"], "--units", "head", "--output", str(tmp_path / "m")]
    done = CliRunner().invoke(app.app, [*words, "--keep", "3", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "m" / "plan.json").read_text())["keep"] == 3
    both = CliRunner().invoke(app.app, [*words[:-1], str(tmp_path / "n"), "--keep", "3", "--density", "0.5"])
    assert both.exit_code == 2
