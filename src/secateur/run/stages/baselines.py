"""Stage 7, if the recipe asks for it: the baselines are made, scored, and timed beside the pruned model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from secateur.report.report import retention
from secateur.run.baselines.baseline import LeftOut, Row, kept_or_made
from secateur.run.baselines.timing import PRUNED, TEACHER, timed
from secateur.run.context import Context
from secateur.run.models import load_teacher, teacher_scores
from secateur.run.records import BASELINES, FORMAT
from secateur.run.stage_trainer import recorded
from secateur.system import process_memory, processes

log = logging.getLogger(__name__)

NAMES = "names"


def done(context: Context) -> bool:
    """Whether none is asked for, or all that are have been recorded, or the run is finished."""
    asked = context.recipe.measurement.baselines
    return context.finished or set(asked) <= set((reported(context) or {}).get(NAMES, ()))


def run(context: Context) -> None:
    """Make the baselines of the recipe. All processes must call it."""
    make(context, context.recipe.measurement.baselines)


def make(context: Context, names: Sequence[str]) -> None:
    """Make those baselines that the disk does not hold, and record them all. All processes must call it.

    Those of which the run has none are recorded with the reason.
    """
    rows, left_out = list[Row](), dict[str, str]()
    with context.accounting.stage("baselines") as stopwatch:
        for name in names:
            process_memory.release()
            try:
                rows += kept_or_made(recorded(context, stopwatch), name)
            except LeftOut as error:
                log.info("the baseline %s is left out: %s", name, error)
                left_out[name] = str(error)
            stopwatch.record()
        scores = teacher_scores(context, load_teacher(context.whole))
        processes.on_main(partial(_record, context, names, rows, left_out, scores[context.data.task.metric]))


def reported(context: Context) -> dict[str, Any] | None:
    """The record for the report; None for a run without baselines."""
    return FORMAT.read_if_any(context.folder / BASELINES) or None


def _record(
    context: Context, names: Sequence[str], rows: Sequence[Row], left_out: Mapping[str, str], teacher: float
) -> None:
    """Time all models, and write the record."""
    times, protocol = timed(context, rows)
    constant, greater = context.data.task.baseline(context.data.validation_rows), context.data.task.greater_is_better
    plain = [
        asdict(row)
        | {"retention": retention(row.score, teacher, constant, greater), "latency": times.get(row.name, [])}
        for row in rows
    ]
    measured = {name: times.get(name, []) for name in (TEACHER, PRUNED)}
    record = {NAMES: list(names), "rows": plain, "left_out": dict(left_out), **measured, "protocol": protocol}
    FORMAT.write(context.folder / BASELINES, record)
