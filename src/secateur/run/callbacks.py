"""What a run looks at while a stage trains: its log, what is left of each group, and densities that it passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl

from secateur.methods.method import Method
from secateur.methods.schedules import Schedule
from secateur.run.run_folder import append
from secateur.system import process_memory, processes
from secateur.training.trainer import PruningTrainer


class LogFile(TrainerCallback):
    """Appends what training logs to `log.jsonl`, a line each.

    With it come the training rows seen in this stage, the seconds since this attempt at it began, and the memory that
    the process holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not processes.is_main():
            return
        rows = state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        spent = {"rows": rows, "seconds": round(time.monotonic() - self.began, 3), **process_memory.readings()}
        append(self.path, _where(args, state) | (logs or {}) | spent)


class PrunedFile(TrainerCallback):
    """Appends to `pruned.jsonl` how many units of each group are left, once where training logs."""

    def __init__(self, path: Path, method: Method) -> None:
        self.path, self.method = path, method
        self.last = -1

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.last or not processes.is_main():
            return
        self.last, was_training = state.global_step, self.method.training
        self.method.eval()
        open_ = (self.method.masks() > 0).cpu()
        self.method.train(was_training)
        kept = {name: int(open_[rows].sum()) for name, rows in self.method.space.slices.items()}
        append(self.path, _where(args, state) | {"progress": self.method.progress, "kept": kept})


class Passing(TrainerCallback):
    """Calls once, with Trainer's control, at the last step before a schedule falls below a density, or share of time.

    A step later the masks would already be below it. A resumed training may stand at that step as it begins.
    """

    def __init__(
        self, trainer: PruningTrainer, schedule: Schedule, density: float, then: Callable[[TrainerControl], None]
    ) -> None:
        self.trainer, self.schedule, self.density, self.then = trainer, schedule, density, then
        self.passed = False

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        begin, end = self.trainer.window
        coming = begin + (end - begin) * (state.global_step + 1) / state.max_steps
        if not self.passed and self.schedule(coming) < self.density:
            self.passed = True
            self.then(control)


def _where(args: Any, state: Any) -> dict[str, Any]:
    """Of a line: the stage, its step and of how many."""
    return {"stage": Path(args.output_dir).name, "step": state.global_step, "of": state.max_steps}
