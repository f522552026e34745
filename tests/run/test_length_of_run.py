"""The length of a run, in epochs, in optimizer steps or in minutes."""

import json
import shutil
from types import SimpleNamespace

import pytest
from small_world import recipe_values, write_data, write_model
from transformers import TrainerCallback

from secateur.run import outlook, pipeline, recipe, run_length
from secateur.run.context import Context
from secateur.run.costs import Costs, Speed
from secateur.run.density_sweep import sweep
from secateur.run.run_data import RunData
from secateur.run.run_folder import claim
from secateur.run.stages import check
from secateur.run.training_arguments import rounded, steps_of_run, steps_of_teacher
from secateur.system.errors import UserError


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    own = recipe_values(write_model(folder / "model", ["bad", "good"]), write_data(folder / "data.csv"))
    return own | {"training.evaluations": 0, "training.checkpoints": 0}


def steps_of(folder):
    """Stage -> its number of steps."""
    return {line["stage"]: line["of"] for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())}


def test_steps_are_those_of_pruning_and_recovery_together(values, tmp_path):
    made = recipe.make(values | {"training.epochs": None, "training.steps": 20})
    pipeline.run(made, tmp_path / "run")
    assert steps_of(tmp_path / "run") == {"prune": 9, "recover": 11}


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "steps"),
    [(24, 4, 3, 18), (40, 16, 20, 45), (40, 16, 0.5, 1), (40, 64, 8, 4), (40, 64, 0.1, 1), (40, 8, 1.5, 7)],
)
def test_epochs_are_rounded_to_steps_once(values, tmp_path, rows, batch, epochs, steps):
    """Of 40 rows 36 are for training: 20 epochs of batches of 16 are 45 steps, not 40."""
    lengths = {"training.epochs": epochs, "training.teacher_epochs": epochs, "training.batch_size": batch}
    made = recipe.make(values | lengths | {"data.rows": rows})
    context = Context(made, tmp_path, RunData(made))
    assert rounded(steps_of_run(context)) == steps_of_teacher(context) == steps


def test_steps_on_the_command_line_replace_the_epochs_of_a_file_and_of_the_defaults(values, tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata: d\ntraining: {epochs: 3}\n")
    training = recipe.read(tmp_path / "r.yaml", {"training.steps": 500}).training
    assert (training.epochs, training.steps) == (None, 500)
    least = {name: value for name, value in values.items() if name != "training.epochs"}
    assert recipe.make(least | {"training.steps": 7}).training.epochs is None


@pytest.mark.parametrize("steps", [20, None])
def test_a_run_has_one_length(values, steps):
    epochs = None if steps is None else 3
    with pytest.raises(UserError, match="are the length of the run: set one of them"):
        recipe.make(values | {"training.epochs": epochs, "training.steps": steps})


class Interrupted(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


@pytest.fixture
def seconds_of_a_step(monkeypatch):
    """Sets what is measured: the seconds of a step, whatever the model."""

    def set_to(seconds):
        speed = Speed(step=seconds, token=0.0, scored=0.0)
        costs = Costs(speed, {None: speed}, False, 0.0, 0.0, 0, None, weights=0, memory={})
        monkeypatch.setattr(outlook, "measured", lambda context, space, table: costs)

    return set_to


def test_minutes_become_steps_that_stay_the_same_when_the_run_is_resumed(values, tmp_path, seconds_of_a_step):
    made = recipe.make(values | {"training.epochs": None, "training.minutes": 0.5})
    seconds_of_a_step(1.5)
    ahead = pipeline.dry_run(made, tmp_path / "run")
    assert ahead.steps == 20 and not (tmp_path / "run").exists()
    assert dict(ahead.lines)["training"] == "9 steps of pruning by grain, 11 of recovery, of 4 rows"
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(made, tmp_path / "run", [Interrupted()])
    seconds_of_a_step(0.1)
    report = pipeline.run(made, tmp_path / "run")
    assert steps_of(tmp_path / "run") == {"prune": 9, "recover": 11}
    assert report.length == {"minutes": 0.5, "steps": 20}
    assert (report.recipe["training"]["minutes"], report.recipe["training"]["steps"]) == (None, 20)


def test_minutes_that_became_steps_go_on_in_several_processes(values, tmp_path, monkeypatch):
    made = recipe.make(values | {"training.epochs": None, "training.minutes": 0.5})
    context = Context(made, tmp_path, RunData(made))

    def checked(names):
        raise InterruptedError

    two = SimpleNamespace(count=lambda: 2, refuse_sharding=lambda: None)
    monkeypatch.setattr(check, "processes", two)
    with pytest.raises(UserError, match=r"training\.minutes are measured in one process, and this run has 2: give"):
        check.check(context)
    claim(tmp_path, made)
    run_length.record(context, 20)
    monkeypatch.setattr(check, "_check_trackers", checked)  # which comes next
    with pytest.raises(InterruptedError):
        check.check(context)


def test_minutes_are_shared_by_the_densities_of_a_sweep(values, tmp_path, seconds_of_a_step):
    seconds_of_a_step(3.0)
    several = {"target.density": [0.6, 0.3], "training.epochs": None, "training.minutes": 1}
    made = recipe.make(values | several)
    reports = sweep(made, tmp_path)
    assert [report.length["steps"] for report in reports] == [20, 20]
    shutil.rmtree(tmp_path / "0.6")
    seconds_of_a_step(0.1)
    assert [(one.length, one.scores) for one in sweep(made, tmp_path)] == [(one.length, one.scores) for one in reports]


def test_too_few_minutes_are_refused_before_the_folder_is_touched(values, tmp_path, seconds_of_a_step):
    seconds_of_a_step(60.0)
    with pytest.raises(UserError, match=r"training\.minutes 3 are too short: 10 steps take about 10 minutes"):
        pipeline.run(recipe.make(values | {"training.epochs": None, "training.minutes": 3}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
