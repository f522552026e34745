"""Making the baselines of runs that are finished without them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from transformers import TrainerCallback

from secateur.report import run_page
from secateur.run.baselines import BASELINES
from secateur.run.context import Context
from secateur.run.expected_stage import StageWatch
from secateur.run.finished_run import FinishedRun
from secateur.run.recipe import Recipe, make
from secateur.run.run_folder import locked
from secateur.run.run_rounds import changed
from secateur.run.run_values import shared_folder
from secateur.run.stages import baselines
from secateur.run.vocabulary_data import data_of
from secateur.system.errors import UserError


def with_baselines(
    runs: Sequence[FinishedRun], source: str | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> list[FinishedRun]:
    """The runs, each with its baselines: those that it has recorded, or all, which are made now and recorded.

    Args:
        source: where the data of the runs is now; None where it was.
        callbacks: for every training.

    Raises:
        UserError: the data has changed, the teacher is not there, or a folder is in use or cannot be written; nothing
            is made before all folders are held.
    """
    contexts = {run.folder: _context(run, source, callbacks) for run in runs if run.report.baselines is None}
    with ExitStack() as held:
        for folder in {folder.resolve(): folder for folder in contexts}.values():  # one may be given by two paths
            held.enter_context(locked(folder))
        return [_made(run, contexts[run.folder]) if run.folder in contexts else run for run in runs]


def _context(run: FinishedRun, source: str | None, callbacks: Sequence[TrainerCallback]) -> Context:
    """The context in which a run's baselines are made, after a check of its data."""
    recipe = _recipe(run, source)
    context = Context(recipe, run.folder, data_of(recipe), tuple(callbacks), shared=shared_folder(run.folder))
    found = context.data.task_as_read.fingerprint()
    if found != run.report.data:
        raise UserError(
            f"{recipe.data.source} is not the data of {run.folder} (fingerprint {found}, that of the run "
            f"{run.report.data}): say by --data where that is"
        )
    return context


def _recipe(run: FinishedRun, source: str | None) -> Recipe:
    """The recipe of a run, with what it has decided itself, with all baselines."""
    recipe = make(run.report.recipe, str(run.folder / "report.json"))
    data = {} if source is None else {"source": source}
    return changed(recipe, data=data, measurement={"baselines": tuple(BASELINES.all())})


def _made(run: FinishedRun, context: Context) -> FinishedRun:
    """The run after its baselines are made, in its folder, which is held; its report and its pages have them."""
    existed = context.cache_folder.is_dir()
    for watch in context.callbacks:
        if isinstance(watch, StageWatch):
            watch.enter("baselines")
    baselines.run(context)
    seconds = {**run.report.seconds, **context.accounting.seconds()}
    report = replace(run.report, baselines=baselines.reported(context), seconds=seconds)
    run_page.write(report, context.folder)
    report.save(context.folder)
    if not existed:
        shutil.rmtree(context.cache_folder, ignore_errors=True)
    return FinishedRun(Path(context.folder), report)
