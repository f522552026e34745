"""The progress of training, on stderr: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from secateur.cli import output
from secateur.system import processes

STAGES = {"teacher-training": "teacher", "prune": "prune", "recover": "recover"}
"""The stages that train, by the name of the folder that they train in."""
NEXT = {"teacher": "reading the teacher's outputs", "prune": "cutting", "recover": "measuring"}
"""What follows each of them."""


class Watch(TrainerCallback):
    """Follows training: the stage, the step and the last metrics. A subclass shows them."""

    stage = ""

    def __init__(self) -> None:
        self.metrics: dict[str, str] = {}

    def begin(self, step: int, total: int) -> None:
        """A stage starts, at `step` where it continues from a checkpoint."""

    def advance(self, step: int, total: int) -> None:
        """A step is completed."""

    def end(self) -> None:
        """The stage ends."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir).name
        self.stage, self.metrics = STAGES.get(folder, folder), {}
        self.begin(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(state.global_step, state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
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
        self.bar = self.progress.add_task(self.stage, total=total, completed=step, metrics="")

    def advance(self, step: int, total: int) -> None:
        metrics = "  ".join([f"{step}/{total}", *self.metrics.values()])
        self.progress.update(self.bar, completed=step, metrics=metrics)

    def end(self) -> None:
        self.progress.update(self.activity, visible=True, description=NEXT.get(self.stage, "working"))


class Lines(Watch):
    """A plain line for every tenth of a stage, for logs."""

    def begin(self, step: int, total: int) -> None:
        self.first, self.started = step, time.monotonic()
        continued = f", continuing from step {step}" if step else ""
        output.show_message(f"{self.stage}: {total} steps{continued}")

    def advance(self, step: int, total: int) -> None:
        if 10 * step // total == 10 * (step - 1) // total:
            return
        elapsed = time.monotonic() - self.started
        left = elapsed / (step - self.first) * (total - step)
        metrics = "".join(f"  {metric}" for metric in self.metrics.values())
        output.show_message(f"{self.stage} {step}/{total}{metrics}  {_clock(elapsed)} elapsed, {_clock(left)} left")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def watching() -> Iterator[Watch]:
    """A callback that shows the progress of training; in other processes than the main one, it shows nothing."""
    if not processes.is_main():
        yield Watch()
    elif not output.ERR.is_terminal:
        yield Lines()
    else:
        with Progress(*_columns(), console=output.ERR) as progress:
            bars = Bars(progress)
            yield bars
            progress.update(bars.activity, visible=False)


def _columns() -> list[ProgressColumn]:
    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[metrics]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
