"""What is checked before the first trial of a sweep: each recipe by itself, and that model, data and target fit it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from secateur.budget.latency import LatencyTable
from secateur.run.context import Context
from secateur.run.models import base_model, shaped
from secateur.run.recipe import Recipe
from secateur.run.stages import check as stage
from secateur.run.sweep.block import Point, Sweep, in_trial, recipes_to_check
from secateur.run.sweep.objectives import OBJECTIVES
from secateur.run.target import given_table, measured_by
from secateur.run.vocabulary_data import data_of
from secateur.system import processes
from secateur.system.errors import UserError

TUNING_ROWS = 1000
"""Rows to tune by, if the file of a sweep does not say how many: at most a quarter of the training rows."""
MOST_MODELS = 100
"""Targets that are checked with the model at most: it is loaded for each."""
DECIDES = ("target", "method", "vocabulary", "distillation", "storage")
"""Groups of a recipe on which it depends whether a target can be reached, and its result be stored."""


def with_default_rows(sweep: Sweep) -> Sweep:
    """The sweep with rows to tune by.

    Raises:
        UserError: the recipe is not valid, or its data cannot be read.
    """
    if "data.tuning_rows" in sweep.values:
        return sweep
    _, first = next(recipes_to_check(sweep))
    rows = len(data_of(first).task_as_read.splits["train"])
    return sweep.with_tuning_rows(min(TUNING_ROWS, rows // 4))


def check(sweep: Sweep, folder: Path) -> tuple[Context, LatencyTable | None]:
    """Check a sweep; returns the context of its first combination, in no folder of a trial, and its latency table.

    Args:
        folder: of all trials.

    Raises:
        UserError: a combination is not possible; the sentence names it.
    """
    recipes = list(recipes_to_check(sweep))
    (first_point, first), *others = _differing(recipes)
    timed = [name for name in sweep.block.objectives if OBJECTIVES[name].timed]
    if timed and not first.measurement.shapes:
        raise UserError(f"no shape is measured, of which the objective {timed[0]} is: give measurement.shapes")
    context = Context(first, folder / "check", data_of(first), shared=folder)
    try:
        table = stage.check(context)
    except UserError as error:
        raise in_trial(first_point, error) from error
    for point, recipe in others[:MOST_MODELS]:
        try:
            processes.where_whole(partial(_check_target, context, table, recipe))
        except UserError as error:
            raise in_trial(point, error) from error
    return context, table


def _check_target(context: Context, table: LatencyTable | None, recipe: Recipe) -> None:
    """Check a further combination, and its target unless another latency table would have to be measured for it.

    Args:
        table: of the first combination.
    """
    same = recipe.vocabulary == context.recipe.vocabulary
    own = replace(context, recipe=recipe, data=context.data if same else data_of(recipe))
    student = shaped(own, base_model(own))
    stage.check_unmeasured(own, student)
    if not recipe.target.is_time:
        return
    if recipe.target.latency_table is not None:
        stage.check_target(own, student, given_table(recipe.target))
    elif table is not None and measured_by(recipe) == measured_by(context.recipe):
        stage.check_target(own, student, table)


def _differing(recipes: Iterable[tuple[Point, Recipe]]) -> list[tuple[Point, Recipe]]:
    """The recipes that differ in what decides whether a target can be reached."""
    found: dict[str, tuple[Point, Recipe]] = {}
    for point, recipe in recipes:
        values = recipe.to_dict()
        found.setdefault(json.dumps([values[name] for name in DECIDES], sort_keys=True), (point, recipe))
    return list(found.values())
