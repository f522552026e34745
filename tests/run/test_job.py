"""A run is replaced by one that is finished, and by nothing else."""

from pathlib import Path

import pytest

from secateur.run import job, recipe
from secateur.run.run_folder import locked
from secateur.system.errors import UserError

VALUES = {"model": "m", "data": "d", "target.density": 0.4}
RECIPE, OTHER = recipe.make(VALUES), recipe.make(VALUES | {"seed": 1})
SEVERAL = recipe.make(VALUES | {"target.density": (0.4, 0.2)})


def write(folder, own, *finished):
    """A run's folder that holds its recipe, and in these folders a report."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(own.to_yaml())
    for place in finished:
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "report.json").write_text("{}")
    return folder


@pytest.fixture
def folder(tmp_path):
    """A finished run of another recipe."""
    return write(tmp_path / "run", OTHER, ".")


def running(monkeypatch, result):
    def run(wanted, output, callbacks):
        output.mkdir(exist_ok=True)
        (output / "recipe.yaml").write_text(wanted.to_yaml())
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(job.pipeline, "run", run)


def test_a_finished_run_takes_the_place_of_the_old_one(folder, monkeypatch):
    running(monkeypatch, "report")
    assert job.run_job(RECIPE, folder, overwrite=True) == ["report"]
    assert (folder / "recipe.yaml").read_text() == RECIPE.to_yaml()
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_run_that_fails_leaves_the_old_one_and_goes_on_beside_it(folder, monkeypatch):
    running(monkeypatch, UserError("stopped"))
    with pytest.raises(UserError, match="stopped"):
        job.run_job(RECIPE, folder, overwrite=True)
    assert (folder / "recipe.yaml").read_text() == OTHER.to_yaml()
    assert (folder.with_name("run.new") / "recipe.yaml").read_text() == RECIPE.to_yaml()


@pytest.mark.parametrize("place", [".", "0.4"])
def test_a_folder_in_which_a_run_is_running_is_not_replaced(tmp_path, monkeypatch, place):
    folder = write(tmp_path / "run", SEVERAL, "0.4", "0.2")
    (folder / "0.4" / "recipe.yaml").write_text(RECIPE.to_yaml())
    running(monkeypatch, "report")
    with locked(folder / place), pytest.raises(UserError, match=r"another process is running in .*run"):
        job.run_job(RECIPE, folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (folder / "recipe.yaml").read_text() == SEVERAL.to_yaml()


def test_a_run_that_is_being_replaced_is_held(folder, monkeypatch):
    def run(wanted, output, callbacks):
        with pytest.raises(UserError, match="another process is running in"), locked(folder):
            pass
        output.mkdir()
        return "report"

    monkeypatch.setattr(job.pipeline, "run", run)
    assert job.run_job(RECIPE, folder, overwrite=True) == ["report"]
    assert list(folder.iterdir()) == []


def test_what_an_option_of_the_data_names_is_not_replaced(folder):
    (folder / "teacher").mkdir()
    for options in ({"reference": str(folder / "teacher")}, {"negatives": ["few", str(folder)]}):
        with pytest.raises(UserError, match="is read, and replacing"):
            job.folder_of_job(recipe.make(VALUES | {"data.options": options}), folder, overwrite=True)


def test_an_interrupted_first_run_is_continued(tmp_path, monkeypatch):
    running(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        job.run_job(RECIPE, tmp_path / "run", overwrite=True)
    (tmp_path / "run" / "prune").mkdir()
    running(monkeypatch, "report")
    assert job.run_job(RECIPE, tmp_path / "run", overwrite=True) == ["report"]
    assert (tmp_path / "run" / "prune").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("own", "wanted", "finished", "place"),
    [
        (RECIPE, RECIPE, [], "run"),
        (RECIPE, RECIPE, ["."], "run.new"),
        (OTHER, RECIPE, [], "run.new"),
        (SEVERAL, SEVERAL, ["0.2"], "run"),
        (SEVERAL, SEVERAL, ["0.4", "0.2"], "run.new"),
        (SEVERAL, RECIPE, [], "run.new"),
    ],
)
def test_only_an_unfinished_run_of_the_same_recipe_is_not_replaced(tmp_path, own, wanted, finished, place):
    folder = write(tmp_path / "run", own, *finished)
    assert job.folder_of_job(wanted, folder, overwrite=True).name == place
    assert job.folder_of_job(wanted, folder, overwrite=False) == folder


def test_a_dry_run_describes_the_run_that_replaces_one(folder, monkeypatch):
    monkeypatch.setattr(job.pipeline, "dry_run", lambda wanted, place: place.name)
    monkeypatch.setattr(job.density_sweep, "dry_run", lambda wanted, place: f"several in {place.name}")
    assert job.dry_run_job(RECIPE, folder, overwrite=True) == "run.new"
    assert job.dry_run_job(RECIPE, folder) == "run"
    assert job.dry_run_job(SEVERAL, folder, overwrite=True) == "several in run.new"


def test_what_an_interrupted_replacement_of_another_recipe_has_left_is_not_replaced(folder):
    beside = folder.with_name("run.new")
    beside.mkdir()
    (beside / "recipe.yaml").write_text(OTHER.to_yaml())
    with pytest.raises(UserError, match=r"run\.new is where .* repeat its command, or remove that folder"):
        job.folder_of_job(RECIPE, folder, overwrite=True)
    (beside / "recipe.yaml").write_text(RECIPE.to_yaml())
    assert job.folder_of_job(RECIPE, folder, overwrite=True) == beside


def test_a_run_whose_recipe_cannot_be_read_is_replaced(folder):
    (folder / "recipe.yaml").write_text("{")
    assert job.folder_of_job(RECIPE, folder, overwrite=True).name == "run.new"


@pytest.mark.parametrize(
    ("key", "with_keys"),
    [
        ("model", {}),
        ("teacher", {}),
        ("data.source", {}),
        ("data.evaluation", {}),
        ("vocabulary.texts", {"vocabulary.pieces": "task"}),
        ("target.latency_table", {"target.density": None, "target.speedup": 2}),
    ],
)
def test_what_the_job_reads_is_not_replaced(folder, monkeypatch, key, with_keys):
    running(monkeypatch, "report")
    place = folder / "read"
    place.touch()
    wanted = recipe.make(VALUES | with_keys | {key: [str(place)] if key == "vocabulary.texts" else str(place)})
    with pytest.raises(UserError, match=r"run/read is read, and replacing .*run would delete it"):
        job.run_job(wanted, folder, overwrite=True)
    assert place.exists()


def test_the_current_folder_is_not_replaced(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="the current folder"):
        job.run_job(RECIPE, Path("."), overwrite=True)


def test_what_is_no_run_is_not_replaced(tmp_path, monkeypatch):
    running(monkeypatch, "report")
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="is no run of secateur"):
        job.run_job(RECIPE, tmp_path, overwrite=True)
    assert job.run_job(RECIPE, tmp_path / "fresh", overwrite=True) == ["report"]
