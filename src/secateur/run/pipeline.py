"""The whole job, stage by stage: teacher, outputs, prune, recover, measure.

A stage leaves its result on disk under its final name in one step, so that an interrupted run goes on with the stage
that it was in, and within a training from the last checkpoint.

    RUN/recipe.yaml      the resolved recipe          RUN/prune, RUN/recover   checkpoints while they are needed
    RUN/versions.json    libraries and machine        RUN/cut                  the cut model before recovery
    RUN/log.jsonl        what training logged         RUN/model                the result: a compact folder
    RUN/pruned.jsonl     kept units of each group     RUN/latency.json         the latency table, if a time is asked for
    RUN/cut_at.json      where it was cut             RUN/tensorboard          if it reports there
    RUN/teacher          the teacher, if trained here RUN/report.*             the numbers, with their protocol

`run/distillation.py` and `run/accounting.py` list the files that they write. A run of several densities is a folder of
such runs, the last of which prunes for all: see `run/density_sweep.py`. Of several processes all train and score, each
a part of every batch; the main one does and writes everything else (`system/processes.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from secateur.budget.latency import LatencyTable
from secateur.report.report import Report
from secateur.run.context import Context
from secateur.run.distillation import remove_state
from secateur.run.recipe import Recipe
from secateur.run.run_data import RunData
from secateur.run.run_folder import claim
from secateur.run.stages import measure, outputs, prune, recover, teacher
from secateur.run.stages.check import check
from secateur.run.target import TABLE
from secateur.system import process_memory, processes
from secateur.system.errors import UserError


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        done: whether the disk holds its result, or that of a later stage, so that it need not run.
        run: does the work and leaves its result in the folder; called in all processes.
    """

    name: str
    done: Callable[[Context], bool]
    run: Callable[[Context], None]


STAGES = (
    Stage("teacher", teacher.done, teacher.run),
    Stage("outputs", outputs.done, outputs.run),
    Stage("prune", prune.done, prune.run),  # and cut: until then, what pruning has learnt is in memory
    Stage("recover", recover.done, recover.run),
    Stage("measure", measure.done, measure.run),
)
"""In their order."""


def run(recipe: Recipe, output: Path | str, callbacks: Sequence[TrainerCallback] = ()) -> Report:
    """Do the whole job of a recipe in the folder `output`; the same call continues an interrupted run.

    Raises:
        UserError: anything that the user can fix; nothing half-written is left.
    """
    if len(recipe.target.densities) > 1:
        raise UserError("a run has one density: take `secateur.run.density_sweep.sweep` for several, or ask for one")
    return run_context(Context(recipe, Path(output), RunData(recipe), tuple(callbacks)))


def run_context(context: Context) -> Report:
    """As `run`, of a context that has been made already."""
    process_memory.reset_peak()
    begin(context, prepare(context))
    return complete(context)


def prepare(context: Context) -> LatencyTable | None:
    """Check a run that is not finished, before its folder is touched; the latency table comes back, if it needs one.

    Raises:
        UserError: the recipe does not fit its model or its data.
    """
    # All processes see the same report, if any: this command writes one only after all have passed here.
    return None if context.finished else check(context)


def begin(context: Context, table: LatencyTable | None) -> None:
    """Claim the folder of a run for its recipe, and keep the latency table in it.

    Raises:
        UserError: the folder is another run's, or cannot be written.
    """

    def work() -> None:
        claim(context.folder, context.recipe)
        if table is not None:
            table.save(context.folder / TABLE)

    processes.on_main(work)


def complete(context: Context) -> Report:
    """Run the stages that are not done, of a run that has begun, and load its report."""
    names = processes.on_main(partial(_to_run, context))
    for stage in STAGES:
        if stage.name in names:
            stage.run(context)
    processes.on_main(partial(_tidy, context))
    return Report.load(context.folder)


def _to_run(context: Context) -> list[str]:
    """Names of the stages that are not done. The main process decides this once for all, so that none disagrees."""
    return [] if context.finished else [stage.name for stage in STAGES if not stage.done(context)]


def _tidy(context: Context) -> None:
    """Remove what only an unfinished run needs."""
    for leftover in ("teacher-training", "prune", "cut", "recover", "cache"):
        shutil.rmtree(context.folder / leftover, ignore_errors=True)
    remove_state(context.folder)
