"""The progress of training, on stderr: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from secateur.cli import output
from secateur.cli.time_left import TimeLeft
from secateur.run.baselines.baseline import FOLDER as BASELINES
from secateur.run.expected_stage import ExpectedStage, StageWatch
from secateur.run.outlook import duration
from secateur.run.trial_records import RECOVERY
from secateur.system import processes
from secateur.system.quantities import quantity

STAGES = {"teacher-training": "teacher", "teacher-trial": "teacher (trial)", "prune": "prune", "recover": "recover"}
"""The stages that train, by the name of the folder that they train in."""
TRIALS = {"teacher-trial": "teacher-training"}
"""Folders of trials, and that of the stage to which they belong; others have the name of their stage and a value."""
DOING = {
    "teacher": "preparing the teacher",
    "outputs": "computing the teacher's outputs",
    "density": "choosing the density",
    "depth": "choosing the layers",
    "prune": "preparing to prune",
    "recover": "preparing to recover",
    "baselines": "making baselines",
    "measure": "scoring and measuring",
}
"""What the stages of a run do, before or without training."""
BAR = 10
BAR_AND_CLOCKS = BAR + 2 * len("0:00:00") + 4
"""Columns of a line besides its title and its numbers: the bar, two clocks, and the spaces between all."""
SILENCE = 30.0
"""Seconds after which a log gets a line that says what is done."""
NEXT = {
    "teacher-trial": "scoring the trial",
    "teacher-training": "preparing to prune",
    "prune": "cutting",
    "recover": "measuring",
}
"""What follows each of them."""


class Watch(StageWatch):
    """Follows training: the stage, the step and the last metrics. A subclass shows them.

    Attributes:
        stage: its name.
        place: where it is among the stages of the run, such as "stage 4 of 6"; empty if that is not known.
        doing: what is done now, between the steps of training too.
        taken: number of a stage -> optimizer steps of its trainings that have ended, such as trials.
    """

    stage = place = folder = ""
    doing = "reading data and model"

    def __init__(self) -> None:
        self.metrics: dict[str, str] = {}
        self.run = TimeLeft((), 0.0)
        self.number: int | None = None
        self.first = 0
        self.taken: dict[int, int] = {}

    def expect(self, stages: Sequence[ExpectedStage]) -> None:
        self.run = TimeLeft(stages, time.monotonic())

    def enter(self, stage: str) -> None:
        self.doing = DOING.get(stage, stage)
        self.end()

    def begin(self, step: int, total: int) -> None:
        """A stage starts, at `step` where it continues from a checkpoint."""

    def advance(self, step: int, total: int) -> None:
        """A step is completed."""

    def evaluate(self) -> None:
        """A batch of an evaluation within the stage is completed."""

    def end(self) -> None:
        """The training of a stage ends, or a stage begins that may not train: `doing` says what is done."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        self.folder, self.metrics, self.first = folder.name, {}, state.global_step
        self.number, self.stage = self._number(folder), _stage_name(folder)
        self.place = "" if self.number is None else f"stage {self.number + 1} of {len(self.run.stages)}"
        self.doing = self.stage
        self.begin(state.global_step, state.max_steps)

    def _number(self, folder: Path) -> int | None:
        """The number of the stage that trains in a folder, or to which a trial in this folder belongs."""
        folders = [stage.folder for stage in self.run.stages]
        kind = folder.name.partition("-")[0]
        names = folder.name, folder.name.removesuffix(f"-{RECOVERY}"), TRIALS.get(folder.name, kind)
        found = [folders.index(one) for one in map(folder.with_name, names) if one in folders]
        others = [number for number, one in enumerate(folders) if one and one.match(f"{folder.parent.name}/{kind}-*")]
        return next(iter([*found, *reversed(others)]), None)

    def left_over_all(self, step: int, total: int) -> str:
        """The time left of the run after a step of the stage, such as "2 min"; empty if it is not known.

        A stage of several trainings, such as trials, is done by the steps that all of them have taken.
        """
        if self.number is None:
            return ""
        before, planned = self.taken.get(self.number, 0), self.run.stages[self.number].steps or 0
        own = before + total - self.first
        whole = own if self.folder in TRIALS.values() else max(own, planned)  # what follows trials ends their stage
        seconds = self.run.seconds(self.number, (before + step - self.first) / whole, time.monotonic())
        return "" if seconds is None else duration(seconds)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.doing = self.stage
        self.advance(state.global_step, state.max_steps)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.doing = f"{self.stage}, evaluating"
        self.evaluate()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.number is not None:
            self.taken[self.number] = self.taken.get(self.number, 0) + state.global_step - self.first
        self.doing = NEXT.get(self.folder, "working")
        self.end()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        for name in ("density", "density_expected", "loss"):
            if logs and name in logs:
                self.metrics[name] = f"{name.removeprefix('density_')} {logs[name]:.3f}"

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        others = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
        name = next((name for name in metrics or {} if name.startswith("eval_") and name not in others), None)
        if metrics and name:
            self.metrics["score"] = f"{name.removeprefix('eval_')} {metrics[name]:.4f}"


