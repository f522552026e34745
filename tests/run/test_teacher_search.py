"""The search for the learning rate and the length of a teacher's training, alone and in a run."""

import json
import math
from statistics import fmean

import pytest
import torch
from small_world import recipe_values, write_model
from transformers import AutoModelForSequenceClassification

from secateur.report.report_text import footnotes, teacher_sentence
from secateur.run import pipeline, recipe, stage_trainer
from secateur.run.accounting import Accounting
from secateur.run.context import Context
from secateur.run.models import untrained_teacher
from secateur.run.run_data import RunData
from secateur.run.stages import teacher
from secateur.run.teacher_search import Setting, TeacherSearch, usual_trainings
from secateur.run.training_arguments import first_teacher_rate, learning_rate_of_run
from secateur.training.nonfinite import Diverged
from secateur.training.trainer import PruningTrainer

FIRST = Setting(1.0, 100)


def searched(score, steps=3200, greater=True, error=0.0):
    """A search over made-up scores, and the settings that it has tried."""
    tried = []

    def scored(setting):
        tried.append((setting.learning_rate, setting.steps))
        return score(setting.learning_rate, setting.steps), error

    return TeacherSearch(FIRST, scored, steps, greater), tried


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (4.0, [1, 2, 4, 8]),
        (1.0, [1, 2, 0.5]),
        (0.25, [1, 2, 0.5, 0.25, 0.125]),
    ],
)
@pytest.mark.parametrize("greater", [True, False])
def test_the_learning_rate_with_the_best_score(best, tried, greater):
    sign = -1 if greater else 1
    search, seen = searched(lambda rate, steps: sign * abs(rate - best), greater=greater)
    search.choose_rate()
    assert search.best == Setting(best, 100)
    assert [rate for rate, _ in seen] == tried


def test_a_score_that_is_no_number_is_the_worst():
    search, seen = searched(lambda rate, steps: math.nan if rate == 1.0 else -rate)
    search.choose_rate()
    assert search.best == Setting(2.0, 100) and [rate for rate, _ in seen] == [1, 2, 4]


@pytest.mark.parametrize(
    ("diverging", "best", "tried"),
    [
        (1.0, 0.25, [1, 0.5, 0.25, 0.125]),
        (0.5, 0.25, [1, 0.5, 0.25, 0.125]),
        (2.0, 0.25, [1, 2, 0.5, 0.25, 0.125]),
    ],
)
@pytest.mark.parametrize("greater", [True, False])
def test_a_rate_at_which_training_diverges_is_halved(diverging, best, tried, greater):
    sign = -1 if greater else 1
    score = lambda rate, steps: None if rate >= diverging else sign * abs(rate - best)  # noqa: E731
    search, seen = searched(score, greater=greater)
    search.choose_rate()
    assert search.best == Setting(best, 100) and [rate for rate, _ in seen] == tried


def test_a_length_at_which_training_diverges_is_not_taken():
    search, seen = searched(lambda rate, steps: None if steps > 200 else 0.5, error=0.1)
    assert search.choose_length(other_rates=False) == 200
    assert [steps for _, steps in seen] == [100, 200, 400]
    search, seen = searched(lambda rate, steps: None)
    assert search.choose_length(other_rates=False) == 100 and len(seen) == 2


def test_a_search_that_goes_as_usual_takes_about_half_of_its_steps():
    first = Setting(1e-4, 62)
    measured = [62, 62, 62, 124, 248, 248, 124]
    assert usual_trainings(first, 2_000, 124, None, True) == measured, "that of STS-B with 1,000 rows (RESULTS.md)"
    assert sum(usual_trainings(first, 2_000, 2_000, None, True)) == 2_000, "where longer trainings gain to the end"
    assert usual_trainings(first, 2_000, 124, 500, True) == [62, 62, 62, 500]
    assert usual_trainings(first, 2_000, 124, None, False) == [62, 124, 248, 124]


def test_steps_are_doubled_while_that_loses_nothing():
    search, tried = searched(lambda rate, steps: min(steps, 200))
    assert search.choose_length(other_rates=False) == 800 and search.best.steps == 800  # 1,600 more are over the half
    search, tried = searched(lambda rate, steps: -abs(steps - 200))
    assert search.choose_length(other_rates=False) == 200
    assert [steps for _, steps in tried] == [100, 200, 400]


