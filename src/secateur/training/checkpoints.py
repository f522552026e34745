"""Checkpoints of a training: Trainer's files, and a file with the state that Trainer does not handle.

That file is written last and atomically, so a checkpoint that has it is complete. Older checkpoints are removed only
then: at any moment a complete one exists, and never more than one above the limit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from transformers import TrainerState, TrainingArguments

from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat
from secateur.system.tensor_file import load_into, save_tensors

STATE = "secateur.safetensors"
"""The file of a checkpoint with the state of the terms, the method, the shrinking and the averaging."""
FORMAT = FileFormat(2)
"""Version 1, of secateur 0.1.0, had other names of some entries, which methods understand (`RenamedMembers`)."""


def last_checkpoint(folder: Path | str) -> str | None:
    """The latest complete checkpoint in a folder, None if there is none."""
    complete = [path for path in checkpoints(Path(folder)) if (path / STATE).is_file()]
    return str(complete[-1]) if complete else None


def complete_one(asked: str | bool | None, folder: str) -> str | None:
    """The checkpoint to continue from; None to begin.

    Args:
        asked: as of `Trainer.train`: the path of one, or True for the last complete one in `folder`.

    Raises:
        UserError: the folder has none, or the path is of none.
    """
    if not asked:
        return None
    found = last_checkpoint(folder) if asked is True else str(asked)
    if found is None:
        raise UserError(f"{folder} has no complete checkpoint: train without resume_from_checkpoint")
    if not (Path(found) / STATE).is_file():
        raise UserError(
            f"{found} is no complete checkpoint of a PruningTrainer, because it has no {STATE}: pass an earlier one, "
            "or True for the last that is complete"
        )
    return found


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, complete or not, in the order of their steps."""
    by_step = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    return [by_step[step] for step in sorted(filter(str.isdecimal, by_step), key=int)]


@dataclass(frozen=True)
class OwnCheckpoint:
    """The part of each checkpoint that is not Trainer's; the hooks of `HookedTrainer`.

    Attributes:
        own: the modules whose state is kept.
        check: called before a checkpoint is written, to refuse a broken model.
        restored: called when `own` has been loaded, before the model's weights are.
        state: returns the trainer's present state.
    """

    own: nn.Module
    args: TrainingArguments
    accelerator: Accelerator
    state: Callable[[], TrainerState]
    check: Callable[[], None]
    restored: Callable[[], None]

    def before_saving(self) -> None:
        self.check()

    def saved(self, checkpoint: Path, limit: int | None) -> None:
        """Complete a checkpoint of Trainer's and remove the oldest ones above the limit, in the process that saves."""
        self.accelerator.wait_for_everyone()  # each process writes its random state into the checkpoint
        if self.args.should_save:
            complete(checkpoint, self.own)
            remove_old(checkpoint, limit, self.state().best_model_checkpoint)

    def before_loading(self, checkpoint: Path) -> None:
        load_into(self.own, checkpoint / STATE, FORMAT)
        self.restored()


def parts_of(**parts: nn.Module | None) -> nn.ModuleDict:
    """The parts that exist."""
    return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})


def complete(checkpoint: Path, own: nn.Module) -> None:
    """Write a module's state into a checkpoint of Trainer's, which completes it."""
    save_tensors(checkpoint / STATE, own.state_dict(), FORMAT)


def remove_old(newest: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints before `newest` while there are more than `limit` in all; `best` stays."""
    if limit is None or limit <= 0:
        return
    everything = checkpoints(newest.parent)
    older = everything[: everything.index(newest)]
    for path in older[: max(0, len(older) + 1 - limit)]:
        if str(path) != best:
            shutil.rmtree(path, ignore_errors=True)
