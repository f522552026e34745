"""The target of a recipe as its method needs it: a budget, the share of it to keep, and a schedule."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from secateur.budget.budget import Budget
from secateur.budget.latency import LatencyTable, check_measurable
from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.budget.uniform import UniformParameters
from secateur.budget.units import Units, check_count
from secateur.measure.generation import TIMED, part_of
from secateur.measure.latency_sweep import measure_latency
from secateur.measure.timing import machine
from secateur.methods import METHODS
from secateur.methods.method import Method
from secateur.methods.rounds import CoarseRound
from secateur.methods.schedules import Schedule
from secateur.run.context import Context
from secateur.run.recipe import Recipe
from secateur.run.recipe_target import TargetRecipe
from secateur.run.run_rounds import (
    coarse_rounds,
    finer_units,
    in_last_round,
    is_open,
    least_share,
    numbers_to_try,
    share_after,
    with_all_layers,
)
from secateur.run.size_goal import size_goal_of
from secateur.system import devices, processes
from secateur.system.errors import UserError
from secateur.system.files import fingerprint
from secateur.system.quantities import at_least, at_most, quantity

log = logging.getLogger(__name__)

TABLE = "latency.json"


class Unmeasured(Parameters):
    """In place of a latency that has not been measured: parameters count, and it answers no question about times."""

    name = "latency"
    of_parameters = False


def latency_table(context: Context, model: PreTrainedModel) -> LatencyTable | None:
    """The latency table of a run; None if its target is not a time. All processes must call it.

    It is that of an earlier attempt, the recipe's, one that was measured alike for another run with the same shared
    folder (`keep_shared`), or one that the main process measures now.

    Args:
        model: before pruning.

    Raises:
        UserError: the recipe's table cannot be read, or was measured at another shape, or on a device that is not
            here.
    """
    recipe, target, kept = context.recipe, context.recipe.target, context.folder / TABLE
    if not target.is_time:
        return None
    if kept.is_file():
        return _usable(LatencyTable.load(kept), kept)
    if target.latency_table is not None:
        return given_table(target)
    if context.shared is not None and (alike := _shared_file(context.shared, recipe)).is_file():
        return _usable(LatencyTable.load(alike), alike)
    shape = target.shape or recipe.measurement.shapes[0]
    return processes.on_main(partial(measured_table, target, model, shape))


def keep_shared(table: LatencyTable, folder: Path, recipe: Recipe) -> None:
    """Keep a table that was measured for a recipe, for runs that share a folder, unless there is one."""
    path = _shared_file(folder, recipe)
    if recipe.target.latency_table is None and not path.exists():
        table.save(path)


def _shared_file(folder: Path, recipe: Recipe) -> Path:
    return folder / f"{Path(TABLE).stem}-{measured_by(recipe)}.json"


def measured_by(recipe: Recipe) -> str:
    """A fingerprint of what the table depends on that is measured for a recipe in this process.

    These are the model, its units, what is timed, the number of threads and the machine; models are opened on the CPU.
    """
    target, vocabulary = recipe.target, recipe.to_dict()["vocabulary"]
    decides = [recipe.model, target.units, target.shape or recipe.measurement.shapes[0], target.timed, target.beams]
    decides += [target.embedding_rank, vocabulary, torch.get_num_threads(), machine(torch.device("cpu"))]
    return fingerprint([json.dumps(decides, sort_keys=True)], 8)


def given_table(target: TargetRecipe) -> LatencyTable:
    """The latency table that a target names, which must be of what the target times, at its shape.

    Raises:
        UserError: the table cannot be read, was measured at another shape or of something else, or on a device that is
            not here.
    """
    path = target.latency_table
    assert path is not None
    batch, tokens = target.shape or (None, None)
    part = TIMED[target.timed] if target.timed else None
    beams = target.beams if target.beams > 1 or target.timed else None
    return _usable(LatencyTable.load(path, batch=batch, tokens=tokens, part=part, beams=beams), path)


def _usable(table: LatencyTable, path: Path | str) -> LatencyTable:
    """A table on whose device the result can be measured; that it is of another machine is said once.

    Raises:
        UserError: this machine does not have the device.
    """
    device = str(table.protocol["device"])
    if not devices.is_here(device):
        raise UserError(
            f"the latency table {path} was measured on {device}, which is not here: measure one on this machine with "
            "`secateur latency`, or go on where it was measured"
        )
    theirs, own = str(table.protocol["machine"]), machine(torch.device(device))
    if theirs != own:
        _say_other_machine(str(path), theirs, own)
    return table


@cache
def _say_other_machine(path: str, theirs: str, own: str) -> None:
    log.warning(
        "the latency table %s was measured on another machine (%s), and the result is measured on this one (%s): the "
        "times asked for and predicted are those of the other",
        path, theirs, own,
    )  # fmt: skip


def measured_table(target: TargetRecipe, model: PreTrainedModel, shape: tuple[int, int]) -> LatencyTable:
    """A latency table of a model by the protocol of a target.

    Args:
        shape: batch and tokens, where the target says none.

    Raises:
        UserError: the model cannot be measured so.
    """
    batch, tokens = target.shape or shape
    part = part_of(model, target.timed, target.beams)
    return measure_latency(model, *target.units, batch=batch, tokens=tokens, part=part, beams=target.beams)


def read_latency_table(folder: Path) -> LatencyTable | None:
    """The latency table in a run's folder, None if the run has none."""
    return LatencyTable.load(folder / TABLE) if (folder / TABLE).is_file() else None


