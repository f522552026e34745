"""A model of a run is scored by the task, columns, labels, metric and length of the run, unless others are given."""

from pathlib import Path

import pytest

from secateur.run import recipe
from secateur.run.run_values import place_of_teacher, teacher_of, with_run_values

OWN = {
    "data.task": "questions",
    "data.text": ("q", "c"),
    "data.metric": "exact_match",
    "data.max_length": 48,
    "data.options": {"doc_stride": 8, "max_answer_length": 5},
}


@pytest.fixture
def run(tmp_path):
    made = recipe.make({"model": "m", "data": "elsewhere", "seed": 7, "data.rows": 9, **OWN})
    (tmp_path / "recipe.yaml").write_text(made.to_yaml(), encoding="utf-8")
    for name in ("model", "teacher", "cut"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("place", ["", "model", "teacher"])
def test_what_is_not_given_is_that_of_the_run(run, place):
    values = with_run_values({"data.source": "here"}, str(run / place))
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()} == {
        **OWN,
        "data.source": "here",
        "seed": 7,
    }


def test_what_is_given_is_taken(run):
    given = {"data.source": "here", "data.max_length": 16, "seed": 1, "data.options": {"doc_stride": 4}}
    values = with_run_values(given, str(run))
    assert (values["data.max_length"], values["seed"], values["data.metric"]) == (16, 1, "exact_match")
    assert values["data.options"] == {"doc_stride": 4, "max_answer_length": 5}


def test_another_task_takes_nothing_of_the_run(run):
    given = {"data.source": "here", "data.task": "tokens"}
    assert with_run_values(given, str(run)) == given


@pytest.mark.parametrize("place", ["cut", "nowhere", "bert-base-uncased"])
def test_a_model_of_no_run_adds_nothing(run, place):
    assert with_run_values({"data.source": "here"}, str(run / place)) == {"data.source": "here"}


def held_by(tmp_path, kind):
    """The folder of a run beside a folder called teacher, in a folder of this kind."""
    parent = tmp_path / ("trials" if "trials" in kind else "runs")
    for name in ("teacher", "0.4"):
        (parent / name).mkdir(parents=True)
    values = {"model": "m", "data": "d"}
    texts = {
        "densities": recipe.make(values | {"target.density": (0.4, 0.2)}).to_yaml(),
        "other densities": recipe.make(values | {"target.density": (0.3, 0.2)}).to_yaml(),
        "one density": recipe.make(values | {"target.density": 0.4}).to_yaml(),
        "a recipe of somebody": "sweep: {trials: 4}",
        "no recipe": "notes",
    }
    if kind in texts:
        (parent / "recipe.yaml").write_text(texts[kind], encoding="utf-8")
    if kind == "trials of a sweep":
        (tmp_path / "sweep.yaml").touch()
    return parent / "0.4"


@pytest.mark.parametrize("kind", ["densities", "trials of a sweep"])
def test_the_teacher_of_the_runs_that_share_it_is_beside_them(tmp_path, monkeypatch, kind):
    folder = held_by(tmp_path, kind)
    assert place_of_teacher(folder, None, "m") == str(folder.parent / "teacher")
    (folder / "model").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert place_of_teacher(Path(), None, "m") == str(folder.parent / "teacher")
    monkeypatch.chdir(folder / "model")
    assert place_of_teacher(Path(".."), None, "m") == str(folder.parent / "teacher")


@pytest.mark.parametrize(
    "kind", ["runs", "trials", "other densities", "one density", "a recipe of somebody", "no recipe"]
)
def test_another_folder_called_teacher_is_not_the_teacher(tmp_path, kind):
    folder = held_by(tmp_path, kind)
    assert place_of_teacher(folder, None, "m") == "m"
    assert place_of_teacher(folder, "named", "m") == "named"
    (folder / "teacher").mkdir()
    assert place_of_teacher(folder, None, "m") == str(folder / "teacher")


def test_a_model_is_of_the_run_that_holds_it_from_within_too(tmp_path, monkeypatch):
    values = {"model": "m", "data": "d", "target.density": 0.4, "data.max_length": 77}
    (tmp_path / "model").mkdir()
    (tmp_path / "recipe.yaml").write_text(recipe.make(values).to_yaml())
    monkeypatch.chdir(tmp_path / "model")
    assert with_run_values({}, ".")["data.max_length"] == 77
    assert teacher_of(".") == "m"
