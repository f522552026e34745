"""Short trials, from which a run chooses what its recipe leaves open: its density, or its number of layers.

A trial is a run with a fraction of the steps (`method.trial`) and the same teacher, on the training rows without those
that are held out and scored. It recovers under its masks in place of being cut. The pruned model is not scored on
validation rows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.measure.evaluation import scores_with_error
from secateur.methods.method import Method
from secateur.run.accounting import Stopwatch
from secateur.run.calibration import calibrated_method
from secateur.run.context import Context
from secateur.run.models import load_teacher, new_student
from secateur.run.recipe import Recipe
from secateur.run.run_data import Rows
from secateur.run.run_rounds import end_of_pruning
from secateur.run.stage_trainer import recorded
from secateur.run.stages.outputs import outputs_of
from secateur.run.stages.prune import pruning_trainer
from secateur.run.stages.recover import recovery_trainer
from secateur.run.training_arguments import steps_of_trial
from secateur.run.trial_records import ERROR, NONE, RECOVERY, SCORE, Question, short
from secateur.surgery.masking import attached
from secateur.system import process_memory, processes
from secateur.system.model_state import evaluating
from secateur.training.nonfinite import Diverged
from secateur.training.teacher_cache import CachedTeacher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trials:
    """The trials of a run for one question.

    Attributes:
        outputs: of the teacher, for the training rows for distillation.
        held_out, rows: the rows that are scored, and those that the trials are trained on.
        stopwatch: of the stage to which the trials count, also those of an attempt that is killed in a later one.
    """

    context: Context
    question: Question
    teacher: PreTrainedModel
    outputs: PreTrainedModel | CachedTeacher
    held_out: Rows
    rows: Rows
    stopwatch: Stopwatch

    @classmethod
    def of(cls, context: Context, question: Question, stopwatch: Stopwatch) -> Trials:
        """The trials of a run that has its teacher. All processes must call it."""
        teacher, data = load_teacher(context), context.data
        rows = data.without_held_out(data.distillation_rows)
        outputs = outputs_of(context, teacher)
        return cls(recorded(context, stopwatch), question, teacher, outputs, data.held_out_rows, rows, stopwatch)

    def trial(self, value: float, recipe: Recipe, name: str) -> dict[str, Any]:
        """The record of a trial, with its score on the held-out rows: None if its training diverged.

        All processes must call it.

        Args:
            value: what the trial differs in from the others of its question.
            recipe: of the whole run with that value.
            name: of the trial in the log.
        """
        place, tried = self.context.folder, {self.question.key: value}
        earlier: dict[str, Any] | None = processes.on_main(partial(self.question.earlier, place, tried))
        if earlier is not None:
            return earlier
        process_memory.release()
        record = {**tried, **self._scored(recipe, value, name)}
        processes.on_main(partial(self.question.add, place, record, self.context.data.trial_count))
        self.stopwatch.record()
        return record

    def _scored(self, recipe: Recipe, value: float, name: str) -> dict[str, Any]:
        """The score of a trial and its standard error, by the keys of a record."""
        try:
            trial = replace(self.context, recipe=short(recipe, steps_of_trial(self.context)))
            score, error = self._trained(trial, value)
        except Diverged as diverged:
            log.warning("%s: a trial diverged (%s)", name, diverged)
            return NONE
        log.info("%s: %s %.4f in a trial", name, self.context.data.task.of_training_rows().metric, score)
        return {SCORE: score, ERROR: error}

    def _trained(self, trial: Context, value: float) -> tuple[float, float | None]:
        """Train a trial, and score it under its masks: the score and its standard error."""
        student = new_student(trial, self.teacher)
        data = trial.data
        method = calibrated_method(trial, student, lambda: data.without_held_out(data.train_rows))
        self._train(trial, student, method, f"{Path(self.question.file).stem}-{value}")
        with evaluating([method]), attached(student, method.space, method.masks().detach()):
            return self.score(student)

    def _train(self, trial: Context, student: PreTrainedModel, method: Method, stage: str) -> None:
        """Prune a student and let it recover: in one training, or in two where the recovery differs as a training.

        It does where the weights are frozen while the model is pruned, or where it has a learning rate of its own.
        """
        settings, weights = trial.recipe.method, [name for name, w in student.named_parameters() if w.requires_grad]
        in_two = settings.train == "scores" or trial.recipe.training.recover_learning_rate is not None
        end = end_of_pruning(trial.recipe) if in_two else 1.0
        pruning = pruning_trainer(trial, student, self.outputs, method, stage, end=end, rows=self.rows)
        pruning.train()
        if end == 1.0:
            return
        for name in weights:
            student.get_parameter(name).requires_grad_(True)
        recovery = recovery_trainer(
            trial,
            student,
            f"{stage}-{RECOVERY}",
            end,
            moments=pruning.moments,
            teacher=self.outputs,
            objective=pruning.objective,
            rows=self.rows,
            rows_seen=pruning.rows_taken,
            method=method,
            shrink=settings.shrink,
        )
        recovery.train()

    def score(self, model: PreTrainedModel) -> tuple[float, float | None]:
        """A model's main score on the held-out rows, with its standard error. All processes must call it."""
        task, tokenizer = self.context.data.task.of_training_rows(), self.context.data.tokenizer
        scores, error = scores_with_error(model, task, self.held_out, tokenizer)
        return scores[task.metric], error
