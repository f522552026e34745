"""The stages that are expected of a run, and the callbacks that are told of them before the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback


@dataclass(frozen=True)
class ExpectedStage:
    """A stage of a run.

    Attributes:
        name: for people.
        seconds: that it will still take, 0 if its result exists; None if they are not known.
        folder: in which it trains; None if it does not train.
        result: what the disk holds of it: "cached" or "finished"; empty if it is to be run.
        steps: of all its trainings that are left together, where it has several, such as trials; else None.
        most: seconds that it takes at most, where these may be more than are expected; else None.
    """

    name: str
    seconds: float | None
    folder: Path | None = None
    result: str = ""
    steps: int | None = None
    most: float | None = None

    @property
    def most_seconds(self) -> float:
        """The seconds that it takes at most; 0 if they are not known."""
        return self.most or self.seconds or 0.0


class StageWatch(TrainerCallback):
    """A callback that is told what is expected of the run that it follows."""

    def expect(self, stages: Sequence[ExpectedStage]) -> None:
        """Called once, before the first stage, with all stages in their order."""

    def enter(self, stage: str) -> None:
        """Called before each stage that is left, with its name; some of them do not train."""
