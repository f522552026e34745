"""The disk that a run needs besides the cached outputs of its teacher."""

from __future__ import annotations

from transformers import PreTrainedModel

from secateur.run.context import Context
from secateur.run.models import teacher_name
from secateur.run.recipe import Recipe
from secateur.structure.space import UnitSpace
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
