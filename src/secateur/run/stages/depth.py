"""Stage 3, if the recipe leaves the number of layers open: short trials of a few numbers, scored on held-out rows.

A trial is a run with a fraction of the steps (`method.trial`), to the same target and with the same teacher, on the
training rows without those that are held out and scored. The validation rows are not used. Each trial is recorded when
it ends, so that an interrupted run does not repeat it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from secateur.measure.evaluation import scores
from secateur.run.context import Context
from secateur.run.models import load_teacher, new_student
from secateur.run.recipe import Recipe
from secateur.run.records import DEPTH, FORMAT
from secateur.run.run_data import Rows
from secateur.run.run_rounds import changed, is_open, with_layers
from secateur.run.stages import prune
from secateur.run.stages.outputs import outputs_of
from secateur.run.stages.prune import pruning_trainer
from secateur.run.target import layers_to_try, new_method, read_latency_table, space_of
from secateur.run.training_arguments import rounded, steps_of_run
from secateur.surgery.masking import attached
from secateur.system import processes
from secateur.system.model_state import evaluating
from secateur.training.teacher_cache import CachedTeacher

log = logging.getLogger(__name__)

TOLERANCE = 0.02
"""The part of the best score that fewer layers may cost in a trial.

At the same density a model of fewer layers is faster, and a trial overstates what they cost: they recover over more
steps than a trial has (RESULTS.md).
"""
CHOSEN, TOTAL, TRIALS, ROWS = "layers", "of", "trials", "rows"


def done(context: Context) -> bool:
    """Whether there is nothing to choose, or the choice is on disk, or the result of a later stage."""
    return not is_open(context.recipe) or CHOSEN in _record(context) or prune.done(context)


def run(context: Context) -> None:
    """Try numbers of layers, unless there is but one, and write the choice. All processes must call it."""
    with context.accounting.stage("depth"):
        trials = Trials.of(context)
        total = trials.numbers[-1]
        greater = context.data.task.greater_is_better
        chosen = choice(trials.scored(), greater) if len(trials.numbers) > 1 else total
    processes.on_main(partial(_decide, context, chosen, total))


def decided(context: Context) -> Context:
    """The context with the number of layers that was chosen, in its recipe and in those of its branches."""
    if not is_open(context.recipe) or CHOSEN not in (record := _record(context)):
        return context
    recipe = with_layers(context.recipe, record[CHOSEN], record[TOTAL])
    return replace(context, recipe=recipe, branches=tuple(map(decided, context.branches)))


def reported(context: Context) -> dict[str, Any] | None:
    """The trials and the choice; None for a run that tried nothing."""
    record = _record(context)
    return record if TRIALS in record else None


def _record(context: Context) -> dict[str, Any]:
    return FORMAT.read_if_any(context.folder / DEPTH)


def _decide(context: Context, layers: int, total: int) -> None:
    """Write the choice, for the branches as well, which have no trials of their own."""
    log.info("%d of %d layers are kept", layers, total)
    for one in (context, *context.branches):
        FORMAT.merge(one.folder / DEPTH, _record(context) | {TOTAL: total, CHOSEN: layers})


def choice(scored: Mapping[int, float], greater_is_better: bool) -> int:
    """The smallest number of layers whose trial comes within `TOLERANCE` of the best score.

    Args:
        scored: number of layers -> score of its trial.
    """
    sign = 1 if greater_is_better else -1
    best = max(sign * score for score in scored.values())
    return min(layers for layers, score in scored.items() if sign * score >= best - TOLERANCE * abs(best))


@dataclass(frozen=True)
class Trials:
    """The trials of a run, each of which trains the student to the run's target with a number of layers.

    Attributes:
        numbers: of layers, the smallest first; the last is all of them.
        outputs: of the teacher, for the training rows for distillation.
        held_out, rows: the rows that are scored, and those that the trials are trained on.
    """

    context: Context
    teacher: PreTrainedModel
    outputs: PreTrainedModel | CachedTeacher
    numbers: list[int]
    held_out: Rows
    rows: Rows

    @classmethod
    def of(cls, context: Context) -> Trials:
        teacher = load_teacher(context)
        student = new_student(context, teacher)
        space = space_of(context.recipe, student, read_latency_table(context.folder))
        numbers = layers_to_try(context.recipes, space)
        data = context.data
        rows = data.without_held_out(data.distillation_rows)
        return cls(context, teacher, outputs_of(context, teacher), numbers, data.held_out_rows, rows)

    def scored(self) -> dict[int, float]:
        """Number of layers -> score: of all layers, of the smallest number, and of others if that is not enough."""
        fewest, *others = self.numbers
        scored: dict[int, float] = {}
        for layers in dict.fromkeys((self.numbers[-1], fewest, *others)):
            scored[layers] = self.score(layers)
            if fewest in scored and choice(scored, self.context.data.task.greater_is_better) == fewest:
                break
        return scored

    def score(self, layers: int) -> float:
        """The score of a number of layers on the held-out rows, which is recorded; all processes must call it."""
        earlier: float | None = processes.on_main(partial(_earlier_score, self.context, layers))
        if earlier is not None:
            return earlier
        trial = replace(self.context, recipe=self._recipe(layers))
        student = new_student(trial, self.teacher)
        method = new_method(trial.recipe, student, read_latency_table(trial.folder))
        pruning_trainer(trial, student, self.outputs, method, f"depth-{layers}", end=1.0, rows=self.rows).train()
        with evaluating([method]), attached(student, method.space, method.masks().detach()):
            score = scores(student, trial.data.task, self.held_out, trial.data.tokenizer)[trial.data.task.metric]
        processes.on_main(partial(self._keep, layers, score))
        return score

    def _recipe(self, layers: int) -> Recipe:
        """The recipe of a trial."""
        recipe = self.context.recipe
        steps = rounded(steps_of_run(self.context) * recipe.method.trial)
        short = {"epochs": None, "steps": steps, "evaluations": 0, "checkpoints": 0, "select": 0, "average": 0.0}
        return changed(with_layers(recipe, layers, self.numbers[-1]), training=short)

    def _keep(self, layers: int, score: float) -> None:
        """Write the score of a trial, beside those before it."""
        total, metric = self.numbers[-1], self.context.data.task.metric
        log.info("%d of %d layers: %s %.4f in a trial", layers, total, metric, score)
        trials = [*_record(self.context).get(TRIALS, []), {"layers": layers, "score": score}]
        known = {TOTAL: total, ROWS: self.context.data.trial_count, TRIALS: trials}
        FORMAT.merge(self.context.folder / DEPTH, known)


def _earlier_score(context: Context, layers: int) -> float | None:
    """The score of a trial of an earlier attempt."""
    trials = {trial["layers"]: trial["score"] for trial in _record(context).get(TRIALS, [])}
    return trials.get(layers)
