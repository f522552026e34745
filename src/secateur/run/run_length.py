"""The length of a run in minutes: a number of optimizer steps, decided once (`estimate.steps_for`) and recorded.

The minutes are those of pruning and recovery, with their evaluations, and of the trials of densities and layers before
them. They do not include the training of a teacher, its outputs, and the measurement of the result.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from secateur.run.context import Context
from secateur.run.recipe import Recipe
from secateur.run.records import FORMAT, LENGTH
from secateur.run.run_rounds import changed
from secateur.system import processes

MINUTES, STEPS = "minutes", "steps"


def is_open(recipe: Recipe) -> bool:
    """Whether the run itself decides the number of its steps."""
    return recipe.training.minutes is not None


def decided(context: Context) -> Context:
    """The context with the number of steps that was decided, in its recipe and in those of its branches."""
    if not is_open(context.recipe) or not (record := reported(context)):
        return context
    return with_steps(context, record[STEPS])


def with_steps(context: Context, steps: int) -> Context:
    """The context, and its branches, with a number of steps in place of minutes."""
    recipe = changed(context.recipe, training={"minutes": None, "steps": steps})
    return replace(context, recipe=recipe, branches=tuple(with_steps(branch, steps) for branch in context.branches))


def record(context: Context, steps: int) -> None:
    """Write a number of steps that was decided, for the branches as well. All processes must call it."""
    minutes = context.recipe.training.minutes
    for one in (context, *context.branches):
        processes.on_main(partial(FORMAT.merge, one.folder / LENGTH, {MINUTES: minutes, STEPS: steps}))


def reported(context: Context) -> dict[str, Any] | None:
    """The minutes and the steps that were decided; None for a run whose recipe has another length."""
    return FORMAT.read_if_any(context.folder / LENGTH) or None