def test_a_longer_training_is_taken_that_loses_less_than_the_standard_error():
    search, _ = searched(lambda rate, steps: -abs(steps - 200), error=250.0)
    assert search.choose_length(other_rates=False) == 400  # which loses 200, and 800 loses 600
    search, _ = searched(lambda rate, steps: -abs(rate - 2), error=250.0)
    search.choose_rate()
    assert search.best.learning_rate == 2


def test_where_longer_trainings_were_better_to_the_end_all_steps_that_are_left_are_taken():
    search, tried = searched(lambda rate, steps: steps)
    assert [search.choose_length(other_rates=False), search.best.steps] == [3200 - 1500, 800]
    assert sum(steps for _, steps in tried) == 1500


def test_a_longer_training_may_have_a_lower_learning_rate():
    search, tried = searched(lambda rate, steps: steps if rate * steps <= 200 else -steps)
    assert search.choose_length(other_rates=True) == 3200 - 1100
    assert search.best == Setting(0.5, 400)
    assert tried[:4] == [(1.0, 100), (1.0, 200), (1.0, 400), (0.5, 400)]


@pytest.mark.parametrize("score", [lambda rate, steps: rate, lambda rate, steps: steps, lambda rate, steps: 1.0])
@pytest.mark.parametrize("steps", [1, 250, 3200])
def test_no_more_steps_are_taken_than_stated(score, steps):
    first = Setting(1.0, max(1, steps // 32))
    taken = []

    def scored(setting):
        taken.append(setting.steps)
        return score(setting.learning_rate, setting.steps), 0.0

    search = TeacherSearch(first, scored, steps)
    search.choose_rate()
    last = search.choose_length(other_rates=True)
    assert len(taken) == 1 or sum(taken) + last <= steps


# In a run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "encoder")
    words = ["a", "fine", "bad", "good", "dull", "film", "book"]
    texts = [f"{first} {second}" for first in words for second in words]
    for name, label in (
        ("data", lambda text: ("no", "yes")["good" in text]),
        ("scores", lambda text: 3.0 + len(text) / 8),
    ):
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *(f"{text},{label(text)}" for text in texts)]))
    return folder


def values(world, data="data.csv", **changed):
    """A recipe that leaves the training of the teacher open."""
    named = recipe_values(str(world / "encoder"), str(world / data)) | {"training.teacher_steps": 64}
    return named | {"training.teacher_epochs": None, "training.teacher_learning_rate": None} | changed


def context_of(values, folder):
    made = recipe.make(values)
    return Context(made, folder, RunData(made))


def stage_of_teacher(values, folder):
    """What the stage records in a folder, as a run does before its other stages."""
    context = context_of(values, folder)
    teacher.run(context)
    return json.loads((folder / "teacher.json").read_text())


def test_a_run_says_how_its_teacher_was_trained_and_reports_it(world, tmp_path):
    made = recipe.make(values(world))
    assert dict(pipeline.dry_run(made, tmp_path / "run").lines)["teacher"] == (
        "trained first, in 64 steps at most, trials included, of 4 rows, at a learning rate chosen by trials"
    )
    report = pipeline.run(made, tmp_path / "run")
    how = report.teacher
    assert how["rows"] == 11 and len(how["trials"]) >= 3
    assert sum(trial["steps"] for trial in how["trials"]) + how["steps"] <= 64
    assert how["trials"][0].items() >= {"learning_rate": 0.0384 / 16, "steps": 2}.items()
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {line["of"] for line in logged if line["stage"] == "teacher-training"} == {how["steps"]}
    assert not list((tmp_path / "run").glob("teacher-t*"))
    assert any(note.startswith(f"the teacher was trained in {how['steps']} steps at ") for note in footnotes(report))


def interrupted_in_the_second(monkeypatch, seen_at_a_score):
    """Let a search be interrupted when it scores its second trial; returns the list of what is seen at each score."""
    real, seen = teacher.scores_with_error, []

    def scored(*arguments):
        seen.append(seen_at_a_score())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(teacher, "scores_with_error", scored)
    return seen


