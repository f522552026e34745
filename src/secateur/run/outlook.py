"""What a run has understood of its data, and what it is going to do: its first lines, and all that `--dry-run` shows.

Nothing here trains, and nothing is written to the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterator

from secateur.budget.latency import LatencyTable
from secateur.budget.space import Space
from secateur.run.context import Context
from secateur.run.models import base_model, factorised, teacher_name
from secateur.run.recipe import Recipe
from secateur.run.run_data import Rows
from secateur.run.run_rounds import end_of_pruning, is_open
from secateur.run.score_goal import densities_to_try, leaves_density_open, most_trials
from secateur.run.target import layers_to_try, share_to_keep, space_of
from secateur.run.training_arguments import rounded, steps_of_run, steps_of_teacher
from secateur.run.trials import steps_of_trial
from secateur.tasks.origin import Origin
from secateur.tasks.splits import HIDDEN
from secateur.tasks.task import EXAMPLE, examples

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
    if task.origin.guesses:
        yield "guessed", "; ".join(task.origin.guesses)
    rows = {name: f"{len(split):,}" for name, split in task.splits.items()}
    training, scored = f"{rows['train']} for training ({task.origin.train})", _scored(task.origin, recipe)
    yield "rows", f"{training}, {rows['validation']} for scoring by {task.metric} ({scored})"
    yield "lengths", _lengths(context.data.train_rows, recipe.data.max_length)


def _scored(origin: Origin, recipe: Recipe) -> str:
    """Which rows are scored, and why they are not those of a validation split; of a test split, what is chosen on it.

    Only a part of the teacher's score as the target takes its score on these rows into account.
    """
    if origin.scored is None:
        return f"split off from {origin.train} by the seed, because the data has no other labelled split"
    if origin.scored not in HIDDEN:
        return origin.scored
    goal = "only the teacher's score sets the goal" if leaves_density_open(recipe) else "nothing is chosen"
    return f"{origin.scored}, on which {goal}"


def _lengths(rows: Rows, longest: int) -> str:
    """What happens to texts that are longer than the maximum: several rows are made of one, or it is truncated."""
    if EXAMPLE in rows[0]:
        own = examples(rows)
        share = sum(len(windows) > 1 for windows in own) / len(own)
        return f"{share:.1%} of the training texts are longer than {longest} tokens and are divided into windows"
    share = sum(len(row["input_ids"]) >= longest for row in rows) / len(rows)
    return f"{share:.1%} of the training rows reach {longest} tokens, at which longer texts are truncated"


def _stages(context: Context, table: LatencyTable | None) -> Iterator[Line]:
    """A line for the teacher and for each stage that trains."""
    recipe, batch = context.recipe, context.recipe.training.batch_size * context.recipe.training.accumulate
    name = teacher_name(context)
    yield "teacher", name or _training_of_teacher(context, batch)
    student = factorised(recipe, base_model(context))
    space = space_of(recipe, student, table)
    yield "units", f"{', '.join(space.units)}: {len(space):,} in all"
    yield "target", _target(context, space)
    if leaves_density_open(recipe):
        yield "density", _trials_of_densities(context, densities_to_try(recipe, student))
    if is_open(recipe):
        yield "depth", _trials(context, space)
    steps = steps_of_run(context)
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
    target = context.recipe.target
    if target.keep_score is not None:
        return f"the smallest density that keeps {100 * target.keep_score:g}% of the teacher's score"
    share = share_to_keep(context.recipe, space)
    if target.density is not None:
        return f"density {share:g} of the parameters"
    if target.keep is not None:
        return f"{target.keep:,} units"
    return f"{share:.1%} of the latency"


def _trials_of_densities(context: Context, densities: list[float]) -> str:
    named = ", ".join(f"{density:g}" for density in densities)
    if len(densities) == 1:
        return f"{named}: no other of the densities to choose from can be reached"
    return f"{most_trials(len(densities))} of {named} are tried at most, in {steps_of_trial(context):,} steps each"


def _trials(context: Context, space: Space) -> str:
    steps = steps_of_trial(context)
    if leaves_density_open(context.recipe):
        return f"two or three numbers of layers are tried at that density, in {steps:,} steps each"
    *fewer, total = layers_to_try(context.recipes, space)
    if not fewer:
        return f"all {total} layers are kept: fewer have less than the target"
    perhaps = f", perhaps {' and '.join(map(str, fewer[1:]))}" if fewer[1:] else ""
    return f"{total} and {fewer[0]} layers are tried{perhaps}, in {steps:,} steps each"