class Bars(Watch):
    """A progress bar for every stage, and a line that names what is done between the stages."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self.activity = progress.add_task("reading data and model", total=None, metrics="")
        self.bar = self.activity

    def begin(self, step: int, total: int) -> None:
        self.progress.update(self.activity, visible=False)
        self.bar = self.progress.add_task(self._title(), total=total, completed=step, metrics="")

    def advance(self, step: int, total: int) -> None:
        left = self.left_over_all(step, total)
        parts = [f"{step}/{total}", *([f"{left} left in all"] if left else []), *reversed(self.metrics.values())]
        room = self.progress.console.width - len(self._title()) - BAR_AND_CLOCKS
        self.progress.update(self.activity, visible=False)
        self.progress.update(self.bar, completed=step, metrics=fitting(parts, room))

    def evaluate(self) -> None:
        self.progress.update(self.activity, visible=True, description=self.doing)

    def end(self) -> None:
        self.progress.update(self.activity, visible=True, description=self.doing)

    def _title(self) -> str:
        return ", ".join(filter(None, (self.stage, self.place)))


def fitting(parts: Sequence[str], width: int) -> str:
    """The first parts that fit into a width, with two spaces between them; the first one always."""
    shown = parts[0]
    for part in parts[1:]:
        if len(shown) + 2 + len(part) > width:
            break
        shown += f"  {part}"
    return shown


class Lines(Watch):
    """Plain lines for logs: for every tenth of a stage, and whenever `SILENCE` seconds have passed without one.

    While `alive`, a thread sees to the latter, so that long evaluations and measurements are not silent either.
    """

    def __init__(self) -> None:
        super().__init__()
        self.since = self.last = time.monotonic()
        self.line = ""

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Inside, a line says at least every `SILENCE` seconds what is done."""
        ended = Event()

        def beat() -> None:
            while not ended.wait(min(1.0, SILENCE / 4)):
                self.remind(time.monotonic())

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def remind(self, now: float) -> None:
        """A line, if there was none for `SILENCE` seconds."""
        if now - self.last >= SILENCE:
            self.last = now
            working = f"{self.doing}: still at work" if not self.line else f"{self.doing}: {self.line}"
            output.show_message(f"{working}, {_clock(now - self.since)} since the run began")

    def show(self, line: str) -> None:
        self.last = time.monotonic()
        output.show_message(line)

    def end(self) -> None:
        self.line = ""
        self.show(self.doing)

    def begin(self, step: int, total: int) -> None:
        self.started = time.monotonic()
        continued = f"continuing from step {step}" if step else ""
        self.line = ""
        self.show(", ".join(filter(None, (f"{self.stage}: {quantity(total, 'step')}", continued, self.place))))

    def advance(self, step: int, total: int) -> None:
        self.line = f"step {step} of {total}"
        if 10 * step // total == 10 * (step - 1) // total:
            return
        elapsed = time.monotonic() - self.started
        left = elapsed / (step - self.first) * (total - step)
        metrics = "".join(f"  {metric}" for metric in self.metrics.values())
        in_all = f", {over_all} left in all" if (over_all := self.left_over_all(step, total)) else ""
        times = f"{_clock(elapsed)} elapsed, {_clock(left)} left{in_all}"
        self.show(f"{self.stage} {step}/{total}{metrics}  {times}")


def _stage_name(folder: Path) -> str:
    """As `stage_name`; a baseline trains in a folder of its own."""
    of_baseline = folder.parent.parent.name == BASELINES
    return f"{folder.parent.name} (baseline)" if of_baseline else stage_name(folder.name)


def stage_name(folder: str) -> str:
    """What the stage that trains in a folder is called: `depth-3` is the trial of 3 layers.

    `depth-3-recover` is its recovery, where that is a training of its own.
    """
    trial = folder.removesuffix(f"-{RECOVERY}")
    (kind, _, value), part = trial.partition("-"), "trial" if trial == folder else f"trial, {RECOVERY}"
    if kind == "depth":
        return f"{quantity(int(value), 'layer')} ({part})"
    return f"density {value} ({part})" if kind == "density" else STAGES.get(folder, folder)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def watching() -> Iterator[Watch]:
    """A callback that shows the progress of training; in other processes than the main one, it shows nothing."""
    if not processes.is_main():
        yield Watch()
    elif not output.err().is_terminal:
        lines = Lines()
        with lines.alive():
            yield lines
    else:
        with Progress(*_columns(), console=output.err()) as progress:
            bars = Bars(progress)
            yield bars
            progress.update(bars.activity, visible=False)


def _columns() -> list[ProgressColumn]:
    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=BAR),
        TextColumn("{task.fields[metrics]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
