"""What a training leaves on disk on its way: checkpoints to go on from, and the best evaluation to go back to."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

STATE = "secateur.safetensors"
"""Of a checkpoint, what is not Trainer's: the last file written, so that a folder that has it is whole."""


def last_checkpoint(folder: Path | str) -> str | None:
    """The latest whole checkpoint in a folder, None if there is none."""
    whole = [path for path in checkpoints(Path(folder)) if (path / STATE).is_file()]
    return str(whole[-1]) if whole else None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or not, in the order of their steps."""
    found = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    return [found[step] for step in sorted(filter(str.isdecimal, found), key=int)]


def complete(checkpoint: Path, own: nn.Module) -> None:
    """Write the state of what is ours into a checkpoint of Trainer's, which makes it whole."""
    partial = checkpoint / f"{STATE}.partial"
    save_file({name: value.contiguous() for name, value in own.state_dict().items()}, partial)
    partial.replace(checkpoint / STATE)


def rotate(newest: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints before `newest` above `limit` in all, if there is a limit; `best` stays."""
    found = checkpoints(newest.parent)
    before = found[: found.index(newest)]
    for old in before[: max(0, len(before) + 1 - limit)] if limit is not None and limit > 0 else []:
        if str(old) != best:
            shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class Best:
    """The weights of the best evaluation, with its score, in one file."""

    path: Path

    def score(self, step: int) -> float:
        """Before a step; an evaluation that a crash has left behind from later steps is void, with -inf."""
        if not self.path.is_file():
            return -math.inf
        with safe_open(self.path, "pt") as file:
            note = file.metadata()
        return float(note["score"]) if int(note["step"]) < step else -math.inf

    def keep(self, score: float, step: int, parts: Mapping[str, nn.Module]) -> None:
        """Keep the modules as they are, each under its name."""
        state = {f"{part}.{name}": value for part, one in parts.items() for name, value in one.state_dict().items()}
        partial = self.path.with_suffix(".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        own = {name: value.detach().clone().contiguous() for name, value in state.items()}
        save_file(own, partial, {"score": repr(score), "step": str(step)})
        partial.replace(self.path)

    def take(self, parts: Mapping[str, nn.Module]) -> None:
        """Make the modules what they were; without a kept evaluation they stay as they are."""
        if not self.path.is_file():
            return
        state = load_file(self.path)
        for part, module in parts.items():
            prefix = f"{part}."
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            module.load_state_dict(own)
