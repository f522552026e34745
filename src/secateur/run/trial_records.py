"""The records of short trials, in a file of the run's folder: what was tried, its scores, and what was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.run.recipe import Recipe
from secateur.run.records import FORMAT
from secateur.run.run_rounds import changed

TRIALS, ROWS, SCORE, ERROR = "trials", "rows", "score", "standard_error"
RECOVERY = "recover"
"""What follows the name of a trial in that of its recovery, where it is a training of its own."""
NONE = {SCORE: None, ERROR: None}
"""What is recorded of a trial whose training diverged, which is the worst one."""


@dataclass(frozen=True)
class TrialRecord:
    """A file of trials, each of which is recorded when it ends, so that an interrupted run does not repeat it."""

    file: str

    def record(self, folder: Path) -> dict[str, Any]:
        """The trials so far, and what was chosen; empty before the first trial."""
        return FORMAT.read_if_any(folder / self.file)

    def write(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Set keys of the record."""
        FORMAT.merge(folder / self.file, values)

    def earlier(self, folder: Path, tried: Mapping[str, Any]) -> dict[str, Any] | None:
        """The trial of an earlier attempt with these values; None if there is none."""
        trials: list[dict[str, Any]] = self.record(folder).get(TRIALS, [])
        return next((trial for trial in trials if trial.items() >= tried.items()), None)

    def tried(self, folder: Path) -> int:
        """The number of trials so far."""
        return len(self.record(folder).get(TRIALS, []))

    def add(self, folder: Path, trial: Mapping[str, Any], rows: int) -> None:
        """Record a trial, beside those before it.

        Args:
            rows: the number of held-out rows on which it was scored.
        """
        self.write(folder, {ROWS: rows, TRIALS: [*self.record(folder).get(TRIALS, []), dict(trial)]})


@dataclass(frozen=True)
class Question(TrialRecord):
    """What a run chooses by trials that differ in one value, and the file that records them and the choice.

    Attributes:
        file: its name without the suffix is that of the stage.
        key: of a trial's value in its record, and of the choice.
    """

    key: str

    def choice(self, folder: Path) -> Any:
        """What was chosen; None if nothing has been."""
        return self.record(folder).get(self.key)

    def reported(self, folder: Path) -> dict[str, Any] | None:
        """The record for the report; None for a run that tried nothing."""
        record = self.record(folder)
        return record if TRIALS in record else None


def gain(score: float | None, greater_is_better: bool) -> float:
    """The score of a trial, larger where it is better; minus infinity for none, and for one that is no number."""
    if score is None or math.isnan(score):
        return -math.inf
    return score if greater_is_better else -score


def short(recipe: Recipe, steps: int) -> Recipe:
    """The recipe of a trial: that of a run, with fewer steps and nothing beside the training."""
    alone = {"evaluations": 0, "checkpoints": 0, "select": 0, "average": 0.0}
    return changed(recipe, training={"epochs": None, "minutes": None, "steps": steps, **alone})
