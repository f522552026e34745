"""Short trials, from which a run chooses what its recipe leaves open: its density, or its number of layers.

A trial is a run with a fraction of the steps (`method.trial`) and the same teacher, on the training rows without those
that are held out and scored. The pruned model is not scored on validation rows. Each trial is recorded when it ends, so
that an interrupted run does not repeat it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.measure.evaluation import scores_with_error
from secateur.run.context import Context
from secateur.run.models import load_teacher, new_student
from secateur.run.recipe import Recipe
from secateur.run.records import FORMAT
from secateur.run.run_data import Rows
from secateur.run.run_rounds import changed
from secateur.run.stages.outputs import outputs_of
from secateur.run.stages.prune import pruning_trainer
from secateur.run.target import new_method, read_latency_table
from secateur.run.training_arguments import rounded, steps_of_run
from secateur.surgery.masking import attached
from secateur.system import processes
from secateur.system.model_state import evaluating
from secateur.training.teacher_cache import CachedTeacher

log = logging.getLogger(__name__)

TRIALS, ROWS, SCORE, ERROR = "trials", "rows", "score", "standard_error"


@dataclass(frozen=True)
class Question:
    """What a run chooses by trials, and the file in its folder that records them and the choice.

    Attributes:
        file: its name without the suffix is that of the stage.
        key: of a trial's value in its record, and of the choice.
    """

    file: str
    key: str

    def record(self, folder: Path) -> dict[str, Any]:
        """The trials so far, and what was chosen; empty before the first trial."""
        return FORMAT.read_if_any(folder / self.file)

    def write(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Set keys of the record."""
        FORMAT.merge(folder / self.file, values)

    def choice(self, folder: Path) -> Any:
        """What was chosen; None if nothing has been."""
        return self.record(folder).get(self.key)

    def reported(self, folder: Path) -> dict[str, Any] | None:
        """The record for the report; None for a run that tried nothing."""
        record = self.record(folder)
        return record if TRIALS in record else None


@dataclass(frozen=True)
class Trials:
    """The trials of a run for one question.

    Attributes:
        outputs: of the teacher, for the training rows for distillation.
        held_out, rows: the rows that are scored, and those that the trials are trained on.
    """

    context: Context
    question: Question
    teacher: PreTrainedModel
    outputs: PreTrainedModel | CachedTeacher
    held_out: Rows
    rows: Rows

    @classmethod
    def of(cls, context: Context, question: Question) -> Trials:
        """The trials of a run that has its teacher. All processes must call it."""
        teacher, data = load_teacher(context), context.data
        rows = data.without_held_out(data.distillation_rows)
        return cls(context, question, teacher, outputs_of(context, teacher), data.held_out_rows, rows)

    def trial(self, value: float, recipe: Recipe, name: str) -> dict[str, Any]:
        """The record of a trial, with its score on the held-out rows. All processes must call it.

        Args:
            value: what the trial differs in from the others of its question.
            recipe: of the whole run with that value.
            name: of the trial in the log.
        """
        earlier: dict[str, Any] | None = processes.on_main(partial(self._earlier, value))
        if earlier is not None:
            return earlier
        trained = self._trained(replace(self.context, recipe=short(recipe, steps_of_trial(self.context))), value)
        record = {self.question.key: value, SCORE: trained[0], ERROR: trained[1]}
        processes.on_main(partial(self._keep, record, name))
        return record

    def _trained(self, trial: Context, value: float) -> tuple[float, float | None]:
        """Train a trial, and score it under its masks: the score and its standard error."""
        student = new_student(trial, self.teacher)
        method = new_method(trial.recipe, student, read_latency_table(trial.folder))
        stage = f"{Path(self.question.file).stem}-{value}"
        pruning_trainer(trial, student, self.outputs, method, stage, end=1.0, rows=self.rows).train()
        with evaluating([method]), attached(student, method.space, method.masks().detach()):
            return self.score(student)

    def score(self, model: PreTrainedModel) -> tuple[float, float | None]:
        """A model's main score on the held-out rows, with its standard error. All processes must call it."""
        task, tokenizer = self.context.data.task, self.context.data.tokenizer
        scores, error = scores_with_error(model, task, self.held_out, tokenizer)
        return scores[task.metric], error

    def _earlier(self, value: float) -> dict[str, Any] | None:
        """The record of a trial of an earlier attempt."""
        trials = self.question.record(self.context.folder).get(TRIALS, [])
        return next((trial for trial in trials if trial[self.question.key] == value), None)

    def _keep(self, record: dict[str, Any], name: str) -> None:
        """Write the record of a trial, beside those before it."""
        log.info("%s: %s %.4f in a trial", name, self.context.data.task.metric, record[SCORE])
        trials = [*self.question.record(self.context.folder).get(TRIALS, []), record]
        self.question.write(self.context.folder, {ROWS: self.context.data.trial_count, TRIALS: trials})


def steps_of_trial(context: Context) -> int:
    """Optimizer steps of a trial."""
    return rounded(steps_of_run(context) * context.recipe.method.trial)


def short(recipe: Recipe, steps: int) -> Recipe:
    """The recipe of a trial: that of a run, with fewer steps and nothing beside the training."""
    training = {"epochs": None, "steps": steps, "evaluations": 0, "checkpoints": 0, "select": 0, "average": 0.0}
    return changed(recipe, training=training)
