"""A run that chooses its number of layers: by trials on held-out training rows, once, for all its densities."""

import json
import math
import shutil

import pytest
from fake_clock import timer
from small_world import ROUNDS, config, recipe_values, write_model
from tiny_models import tiny
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from secateur.budget.latency import LatencyTable
from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.methods.rounds import CoarseRound
from secateur.report.report_text import footnotes
from secateur.report.trials_section import layers as section
from secateur.run import pipeline, recipe, trials
from secateur.run.accounting import Accounting
from secateur.run.density_sweep import sweep
from secateur.run.run_data import RunData
from secateur.run.run_rounds import is_open, numbers_to_try, share_after, with_layers
from secateur.run.score_goal import ScoreGoal, TeacherScore
from secateur.run.stages import depth
from secateur.run.target import new_method
from secateur.surgery.checkpoint import load
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A recipe that leaves the number of layers open, for data whose texts all differ."""
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "model", ["bad", "good"], layers=4)
    words = ["a", "fine", "bad", "good", "dull", "film", "book"]
    texts = [f"{first} {second}" for first in words for second in words]
    lines = [f"{text},{('bad', 'good')['good' in text]}" for text in texts]
    (folder / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    own = {"method.trial": 0.2, "training.checkpoints": 0}
    return recipe_values(model, str(folder / "data.csv")) | ROUNDS | own


@pytest.fixture(scope="module")
def whole(values, tmp_path_factory):
    """(folder, report) of a run that has chosen its number of layers."""
    folder = tmp_path_factory.mktemp("open") / "run"
    return folder, pipeline.run(recipe.make(values), folder)


def record(folder):
    values = json.loads((folder / "depth.json").read_text())
    return {trial["layers"]: trial["score"] for trial in values["trials"]}, values["layers"], values["of"]


def stages_of(folder):
    return {json.loads(line)["stage"] for line in (folder / "log.jsonl").read_text().splitlines()}


def test_layers_beside_finer_units_are_chosen_by_the_run_unless_a_number_is_named(values):
    assert recipe.make(values).target.layers == "auto"
    for changed in (
        {"target.layers": None, "training.decay": "run"},
        {"target.layers": 3},
        {"target.units": ["ffn", "vo"], "training.decay": "run"},
        {"target.units": ["layer"], "training.decay": "run"},
        {"method": "cofi", "training.decay": "run"},
        {"method.options": {"faithful": True}, "training.decay": "run"},
        {"target.density": None, "target.keep": 30, "training.decay": "run"},
    ):
        assert not is_open(recipe.make(values | changed))


@pytest.mark.parametrize(
    ("share", "largest", "numbers"),
    [(0.05, 0.05, [2, 3, 6]), (0.2, 0.2, [3, 5, 6]), (0.9, 0.9, [6]), (0.05, 0.4, [3, 5, 6]), (0.05, 1.0, [6])],
)
def test_the_numbers_that_are_tried(share, largest, numbers):
    space = Space(BertForSequenceClassification(config(layers=6)), "layer", "ffn", "qk", "vo", budget=Parameters())
    assert numbers_to_try(space, share, largest) == numbers


def test_all_layers_are_tried_only_where_finer_units_reach_the_target():
    space = Space(BertForSequenceClassification(config(layers=6)), "layer", "head", budget=Parameters())
    least = space.budget.floor(Space(space.model, "head", budget=Parameters()))
    assert numbers_to_try(space, 1.01 * least, least)[-1] == 6
    assert numbers_to_try(space, 0.99 * least, 0.99 * least)[-1] == 5
    assert numbers_to_try(space, 0.51 * least, 0.51 * least)[-1] == 3  # of six: three layers without heads have a half


def test_a_named_number_of_layers_is_refused_where_finer_units_cannot_reach_the_target_within_them():
    model = BertForSequenceClassification(config(layers=6))
    least = Parameters().floor(Space(model, "ffn"))
    named = {"model": "m", "data": "d", "target.units": ["layer", "ffn"], "target.layers": 3}
    method = new_method(recipe.make(named | {"target.density": 0.51 * least}), model, None)
    plan = method.plan(0.51 * least)
    assert sum(not row["heads"].startswith("0/") for row in plan.read(method.space).summary()[:-1]) == 3
    with pytest.raises(UserError, match=r"3 layers have at least 0\.2876 of the parameters when pruning ffn in them"):
        new_method(recipe.make(named | {"target.density": 0.49 * least}), model, None)


def test_the_share_of_a_number_of_layers_is_that_of_the_costlier_stack():
    space = Space(tiny("marian"), "layer", "ffn", budget=Parameters())
    costlier = space.ones()
    costlier[space.slices["encoder.0.layer"]] = 0.0
    shares = [share_after([CoarseRound("layer", keep, 0.0, 1.0)], space) for keep in (3, 4)]
    assert shares == pytest.approx([space.share(costlier), 1.0])


@pytest.mark.parametrize(
    ("scores", "greater", "chosen"),
    [
        ((0.5, 0.75, 0.625), True, 3),
        ((0.75, 0.75, 0.25), True, 2),
        ((0.735, 0.5, 0.75), True, 2),
        ((0.734, 0.5, 0.75), True, 6),
        ((-0.11, -0.1, -0.2), True, 3),
        ((1.03, 1.01, 1.0), False, 3),
        ((math.nan, 0.5, 0.75), True, 6),
        ((math.nan, math.nan, 0.0), False, 6),
        ((None, 0.74, 0.75), True, 3),
        ((None, None, 0.0), False, 6),
    ],
)
def test_the_fewest_layers_within_two_percent_of_the_best(scores, greater, chosen):
    assert depth.Rule(greater).choice(tried(*scores)) == chosen


def tried(*scores, error=0.0):
    """Records of trials of two, three and six layers."""
    return {layers: {"score": score, "standard_error": error} for layers, score in zip((2, 3, 6), scores, strict=True)}


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ((0.875, 0.883, 0.890), 3),  # two layers have 0.865 by the standard error, and 0.873 is needed
        ((0.875, 0.875, 0.890), 6),
        ((0.884, 0.883, 0.890), 2),
        ((0.884, 0.883, 0.950), 6),  # which keep the score, and are not within 2%
        ((0.850, 0.870, 0.860), 3),  # none keeps it
        ((0.870, 0.870, 0.860), 2),
        ((math.nan, 0.5, math.nan), 3),
        ((None, 0.5, None), 3),
    ],
)
def test_fewer_layers_must_keep_the_score_too(scores, chosen):
    validation, held_out = (TeacherScore(score, None, 0.5) for score in (0.9, 0.95))
    goal = ScoreGoal(0.97, trial=1.0, validation=validation, held_out=held_out)
    assert goal.needed == pytest.approx(0.873)
    assert depth.Rule(True, goal=goal).choice(tried(*scores, error=0.01)) == chosen


@pytest.mark.parametrize(
    ("scores", "greater", "chosen"),
    [
        ((0.745, 0.749, 0.75), True, 6),
        ((0.745, 0.75, 0.75), True, 3),
        ((1.0, 1.01, 1.02), False, 2),
        ((math.nan, math.nan, math.nan), True, 2),
    ],
)
def test_where_the_target_is_a_time_fewer_layers_may_cost_nothing(scores, greater, chosen):
    rule = depth.Rule(greater, tolerance=0.0)
    assert rule.choice(tried(*scores)) == chosen
    assert not rule.decides(tried(*scores), 2)  # the number between may be better than both ends


def test_toward_a_speed_up_the_number_with_the_best_trial_is_kept(values, tmp_path, monkeypatch):
    made_up = iter((0.75, 0.74, 0.745))  # of four layers, of the fewest, and of the number between
    monkeypatch.setattr(trials, "scores_with_error", lambda *arguments: ({"accuracy": next(made_up)}, 0.01))
    model = AutoModelForSequenceClassification.from_pretrained(values["model"])
    table = LatencyTable.measure(model, "layer", "ffn", "qk", "vo", tokens=8, timer=timer(tokens=8))
    table.save(tmp_path / "table.json")
    target = {"target.density": None, "target.speedup": 4.0, "target.latency_table": str(tmp_path / "table.json")}
    wanted = recipe.make(values | target)
    said = dict(pipeline.dry_run(wanted, tmp_path / "run").lines)["depth"]
    report = pipeline.run(wanted, tmp_path / "run")
    scores, chosen, _ = record(tmp_path / "run")
    assert len(scores) == 3 and chosen == 4 and report.target["predicted_ms"] <= table.dense_ms / 4.0 + 1e-9
    assert said.startswith("4, {} and {} layers are tried, in".format(*sorted(scores)[:2]))


def test_the_number_with_the_best_trial_is_kept_and_reported(values, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "scores_with_error", lambda *arguments: ({"accuracy": next(made_up)}, 0.01))
    for scores, best in (((0.75, 0.5, 0.74), 3), ((0.875, 0.25, 0.5), 4), ((0.75, 0.74), 2)):
        made_up = iter(scores)
        folder = tmp_path / str(best)
        report = pipeline.run(recipe.make(values), folder)
        assert record(folder) == (dict(zip((4, 2, 3), scores, strict=False)), best, 4)
        assert report.depth["layers"] == best and report.depth["rows"] == len(
            RunData(recipe.make(values)).held_out_rows
        )
        layers = [row for row in report.structure if row["layer"] != "stream"]
        assert sum(not row["ffn"].startswith("0/") for row in layers) == best
        assert 0.15 < report.density["prunable"] <= 0.2
        tried = {f"depth-{layers}" for layers in (4, 2, 3)[: len(scores)]}
        assert {name for name in stages_of(folder) if name.startswith("depth-")} == tried
        assert not list(folder.glob("depth-*")) and "depth" in report.seconds
        said = f"{best} of 4 layers are kept first" if best < 4 else "no layer of 4 is removed first"
        assert any(note.startswith(said) for note in footnotes(report))
        assert len(section(report).contents) == 3
        assert "Number of layers" in (folder / "report.html").read_text()


def test_the_decided_run_is_the_run_that_names_the_number(values, whole, tmp_path):
    folder, chosen = whole
    best = chosen.depth["layers"]
    named = with_layers(recipe.make(values), best, 4)
    assert pipeline.run(named, tmp_path).structure == chosen.structure
    ours, theirs = (load(place / "model").state_dict() for place in (folder, tmp_path))
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def test_an_interrupted_choice_repeats_no_trial(values, whole, tmp_path, monkeypatch):
    real, calls = trials.scores_with_error, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(trials, "scores_with_error", failing)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe.make(values), tmp_path / "run")
    report = pipeline.run(recipe.make(values), tmp_path / "run")
    assert len(calls) == 1 + len(report.depth["trials"])  # only that which was interrupted is repeated
    assert whole[1].depth == report.depth


def test_trials_count_before_all_of_them_have_ended(values, tmp_path, monkeypatch):
    """A process that is killed in the second trial writes nothing any more."""
    seconds = []

    def scored(*arguments):
        seconds.append(Accounting(tmp_path / "run").seconds().get("depth"))
        if len(seconds) == 2:
            raise KeyboardInterrupt
        return {"accuracy": 0.5}, 0.1

    monkeypatch.setattr(trials, "scores_with_error", scored)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe.make(values), tmp_path / "run")
    assert None not in seconds and 0 <= seconds[0] <= seconds[1]


def test_where_one_number_is_left_nothing_is_tried(values, tmp_path):
    report = pipeline.run(recipe.make(values | {"target.density": 0.8}), tmp_path)
    assert report.depth is None and not {"depth-4"} & stages_of(tmp_path)
    assert 0.7 < report.density["prunable"] <= 0.8


def test_several_densities_share_the_choice(values, tmp_path):
    made = recipe.make(values | {"target.density": [0.6, 0.2]})
    reports = sweep(made, tmp_path)
    assert reports[0].depth == reports[1].depth
    assert [trial["layers"] for trial in reports[0].depth["trials"]] == [4, 3]
    assert all(
        0.75 < report.density["prunable"] / asked <= 1 for report, asked in zip(reports, (0.6, 0.2), strict=True)
    )
    shutil.rmtree(tmp_path / "0.6")
    assert [one.depth for one in sweep(made, tmp_path)] == [one.depth for one in reports]


def test_what_is_held_out_is_not_trained_on(values):
    data = RunData(recipe.make(values | {"method.trial_rows": 10}))
    held_out, rows = data.held_out_rows, data.without_held_out(data.distillation_rows)
    assert len(held_out) == 10
    assert not {tuple(row["input_ids"]) for row in held_out} & {tuple(row["input_ids"]) for row in rows}
    by_number = {row["index"]: row for row in data.distillation_rows}
    assert all(by_number[row["index"]] == row for row in rows) and len(rows) == len(by_number) - 10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target.layers": "many"}, "target.layers: expected a number of layers or auto, not 'many'"),
        ({"target.layers": "auto", "target.density": None, "target.keep": 30}, "name a number of layers"),
        ({"method": "cofi", "target.layers": "auto"}, "target.layers needs a method that prunes in rounds"),
        ({"data.rows": 3}, "give at least 4 rows"),
    ],
)
def test_what_cannot_be_chosen_is_refused(values, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        pipeline.run(recipe.make(values | changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_numbers_come_as_text_on_the_command_line(values):
    assert recipe.make(values | {"target.layers": "2"}).target.layers == 2
