"""The disk that a run needs: in all besides the cached outputs of its teacher, and what is left of it to be written."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from secateur.run.baselines.baseline import FOLDER
from secateur.run.context import Context
from secateur.run.models import teacher_name
from secateur.run.recipe import Recipe
from secateur.structure.space import UnitSpace
from secateur.system.disk import folder_bytes
from secateur.training.array_cache import KEY
from secateur.training.running_refit import moments_bytes

FLOAT = 4
"""Bytes of a weight, and of each of the two moments that the optimizer keeps of it."""


def bytes_of_moments(recipe: Recipe, model: PreTrainedModel) -> int:
    """The moments in a checkpoint by which a model, before pruning, is refitted at each removal; 0 if it is not."""
    return moments_bytes(UnitSpace(model, *recipe.target.units)) if recipe.method.refit else 0


def bytes_of_run(context: Context, weights: int, moments: int = 0) -> int:
    """The disk that a run needs at most, without cached outputs: for the teacher, the checkpoints and the models.

    A checkpoint has the weights and two moments of each, and the next one is written before it is removed. The model
    that is cut and its checkpoints are counted as if nothing were pruned.

    Args:
        weights: number of weights of the student before pruning.
        moments: as of `bytes_of_moments`.
    """
    model = FLOAT * weights
    saved = 0 if context.recipe.training.checkpoints == 0 else 3 * model
    trained = model + saved if teacher_name(context) is None else 0
    branches = 2 * model * len(context.branches)
    baselines = 2 * model * len(context.recipe.measurement.baselines)
    pruned = 2 * (saved + moments) if saved else 0
    return trained + pruned + 2 * model + branches + baselines


def bytes_left(context: Context, cache: int, weights: int, moments: int = 0) -> int:
    """The disk that a run still needs at most, with cached outputs, beside what an earlier attempt has written.

    Args:
        cache: bytes of the outputs; 0 if they are not cached.
        weights, moments: as of `bytes_of_run`.
    """
    outputs = 0 if any(context.cache_folder.glob(KEY)) else cache
    return outputs + max(0, bytes_of_run(context, weights, moments) - _written(context, weights))


def _written(context: Context, weights: int) -> int:
    """What is there, or is not needed any more, of what `bytes_of_run` counts."""
    model = FLOAT * weights
    own = _size_of(context.cut_folder, context.model_folder, context.folder / "prune", context.folder / "recover")
    branches = sum(min(2 * model, _size_of(one.cut_folder, one.model_folder)) for one in context.branches)
    return own + branches + _size_of(context.folder / FOLDER) + _written_of_teacher(context, model)


def _written_of_teacher(context: Context, model: int) -> int:
    """The part of `_written` of a teacher that is trained here, whose training is over when it is there."""
    if teacher_name(context) is not None:
        return 0
    if context.teacher_folder.is_dir():
        return model + (3 * model if context.recipe.training.checkpoints else 0)
    return _size_of(context.folder / "teacher-training", context.unchecked_teacher)


def _size_of(*folders: Path) -> int:
    return sum(map(folder_bytes, folders))