def test_an_interrupted_search_repeats_no_trial(world, tmp_path, monkeypatch):
    made = values(world, **{"training.teacher_learning_rate": 0.01, "training.teacher_steps": 32})
    calls = interrupted_in_the_second(monkeypatch, lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        stage_of_teacher(made, tmp_path / "run")
    how = stage_of_teacher(made, tmp_path / "run")
    assert len(calls) == 1 + len(how["trials"])
    monkeypatch.undo()
    assert stage_of_teacher(made, tmp_path / "whole") == how


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(world, tmp_path, monkeypatch):
    class Diverging(PruningTrainer):
        def train(self, *arguments, **options):
            if self.args.learning_rate >= 0.01:
                raise Diverged("the loss is not finite")
            return super().train(*arguments, **options)

    monkeypatch.setattr(stage_trainer, "PruningTrainer", Diverging)
    monkeypatch.setattr(teacher, "first_teacher_rate", lambda context: 0.01)
    made = values(world, **{"training.teacher_epochs": 1, "training.teacher_steps": 200})
    how = stage_of_teacher(made, tmp_path / "run")
    scores = {trial["learning_rate"]: trial["score"] for trial in how["trials"]}
    assert list(scores)[:2] == [0.01, 0.005] and scores[0.01] is None and scores[0.005] is not None
    assert how["learning_rate"] < 0.01
    assert "at 1.0e-02 diverged, " in teacher_sentence(how, "accuracy")


def test_trials_count_before_all_of_them_have_ended(world, tmp_path, monkeypatch):
    """A process that is killed in the second trial writes nothing any more."""
    made = values(world, **{"training.teacher_learning_rate": 0.01, "training.teacher_steps": 32})
    recorded = Accounting(tmp_path / "run")
    seconds = interrupted_in_the_second(monkeypatch, lambda: recorded.seconds().get("teacher"))
    with pytest.raises(KeyboardInterrupt):
        stage_of_teacher(made, tmp_path / "run")
    assert None not in seconds and 0 <= seconds[0] <= seconds[1]


@pytest.mark.parametrize(
    ("changed", "steps", "rates"),
    [
        ({"training.teacher_epochs": 1, "training.teacher_learning_rate": 0.01}, {11}, 0),
        ({"training.teacher_epochs": 1}, {11}, 3),
        ({"training.teacher_learning_rate": 0.01}, {2, 4, 8, 16, 32}, 1),
        ({"data.rows": 3}, {32}, 0),
    ],
)
def test_only_what_is_open_is_searched(world, tmp_path, changed, steps, rates):
    how = stage_of_teacher(values(world, **changed), tmp_path)
    tried = {trial["learning_rate"] for trial in how.get("trials", [])}
    assert how["steps"] in steps and (len(tried) >= rates if rates > 1 else len(tried) == rates)
    named = changed.get("training.teacher_learning_rate")
    assert named is None or how["learning_rate"] == named


def test_learning_rates_decrease_with_the_width(world, tmp_path):
    context = context_of(values(world, **{"training.learning_rate": None}), tmp_path)
    assert (learning_rate_of_run(context), first_teacher_rate(context)) == (0.384 / 16, 0.0384 / 16)
    named = context_of(values(world, **{"training.learning_rate": 0.25}), tmp_path)
    assert learning_rate_of_run(named) == 0.25


def test_a_regression_starts_at_the_mean_of_its_scores(world, tmp_path):
    context = context_of(values(world, "scores.csv"), tmp_path)
    model = untrained_teacher(context)
    mean = fmean(row["labels"] for row in context.data.train_rows)
    assert mean > 3 and model.classifier.bias.item() == pytest.approx(mean)
    assert torch.equal(untrained_teacher(context_of(values(world), tmp_path)).classifier.bias, torch.zeros(2))


def test_a_regression_of_few_rows_is_learned(world, tmp_path):
    """From a head at 0 the same steps do not reach scores of which none is below 3."""
    made = values(world, "scores.csv", **{"training.teacher_steps": 400})
    stage_of_teacher(made, tmp_path)
    context = context_of(made, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(context.teacher_folder)
    assert context.data.scored_with_error(model)[0].scores["pearson_spearman"] > 0.8
