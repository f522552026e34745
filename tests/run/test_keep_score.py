"""A run that keeps a part of its teacher's score: the density that trials choose, and the run at that density."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from made_up_run import REPORT
from small_world import ROUNDS, config, recipe_values, write_data, write_model
from transformers import BertForSequenceClassification, TrainerCallback
from typer.testing import CliRunner

from secateur.cli import app, errors
from secateur.report import trials_section
from secateur.report.report_text import footnotes, goal_sentence
from secateur.run import pipeline, recipe, trials
from secateur.run.post_training import cut_without_training
from secateur.run.recipe_groups import MethodRecipe
from secateur.run.recipe_target import TargetRecipe
from secateur.run.score_goal import LADDER, ScoreGoal, TeacherScore, most_trials, recipes_to_try, smallest
from secateur.surgery.checkpoint import load
from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.training.nonfinite import Diverged

GOAL = ScoreGoal(
    0.97, trial=1.0, validation=TeacherScore(0.9, 0.01, constant=0.5), held_out=TeacherScore(0.95, 0.01, constant=0.6)
)


@pytest.mark.parametrize("least", [None, *LADDER])
def test_the_smallest_density_that_keeps_the_score_takes_three_trials(least):
    tried = []

    def keeps(density):
        tried.append(density)
        return least is not None and density >= least

    assert smallest(LADDER, keeps) == (least or LADDER[0])
    assert len(tried) == len(set(tried)) == most_trials(len(LADDER)) == 3


def test_of_one_density_nothing_is_tried():
    assert smallest([0.5], None) == 0.5 and most_trials(1) == 0


def test_the_ladder_goes_down_by_about_a_third():
    assert all(0.6 <= lower / upper <= 0.72 for upper, lower in pairwise(LADDER))


@pytest.mark.parametrize(
    ("score", "error", "kept"),
    [(0.89, 0.01, True), (0.88, 0.01, False), (0.873, None, True), (0.8729, None, False)],
)
def test_a_trial_keeps_the_part_of_the_lower_score_of_the_teacher_by_its_standard_error(score, error, kept):
    assert GOAL.needed == pytest.approx(0.873)
    assert GOAL.kept_by({"score": score, "standard_error": error}) is kept
    assert replace(GOAL, validation=TeacherScore(0.98, 0.01, 0.5)).needed == pytest.approx(0.97 * 0.95)
    assert replace(GOAL, trial=1 / 8).needed == pytest.approx(
        0.97**2 * 0.9
    )  # which recovers over an eighth of the steps


def test_a_trial_that_is_no_better_than_a_constant_of_its_rows_keeps_nothing():
    half = replace(GOAL, part=0.5)
    assert half.needed == 0.45 and not half.kept_by({"score": 0.6, "standard_error": None})
    assert half.kept_by({"score": 0.63, "standard_error": 0.01})
    assert not half.kept_by({"score": 0.63, "standard_error": 0.02})


def test_each_score_of_the_teacher_is_compared_with_a_constant_of_its_own_rows():
    """The lower score is of balanced rows, and the commonest class of the others has more."""
    assert TeacherScore(0.85, 0.01, constant=0.5).is_worth_keeping
    assert TeacherScore(0.97, 0.01, constant=0.9).is_worth_keeping
    assert not TeacherScore(0.91, 0.01, constant=0.9).is_worth_keeping
    assert not TeacherScore(0.0, None, constant=None).is_worth_keeping


def values_of(folder, **changed):
    values = recipe_values(str(folder / "model"), str(folder / "data.csv")) | {"training.evaluations": 0}
    return values | {"target.density": None, "target.keep_score": 0.97, "method.trial": 0.2} | changed


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "model", ["bad", "good"])
    write_data(folder / "data.csv")
    return folder


def test_only_densities_that_can_be_reached_are_tried():
    model = BertForSequenceClassification(config(layers=2))
    least = {"model": "m", "data": "d", "target.keep_score": 0.9}
    heads = [*recipes_to_try(recipe.make(least | {"target.units": ["head"]}), model)]
    assert heads == [density for density in LADDER if density >= min(heads)] and 0.03 not in heads
    one_layer = {"target.units": ["layer", "ffn", "qk", "vo"], "target.layers": 1}
    assert max(recipes_to_try(recipe.make(least | one_layer), model)) == 0.5
    with pytest.raises(UserError, match="options of 'grain' do not fit"):
        recipes_to_try(recipe.make(least | {"method.options": {"none": 1}}), model)


def test_a_density_that_finer_units_cannot_reach_alone_is_tried_with_fewer_layers():
    model = BertForSequenceClassification(config(layers=4))
    wanted = recipe.make({"model": "m", "data": "d", "target.keep_score": 0.9, "target.units": ["layer", "ffn"]})
    tried = recipes_to_try(wanted, model)
    assert {density: one.target.layers for density, one in tried.items()} == {0.5: 3, 0.33: 2, 0.22: 1, 0.15: 1}
    assert all(one.target.density == density for density, one in tried.items())  # one layer without neurons has 0.144


@pytest.fixture
def made_up(monkeypatch):
    """Sets the scores of the teacher and the trials on held-out rows; a score that is no number is raised."""

    def score(scores, *_):
        if not isinstance(value := next(scores), float):
            raise value
        return {"accuracy": value}, 0.01

    def use(*scores):
        rest = iter(scores)
        monkeypatch.setattr(trials, "scores_with_error", lambda *arguments: score(rest, *arguments))

    monkeypatch.setattr(Classification, "baseline", lambda *arguments: 0.0)  # this teacher is an untrained one
    return use


def test_the_run_is_that_of_the_density_which_its_trials_choose(world, tmp_path, made_up):
    wanted = recipe.make(values_of(world))
    made_up(0.4, 0.95, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(wanted, tmp_path / "run")
    made_up(0.4, Diverged("the loss is not finite"), 0.35)  # the first trial is not repeated
    report = pipeline.run(wanted, tmp_path / "run")
    assert [(trial["density"], trial["score"]) for trial in report.goal["trials"]] == [
        (0.1, 0.95),
        (0.05, None),
        (0.07, 0.35),
    ]
    assert "0.05 diverged, 0.07 0.3500" in goal_sentence(report.goal, "accuracy")
    assert report.goal["density"] == report.recipe["target"]["density"] == 0.1
    assert report.goal["keep_score"] == report.recipe["measurement"]["retention"] == 0.97
    assert recipe.read(tmp_path / "run" / "recipe.yaml", {}) == wanted
    assert not list((tmp_path / "run").glob("density-*"))
    said = "density 0.1 is the smallest that is expected to keep 97% of the teacher's accuracy, by short trials"
    assert any(note.startswith(said) for note in footnotes(report))
    assert said in (tmp_path / "run" / "model" / "README.md").read_text()
    assert len(trials_section.density(report).contents) == 3 and "density" in report.seconds
    named = {"target.keep_score": None, "target.density": 0.1}
    other = pipeline.run(recipe.make(values_of(world) | named), tmp_path / "named")
    assert other.structure == report.structure and other.goal is None
    ours, theirs = (load(tmp_path / name / "model").state_dict() for name in ("run", "named"))
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


class Learned(TrainerCallback):
    """Stage -> its steps, its part of the run, and whether the weights of the model changed in it."""

    def __init__(self):
        self.stages = {}

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.before = model.classifier.weight.detach().clone()

    def on_train_end(self, args, state, control, model, **kwargs):
        changed = not torch.equal(model.classifier.weight, self.before)
        self.stages[Path(args.output_dir).name] = (state.max_steps, state.log_history[-1]["progress"], changed)


def test_a_trial_without_training_of_weights_recovers_as_the_run_does(world, tmp_path, made_up):
    made_up(0.4, KeyboardInterrupt())
    learned, wanted = Learned(), recipe.make(values_of(world, **{"method.train": "scores"}))
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(wanted, tmp_path / "run", [learned])
    assert learned.stages == {"density-0.1": (3, 0.45, False), "density-0.1-recover": (4, 1.0, True)}


def test_a_trial_recovers_at_the_learning_rate_of_the_recovery(world, tmp_path, made_up):
    class Rates(Learned):
        def on_train_end(self, args, state, control, model, **kwargs):
            super().on_train_end(args, state, control, model, **kwargs)
            self.stages[Path(args.output_dir).name] += (args.learning_rate, args.lr_scheduler_type.value)

    made_up(0.4, KeyboardInterrupt())
    rates = {"training.decay": "stage", "training.recover_learning_rate": 1e-4, "training.learning_rate": 3e-4}
    learned = Rates()
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe.make(values_of(world, **rates)), tmp_path / "run", [learned])
    assert learned.stages == {
        "density-0.1": (3, 0.45, True, 3e-4, "linear"),
        "density-0.1-recover": (4, 1.0, True, 1e-4, "constant_with_warmup"),
    }


def test_the_number_of_layers_is_chosen_at_that_density(world, tmp_path, made_up):
    rounds = {key: value for key, value in ROUNDS.items() if key != "target.density"}
    made_up(0.9, *(0.1, 0.9, 0.1), *(0.9, 0.9))
    wanted = recipe.make(values_of(world) | rounds)
    said = dict(pipeline.dry_run(wanted, tmp_path / "run").lines)
    assert said["target"] == "the smallest density that keeps 97% of the teacher's score"
    assert said["density"].startswith("3 of 0.5, 0.33, ") and said["density"].endswith("tried at most, in 7 steps each")
    assert said["depth"] == "two or three numbers of layers are tried at that density, in 7 steps each"
    report = pipeline.run(wanted, tmp_path / "run")
    assert report.goal["density"] == 0.22 and report.recipe["target"]["keep_score"] is None
    assert [trial["layers"] for trial in report.depth["trials"]] == [2, 1] and report.depth["layers"] == 1


@pytest.mark.parametrize(("one_layer", "chosen"), [(0.485, 1), (0.482, 2)])
def test_fewer_layers_must_keep_the_score_as_well(world, tmp_path, made_up, one_layer, chosen):
    """Both are within 2% of all layers, and one of them is below the score that is needed by its standard error."""
    rounds = {key: value for key, value in ROUNDS.items() if key != "target.density"}
    made_up(0.5, *(0.1, 0.49, 0.1), *(0.49, one_layer))
    report = pipeline.run(recipe.make(values_of(world) | rounds), tmp_path / "run")
    assert 0.482 - 0.01 < report.goal["needed"] <= 0.485 - 0.01 and report.goal["density"] == 0.22
    assert report.depth["layers"] == chosen


def test_where_none_keeps_the_score_the_largest_is_taken_and_said():
    goal = GOAL.to_dict() | {"density": 0.5, "rows": 1000}
    lost = [{"density": density, "score": 0.6, "standard_error": None} for density in (0.1, 0.22, 0.33)]
    sentence = goal_sentence(goal | {"trials": lost}, "accuracy")
    assert sentence.startswith("density 0.5 is the largest to choose from: by short trials no other keeps 97%")
    assert "no other density to choose from can be reached" in goal_sentence(goal, "accuracy")


@pytest.mark.parametrize(
    ("changed", "greater", "message"),
    [
        (
            {"data.rows": 3, "seed": 1},
            True,
            "target.keep_score holds out a quarter of the training rows, and there are 3",
        ),
        ({}, False, "target.keep_score needs a metric of which more is better, and accuracy is none"),
    ],
)
def test_what_cannot_be_kept_is_refused(world, tmp_path, monkeypatch, changed, greater, message):
    monkeypatch.setattr(Classification, "greater_is_better", greater)
    values = values_of(world) | {"distillation.check_teacher": False} | changed
    with pytest.raises(UserError, match=message):
        pipeline.run(recipe.make(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_where_there_is_nothing_to_keep_no_density_is_tried(world, tmp_path, monkeypatch):
    """The user goes on with the teacher; the end is the verdict, and the exit code that of a goal that is missed."""
    monkeypatch.setattr(Classification, "baseline", lambda *arguments: 1.0)
    words = [
        f"--set={key}={json.dumps(value)}" for key, value in values_of(world).items() if key not in ("model", "data")
    ]
    named = ("prune", world / "model", "--data", world / "data.csv", "--output", tmp_path / "run", "--json")
    result = CliRunner().invoke(app.app, [*map(str, named), *words, "--set=distillation.check_teacher=false"])
    assert result.exit_code == errors.GOAL_MISSED, result.output
    shown = json.loads(result.stdout)
    assert shown["verdict"]["text"].startswith("There was nothing to keep: the teacher is no better than a constant")
    assert shown["goal"]["density"] == 0.5 and "trials" not in shown["goal"]
    assert "untried: the teacher is no better than" in goal_sentence(shown["goal"], "accuracy")


def test_a_cut_without_training_keeps_no_score():
    target = TargetRecipe(density=None, keep_score=0.97)
    with pytest.raises(UserError, match="a score is kept by training: use `secateur prune`"):
        cut_without_training(None, target, MethodRecipe())


@pytest.mark.parametrize(
    ("goal", "score", "code"), [(True, 0.88, 0), (True, 0.86, errors.GOAL_MISSED), (False, 0.86, 0)]
)
def test_the_exit_code_says_whether_the_score_is_kept(monkeypatch, tmp_path, goal, score, code):
    values = {**REPORT.recipe, "measurement": {"retention": 0.97}}
    kept = GOAL.to_dict() | {"density": 0.1} if goal else None
    report = replace(REPORT, recipe=values, scores={"accuracy": score}, goal=kept)
    monkeypatch.setattr(pipeline, "run", lambda *arguments: report)
    words = ["prune", "m", "--data", "d", "--output", str(tmp_path), "--json"]
    result = CliRunner().invoke(app.app, [*words, *(["--keep-score", "0.97"] if goal else [])])
    assert result.exit_code == code and json.loads(result.stdout)["verdict"]["worked"] is (score > 0.87)
