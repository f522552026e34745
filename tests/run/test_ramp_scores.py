"""Scores of held-out rows while a run prunes: of which rows, at which densities, and after an interruption."""

import csv
import json
import random
import shutil
from types import SimpleNamespace

import pytest
import torch
from interrupted_runs import CopyAt, copy_of
from safetensors.torch import load_file
from small_world import ROUNDS, WORDS, config, recipe_values, tokenizer
from transformers import BertForSequenceClassification

from secateur.budget.space import Space
from secateur.measure.evaluation import scores_with_error
from secateur.report.run_log import read
from secateur.run import pipeline, recipe
from secateur.run.calibration import Calibration
from secateur.run.ramp_rows import RampRows
from secateur.run.ramp_scores import PASSED, RampScores, _reach
from secateur.run.run_data import RunData
from secateur.run.score_goal import TeacherScore
from secateur.surgery.checkpoint import load

KILLED = ("prune", 14)
"""After the checkpoint of step 9, and after the scores of a later step."""
BEFORE_RECOVERY = ("recover", 1)
FASTER = {"target.density": None, "target.speedup": 2.0}


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A recipe of 40 steps over 540 different texts, for a random model whose answers depend on the text."""
    return recipe_of(tmp_path_factory.mktemp("world"))


def recipe_of(folder, layers=2):
    drawn = random.Random(0)
    torch.manual_seed(0)
    head = {"num_labels": 2, "id2label": dict(enumerate(labels := ["bad", "good"]))}
    BertForSequenceClassification(config(layers, **head, initializer_range=0.6)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    with (folder / "data.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [[" ".join(drawn.choices(WORDS[4:], k=9)), labels[number % 2]] for number in range(600)]
        csv.writer(file).writerows([["text", "label"], *rows])
    own = recipe_values(str(folder), str(folder / "data.csv")) | {"training.evaluations": 0, "training.checkpoints": 2}
    return own | {"training.epochs": 0.3, "distillation.check_teacher": False}


@pytest.fixture(scope="module")
def whole(values, tmp_path_factory):
    """(folder, report, copies) of an uninterrupted run, and what kills would leave of it."""
    folder, copies = tmp_path_factory.mktemp("whole") / "run", tmp_path_factory.mktemp("copies")
    report = pipeline.run(recipe.make(values), folder, [CopyAt(folder, copies, KILLED, BEFORE_RECOVERY)])
    return folder, report, copies


@pytest.mark.parametrize("copies", [0, 2])
def test_copies_of_rows_that_are_scored_are_not_trained_on(values, copies):
    """Of a held-out row neither the original nor a changed copy is left, in trials as well as in the prune stage."""
    data = RunData(recipe.make(values | {"training.augment": copies}))
    ramp, count = RampRows(data), len(data.train_rows)
    for held_out, kept in (
        (ramp.scored, ramp.others),
        (data.held_out_rows, data.without_held_out(data.distillation_rows)),
    ):
        texts = [row["input_ids"] for row in held_out]
        gone = {number for number, row in enumerate(data.train_rows) if row["input_ids"] in texts}
        assert len(gone) == len(held_out) > 50
        left = [number for number in range(count) if number not in gone]
        assert [row["index"] for row in kept] == [
            copy * count + number for copy in range(1 + copies) for number in left
        ]


def test_a_tenth_of_the_rows_is_scored_once_after_each_density_and_at_the_end(whole):
    _, report, _ = whole
    ramp, densities = report.ramp, [point["density"] for point in report.ramp["points"]]
    assert ramp["metric"] == "accuracy" and ramp["rows"] == 54 == report.rows["train"] // 10
    assert densities == sorted(densities, reverse=True) and len(densities) == 3
    for passed, density in zip(PASSED, densities[:2], strict=False):
        assert 0.6 * passed < density <= passed
    assert densities[-1] == pytest.approx(report.density["prunable"]) and ramp["points"][-1]["step"] == 18


def test_the_last_score_is_that_of_the_cut_model_before_it_recovers(whole, values):
    _, report, copies = whole
    data = RunData(recipe.make(values))
    small = load(copy_of(copies, *BEFORE_RECOVERY) / "cut")
    found, error = scores_with_error(small, data.task, RampRows(data).scored, data.tokenizer)
    last = report.ramp["points"][-1]
    assert last["score"] == found["accuracy"] and last["standard_error"] == pytest.approx(error, rel=0.3)
    assert len({point["score"] for point in report.ramp["points"]}) > 1


def test_the_rows_are_training_rows_that_the_prune_stage_does_not_see(values):
    data = RunData(recipe.make(values))
    rows = RampRows(data)
    scored, others = ({tuple(row["input_ids"]) for row in part} for part in (rows.scored, rows.others))
    assert not scored & others and scored | others == {tuple(row["input_ids"]) for row in data.train_rows}
    assert [row["index"] for row in rows.scored] == list(range(54))
    assert all(data.train_rows[row["index"]] == row for row in rows.others)


@pytest.mark.parametrize(
    ("changed", "scored"),
    [
        ({}, lambda data: RampRows(data).scored),
        ({"target.density": None, "target.keep_score": 0.5, "method.ramp_rows": 0}, lambda data: data.held_out_rows),
    ],
    ids=["prune", "trial"],
)
def test_a_method_is_not_calibrated_on_rows_that_are_scored(values, changed, scored, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    def teach(calibration, method):
        seen.extend(tuple(row["input_ids"]) for row in calibration.rows)
        raise Stop

    seen, made = [], recipe.make(values | {"method": "obs", "teacher": values["model"]} | changed)
    monkeypatch.setattr(Calibration, "teach", teach)
    monkeypatch.setattr(TeacherScore, "is_worth_keeping", True)
    with pytest.raises(Stop):
        pipeline.run(made, tmp_path / "run")
    own = {tuple(row["input_ids"]) for row in scored(RunData(made))}
    assert len(seen) > 300 and len(own) >= 50 and not own & {*seen}


@pytest.mark.parametrize("changed", [{"method.ramp_rows": 0}, {"method.ramp_rows": 49}, {"method.end": 1.0}])
def test_too_few_rows_or_no_recovery_leave_the_rows_to_training(values, changed):
    data = RunData(recipe.make(values | changed))
    rows = RampRows(data)
    assert rows.count == 0 and rows.scored == [] and rows.others is data.distillation_rows


@pytest.mark.parametrize(
    ("target", "passed"),
    [({"target.density": 0.05}, (0.6, 0.4, 0.2, 0.1)), ({"target.density": 0.19}, (0.6, 0.4)), (FASTER, PASSED)],
)
def test_the_density_of_the_end_is_scored_at_the_end_alone(values, target, passed):
    context = SimpleNamespace(recipe=recipe.make(values | target))
    assert tuple(RampScores(context, None, None).to_pass) == passed


def test_an_interrupted_run_neither_loses_nor_repeats_scores(whole, values, tmp_path):
    folder, report, copies = whole
    shutil.copytree(copy_of(copies, *KILLED), tmp_path / "run")
    left = json.loads((tmp_path / "run" / "ramp.json").read_text())["points"]
    assert [point["step"] for point in left] == [point["step"] for point in report.ramp["points"][:2]]
    assert left[0]["step"] < 9 < left[1]["step"]  # the second is dropped, and scored again
    resumed = pipeline.run(recipe.make(values), tmp_path / "run")
    assert resumed.ramp == report.ramp
    model, again = (load_file(place / "model" / "model.safetensors") for place in (folder, tmp_path / "run"))
    assert all(torch.equal(model[name], again[name]) for name in model)


def test_a_run_in_rounds_is_scored_in_the_last_one(tmp_path):
    """It begins at step 20.25; two of four layers are left before it, and an older version scored there, too."""
    (tmp_path / "world").mkdir()
    values = recipe_of(tmp_path / "world", layers=4) | ROUNDS | {"target.layers": 2}
    report = pipeline.run(recipe.make(values), tmp_path / "run", [CopyAt(tmp_path / "run", tmp_path, ("prune", 17))])
    steps, densities = zip(*((point["step"], point["density"]) for point in report.ramp["points"]), strict=True)
    assert steps[0] == 21 and densities[0] == pytest.approx(0.5), "the layers have recovered"
    assert len(steps) == 3 and densities[1] <= 0.4 and densities[2] == pytest.approx(report.density["prunable"])
    assert report.ramp["reach"] == pytest.approx([0.0, 0.5])
    older = copy_of(tmp_path, "prune", 17)
    ramp = json.loads((older / "ramp.json").read_text())
    ramp["points"] = [{"step": 8, "density": 0.5, "score": 0.1, "standard_error": 0.1}]
    del ramp["reach"]
    (older / "ramp.json").write_text(json.dumps(ramp))
    assert pipeline.run(recipe.make(values), older).ramp == report.ramp


def test_the_lowest_density_in_reach_is_that_of_the_units(values):
    """Without neurons the heads are left: 3 (16 + 1) 16 + 16 16 of 1,864 parameters of a layer."""
    made = recipe.make(values | {"target.units": ["ffn"], "target.density": 0.7})
    space = Space(BertForSequenceClassification.from_pretrained(values["model"]), "ffn")
    least, largest = _reach(made, space)
    assert least == pytest.approx(1072 / 1864) and largest == 1.0


def test_the_log_has_the_scores_beside_what_training_logs_at_these_steps(whole):
    folder, report, _ = whole
    (stage,) = (stage for stage in read(folder).stages if stage.name == "prune")
    steps, scores = stage.curve("ramp_accuracy")
    assert list(zip(steps, scores, strict=True)) == [(p["step"], p["score"]) for p in report.ramp["points"]]
    assert stage.curve("loss")[0] == list(range(1, 19))
