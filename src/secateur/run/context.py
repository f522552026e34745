"""The context of a run, which every stage gets: its recipe, its data, and the places of its files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import TrainerCallback

from secateur.run.accounting import Accounting
from secateur.run.distillation import Distillation
from secateur.run.recipe import Recipe
from secateur.run.run_data import RunData

UNCHECKED_TEACHER = "teacher-unchecked"
"""The folder of a teacher that has been trained, and whose score is not checked yet, or is not worth keeping."""


@dataclass(frozen=True)
class Context:
    """One run: a recipe of one density in a folder. Reading an attribute neither trains nor communicates.

    Attributes:
        recipe: the recipe, of one density.
        folder: of the run; `run/pipeline.py` lists its files.
        data: the task, the tokenizer and the rows; each is read from disk when it is first used.
        callbacks: of the caller, for every training.
        shared: where a teacher that is trained here, its cached outputs and its scores are kept, and tables of
            latencies for several runs; runs with the same teacher and the same data may share it. By default it is the
            run's folder.
        branches: runs for larger densities, whose recipes have `toward` set to the density of this one: the pruning of
            this run cuts their models as well, each when the schedule reaches its density.
    """

    recipe: Recipe
    folder: Path
    data: RunData
    callbacks: tuple[TrainerCallback, ...] = ()
    shared: Path | None = None
    branches: tuple[Context, ...] = ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes whose models the pruning of this run cuts: its own, and those of its branches."""
        return (self.recipe, *(branch.recipe for branch in self.branches))

    @property
    def whole(self) -> Context:
        """The context of the teacher itself, which has its whole vocabulary and its own tokenizer."""
        return replace(self, data=self.data.whole)

    @property
    def finished(self) -> bool:
        """Whether the report exists, which is written last."""
        return (self.folder / "report.json").is_file()

    @property
    def all_finished(self) -> bool:
        """Whether the branches of this run are finished too."""
        return all(one.finished for one in (self, *self.branches))

    @property
    def teacher_folder(self) -> Path:
        """The teacher, if it is trained here."""
        return (self.shared or self.folder) / "teacher"

    @property
    def unchecked_teacher(self) -> Path:
        """The teacher that is trained here, until its score is checked."""
        return self.teacher_folder.with_name(UNCHECKED_TEACHER)

    @property
    def cache_folder(self) -> Path:
        """Cached outputs and scores of the teacher."""
        return (self.shared or self.folder) / "cache"

    @property
    def cut_folder(self) -> Path:
        """The cut model before its recovery."""
        return self.folder / "cut"

    @property
    def model_folder(self) -> Path:
        """The result."""
        return self.folder / "model"

    @property
    def accounting(self) -> Accounting:
        """Seconds and memory of the stages."""
        return Accounting(self.folder)

    @property
    def distillation(self) -> Distillation:
        """The terms of the loss, and their state between pruning and recovery."""
        return Distillation(self.recipe, self.folder, two_stacks=self.data.task.generates)
