"""The whole job, stage by stage: teacher, outputs, density, depth, prune, recover, baselines, measure.

A stage writes its result to disk atomically, so that an interrupted run is resumed in the stage in which it stopped,
and a training is resumed from its last checkpoint.

    RUN/recipe.yaml      the resolved recipe          RUN/prune, RUN/recover   checkpoints while they are needed
    RUN/versions.json    libraries and machine        RUN/cut                  the cut model before recovery
    RUN/log.jsonl        the log of the training      RUN/model                the result: a compact folder
    RUN/pruned.jsonl     kept units of each group     RUN/latency.json         the latency table, for a target time
    RUN/cut_at.json      progress at the cut          RUN/tensorboard          files of TensorBoard, if it is used
    RUN/teacher          the teacher, if trained here RUN/report.*             the numbers, with their protocol

`run/distillation.py` and `run/records.py` list more files. A run of several densities is a folder of such runs, the
last of which prunes for all (`run/density_sweep.py`). Several processes train and score together, each on a part of
every batch; the main process does everything else, and writes all files (`system/processes.py`).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from secateur.budget.latency import LatencyTable
from secateur.report.report import Report
from secateur.run import begun_with, output_cache, run_length
from secateur.run.context import Context
from secateur.run.distillation import remove_state
from secateur.run.expected_stage import StageWatch
from secateur.run.outlook import Outlook, outlook
from secateur.run.output_cache import Decision
from secateur.run.recipe import Recipe
from secateur.run.run_folder import check_claim, check_writable, claim, locked, record_versions
from secateur.run.stages import baselines, density, depth, measure, outputs, prune, recover, teacher
from secateur.run.stages.check import check
from secateur.run.target import TABLE
from secateur.run.vocabulary_data import data_of
from secateur.system import process_memory, processes
from secateur.system.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        done: whether the disk holds its result, or that of a later stage, so that it need not run.
        run: does the work and writes its result to the folder; all processes call it.
    """

    name: str
    done: Callable[[Context], bool]
    run: Callable[[Context], None]


STAGES = (
    Stage("teacher", teacher.done, teacher.run),
    Stage("outputs", outputs.done, outputs.run),
    Stage("density", density.done, density.run),
    Stage("depth", depth.done, depth.run),
    Stage("prune", prune.done, prune.run),  # includes the cut, because the result of pruning is in memory
    Stage("recover", recover.done, recover.run),
    Stage("baselines", baselines.done, baselines.run),
    Stage("measure", measure.done, measure.run),
)
"""The stages in the order in which they run."""


def run(recipe: Recipe, output: Path | str, callbacks: Sequence[TrainerCallback] = ()) -> Report:
    """Do the whole job of a recipe in the folder `output`; the same call continues an interrupted run.

    Raises:
        UserError: anything that the user can fix; nothing half-written is left.
    """
    return run_context(Context(recipe, Path(output), data_of(recipe), tuple(callbacks)))


def run_context(context: Context) -> Report:
    """As `run`, for a context that exists already."""
    process_memory.reset_peak()
    with locked_if_unfinished(context):
        table, cache = prepare(context), decide_cache(context)
        ahead = look_ahead(context, table, cache)
        begin(context, table)
        announce(context, ahead, cache)
        return complete(context)


def dry_run(recipe: Recipe, output: Path | str) -> Outlook:
    """What a run has understood and is going to do, after all checks; nothing is written or trained.

    A target latency is measured if its table is not given.

    Raises:
        UserError: as `run`, or the run is finished.
    """
    return dry_run_context(Context(recipe, Path(output), data_of(recipe)))


def dry_run_context(context: Context) -> Outlook:
    """As `dry_run`, for a context that exists already, with its branches."""
    check_claim(context.folder, context.recipe)
    check_writable(context.folder)
    if context.all_finished:
        raise UserError(f"the run in {context.shared or context.folder} is finished: there is nothing left to do")
    for branch in context.branches:
        prepare(branch)
    table, cache = prepare(context), processes.where_whole(partial(output_cache.decision, context))
    return processes.where_whole(partial(outlook, decided(context), table, cache))


