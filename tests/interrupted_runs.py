"""Callbacks that interrupt the training of a run, or refuse it."""

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


class NoTraining(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        raise AssertionError("a finished run trains again")
