"""The progress of a run: what is shown in the columns of a terminal, and that a log is never silent for long."""

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