def locked_if_unfinished(context: Context) -> AbstractContextManager[None]:
    """The lock of a run's folder; a finished run is only read, which several processes may do at once."""
    return nullcontext() if context.finished else locked(context.folder)


def prepare(context: Context) -> LatencyTable | None:
    """Check an unfinished run before its folder is touched, and return its latency table if it needs one.

    Raises:
        UserError: the recipe does not fit its model or its data.
    """
    # All processes see the same report, if any, because it is written only after all have passed this line.
    return None if context.finished else check(context)


def decide_cache(context: Context) -> Decision | None:
    """Whether a run caches the teacher's outputs; None if all is finished. All processes must call it."""
    return None if context.all_finished else processes.on_main(partial(output_cache.decision, context))


def begin(context: Context, table: LatencyTable | None) -> None:
    """Claim the folder of a run for its recipe, and write the versions of this attempt and the latency table to it.

    Raises:
        UserError: the folder is another run's, or cannot be written.
    """

    def work() -> None:
        claim(context.folder, context.recipe)
        if not context.finished:
            record_versions(context.folder)
            begun_with.record(context)
        if table is not None:
            table.save(context.folder / TABLE)

    processes.on_main(work)


def look_ahead(context: Context, table: LatencyTable | None, cache: Decision | None) -> Outlook | None:
    """What a run is going to do; None if all is finished, or nobody would read it, because steps are measured for it.

    Raises:
        UserError: the recipe gives too few minutes.
    """
    return processes.where_whole(partial(_ahead, decided(context), table, cache))


def _ahead(context: Context, table: LatencyTable | None, cache: Decision | None) -> Outlook | None:
    read = log.isEnabledFor(logging.INFO) or any(_watches(context)) or run_length.is_open(context.recipe)
    return outlook(context, table, cache) if read and cache is not None else None


def announce(context: Context, ahead: Outlook | None, cache: Decision | None) -> None:
    """Log what a run that has begun is going to do, tell the callbacks, and write what is decided."""
    if cache is not None and not context.finished:
        output_cache.record(context, cache if ahead is None else ahead.cache)
    if ahead is None:
        return
    for what, description in ahead.lines:
        log.info("%s: %s", what, description)
    for watch in _watches(context):
        watch.expect(ahead.stages)
    if ahead.steps is not None:
        run_length.record(context, ahead.steps)


def _watches(context: Context) -> list[StageWatch]:
    return [callback for callback in context.callbacks if isinstance(callback, StageWatch)]


def decided(context: Context) -> Context:
    """The context with what the run has decided itself: its cache, its steps, its density, and its layers."""
    return depth.decided(density.decided(run_length.decided(output_cache.decided(context))))


def complete(context: Context) -> Report:
    """Run the remaining stages of a run that has begun, and load its report."""
    names = processes.on_main(partial(_to_run, output_cache.decided(context)))
    for stage in STAGES:
        if stage.name in names:
            process_memory.release()
            for watch in _watches(context):
                watch.enter(stage.name)
            stage.run(decided(context))
    process_memory.release()
    processes.on_main(partial(tidy, context))
    return Report.load(context.folder)


def _to_run(context: Context) -> list[str]:
    """The names of the remaining stages. Only the main process decides this, so that all processes run the same."""
    return [] if context.finished else [stage.name for stage in STAGES if not stage.done(context)]


def tidy(context: Context) -> None:
    """Remove the files that only an unfinished run needs, or one that is not going to be finished.

    Of a finished run they are what a kill has left before this line; nothing is wrong where they cannot be removed.
    """
    trials = [path.name for stage in ("density", "depth") for path in context.folder.glob(f"{stage}-*")]
    for leftover in ("teacher-training", "teacher-trial", *trials, "prune", "cut", "recover", "cache"):
        shutil.rmtree(context.folder / leftover, ignore_errors=True)
    remove_state(context.folder)
