"""Callbacks that interrupt the training of a run, keep what a kill would leave of it, or refuse it."""

import shutil
from pathlib import Path

from transformers import TrainerCallback

END = None  # of a stage: its last checkpoint is there, its result is not


class InterruptAt(TrainerCallback):
    """Ctrl-C after a step of a stage, or at its end."""

    def __init__(self, stage, step):
        self.stage, self.step = stage, step

    def on_step_end(self, args, state, control, **kwargs):
        if Path(args.output_dir).name == self.stage and state.global_step == self.step:
            raise KeyboardInterrupt

    def on_train_end(self, args, state, control, **kwargs):
        if Path(args.output_dir).name == self.stage and self.step is END:
            raise KeyboardInterrupt


class CopyAt(TrainerCallback):
    """Copies the folder of a run as a kill at each of some points (stage, step) would leave it.

    A run is then interrupted at many points for the time of one run. The copies are folders of `copies` (`copy_of`).
    """

    def __init__(self, run, copies, *points):
        self.run, self.copies, self.points = run, copies, points

    def on_step_end(self, args, state, control, **kwargs):
        self._copy(Path(args.output_dir).name, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self._copy(Path(args.output_dir).name, END)

    def _copy(self, *point):
        if point in self.points and not copy_of(self.copies, *point).exists():
            shutil.copytree(self.run, copy_of(self.copies, *point))


def copy_of(copies, stage, step):
    """Where `CopyAt` keeps the run of a point."""
    return copies / f"{stage}-{'end' if step is END else step}"


class NoTraining(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        raise AssertionError("a finished run trains again")
