"""The training rows that are held out of the prune stage, and scored in it (`ramp_scores.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from secateur.measure.evaluation import encoded
from secateur.run.run_data import Rows, RunData, numbered, without

FEWEST = 50
"""Rows below which a score says too little: the standard error of an accuracy of 0.9 is then 4 points."""


@dataclass(frozen=True)
class RampRows:
    """The rows of a run, sampled by its seed; the first of those that are held out of trials, if there are trials."""

    data: RunData

    @property
    def count(self) -> int:
        """The number of rows of the data: 0 if they would be too few, or if no recovery follows."""
        method = self.data.recipe.method
        count = min(method.ramp_rows, (len(self.data.task.splits["train"]) - self.data.recipe.reserved) // 10)
        return count if count >= FEWEST and method.end < 1 else 0

    @cached_property
    def scored(self) -> Rows:
        """The rows that are scored, encoded and numbered."""
        data = self.data
        if not self.count:
            return []
        chosen = sorted(data.shuffled[data.recipe.reserved : data.recipe.reserved + self.count])
        return numbered(encoded(data.task, "train", data.tokenizer, data.recipe.data.max_length, chosen))

    @property
    def others(self) -> Rows:
        """Training rows for distillation without those that are scored."""
        return self.without_scored(self.data.distillation_rows)

    def without_scored(self, rows: Rows) -> Rows:
        """Rows without those that are scored.

        Args:
            rows: the training rows, or those for distillation.
        """
        return without(rows, self.scored, len(self.data.train_rows)) if self.count else rows
