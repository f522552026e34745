"""Several densities from one pruning: it passes through all of them, and a run that recovers branches off at each.

    RUN/recipe.yaml      the recipe, with all densities       RUN/0.4, RUN/0.2, ...   a finished run each
    RUN/teacher(.json)   the teacher, if trained here         RUN/cache               its outputs, until all is done

The pruning is that of the lowest density. When its schedule reaches a larger density, the model is cut to that density
and recovers from there to the end of the run, as in a run for it alone: a run whose recipe has `toward` set to the
lowest density gives the same weights. So the dense model is pruned once, and the teacher runs over the data once.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from secateur.report.report import Report
from secateur.run.context import Context
from secateur.run.outlook import Outlook
from secateur.run.pipeline import (
    announce,
    begin,
    complete,
    decide_cache,
    dry_run_context,
    locked_if_unfinished,
    look_ahead,
    prepare,
)
from secateur.run.recipe import Recipe
from secateur.run.records import DEPTH, FORMAT, LENGTH, OUTPUTS
from secateur.run.run_folder import check_claim, claim, folders_of, locked
from secateur.run.vocabulary_data import data_of
from secateur.system import process_memory, processes


def sweep(recipe: Recipe, output: Path | str, callbacks: Sequence[TrainerCallback] = ()) -> list[Report]:
    """The reports of a recipe of several densities, the largest first; the same call continues where it stopped.

    Raises:
        UserError: anything that the user can fix; nothing half-written is left.
    """
    folder, contexts = Path(output), contexts_of(recipe, Path(output), callbacks)
    with ExitStack() as locks:
        if not contexts[-1].all_finished:
            locks.enter_context(locked(folder))
        tables = [prepare(context) for context in contexts]
        cache = decide_cache(contexts[-1])
        ahead = look_ahead(contexts[-1], tables[-1], cache)
        processes.on_main(partial(claim, folder, recipe))
        for context, table in zip(contexts, tables, strict=True):
            locks.enter_context(locked_if_unfinished(context))
            begin(context, table)
        processes.on_main(partial(_share_decisions, contexts[-1]))
        announce(contexts[-1], ahead, cache)
        return _reports(contexts)


def dry_run(recipe: Recipe, output: Path | str) -> Outlook:
    """As `pipeline.dry_run`, for several densities: all are checked, and described is the run that prunes for all.

    Raises:
        UserError: as `sweep`, or all runs are finished.
    """
    check_claim(Path(output), recipe)
    return dry_run_context(contexts_of(recipe, Path(output))[-1])


def contexts_of(recipe: Recipe, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> list[Context]:
    """A run for each density, the largest first; the others are branches of the last one, which prunes for all.

    They differ in their density alone, and so share their data.
    """
    of = partial(Context, data=data_of(recipe), callbacks=tuple(callbacks), shared=folder)
    *larger, lowest = map(of, recipe.each(), folders_of(recipe, folder))
    return [*larger, replace(lowest, branches=tuple(larger))]


def _share_decisions(lowest: Context) -> None:
    """Give unfinished branches what the run that prunes for all has decided in an earlier attempt, if they lack it."""
    for name in (LENGTH, OUTPUTS, DEPTH):
        decision = FORMAT.read_if_any(lowest.folder / name)
        for branch in lowest.branches:
            if decision and not branch.finished and not (branch.folder / name).exists():
                FORMAT.write(branch.folder / name, decision)


def _reports(contexts: Sequence[Context]) -> list[Report]:
    """The reports of runs that have begun: the last one prunes for all, then the others recover."""
    *larger, lowest = contexts
    last = _completed(lowest)
    reports = [_completed(context) for context in larger]
    processes.on_main(partial(shutil.rmtree, lowest.cache_folder, ignore_errors=True))
    return [*reports, last]


def _completed(context: Context) -> Report:
    process_memory.reset_peak()
    return complete(context)
