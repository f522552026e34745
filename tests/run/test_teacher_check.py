"""A teacher is checked before anything is distilled from it: its tokens, its labels, and its score."""

import json

import pytest
from safetensors.torch import load_file
from small_world import config, recipe_values, write_data, write_model
from transformers import BertForTokenClassification

from secateur.run import density_sweep, pipeline, recipe, teacher_check
from secateur.run.context import Context
from secateur.run.job import run_job
from secateur.run.models import named_teacher
from secateur.run.run_data import RunData
from secateur.surgery import opening
from secateur.system.errors import MissingPackage, NothingToKeep, UserError
from secateur.tasks.classification import Classification


@pytest.fixture
def values(tmp_path):
    model = write_model(tmp_path / "model", ["bad", "good"])
    return recipe_values(model, write_data(tmp_path / "data.csv")) | {"training.epochs": 1}


def context(values, folder):
    wanted = recipe.make(values)
    return Context(wanted, folder, RunData(wanted))


@pytest.fixture
def untrained(values, tmp_path):
    """A recipe that trains its teacher first."""
    return values | {"model": write_model(tmp_path / "encoder")}


def scored(monkeypatch, accuracy, error=None):
    found = {"accuracy": accuracy}, error
    monkeypatch.setattr(teacher_check, "scores_with_error", lambda model, task, rows, words: found)


