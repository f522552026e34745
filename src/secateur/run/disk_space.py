"""The disk that a run needs besides the cached outputs of its teacher."""

from __future__ import annotations

from secateur.run.context import Context
from secateur.run.models import teacher_name

FLOAT = 4
"""Bytes of a weight, and of each of the two moments that the optimizer keeps of it."""


def bytes_of_run(context: Context, weights: int) -> int:
    """The disk that a run needs at most, without cached outputs: for the teacher, the checkpoints and the models.

    A checkpoint has the weights and two moments of each, and the next one is written before it is removed. The model
    that is cut and its checkpoints are counted as if nothing were pruned.

    Args:
        weights: number of weights of the student before pruning.
    """
    model = FLOAT * weights
    saved = 0 if context.recipe.training.checkpoints == 0 else 3 * model
    trained = model + saved if teacher_name(context) is None else 0
    branches = 2 * model * len(context.branches)
    baselines = 2 * model * len(context.recipe.measurement.baselines)
    return trained + 2 * saved + 2 * model + branches + baselines
