"""Stage 2: the teacher runs once over the training rows for distillation, and its outputs are cached on disk.

`run/output_cache.py` decides before the first stage whether that is done. A cache that cannot be written then, such as
on a disk that has filled, does not stop the run: from there on the teacher runs beside the student.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from transformers import PreTrainedModel

from secateur.run import output_cache
from secateur.run.callbacks import Recorded
from secateur.run.context import Context
from secateur.run.models import load_teacher
from secateur.run.output_cache import teacher_run
from secateur.run.run_data import Rows
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.system.file_format import NewerVersion
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.teacher_run import TeacherRun

log = logging.getLogger(__name__)


def done(context: Context) -> bool:
    """Whether pruning needs no outputs: it has ended, or the recipe caches none. The cache itself needs the teacher."""
    return not context.recipe.distillation.cache or context.cut_folder.is_dir() or context.model_folder.is_dir()


def run(context: Context) -> None:
    """Compute the outputs, unless an earlier attempt or another run has."""
    outputs_of(context, load_teacher(context))


def outputs_of(context: Context, teacher: PreTrainedModel) -> PreTrainedModel | CachedTeacher:
    """The teacher as training uses it: its cached outputs, which are computed if they are missing, or the model itself.

    All processes must call it: the main one computes, and the others read.

    Raises:
        NewerVersion: a later version of secateur wrote the cache.
    """
    if not context.recipe.distillation.cache:
        return teacher
    try:
        with context.accounting.stage("cache") as stopwatch:
            run = teacher_run(context, teacher, context.data.distillation_rows)
            run = replace(run, after_batch=Recorded(stopwatch).record)
            key = processes.where_whole(run.key)
            return processes.main_first(partial(_cached, context, run, key))
    except NewerVersion:
        raise
    except UserError as error:
        log.warning("the teacher runs beside the student, because its outputs cannot be cached: %s", error)
        output_cache.withdraw(context, str(error))
        return teacher


def cached_outputs(context: Context, teacher: PreTrainedModel, rows: Rows) -> CachedTeacher:
    """The outputs of the teacher for these rows, which are computed if they are missing.

    Raises:
        UserError: they cannot be cached (`CachedTeacher.of`).
    """
    run = teacher_run(context, teacher, rows)
    return _cached(context, run, run.key())


def _cached(context: Context, run: TeacherRun, key: str) -> CachedTeacher:
    return CachedTeacher.of_run(run, context.cache_folder, context.recipe.distillation.cache_gb, key)
