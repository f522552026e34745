"""Callbacks of a run while a stage trains: writing logs, and acting when the schedule reaches a density."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl

from secateur.methods.method import Method, kept_at_present
from secateur.methods.schedules import Schedule
from secateur.report import run_log
from secateur.run.accounting import Stopwatch
from secateur.system import process_memory, processes
from secateur.training.trainer import PruningTrainer


class LogFile(TrainerCallback):
    """Appends what training logs to `log.jsonl`, one line for each log.

    A line also has the training rows seen in this stage, the seconds since this attempt at the stage began, and the
    memory that the process holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not processes.is_main():
            return
        rows = state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        used = {"rows": rows, "seconds": round(time.monotonic() - self.began, 3), **process_memory.readings()}
        run_log.FORMAT.append(self.path, _position(args, state) | (logs or {}) | used)


class Recorded(TrainerCallback):
    """Records the time and memory of a stage when training logs, so that an attempt that is killed is counted.

    A record is two files, so that what is done more often is recorded once in `EVERY` seconds.
    """

    EVERY = 1.0

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch, self.last = stopwatch, -math.inf

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.record()

    def record(self) -> None:
        """Record what was used until now, if the last record is old enough."""
        if time.monotonic() - self.last >= self.EVERY:
            self.last = time.monotonic()
            self.stopwatch.record()


class RecordedAround(Recorded):
    """As `Recorded`, for a stage of several trainings, each of which has a record of its own beside it.

    It is a class of its own because Trainer warns of two callbacks of one class.
    """


class KeptUnitsFile(TrainerCallback):
    """Appends to `pruned.jsonl` how many units of each group are kept, once for each step at which training logs."""

    def __init__(self, path: Path, method: Method) -> None:
        self.path, self.method = path, method
        self.last_step = -1

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.last_step or not processes.is_main():
            return
        self.last_step = state.global_step
        kept = {"progress": self.method.progress, "kept": self._kept()}
        run_log.FORMAT.append(self.path, _position(args, state) | kept)

    def _kept(self) -> dict[str, int]:
        """Group -> number of units that the method keeps at present."""
        kept = kept_at_present(self.method).cpu()
        return {name: int(kept[units].sum()) for name, units in self.method.space.slices.items()}


class DensityReached(TrainerCallback):
    """Calls an action once, with Trainer's control: at the last step at which the schedule is not below a density.

    One step later the masks would already be below it. A resumed training may be at that step when it begins. Where the
    budget is not one of parameters, a share of it stands for the density.
    """

    def __init__(
        self, trainer: PruningTrainer, schedule: Schedule, density: float, action: Callable[[TrainerControl], None]
    ) -> None:
        self.trainer, self.schedule, self.density, self.action = trainer, schedule, density, action
        self.called = False

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        begin, end = self.trainer.window
        next_progress = begin + (end - begin) * (state.global_step + 1) / state.max_steps
        if not self.called and self.schedule(next_progress) < self.density:
            self.called = True
            self.action(control)


def _position(args: Any, state: Any) -> dict[str, Any]:
    """Where training is, for a line of a log: the stage, its step, and the number of its steps."""
    return {"stage": Path(args.output_dir).name, "step": state.global_step, "of": state.max_steps}