def test_a_teacher_that_is_no_better_than_the_commonest_class_is_refused(
    values, tmp_path, monkeypatch, checked_teachers
):
    scored(monkeypatch, 0.5)
    with pytest.raises(
        UserError, match=r"has accuracy 0\.500 on 4 rows split off from training, no better than 0\.500.*--labels"
    ):
        pipeline.run(recipe.make(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_better_teacher_and_a_switched_off_check_are_accepted(values, tmp_path, monkeypatch):
    scored(monkeypatch, 0.75, 0.1)
    run = context(values, tmp_path / "run")
    teacher_check.check_score(run, named_teacher(run))
    scored(monkeypatch, 0.75, 0.125)
    with pytest.raises(UserError, match=r"no better than 0\.500, .* by two standard errors of 0\.125: give a teacher"):
        teacher_check.check_score(run, named_teacher(run))
    scored(monkeypatch, 0.0)
    teacher_check.check_score(context(values | {"distillation.check_teacher": False}, tmp_path / "run"), None)


def stopped(values, folder):
    """What a run says that ends with its teacher."""
    with pytest.raises(NothingToKeep) as end:
        run_job(recipe.make(values), folder)
    assert not {"teacher", "cache", "prune"} & {path.name for path in folder.iterdir()}
    return str(end.value)


def trainings(folder):
    """The numbers of steps of the trainings of a teacher so far, one after the other."""
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["of"] for line in logged if line["stage"] == "teacher-training" and "train_runtime" in line]


def test_a_teacher_that_was_trained_here_and_is_no_better_does_not_teach(
    untrained, tmp_path, monkeypatch, checked_teachers
):
    scored(monkeypatch, 0.5)
    said = stopped(untrained, tmp_path / "run")
    assert said.startswith(
        "There was nothing to keep: the teacher has accuracy 0.500 on 4 rows split off from training"
    )
    for part in ("no better than 0.500", "training.teacher_epochs: 2", "distillation.check_teacher: false"):
        assert part in said
    assert stopped(untrained, tmp_path / "run") == said
    assert trainings(tmp_path / "run") == [9], "it is not trained again"
    with pytest.raises(UserError, match=r"another recipe \(it differs in training\.epochs\)"):
        pipeline.run(recipe.make(untrained | {"training.epochs": 2}), tmp_path / "run")


def test_a_run_that_ended_with_its_teacher_goes_on_with_a_longer_training_of_it(
    untrained, tmp_path, monkeypatch, checked_teachers
):
    scored(monkeypatch, 0.5)
    stopped(untrained, tmp_path / "run")
    longer = untrained | {"training.teacher_epochs": 2}
    stopped(longer, tmp_path / "run")
    assert trainings(tmp_path / "run") == [9, 18]
    scored(monkeypatch, 0.75)
    report = pipeline.run(recipe.make(longer), tmp_path / "run")
    assert trainings(tmp_path / "run") == [9, 18] and report.teacher["steps"] == 18
    assert recipe.read(tmp_path / "run" / "recipe.yaml", {}) == recipe.make(longer)
    assert not (tmp_path / "run" / "teacher-unchecked").exists()
    with pytest.raises(UserError, match=r"another recipe \(it differs in training\.teacher_epochs\)"):
        pipeline.run(recipe.make(untrained), tmp_path / "run")


def test_a_run_that_ended_with_its_teacher_goes_on_with_it_if_it_is_told_to(
    untrained, tmp_path, monkeypatch, checked_teachers
):
    scored(monkeypatch, 0.5)
    several = untrained | {"target.density": [0.5, 0.3]}
    stopped(several, tmp_path / "run")
    trained = load_file(tmp_path / "run" / "teacher-unchecked" / "model.safetensors")
    reports = density_sweep.sweep(recipe.make(several | {"distillation.check_teacher": False}), tmp_path / "run")
    assert len(reports) == 2 and trainings(tmp_path / "run" / "0.3") == [9]
    taught = load_file(tmp_path / "run" / "teacher" / "model.safetensors")
    assert all(bool((taught[name] == trained[name]).all()) for name in trained)


def test_rows_are_sampled_where_there_are_many(values, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(teacher_check, "ROWS", 3)
    monkeypatch.setattr(
        teacher_check,
        "scores_with_error",
        lambda model, task, rows, words: seen.append(len(rows)) or ({"accuracy": 1}, None),
    )
    run = context(values, tmp_path / "run")
    teacher_check.check_score(run, named_teacher(run))
    assert seen == [3]


@pytest.mark.parametrize(
    ("few", "seen", "refused"), [((0.66, 0.01), [3], False), ((0.0, 0.1), [3], True), ((0.66, 0.3), [3, 4], False)]
)
def test_all_rows_are_scored_where_a_sample_leaves_it_open(values, tmp_path, monkeypatch, few, seen, refused):
    found, (score, error) = [], few
    all_rows = {"accuracy": 0.75}, 0.1
    monkeypatch.setattr(teacher_check, "ROWS", 3)
    monkeypatch.setattr(Classification, "baseline", lambda self, rows: 0.5)
    monkeypatch.setattr(
        teacher_check,
        "scores_with_error",
        lambda model, task, rows, words: (
            found.append(len(rows)) or (({"accuracy": score}, error) if len(rows) == 3 else all_rows)
        ),
    )
    run = context(values, tmp_path / "run")
    if refused:
        with pytest.raises(UserError, match=r"has accuracy 0\.000 on 3 rows"):
            teacher_check.check_score(run, named_teacher(run))
    else:
        teacher_check.check_score(run, named_teacher(run))
    assert found == seen
    all_rows = {"accuracy": 0.6}, 0.1
    if len(seen) == 2:
        with pytest.raises(UserError, match=r"on 4 rows .*by two standard errors of 0\.100"):
            teacher_check.check_score(run, named_teacher(run))


def test_a_teacher_with_another_tokenizer_is_refused(values, tmp_path):
    teacher = write_model(tmp_path / "teacher", ["bad", "good"])
    teacher_check.check_tokens(context(values | {"teacher": teacher}, tmp_path / "run"))
    file = tmp_path / "teacher" / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["fine"], vocabulary["dull"] = vocabulary["dull"], vocabulary["fine"]
    file.write_text(json.dumps(words))
    own = values | {"teacher": teacher}
    with pytest.raises(UserError, match=r"makes other tokens than the model's of 4 of 4 rows split off from training"):
        pipeline.run(recipe.make(own), tmp_path / "run")
    teacher_check.check_tokens(context(own | {"distillation.check_teacher": False}, tmp_path / "run"))


def test_a_teacher_without_a_tokenizer_is_only_scored(values, tmp_path):
    teacher = write_model(tmp_path / "teacher", ["bad", "good"])
    for file in (tmp_path / "teacher").glob("*token*"):
        file.unlink()
    teacher_check.check_tokens(context(values | {"teacher": teacher}, tmp_path / "run"))


def test_a_teacher_whose_tokenizer_needs_a_package_is_not_left_unchecked(values, tmp_path, monkeypatch):
    def missing(name):
        raise MissingPackage("the tokenizer needs SentencePiece: install it")

    monkeypatch.setattr(opening, "open_tokenizer", missing)
    other = write_model(tmp_path / "other", ["bad", "good"])
    with pytest.raises(MissingPackage, match="SentencePiece"):
        teacher_check.check_tokens(context(values | {"teacher": str(other)}, tmp_path / "run"))


def test_a_teacher_without_a_head_for_the_task_is_refused(values, tmp_path):
    headless = write_model(tmp_path / "headless")
    with pytest.raises(UserError, match=r"the teacher is a BertModel, which has no head for the task 'classification'"):
        pipeline.run(recipe.make(values | {"teacher": headless}), tmp_path / "run")
    BertForTokenClassification(config(num_labels=2)).save_pretrained(tmp_path / "headless")
    with pytest.raises(UserError, match="the teacher is a BertForTokenClassification, which has no head"):
        pipeline.run(recipe.make(values | {"teacher": headless}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_of_the_teacher_in_another_order_decide_the_order(values, tmp_path):
    teacher = write_model(tmp_path / "teacher", ["good", "bad"])
    run = context(values | {"teacher": teacher}, tmp_path / "run")
    assert run.data.task.labels == ("good", "bad")
    assert named_teacher(run).config.id2label == {0: "good", 1: "bad"}
    assert run.data.task_as_read.labels == ("bad", "good")
