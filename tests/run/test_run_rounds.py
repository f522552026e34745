"""A run in rounds: layers first, then finer units; what it refuses, and that it is resumed."""

import json

import pytest
import torch
from fake_clock import timer
from small_world import ROUNDS, recipe_values, write_data, write_model
from transformers import AutoModelForSequenceClassification, TrainerCallback

from secateur.budget.latency import LatencyTable
from secateur.budget.space import Space
from secateur.report.report_text import footnotes
from secateur.run import pipeline, recipe
from secateur.run.density_sweep import sweep
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load
from secateur.surgery.cut import cut
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "model", ["bad", "good"], layers=4)
    return recipe_values(model, write_data(folder / "data.csv")) | ROUNDS | {"target.layers": 2}


@pytest.fixture(scope="module")
def whole(values, tmp_path_factory):
    """(folder, report) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, pipeline.run(recipe.make(values), folder)


def kept(folder):
    """For each line of pruned.jsonl the progress, the layers that are left, and the neurons of all layers."""
    lines = [json.loads(line) for line in (folder / "pruned.jsonl").read_text().splitlines()]
    return [
        (
            line["progress"],
            sum(count for name, count in line["kept"].items() if name.endswith(".layer")),
            sum(count for name, count in line["kept"].items() if name.endswith(".ffn")),
        )
        for line in lines
    ]


def layers_of(report):
    """The labels of the layers in which neurons are left."""
    return [row["layer"] for row in report.structure if not row.get("ffn", "0/").startswith("0/")]


def test_layers_go_first_and_the_density_is_that_of_the_whole_model(whole):
    folder, report = whole
    assert 0.15 < report.density["prunable"] <= 0.2
    assert len(layers_of(report)) == 2
    seen = kept(folder)
    assert seen[0][1:] == (4, 4 * 24)
    assert all(neurons == layers * 24 for progress, layers, neurons in seen if progress <= 0.5)
    assert all(layers == 2 for progress, layers, _ in seen if progress >= 0.25)
    assert seen[-1][2] < 2 * 24


def test_the_plan_is_one_over_the_units_of_the_dense_model(values, whole):
    """As if the dense model had been cut at once: `cut` by it gives the shapes of the compact model."""
    folder, report = whole
    dense = AutoModelForSequenceClassification.from_pretrained(values["model"])
    plan = Plan.load(folder / "model" / "plan.json", dense)
    space = Space(dense, *values["target.units"])
    groups = json.loads((folder / "model" / "plan.json").read_text())["groups"]
    assert groups.keys() == {group.name for group in space.groups} and len(groups) == 4 * 4
    left = {str(layer) for layer in layers_of(report)}
    for kind in ("layer", "ffn"):
        alive = {layer for layer in "0123" if plan.kept[space.slices[f"{layer}.{kind}"]].any()}
        assert alive == left and len(alive) == 2
    compact = load(folder / "model").state_dict()
    at_once = cut(dense, plan).state_dict()
    assert {name: one.shape for name, one in at_once.items()} == {name: one.shape for name, one in compact.items()}


def test_the_report_has_the_rounds_and_their_borders(whole):
    """Two rounds of 18 steps each: the last layer is removed in the middle of the first."""
    folder, report = whole
    times = {"begin": 0.05, "removed": 0.25, "recovered": 0.5, "finer": 0.55}
    assert report.depth is None and report.rounds == {
        "layers": 2,
        **{key: pytest.approx(n) for key, n in times.items()},
    }
    assert any(note.startswith("in rounds: all layers but 2 are removed from 5% to 25%") for note in footnotes(report))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "the last layer is removed at step 9, the round of finer units begins at step 18" in page


class Stopped(Exception):
    """Stands for a crash."""


class StopAt(TrainerCallback):
    """Fails at a step of the pruning."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith("prune") and state.global_step == self.step:
            raise Stopped


@pytest.mark.parametrize("step", [8, 23])
def test_a_run_goes_on_in_the_round_in_which_it_stopped(values, whole, tmp_path, step):
    """Checkpoints are written at every seventh step of 30; layers are removed within 4 and 20, the rest after 20."""
    folder, report = whole
    with pytest.raises(Stopped):
        pipeline.run(recipe.make(values), tmp_path, [StopAt(step)])
    resumed = pipeline.run(recipe.make(values), tmp_path)
    assert resumed.structure == report.structure and resumed.scores == report.scores
    mine, theirs = (load(place / "model").state_dict() for place in (tmp_path, folder))
    assert all(bool((mine[name] == theirs[name]).all()) for name in theirs)


def test_several_densities_share_the_layers(values, tmp_path):
    reports = sweep(recipe.make(values | {"target.density": [0.4, 0.2], "training.decay": "run"}), tmp_path)
    assert all(0.8 < one.density["prunable"] / asked <= 1 for one, asked in zip(reports, (0.4, 0.2), strict=True))
    first, second = map(layers_of, reports)
    assert first == second and len(first) == 2


def test_rounds_toward_a_speed_up(values, tmp_path):
    """The first round keeps the number of layers, whatever they cost; the second one reaches the time."""
    model = AutoModelForSequenceClassification.from_pretrained(values["model"])
    table = LatencyTable.measure(model, "layer", "ffn", "qk", "vo", tokens=8, timer=timer(tokens=8))
    table.save(tmp_path / "table.json")
    speedup = 1.3 * table.dense_ms / table.predict(Space(model, "layer"), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    target = {"target.density": None, "target.speedup": speedup, "target.latency_table": str(tmp_path / "table.json")}
    report = pipeline.run(recipe.make(values | target), tmp_path / "run")
    assert report.target["predicted_ms"] <= table.dense_ms / speedup + 1e-9
    seen = kept(tmp_path / "run")
    assert all(neurons == layers * 24 for progress, layers, neurons in seen if progress <= 0.5)
    assert seen[-1][1] == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target.units": ["ffn", "vo"]}, "target.layers needs layer and finer units among target.units"),
        ({"target.units": ["layer"]}, "target.layers needs layer and finer units among target.units"),
        (
            {"method": "cofi", "distillation.match": "same"},
            "target.layers needs a method that prunes in rounds",
        ),
        ({"target.layers": None}, "training.decay: round needs more than one round"),
        ({"target.layers": 0}, "expected a number above 0"),
    ],
)
def test_a_recipe_in_rounds_must_fit(values, changed, message):
    with pytest.raises(UserError, match=message):
        recipe.make(values | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target.layers": 5}, "5 layers cannot be kept: expected a whole number from 1 to 4"),
        (
            {"target.units": ["layer"], "target.layers": None, "training.decay": "run"},
            r"0\.2 of the parameters is out of reach: pruning layer to it leaves nothing of the layers",
        ),
        (
            {"target.density": 0.6, "target.layers": 1},
            r"1 layer has 0\.2500 of the parameters, which is less than the 0\.6 asked for",
        ),
        ({"target.density": 0.6}, r"2 layers have 0\.5000 of the parameters, which is less than the 0\.6 asked for"),
    ],
)
def test_what_layers_cannot_reach_is_refused_before_anything_is_written(values, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        pipeline.run(recipe.make(values | changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()
