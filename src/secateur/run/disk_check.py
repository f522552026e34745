"""Refusing a run that the disk has no room for, before its first stage."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel

from secateur.budget.size import file_bytes, tensors_at
from secateur.run.context import Context
from secateur.run.disk_space import FLOAT
from secateur.run.score_goal import leaves_density_open
from secateur.run.size_goal import size_goal_of
from secateur.run.stages import prune, teacher
from secateur.run.target import share_to_keep, space_of
from secateur.system.disk import free_bytes, size
from secateur.system.errors import NoRoom
from secateur.system.quantities import at_least, at_most
from secateur.training.checkpoints import last_checkpoint

log = logging.getLogger(__name__)


def check_disk(context: Context, student: PreTrainedModel) -> None:
    """Refuse a run that surely needs more disk than is free.

    Args:
        student: before pruning.

    Raises:
        NoRoom: it does.
    """
    least, free = surely_needed(context, student), free_bytes(context.folder)
    if least > free:
        raise NoRoom(
            f"the run writes at least {size(least, at_least)} to {context.folder}, where {size(free, at_most)} are "
            "free: free disk, choose a folder on another one, or write no checkpoints (--set training.checkpoints=0)"
        )


def surely_needed(context: Context, student: PreTrainedModel) -> int:
    """The disk that a run still needs at the same time: a teacher that is trained, a checkpoint each, and the result.

    What `disk_space.bytes_of_run` counts beside that may not be needed at once, or be smaller.
    """
    model = FLOAT * student.num_parameters()
    saved = 3 * model if context.recipe.training.checkpoints else 0
    needed = 0
    if not teacher.done(context):
        needed += model + saved * _has_no_checkpoint(context, "teacher-training")
    if not prune.done(context):
        whole = saved if not context.recipe.method.shrink else 0  # the model may be smaller when the first is written
        needed += whole * _has_no_checkpoint(context, "prune") + _result(context, student)
    return needed


def warn_of_disk(context: Context, needed: int) -> None:
    """Warn if a run may need more disk than is free.

    Args:
        needed: bytes at most.
    """
    if needed > (free := free_bytes(context.folder)):
        log.warning(
            "the run needs at most %s of disk, and %s are free where %s is: it may stop before its end, and the same "
            "command continues it when there is room",
            *(size(needed), size(free), context.folder),
        )


def _has_no_checkpoint(context: Context, stage: str) -> bool:
    return last_checkpoint(context.folder / stage) is None


def _result(context: Context, student: PreTrainedModel) -> int:
    """The file of the result; 0 where a latency or trials decide what is kept."""
    recipe = context.recipe
    if recipe.target.is_time or leaves_density_open(recipe):
        return 0
    space = space_of(recipe, student, None)
    if not space.budget.of_parameters:
        return 0
    return file_bytes(tensors_at(space, size_goal_of(recipe, space).storage, share_to_keep(recipe, space)))
