"""Whether the teacher's outputs are cached or the teacher runs beside the student, decided before anything is trained.

What the terms of the loss read is cached as a whole or not at all. Where they read hidden states and these do not fit,
the teacher has to run in every step, and that forward returns its logits too, so that a cache of logits alone would
save nothing. Where they read none, the cache has the logits alone. The loss is the same either way, up to the rounding
of hidden states to float16. A run that trains on fewer rows than there are does not compute the outputs of all of them.

The decision depends on the size of the outputs, on `distillation.cache_gb`, on the free disk and on the number of
steps. It is recorded because the free disk changes: a run that is resumed follows the record. Outputs that cannot be
written after all change it (`stages/outputs.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from secateur.run.baselines import trained
from secateur.run.context import Context
from secateur.run.disk_space import bytes_of_moments, bytes_of_run
from secateur.run.models import base_model, load_teacher, named_teacher
from secateur.run.recipe import Recipe
from secateur.run.records import FORMAT, OUTPUTS
from secateur.run.run_data import Rows
from secateur.run.run_rounds import changed, end_of_pruning, is_open
from secateur.run.score_goal import LADDER, leaves_density_open, most_trials
from secateur.run.target import schedule_of
from secateur.run.training_arguments import steps_of_run, steps_of_trial, uses_bf16
from secateur.system import processes
from secateur.system.disk import free_bytes, size
from secateur.system.errors import UserError
from secateur.system.quantities import at_least, at_most
from secateur.training.teacher_run import TeacherRun

GB = 1e9
"""Bytes of a GB, as `distillation.cache_gb` counts them."""


@dataclass(frozen=True)
class Decision:
    """Whether the teacher's outputs are cached.

    Attributes:
        bytes: the size of the outputs; None if it was not computed.
        why: the reason for which they are not cached, as the end of a sentence; empty if they are.
    """

    cached: bool
    bytes: int | None = None
    why: str = ""

    @property
    def disk_bytes(self) -> int:
        """The disk that the cache takes."""
        return (self.bytes or 0) if self.cached else 0

    def __str__(self) -> str:
        if self.cached:
            return f"the teacher's outputs are computed once and read from disk, {size(self.disk_bytes)}"
        return f"the teacher runs beside the student in every step: {self.why}"


def decision(context: Context) -> Decision:
    """The decision of a run: the recorded one, or the one that is made now. Only the main process may call it."""
    kept = reported(context)
    return _made(context) if kept is None else Decision(**kept)


def decided(context: Context) -> Context:
    """The context with the recorded decision in its recipe; as it is where nothing is recorded."""
    kept = reported(context)
    return context if kept is None else with_decision(context, Decision(**kept))


def with_decision(context: Context, one: Decision) -> Context:
    """The context, and its branches, with `distillation.cache: false` where the teacher runs beside the student."""
    if one.cached or not context.recipe.distillation.cache:
        return context
    branches = tuple(with_decision(branch, one) for branch in context.branches)
    return replace(context, recipe=changed(context.recipe, distillation={"cache": False}), branches=branches)


def record(context: Context, one: Decision) -> None:
    """Write a decision, for the branches as well. All processes must call it."""
    processes.on_main(partial(_write, context, one))


def withdraw(context: Context, why: str) -> None:
    """Change a decision to cache, for a reason that was not known before. Any process may call it; the main one writes.

    Args:
        why: as of `Decision`.
    """
    if processes.is_main():
        _write(context, Decision(False, (reported(context) or {}).get("bytes"), why))


def reported(context: Context) -> dict[str, Any] | None:
    """The recorded decision as plain values; None for a run that has made none."""
    return FORMAT.read_if_any(context.folder / OUTPUTS) or None


def decide(nbytes: int, limit_gb: float, free: float) -> Decision:
    """Whether outputs are cached.

    Args:
        nbytes: their size.
        limit_gb: the largest size, in GB.
        free: disk that is left for them, in bytes; infinite if they are on it already.
    """
    if nbytes > limit_gb * GB:
        why = f"its outputs take {size(nbytes, at_least)}, and distillation.cache_gb is {limit_gb:g}"
        return Decision(False, nbytes, why)
    if nbytes > free:
        why = (
            f"its outputs take {size(nbytes, at_least)}, and the disk has {size(max(0.0, free), at_most)} left for them"
        )
        return Decision(False, nbytes, why)
    return Decision(True, nbytes)


def teacher_run(context: Context, teacher: PreTrainedModel, rows: Rows) -> TeacherRun:
    """The pass of the teacher over rows that computes what the terms of the loss read."""
    data = context.data
    layers, target_layers = context.distillation.layers(teacher.config)
    collate = data.task.collator(data.tokenizer)
    return TeacherRun.of(teacher, rows, collate, layers, target_layers, bf16=uses_bf16(context.recipe))


def rows_taken(context: Context) -> int | None:
    """The training rows that all trainings take, repeated ones counted again; None if steps are open.

    These are pruning, recovery, trials and baselines. Each branch recovers on its own, from its cut to the end of the
    run.
    """
    training = context.recipe.training
    if training.minutes is not None:
        return None
    runs = 1.0 + sum(1.0 - _cut_at(branch.recipe) for branch in context.branches)
    runs += sum(trained(recipe.measurement.baselines) for recipe in context.recipes)
    steps = steps_of_run(context) * runs + _trials(context.recipe) * steps_of_trial(context)
    return round(steps * training.batch_size * training.accumulate)


def _trials(recipe: Recipe) -> int:
    """About the number of trials of densities and layers, of which two are sure."""
    densities = most_trials(len(LADDER)) if leaves_density_open(recipe) else 0
    return densities + (2 if is_open(recipe) else 0)


def _cut_at(recipe: Recipe) -> float:
    """About the progress at which a branch is cut: where a schedule from the whole model reaches its density."""
    (density,), end = recipe.target.densities, end_of_pruning(recipe)
    schedule, points = schedule_of(recipe, density), 100
    return next((end * n / points for n in range(points) if schedule(end * n / points) <= density), end)


def _write(context: Context, one: Decision) -> None:
    for each in (context, *context.branches):
        FORMAT.merge(each.folder / OUTPUTS, asdict(one))


def _made(context: Context) -> Decision:
    limit = context.recipe.distillation.cache_gb
    if not context.recipe.distillation.cache:
        return Decision(False, why="distillation.cache is false")
    teacher = _teacher(context)
    try:
        run = teacher_run(context, teacher, context.data.distillation_rows)
        one = decide(run.nbytes, limit, _free(context, teacher))
        taken, rows = rows_taken(context), len(run.rows)
        if one.cached and taken is not None and taken < rows:
            one = Decision(False, run.nbytes, f"the run trains on {taken:,} rows, and the cache has all {rows:,}")
        exists = not one.cached and (context.cache_folder / run.key()).is_dir()
    except UserError as error:
        return Decision(False, why=str(error))
    return decide(run.nbytes, limit, float("inf")) if exists else one


def _teacher(context: Context) -> PreTrainedModel:
    """The teacher, or the model that it will be trained from, whose outputs have the same shapes."""
    if context.teacher_folder.is_dir():
        return load_teacher(context)
    return (named_teacher(context) or base_model(context)).eval()


def _free(context: Context, teacher: PreTrainedModel) -> int:
    """The disk that is left for the cache if all else that the run writes is on the same disk."""
    moments = bytes_of_moments(context.recipe, teacher)
    return free_bytes(context.cache_folder) - bytes_of_run(context, teacher.num_parameters(), moments)
