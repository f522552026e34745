"""The progress of a run: what is shown in the columns of a terminal, and that a log is never silent for long."""

from functools import partial
from types import SimpleNamespace

import pytest
from rich.console import Console

from secateur.cli import output, progress
from secateur.cli.progress import Bars, Lines, fitting
from secateur.run.expected_stage import ExpectedStage

ARGS = SimpleNamespace(output_dir="run/recover")


def trained(watch, steps, total=12_000):
    watch.expect([*(ExpectedStage(str(number), 10.0) for number in range(8)), ExpectedStage("recover", 900.0, "")])
    watch.run.stages[-1].__dict__["folder"] = progress.Path("run/recover")
    watch.on_train_begin(ARGS, SimpleNamespace(global_step=0, max_steps=total), None)
    watch.on_log(ARGS, None, None, {"loss": 1.2345, "density": 0.05})
    watch.on_evaluate(ARGS, None, None, {"eval_pearson_spearman": 0.9})
    for step in steps:
        watch.on_step_end(ARGS, SimpleNamespace(global_step=step, max_steps=total), None)


@pytest.mark.parametrize("width", [80, 120])
def test_bars_fit_the_terminal_and_keep_the_time_left_first(width, capsys):
    console = Console(width=width, force_terminal=True, stderr=True)
    with progress.Progress(*progress._columns(), console=console, auto_refresh=False) as shown:
        trained(Bars(shown), [11_000])
        lines = console.render_lines(shown.get_renderable(), pad=False)
    (line,) = ["".join(segment.text for segment in line) for line in lines if any("recover" in s.text for s in line)]
    assert "recover, stage 9 of 9" in line and "11000/12000" in line and "left in all" in line
    assert len(line) <= width and ("pearson" in line) == (width == 120)


def test_what_does_not_fit_is_left_out_from_the_end():
    assert fitting(["12/20", "2 min left", "loss 0.1"], 17) == "12/20  2 min left"
    assert fitting(["12/20", "2 min left"], 3) == "12/20"


def test_a_log_gets_a_line_after_half_a_minute_of_silence(monkeypatch):
    said = []
    monkeypatch.setattr(output, "show_message", said.append)
    watch = Lines()
    trained(watch, [1])
    watch.on_prediction_step(ARGS, None, None)
    said.clear()
    watch.remind(watch.last + 29)
    assert said == []
    watch.remind(watch.last + 31)
    watch.remind(watch.last + 1)
    assert len(said) == 1 and said[0].startswith("recover, evaluating: step 1 of 12000, ")
    watch.enter("measure")
    watch.remind(watch.last + 30)
    assert said[1] == "scoring and measuring" and said[2].startswith("scoring and measuring: still at work, ")


def test_the_thread_of_a_log_speaks_and_ends(monkeypatch):
    said = []
    monkeypatch.setattr(output, "show_message", said.append)
    monkeypatch.setattr(progress, "SILENCE", 0.01)
    watch = Lines()
    with watch.alive():
        progress.time.sleep(0.1)
    assert said and all("reading data and model: still at work" in line for line in said)
    count = len(said)
    progress.time.sleep(0.03)
    assert len(said) == count


# ---- the time left over all while trials run


FOLDERS = ("teacher-training", "density", "depth-4", "depth-2", "prune")


def left(watch, folder, step, total, first=0):
    """The seconds left after a step of a training, which begins before it, and ends with it if it is the last."""
    begun = SimpleNamespace(global_step=first, max_steps=total)
    watch.on_train_begin(SimpleNamespace(output_dir=f"run/{folder}"), begun, None)
    shown = watch.left_over_all(step, total)
    if step == total:
        watch.on_train_end(None, SimpleNamespace(global_step=step), None)
    return shown


@pytest.fixture
def followed(monkeypatch):
    """The seconds left of a run of five stages of 100 s each, of which those of trials have 100 steps."""
    monkeypatch.setattr(progress, "duration", round)
    watch = progress.Watch()
    stages = [ExpectedStage(name, 100.0, progress.Path("run") / name, steps=100) for name in FOLDERS[:-1]]
    watch.expect([*stages, ExpectedStage("prune", 100.0, progress.Path("run/prune"))])
    as_expected = lambda self, place, done, now: 100 * (len(FOLDERS) - place - done)  # noqa: E731
    monkeypatch.setattr(progress.TimeLeft, "seconds", as_expected)
    return partial(left, watch)


def test_trials_of_a_teacher_are_parts_of_its_stage_and_its_training_is_the_rest(followed):
    assert followed("teacher-trial", 10, 20) == 490
    assert followed("teacher-trial", 20, 20) == 480
    assert followed("teacher-trial", 15, 30) == 465
    assert followed("teacher-trial", 30, 30) == 450
    assert followed("teacher-training", 25, 150) == round(500 - 100 * (50 + 25) / 200), "it ends after 200 steps"
    assert followed("teacher-training", 150, 150) == 400


def test_trials_of_densities_are_parts_of_their_stage(followed):
    assert followed("density-0.2", 50, 50) == 350
    assert followed("density-0.1", 10, 20) == 340
    assert followed("density-0.1", 20, 20) == 330
    assert followed("density-0.1-recover", 30, 30) == 300


def test_a_trial_of_layers_has_its_recovery_and_one_that_was_not_expected_counts_to_the_last(followed):
    assert followed("depth-4", 40, 40) == 260
    assert followed("depth-4-recover", 60, 60) == 200
    assert followed("depth-2", 100, 100) == 100
    assert followed("depth-3", 50, 100) == 125, "of 200 steps 150 are done"
    assert followed("prune", 50, 100) == 50


def test_what_a_training_has_done_before_it_was_interrupted_does_not_count(followed):
    assert followed("prune", 60, 100, 20) == 50