def share_to_keep(recipe: Recipe, space: Space) -> float:
    """The share of the budget to keep: the cost of the kept units relative to the unpruned model.

    Raises:
        UserError: the target is a number of units that the space cannot keep exactly, or a size out of reach.
    """
    target = recipe.target
    if target.size is not None:
        return size_goal_of(recipe, space).density(space)
    if target.density is not None:
        return target.densities[-1]
    if target.keep is not None:
        check_count(space, target.keep)
        return target.keep / len(space)
    return cast(LatencyTable, space.budget).share_of(target.latency, target.speedup)


def schedule_of(recipe: Recipe, share: float, start: float = 1.0) -> Schedule:
    """The share as a function of the progress of the run, by the rule of the method; it ends at `toward`, if set.

    Args:
        start: the share that coarse rounds leave, with which it begins.
    """
    method = recipe.method
    begin, end = (
        in_last_round(recipe, progress)
        for progress in (method.begin, method.begin + method.ramp * (method.end - method.begin))
    )
    schedule = METHODS.get(method.name).schedule(recipe.target.toward or share, begin, end)
    return replace(schedule, start=start) if start < schedule.start else schedule


def space_of(recipe: Recipe, model: PreTrainedModel, table: LatencyTable | None) -> Space:
    """All prunable units of the model before pruning, with the budget of the recipe's target."""
    budget: Budget = Units() if recipe.target.keep is not None else table or counted(recipe.target)
    return Space(model, *recipe.target.units, budget=budget, round_to=recipe.target.round_to)


def counted(target: TargetRecipe) -> Parameters:
    """The budget of a target that is a density."""
    return UniformParameters() if target.uniform else Parameters()


def layers_to_try(recipes: Sequence[Recipe], space: Space) -> list[int]:
    """The numbers of layers that one pruning for these recipes tries, the smallest first (`numbers_to_try`)."""
    shares = [share_to_keep(recipe, space) for recipe in recipes]
    return numbers_to_try(space, min(shares), max(shares))


def new_method(recipe: Recipe, model: PreTrainedModel, table: LatencyTable | None) -> Method:
    """The recipe's method for the model before pruning.

    Raises:
        UserError: the options or the units do not fit the method, or the target cannot be reached.
    """
    space = space_of(recipe, model, table)
    rounds, share = coarse_rounds(recipe), share_to_keep(recipe, space)
    start = share_after(rounds, space)
    if rounds:
        _check_layers(rounds, space, share, start)
    space.check_something_fits(share)
    return _method(recipe, space, schedule_of(recipe, share, start))


def _check_layers(rounds: Sequence[CoarseRound], space: Space, share: float, start: float) -> None:
    """The layers that are kept must have the share that is asked for, and finer units must reach it within them.

    Args:
        start: the share that they have.

    Raises:
        UserError: they have less, or more with the fewest finer units.
    """
    count = rounds[-1].keep
    layers, have = quantity(count, "layer"), "has" if count == 1 else "have"
    if share > start:
        raise UserError(
            f"{layers} {have} {at_most(start, '.4f')} of the {space.budget.name}, which is less than the {share:.6g} "
            "asked for: raise target.layers, or ask for less"
        )
    if share < (least := least_share(rounds, space)):
        raise UserError(
            f"{layers} {have} at least {at_least(least, '.4f')} of the {space.budget.name} when pruning "
            f"{', '.join(finer_units(space.units))} in {'it' if count == 1 else 'them'}, which is more than the "
            f"{share:.6g} asked for: lower target.layers, name finer units, or ask for more"
        )


def unmeasured_method(recipe: Recipe, model: PreTrainedModel) -> Method:
    """The recipe's method, whose target is a time, without any latencies: what does not fit it does not fit with them.

    Raises:
        UserError: the options, the units or the budget do not fit the method.
    """
    recipe = with_all_layers(recipe) if is_open(recipe) else recipe
    space = Space(model, *recipe.target.units, budget=Unmeasured(), round_to=recipe.target.round_to)
    check_measurable(space)
    share = share_after(coarse_rounds(recipe), space)
    return _method(recipe, space, schedule_of(recipe, share, share))


def _method(recipe: Recipe, space: Space, schedule: Schedule) -> Method:
    kind: Any = METHODS.get(recipe.method.name)
    rounds = coarse_rounds(recipe)
    options = {**recipe.method.options, **({"rounds": rounds} if rounds else {})}
    try:
        return cast(Method, kind(space, schedule, **options))
    except TypeError as error:
        raise UserError(f"the options of {recipe.method.name!r} do not fit: {error}") from error
