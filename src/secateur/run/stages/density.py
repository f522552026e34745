"""Stage 3, if the recipe names a part of the teacher's score to keep: short trials of a few densities.

`run/score_goal.py` says which densities, and when a trial keeps the score; `run/trials.py` what a trial is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from secateur.run.context import Context
from secateur.run.models import load_teacher, new_student, teacher_scores
from secateur.run.recipe import Recipe
from secateur.run.records import DENSITY
from secateur.run.score_goal import (
    ScoreGoal,
    TeacherScore,
    leaves_density_open,
    recipes_to_try,
    smallest,
    with_density,
)
from secateur.run.stages import prune
from secateur.run.trial_records import Question
from secateur.run.trials import Trials
from secateur.system import processes

log = logging.getLogger(__name__)

QUESTION = Question(DENSITY, "density")


def done(context: Context) -> bool:
    """Whether there is nothing to choose, or the choice is on disk, or the result of a later stage."""
    return not leaves_density_open(context.recipe) or QUESTION.choice(context.folder) is not None or prune.done(context)


def run(context: Context) -> None:
    """Try densities, and write the choice. All processes must call it.

    Where the teacher has no score to keep on the validation rows, nothing is tried: the largest density is taken.
    """
    with context.accounting.stage("density") as stopwatch:
        trials = Trials.of(context, QUESTION, stopwatch)
        goal = _goal(trials)
        recipes = processes.where_whole(lambda: recipes_to_try(context.recipe, new_student(context, trials.teacher)))
        worth = goal.validation.is_worth_keeping
        chosen = smallest([*recipes], partial(_keeps, trials, goal, recipes)) if worth else max(recipes)
    processes.on_main(partial(_decide, context, goal, chosen))


def decided(context: Context) -> Context:
    """The context with the density that was chosen in its recipe."""
    if not leaves_density_open(context.recipe) or (chosen := QUESTION.choice(context.folder)) is None:
        return context
    return replace(context, recipe=with_density(context.recipe, chosen))


def reported(context: Context) -> dict[str, Any] | None:
    """The goal, the trials and the choice; None for a run without a score to keep."""
    record = QUESTION.record(context.folder)
    return record or None


def goal_reached_for(trials: Trials) -> ScoreGoal | None:
    """The goal for which the density of a run was chosen, for trials of another question; None for a run without."""
    record = QUESTION.record(trials.context.folder)
    if QUESTION.key not in record:
        return None
    constant = trials.context.data.task.baseline(trials.held_out)
    return ScoreGoal.from_record(record, trials.context.recipe.method.trial, constant)


def _goal(trials: Trials) -> ScoreGoal:
    context, task = trials.context, trials.context.data.task
    score, error = trials.score(trials.teacher)
    held_out = TeacherScore(score, error, task.baseline(trials.held_out))
    part, trial = context.recipe.target.keep_score or 0.0, context.recipe.method.trial
    if task.of_training_rows().metric != task.metric:  # a score of another kind sets no goal
        return ScoreGoal(part, trial, held_out, held_out)
    found = teacher_scores(context, load_teacher(context.whole))[task.metric]
    constant = task.baseline(context.data.whole.validation_rows)
    validation = TeacherScore(found, None, constant)  # by its error it was checked before it was the teacher
    return ScoreGoal(part, trial, validation, held_out)


def _keeps(trials: Trials, goal: ScoreGoal, recipes: Mapping[float, Recipe], density: float) -> bool:
    """Whether the trial of a density keeps the score."""
    return goal.kept_by(trials.trial(density, recipes[density], f"density {density:g}"))


def _decide(context: Context, goal: ScoreGoal, density: float) -> None:
    untried = "" if goal.validation.is_worth_keeping else ", untried, because the teacher has none"
    log.info("density %g is chosen, to keep %g%% of the teacher's score%s", density, 100 * goal.part, untried)
    QUESTION.write(context.folder, goal.to_dict() | {QUESTION.key: density})
