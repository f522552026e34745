"""Stage 4, if the recipe leaves the number of layers open: short trials of a few numbers (`run/trials.py`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from secateur.run.context import Context
from secateur.run.models import new_student
from secateur.run.records import DEPTH
from secateur.run.run_rounds import is_open, total_layers, with_layers
from secateur.run.stages import prune
from secateur.run.target import layers_to_try, read_latency_table, space_of
from secateur.run.trial_records import SCORE, Question, gain
from secateur.run.trials import Trials
from secateur.system import processes

log = logging.getLogger(__name__)

TOLERANCE = 0.02
"""The part of the best score that fewer layers may cost in a trial.

At the same density a model of fewer layers is faster, and a trial overstates what they cost: they recover over more
steps than a trial has (RESULTS.md).
"""
QUESTION = Question(DEPTH, "layers")
TOTAL = "of"


def done(context: Context) -> bool:
    """Whether there is nothing to choose, or the choice is on disk, or the result of a later stage."""
    return not is_open(context.recipe) or QUESTION.choice(context.folder) is not None or prune.done(context)


def run(context: Context) -> None:
    """Try numbers of layers, unless there is but one, and write the choice. All processes must call it."""
    with context.accounting.stage("depth") as stopwatch:
        trials = Trials.of(context, QUESTION, stopwatch)
        numbers, total = processes.where_whole(partial(_numbers, trials))
        greater = context.data.task.greater_is_better
        chosen = choice(_scored(trials, numbers, total), greater) if len(numbers) > 1 else numbers[-1]
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


def choice(scored: Mapping[int, float], greater_is_better: bool) -> int:
    """The smallest number of layers whose trial comes within `TOLERANCE` of the best score.

    Args:
        scored: number of layers -> score of its trial.
    """
    gains = {layers: gain(score, greater_is_better) for layers, score in scored.items()}
    best = max(gains.values())
    return min(layers for layers, own in gains.items() if own >= best - TOLERANCE * abs(best))


def _numbers(trials: Trials) -> tuple[list[int], int]:
    """The numbers of layers to try, the smallest first, and that of all layers."""
    context = trials.context
    student = new_student(context, trials.teacher)
    space = space_of(context.recipe, student, read_latency_table(context.folder))
    return layers_to_try(context.recipes, space), total_layers(space)


def _scored(trials: Trials, numbers: list[int], total: int) -> dict[int, float]:
    """Number of layers -> score: of the largest number, of the smallest, and of others if that is not enough."""
    fewest, *_, most = numbers
    scored = dict[int, float]()
    for layers in dict.fromkeys((most, *numbers)):
        recipe = with_layers(trials.context.recipe, layers, total)
        scored[layers] = trials.trial(layers, recipe, f"{layers} of {total} layers")[SCORE]
        if fewest in scored and choice(scored, trials.context.data.task.greater_is_better) == fewest:
            break
    return scored
