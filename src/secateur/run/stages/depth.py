"""Stage 4, if the recipe leaves the number of layers open: short trials of a few numbers (`run/trials.py`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from secateur.run.context import Context
from secateur.run.models import new_student
from secateur.run.records import DEPTH
from secateur.run.run_rounds import is_open, total_layers, with_layers
from secateur.run.score_goal import ScoreGoal
from secateur.run.stages import density, prune
from secateur.run.target import layers_to_try, read_latency_table, space_of
from secateur.run.trial_records import SCORE, Question, gain
from secateur.run.trials import Trials
from secateur.system import processes

log = logging.getLogger(__name__)

TOLERANCE = 0.02
"""The part of the best score that fewer layers may cost in a trial, where they make the model faster.

They do at the same density or size, and a trial overstates what they cost: they recover over more steps than a trial
has (RESULTS.md).
"""
QUESTION = Question(DEPTH, "layers")
TOTAL = "of"


@dataclass(frozen=True)
class Rule:
    """By which of the trials the number of layers is chosen.

    Attributes:
        greater_is_better: of the scores.
        tolerance: the part of the best score that fewer layers may cost; 0 where the target is a time, which is the
            same for all numbers of layers.
        goal: the part of the teacher's score that the layers must keep as well; None for a run without.
    """

    greater_is_better: bool
    tolerance: float = TOLERANCE
    goal: ScoreGoal | None = None

    @classmethod
    def of(cls, trials: Trials) -> Rule:
        """That of a run."""
        target = trials.context.recipe.target
        tolerance = 0.0 if target.is_time else TOLERANCE
        return cls(trials.context.data.task.greater_is_better, tolerance, density.goal_reached_for(trials))

    def choice(self, tried: Mapping[int, Mapping[str, Any]]) -> int:
        """The smallest number of layers that keeps the score, if there is a goal, and is within the tolerance.

        That is of the best score. If no number keeps the score, it is the one that comes nearest.

        Args:
            tried: number of layers -> record of its trial.
        """
        gains = {layers: gain(trial[SCORE], self.greater_is_better) for layers, trial in tried.items()}
        best = max(gains.values())
        least = best - self.tolerance * abs(best) if self.tolerance else best
        near = [layers for layers, own in gains.items() if own >= least]
        if self.goal is None:
            return min(near)
        keeping = [layers for layers in near if self.goal.kept_by(tried[layers])]
        return min(keeping or [layers for layers in near if gains[layers] == best])

    def decides(self, tried: Mapping[int, Mapping[str, Any]], fewest: int) -> bool:
        """Whether further trials are not needed: the smallest number is near enough to the best score so far."""
        return bool(self.tolerance) and fewest in tried and self.choice(tried) == fewest


def done(context: Context) -> bool:
    """Whether there is nothing to choose, or the choice is on disk, or the result of a later stage."""
    return not is_open(context.recipe) or QUESTION.choice(context.folder) is not None or prune.done(context)


def run(context: Context) -> None:
    """Try numbers of layers, unless there is but one, and write the choice. All processes must call it."""
    with context.accounting.stage("depth") as stopwatch:
        trials = Trials.of(context, QUESTION, stopwatch)
        numbers, total = processes.where_whole(partial(_numbers, trials))
        chosen = _tried(trials, numbers, total) if len(numbers) > 1 else numbers[-1]
    processes.on_main(partial(_decide, context, chosen, total))


def decided(context: Context) -> Context:
    """The context with the number of layers that was chosen, in its recipe and in those of its branches."""
    if not is_open(context.recipe) or QUESTION.choice(context.folder) is None:
        return context
    record = QUESTION.record(context.folder)
    recipe = with_layers(context.recipe, record[QUESTION.key], record[TOTAL])
    return replace(context, recipe=recipe, branches=tuple(map(decided, context.branches)))


def reported(context: Context) -> dict[str, Any] | None:
    """The trials and the choice; None for a run that tried nothing."""
    return QUESTION.reported(context.folder)


def _decide(context: Context, layers: int, total: int) -> None:
    """Write the choice, for the branches as well, which have no trials of their own."""
    log.info("%d of %d layers are kept", layers, total)
    record = QUESTION.record(context.folder)
    for one in (context, *context.branches):
        QUESTION.write(one.folder, record | {TOTAL: total, QUESTION.key: layers})


def _numbers(trials: Trials) -> tuple[list[int], int]:
    """The numbers of layers to try, the smallest first, and that of all layers."""
    context = trials.context
    student = new_student(context, trials.teacher)
    space = space_of(context.recipe, student, read_latency_table(context.folder))
    return layers_to_try(context.recipes, space), total_layers(space)


def _tried(trials: Trials, numbers: list[int], total: int) -> int:
    """The choice after trials of the largest number, of the smallest, and of others if that is not enough."""
    rule, (fewest, *_, most) = Rule.of(trials), numbers
    tried = dict[int, dict[str, Any]]()
    for layers in dict.fromkeys((most, *numbers)):
        recipe = with_layers(trials.context.recipe, layers, total)
        tried[layers] = trials.trial(layers, recipe, f"{layers} of {total} layers")
        if rule.decides(tried, fewest):
            break
    return rule.choice(tried)
