"""Stage 2: the teacher runs once over the training rows for distillation, and its outputs are cached on disk."""

from __future__ import annotations

from functools import partial

from transformers import PreTrainedModel

from secateur.run.context import Context
from secateur.run.models import load_teacher
from secateur.run.run_data import Rows
from secateur.run.training_arguments import uses_bf16
from secateur.system import processes
from secateur.training.teacher_cache import CachedTeacher


def done(context: Context) -> bool:
    """Whether pruning needs no outputs: it has ended, or the recipe caches none. The cache itself needs the teacher."""
    return not context.recipe.distillation.cache or context.cut_folder.is_dir() or context.model_folder.is_dir()


def run(context: Context) -> None:
    """Compute the outputs, unless an earlier attempt or another run has."""
    outputs_of(context, load_teacher(context))


def outputs_of(context: Context, teacher: PreTrainedModel) -> PreTrainedModel | CachedTeacher:
    """The teacher as training uses it: its cached outputs, which are computed if they are missing, or the model itself.

    All processes must call it: the main one computes, and the others read.
    """
    if not context.recipe.distillation.cache:
        return teacher
    with context.accounting.stage("cache"):
        return processes.main_first(partial(cached_outputs, context, teacher, context.data.distillation_rows))


def cached_outputs(context: Context, teacher: PreTrainedModel, rows: Rows) -> CachedTeacher:
    """The outputs of the teacher for these rows, which are computed if they are missing."""
    recipe, data = context.recipe, context.data
    layers, target_layers = context.distillation.layers(teacher.config)
    return CachedTeacher.of(
        teacher,
        rows,
        data.task.collator(data.tokenizer),
        context.cache_folder,
        layers=layers,
        target_layers=target_layers,
        bf16=uses_bf16(recipe),
        limit_gb=recipe.distillation.cache_gb,
    )
