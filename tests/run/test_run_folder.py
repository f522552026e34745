"""The lock of a run's folder: one process at a time, and a process that died does not block."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from made_up_run import REPORT
from small_world import recipe_values, write_data, write_model

from secateur.report.run_log import RunLog
from secateur.report.run_page import to_html
from secateur.run import density_sweep, pipeline, recipe, run_folder
from secateur.run.context import Context
from secateur.run.records import FORMAT, VERSIONS
from secateur.run.run_data import RunData
from secateur.run.run_folder import LOCK, locked
from secateur.system.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from secateur.run.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path / run`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return recipe_values(write_model(folder / "model", ["bad", "good"]), write_data(folder / "data.csv"))


def test_a_second_process_is_refused_at_once_and_a_dead_one_does_not_block(tmp_path, values, holder):
    began = time.monotonic()
    with pytest.raises(UserError, match=r"another process is running in .*run: wait until it ends, or choose another"):
        pipeline.run(recipe.make(values), tmp_path / "run")
    assert time.monotonic() - began < 10
    with pytest.raises(UserError, match="another process is running in"):
        density_sweep.sweep(recipe.make(values | {"target.density": [0.8, 0.6]}), tmp_path / "run")
    assert holder.poll() is None and [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):
        pass


def test_a_folder_that_was_made_for_the_lock_alone_is_removed(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "runs" / "one"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_the_run_wrote_stays(tmp_path):
    with locked(tmp_path / "runs" / "one"):
        (tmp_path / "runs" / "one" / "recipe.yaml").write_text("")
    assert [path.name for path in (tmp_path / "runs" / "one").iterdir()] == ["recipe.yaml"]


def test_a_run_within_a_sweep_is_locked_too(tmp_path, values, monkeypatch):
    refused = []

    def begun(contexts):
        for context in contexts:
            with pytest.raises(UserError, match="another process is running in"), locked(context.folder):
                pass
            refused.append(context.folder.name)

    monkeypatch.setattr(density_sweep, "_reports", begun)
    density_sweep.sweep(recipe.make(values | {"target.density": [0.8, 0.6]}), tmp_path / "run")
    assert refused == ["0.8", "0.6"]


def test_a_folder_has_the_versions_of_its_last_attempt_and_those_before(tmp_path, monkeypatch):
    attempts = [{"torch": "2.1", "threads": "2"}, {"torch": "2.1", "threads": "2"}, {"torch": "2.2", "threads": "2"}]
    for attempt in attempts:
        monkeypatch.setattr(run_folder, "versions", lambda own=attempt: own)
        run_folder.record_versions(tmp_path)
    kept = FORMAT.read(tmp_path / VERSIONS)
    assert kept == attempts[2] | {"earlier": [attempts[0]]}
    report = replace(REPORT, versions=attempts[2], earlier_versions=kept["earlier"])
    assert report.versions_in_words == {"torch": "2.2 (in earlier attempts 2.1)", "threads": "2"}
    assert "2.2 (in earlier attempts 2.1)" in to_html(report, RunLog((), None, None, 0))


def test_an_attempt_records_its_versions_and_a_finished_run_keeps_its_own(tmp_path, values, monkeypatch):
    made = recipe.make(values)
    context = Context(made, tmp_path, RunData(made))
    pipeline.begin(context, None)
    monkeypatch.setattr(run_folder, "versions", lambda: {"torch": "2.2"})
    pipeline.begin(context, None)
    assert FORMAT.read(tmp_path / VERSIONS)["torch"] == "2.2"
    (tmp_path / "report.json").write_text("{}")
    monkeypatch.setattr(run_folder, "versions", lambda: {"torch": "2.3"})
    pipeline.begin(context, None)
    assert FORMAT.read(tmp_path / VERSIONS)["torch"] == "2.2"


def test_the_folder_of_another_program_is_left_as_it_is(tmp_path):
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="is no run of secateur"), locked(tmp_path):
        pass
    with pytest.raises(UserError, match="is no run of secateur"), locked(tmp_path / "letter.txt"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
