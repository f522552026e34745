"""A run is replaced by one that is finished, and by nothing else."""

from types import SimpleNamespace

import pytest

from secateur.run import job
from secateur.system.errors import UserError

RECIPE = SimpleNamespace(target=SimpleNamespace(densities=(0.4,)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("old")
    return tmp_path / "run"


def running(monkeypatch, result):
    def run(recipe, output, callbacks):
        output.mkdir(exist_ok=True)
        (output / "recipe.yaml").write_text("new")
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(job.pipeline, "run", run)


def test_a_finished_run_takes_the_place_of_the_old_one(folder, monkeypatch):
    running(monkeypatch, "report")
    assert job.run_job(RECIPE, folder, overwrite=True) == ["report"]
    assert (folder / "recipe.yaml").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_run_that_fails_leaves_the_old_one_and_goes_on_beside_it(folder, monkeypatch):
    running(monkeypatch, UserError("stopped"))
    with pytest.raises(UserError, match="stopped"):
        job.run_job(RECIPE, folder, overwrite=True)
    assert (folder / "recipe.yaml").read_text() == "old"
    assert (folder.with_name("run.new") / "recipe.yaml").read_text() == "new"


def test_what_is_no_run_is_not_replaced(tmp_path, monkeypatch):
    running(monkeypatch, "report")
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="is no run of secateur"):
        job.run_job(RECIPE, tmp_path, overwrite=True)
    assert job.run_job(RECIPE, tmp_path / "fresh", overwrite=True) == ["report"]
