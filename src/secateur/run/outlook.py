"""What a run has understood of its data, and what it is going to do: its first lines, and all that `--dry-run` shows.

Nothing here trains, and nothing is written to the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterator

from secateur.budget.latency import LatencyTable
from secateur.budget.space import Space
from secateur.run.context import Context
from secateur.run.models import base_model, factorised, teacher_name
from secateur.run.run_rounds import end_of_pruning, is_open
from secateur.run.target import layers_to_try, share_to_keep, space_of
from secateur.run.training_arguments import rounded, steps_of_run, steps_of_teacher

Line = tuple[str, str]
"""What is described, and the description."""


def outlook(context: Context, table: LatencyTable | None) -> list[Line]:
    """The data and the stages of a run that has been checked (`stages/check.py`).

    Args:
        table: the latency table that the check returned.
    """
    return [*_data(context), *_stages(context, table)]


def _data(context: Context) -> Iterator[Line]:
    task, recipe = context.data.task, context.recipe
    yield "data", recipe.data.source
    yield from task.described().items()
    rows = {name: f"{len(split):,}" for name, split in task.splits.items()}
    yield "rows", f"{rows['train']} for training, {rows['validation']} for validation, scored by {task.metric}"
    longest = recipe.data.max_length
    reached = sum(len(row["input_ids"]) >= longest for row in context.data.train_rows)
    share = reached / len(context.data.train_rows)
    yield "lengths", f"{share:.1%} of the training rows reach {longest} tokens, where longer texts are cut or divided"


def _stages(context: Context, table: LatencyTable | None) -> Iterator[Line]:
    """A line for the teacher and for each stage that trains."""
    recipe, batch = context.recipe, context.recipe.training.batch_size * context.recipe.training.accumulate
    name = teacher_name(context)
    yield "teacher", name or _training_of_teacher(context, batch)
    student = factorised(recipe, base_model(context))
    space = space_of(recipe, student, table)
    yield "units", f"{', '.join(space.units)}: {len(space):,} in all"
    yield "target", _target(context, space)
    steps = steps_of_run(context)
    if is_open(recipe):
        yield "depth", _trials(context, space, rounded(steps * recipe.method.trial))
    end = end_of_pruning(recipe)
    parts = f"{rounded(steps * end):,} steps of pruning by {recipe.method.name}"
    if end < 1:
        parts += f", {rounded(steps * (1 - end)):,} of recovery"
    yield "training", f"{parts}, of {batch} rows"


def _training_of_teacher(context: Context, batch: int) -> str:
    training, steps = context.recipe.training, steps_of_teacher(context)
    length = f"{training.teacher_steps:,} steps at most, trials included," if steps is None else f"{steps:,} steps"
    rate = "chosen by trials" if training.teacher_learning_rate is None else f"of {training.teacher_learning_rate:.1e}"
    return f"trained first, in {length} of {batch} rows, at a learning rate {rate}"


def _target(context: Context, space: Space) -> str:
    """The amount to keep, and the share of the budget that it is."""
    target, share = context.recipe.target, share_to_keep(context.recipe, space)
    if target.density is not None:
        return f"density {share:g} of the parameters"
    if target.keep is not None:
        return f"{target.keep:,} units"
    return f"{share:.1%} of the latency"


def _trials(context: Context, space: Space, steps: int) -> str:
    *fewer, total = layers_to_try(context.recipes, space)
    if not fewer:
        return f"all {total} layers are kept: fewer have less than the target"
    perhaps = f", perhaps {' and '.join(map(str, fewer[1:]))}" if fewer[1:] else ""
    return f"{total} and {fewer[0]} layers are tried{perhaps}, in {steps:,} steps each"
