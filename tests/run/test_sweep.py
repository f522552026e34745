"""A sweep as a whole: its runs, its folder, its page, what goes on where it stopped, and what is refused at first."""

import json
import re
from xml.etree import ElementTree

import pytest
import yaml
from fake_clock import timer
from page_reader import Reader
from small_world import recipe_values, write_data, write_model
from typer.testing import CliRunner

from secateur.budget.latency import LatencyTable
from secateur.cli import app, sweep_work
from secateur.report.report import Report
from secateur.report.sweep import FINISHED
from secateur.run import target
from secateur.run.finished_runs import read
from secateur.run.run_comparison import compare
from secateur.run.sweep import check as checking
from secateur.run.sweep import workers
from secateur.run.sweep.block import read_sweep
from secateur.run.sweep.study import Stopped
from secateur.run.sweep.trial import run_trial
from secateur.run.sweep.worker import Worker
from secateur.run.sweep.workers import run_workers
from secateur.system.errors import UserError

SHORT = {
    "training.epochs": 1,
    "training.evaluations": 2,
    "training.checkpoints": 0,
    "distillation.check_teacher": False,
}

WORK = "secateur.run.sweep.worker.run_trial"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A sweep of a bare encoder, whose teacher is trained, over two densities and two methods."""
    folder = tmp_path_factory.mktemp("world")
    values = recipe_values(write_model(folder / "encoder"), write_data(folder / "data.csv")) | SHORT
    values |= {"data.source": values.pop("data"), "measurement.shapes": [[1, 8]]}
    over = {"target.density": [0.7, 0.4], "method.name": ["magnitude", "random"]}
    block = {"over": over, "objectives": ["score", "mb"], "sampler": "grid"}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**values, "sweep": block}, sort_keys=False))
    return folder / "sweep.yaml"


@pytest.fixture(scope="module")
def swept(file):
    """(folder, result) of two trials."""
    folder = file.parent / "swept"
    return folder, Worker.joined(read_sweep(file, {}), folder, 2).work()


def test_each_trial_is_a_finished_run_with_the_values_of_its_report(swept):
    folder, result = swept
    assert [trial.state for trial in result.trials] == [FINISHED] * 2
    for trial in result.trials:
        report = Report.load(folder / "trials" / trial.name)
        assert report.recipe["target"]["density"] == trial.point["target.density"]
        assert trial.values == (report.tuning["score"], report.weight_bytes["model"] / 1e6)
        assert trial.result["score"] == report.scores["accuracy"]
        assert report.tuning["rows"] == report.recipe["data"]["tuning_rows"] == 9, "a quarter of the training rows"


def test_all_trials_share_one_teacher_and_its_folder_is_tidy(swept):
    folder, result = swept
    reports = [Report.load(folder / "trials" / trial.name) for trial in result.trials]
    assert reports[0].teacher_scores == reports[1].teacher_scores and "teacher" not in reports[0].seconds
    assert {path.name for path in folder.iterdir()} == {
        "lock",
        "study.db",
        "sweep.html",
        "sweep.json",
        "sweep.yaml",
        "trials",
    }
    beside = {"teacher", "teacher.json", "fingerprint.json", "log.jsonl", "seconds.json", "memory.json"}
    assert {path.name for path in (folder / "trials").iterdir()} == {"0000", "0001", *beside}


def test_the_same_command_trains_nothing_again_and_more_trials_go_on(file, swept, monkeypatch):
    folder, before = swept
    monkeypatch.setattr(WORK, lambda *args: pytest.fail("it is finished"))
    words = ["sweep", str(file), "--trials", "2", "--output", str(folder), "--json"]
    shown = CliRunner().invoke(app.app, words)
    assert shown.exit_code == 0 and json.loads(shown.stdout)["best"] == [trial.number for trial in before.best]
    seen = []
    monkeypatch.setattr(WORK, lambda made, *rest: seen.append(made) or ([0.1, 0.1], {}))
    more = Worker.joined(read_sweep(file, {}), folder, 9).work()
    assert [trial.number for trial in more.trials] == [0, 1, 2, 3], "a grid ends where all combinations are tried"
    assert [made.target.density for made in seen] == [0.4, 0.4]


@pytest.mark.parametrize(
    ("sampler", "trials", "total", "combinations"),
    [("grid", None, 26, 26), ("grid", 20, 20, 26), ("grid", 99, 26, 26), ("random", None, 20, None)],
)
def test_a_grid_has_all_combinations_unless_fewer_are_asked_for(
    file, tmp_path, monkeypatch, sampler, trials, total, combinations
):
    monkeypatch.setattr(checking.stage, "check", lambda context: None)
    monkeypatch.setattr("secateur.run.sweep.worker._prepare_teacher", lambda context: None)
    values = yaml.safe_load(file.read_text())
    values["sweep"]["over"]["target.density"] = [round(0.3 + n / 50, 2) for n in range(13)]
    values["sweep"]["sampler"] = sampler
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values))
    worker = Worker.joined(read_sweep(tmp_path / "sweep.yaml", {}), tmp_path / "out", trials)
    result = worker.result()
    assert (worker.total, result.asked, result.combinations) == (total, total, combinations)


def test_compare_reads_the_finished_trials(swept):
    folder, _ = swept
    runs = read([folder])
    assert [run.folder.name for run in runs] == ["0000", "0001"]
    points = compare(runs).points
    assert [point.origin for point in points] == ["teacher", "run", "run"]
    assert runs[0].teacher == str(folder / "trials" / "teacher")


def test_the_page_has_every_trial_and_the_command_of_the_best(swept):
    folder, result = swept
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    found = Reader(page)
    assert "trials by score and mb" in found.text
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    assert f"secateur prune --recipe SWEEP/trials/{result.best[0].name}/recipe.yaml" in page
    assert str(folder.parent) not in page, "no page names a folder of the machine"


def test_a_stopped_run_leaves_no_checkpoints(file, swept, tmp_path):
    sweep = read_sweep(file, {"training.checkpoints": 2, "teacher": str(swept[0] / "trials" / "teacher")})
    reported = []
    with pytest.raises(Stopped):
        run_trial(
            sweep.recipe({"target.density": 0.7, "method.name": "magnitude"}),
            tmp_path / "trials" / "0000",
            ["score"],
            lambda percent, score: reported.append((percent, score)) or True,
        )
    ((percent, score),) = reported
    assert 0 < percent < 100 and 0 <= score <= 1
    left = {path.name for path in (tmp_path / "trials" / "0000").iterdir()}
    assert "log.jsonl" in left and not left & {"prune", "recover", "cut", "report.json", "lock"}


def test_one_table_of_latencies_is_measured_for_all_trials_and_speed_ups_are_checked_by_it(file, tmp_path, monkeypatch):
    measured = []

    def by_a_fake_clock(wanted, model, shape):
        measured.append(shape)
        return LatencyTable.measure(model, *wanted.units, tokens=8, timer=timer(tokens=8))

    monkeypatch.setattr(target, "measured_table", by_a_fake_clock)
    values = yaml.safe_load(file.read_text())
    values["sweep"]["over"] = {"target.speedup": [1.2, 1.4]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values | {"method.name": "magnitude"}, sort_keys=False))
    Worker.joined(read_sweep(tmp_path / "sweep.yaml", {}), tmp_path / "out", 2).work()
    assert measured == [(1, 8)]
    (kept,) = (tmp_path / "out" / "trials").glob("latency-*.json")
    for trial in ("0000", "0001"):
        assert (tmp_path / "out" / "trials" / trial / "latency.json").read_text() == kept.read_text()
    values["sweep"]["over"] = {"target.speedup": [1.2, 1e4]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values | {"method.name": "magnitude"}, sort_keys=False))
    refused(tmp_path / "sweep.yaml", tmp_path / "other", "the trial of target.speedup 1e+04", "is out of reach")
    assert not (tmp_path / "other").exists()


# Refusals


def refused(file, output, *words, overrides=None):
    with pytest.raises(UserError) as found:
        Worker.joined(read_sweep(file, overrides or {}), output, 2)
    assert all(word in str(found.value) for word in words), found.value
    assert not output.exists() or list(output.iterdir())


def test_a_target_that_cannot_be_reached_is_refused_before_anything_is_written(file, tmp_path):
    words = ("the trial of target.density 0.4, method.name magnitude is not possible: density 0.4 is out of reach",)
    refused(file, tmp_path / "out", *words, overrides={"target.units": ("head",)})
    assert not (tmp_path / "out").exists()


def test_an_objective_of_a_time_without_a_shape_is_refused_before_anything_is_written(file, tmp_path):
    values = yaml.safe_load(file.read_text())
    values["measurement.shapes"], values["sweep"]["objectives"] = [], ["score", "speedup"]
    (tmp_path / "untimed.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    refused(tmp_path / "untimed.yaml", tmp_path / "out", "the objective speedup is: give measurement.shapes")
    assert not (tmp_path / "out").exists()


def test_a_sweep_does_not_go_on_with_other_data(file, swept, tmp_path):
    begun = swept[0] / "trials" / "fingerprint.json"
    known = begun.read_text()
    begun.write_text(json.dumps(json.loads(known) | {"data": "0123456789ab"}))
    refused(file, swept[0], "the data changed since the run in", "began: restore what it began with")
    begun.write_text(known)


def test_another_sweep_and_other_folders_are_refused(file, swept, tmp_path):
    refused(file, swept[0], "holds another sweep (it differs in training.epochs)", overrides={"training.epochs": 2})
    (tmp_path / "mine.txt").write_text("mine")
    refused(file, tmp_path, "is no sweep of secateur")


def test_without_optuna_the_command_says_what_to_install(file, tmp_path, monkeypatch):
    monkeypatch.setattr("secateur.system.packages.absent", list)
    shown = CliRunner().invoke(app.app, ["sweep", str(file), "--output", str(tmp_path / "out")])
    assert shown.exit_code == 2 and "pip install 'optuna>=5'" in shown.stderr


# Several workers


def test_workers_are_the_same_command_with_the_options_given(file, swept, monkeypatch):
    seen = []
    monkeypatch.setattr(sweep_work, "run_workers", lambda words, count, show: seen.append((words, count)) or [0, -9])
    words = ["sweep", str(file), "--output", str(swept[0]), "--workers", "2", "--study", "swept", "--set", "seed=0"]
    shown = CliRunner().invoke(app.app, [*words, "--trials", "2"])
    assert shown.exit_code == 0, "what one worker leaves another does"
    ((command, count),) = seen
    command = command[command.index("sweep") :]  # other tests of this process may have imported a module
    assert command[:2] == ["sweep", str(file)] and "--workers" not in command and count == 2
    assert command[2:] == ["--trials", "2", "--output", str(swept[0]), "--study", "swept", "--set", "seed=0"]


def test_an_incomplete_sweep_is_no_success(file, monkeypatch):
    monkeypatch.setattr(sweep_work, "run_workers", lambda words, count, show: [-9, 1])
    monkeypatch.setattr(checking.stage, "check", lambda context: None)
    output = file.parent / "killed"
    shown = CliRunner().invoke(
        app.app,
        ["sweep", str(file), "-o", str(output), "--workers", "2", "--set", f"teacher={file.parent / 'encoder'}"],
    )
    assert shown.exit_code == 2
    assert "because worker 1 with exit code -9, worker 2 with exit code 1 ended: repeat the command" in shown.stderr


def test_a_worker_that_is_killed_is_reported(tmp_path, monkeypatch):
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(workers.sys, "executable", str(killed))
    lines = []
    assert run_workers(["sweep"], 1, lines.append) == [-9]
    assert lines == ["worker 1: killed by signal 9; another one takes its trial over, or the same command again"]


def test_what_workers_say_has_their_number():
    lines = []
    assert run_workers(["swep"], 2, lines.append) == [2, 2]
    assert {line[:10] for line in lines} == {"worker 1: ", "worker 2: "} and any("swep" in line for line in lines)
