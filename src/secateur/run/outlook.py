"""What a run has understood of its data, and what it is going to do: its first lines, and all that `--dry-run` shows.

Nothing is written to the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from secateur.budget.latency import LatencyTable
from secateur.budget.size import file_bytes, parts, tensors_at
from secateur.budget.space import Space
from secateur.report.report_text import vocabulary_sentence
from secateur.report.size_text import megabytes, parts_text
from secateur.run import run_length
from secateur.run.context import Context
from secateur.run.costs import Costs
from secateur.run.disk_check import warn_of_disk
from secateur.run.disk_space import bytes_left, bytes_of_moments
from secateur.run.estimate import expected_stages, steps_for, with_middle_density
from secateur.run.expected_stage import ExpectedStage
from secateur.run.models import base_model, shaped, teacher_name
from secateur.run.output_cache import Decision, decision, with_decision
from secateur.run.recipe import Recipe
from secateur.run.run_data import RunData
from secateur.run.run_rounds import end_of_pruning, is_open, total_layers
from secateur.run.score_goal import leaves_density_open, most_trials, recipes_to_try
from secateur.run.size_goal import size_goal_of
from secateur.run.step_times import measured
from secateur.run.target import layers_to_try, share_to_keep, space_of
from secateur.run.training_arguments import rounded, steps_of_run, steps_of_teacher, steps_of_trial
from secateur.run.vocabulary_data import reported
from secateur.surgery.factorisation import AUTO, embedding_rank, rank_text
from secateur.system.disk import free_bytes, size
from secateur.system.quantities import quantity
from secateur.tasks.origin import Origin
from secateur.tasks.splits import HIDDEN
from secateur.tasks.task import examples

Line = tuple[str, str]
"""What is described, and the description."""


@dataclass(frozen=True)
class Outlook:
    """What a run is going to do.

    Attributes:
        lines: for people.
        stages: in their order.
        disk_bytes: that it still needs at most, beside what it has written; None where nothing has been measured.
        memory_bytes: kind of memory -> peak of the steps that were measured (`costs.Costs`).
        steps: those that take the minutes of the recipe; None where the recipe has another length, or they are decided.
        cache: whether the teacher's outputs are cached, where steps of minutes may have changed what was decided.
    """

    lines: list[Line]
    stages: list[ExpectedStage]
    cache: Decision
    disk_bytes: int | None = None
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    steps: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: the lines, and the numbers of the stages."""
        stages = [
            {"name": one.name, "seconds": one.seconds, "at_most": one.most or one.seconds, "result": one.result or None}
            for one in self.stages
        ]
        numbers = {"stages": stages, "disk_bytes": self.disk_bytes, "memory_bytes": dict(self.memory_bytes)}
        return {**dict(self.lines), "expected": numbers}


def outlook(context: Context, table: LatencyTable | None, cache: Decision) -> Outlook:
    """The data and the stages of a run that has been checked, after the measurement of some steps.

    Args:
        context: with what is decided of it already.
        table: the latency table that the check returned (`stages/check.py`).
        cache: whether the teacher's outputs are cached; they are not if the minutes of the recipe are too short for it.

    Raises:
        UserError: the minutes of the recipe are too few.
    """
    asked = context = with_decision(context, cache)
    student = shaped(context, base_model(context))
    densities = [*recipes_to_try(context.recipe, student)] if leaves_density_open(context.recipe) else []
    settled = with_middle_density(context, densities)
    space, trials = space_of(settled.recipe, student, table), most_trials(len(densities)) if densities else 0
    costs, steps = measured(settled, space, table), None
    if costs is not None and run_length.is_open(context.recipe):
        steps = steps_for(settled, space, costs, trials)
        context, settled = (run_length.with_steps(one, steps) for one in (context, settled))
        if cache.cached and not (shorter := decision(context)).cached:
            return outlook(asked, table, shorter)  # with the teacher in each step the minutes have fewer of them
    stages = expected_stages(settled, space, costs, trials)
    lines = [*_data(context), *_stages(context, space, densities, cache)]
    if costs is None:
        return Outlook(lines, stages, cache)
    disk = bytes_left(context, cache.disk_bytes, costs.weights, bytes_of_moments(context.recipe, student))
    lines += _costs(context, stages, costs, disk)
    warn_of_disk(context, disk)
    return Outlook(lines, stages, cache, disk, costs.memory, steps)


def _data(context: Context) -> Iterator[Line]:
    task, recipe = context.data.task, context.recipe
    yield "data", recipe.data.source
    yield from task.described().items()
    if task.origin.guesses:
        yield "guessed", "; ".join(task.origin.guesses)
    rows = {name: f"{len(split):,}" for name, split in task.splits.items()}
    training, scored = f"{rows['train']} for training ({task.origin.train})", _scored(task.origin, recipe)
    yield "rows", f"{training}, {rows['validation']} for scoring by {task.metric} ({scored})"
    if (vocabulary := reported(context.data)) is not None:
        yield "vocabulary", vocabulary_sentence(vocabulary)
    yield "lengths", lengths_text(context.data)


def _scored(origin: Origin, recipe: Recipe) -> str:
    """Which rows are scored, and why they are not those of a validation split; of a test split, what is chosen on it.

    Only a part of the teacher's score as the target takes its score on these rows into account.
    """
    if origin.scored is None:
        why = "" if origin.unread else ", because the data has no other labelled split"
        return f"split off from {origin.train} by the seed{why}"
    if origin.scored not in HIDDEN:
        return origin.scored
    goal = "only the teacher's score sets the goal" if leaves_density_open(recipe) else "nothing is chosen"
    return f"{origin.scored}, on which {goal}"


def lengths_text(data: RunData) -> str:
    """What happens to texts that are longer than the maximum: several rows are made of them, or they are truncated."""
    task, rows, most = data.task, data.train_rows, data.recipe.data.max_length
    if not task.lengths:
        return "all rows have equally many tokens"
    if task.packed:
        return f"texts are joined and divided into rows of {most} tokens, so that none is truncated"
    if task.windows:
        own = examples(rows)
        share = sum(len(windows) > 1 for windows in own) / len(own)
        return f"{share:.1%} of the training texts are longer than {most} tokens and are divided into windows"
    limits = {key: min(limit, data.tokenizer.model_max_length) for key, limit in task.limits(most).items()}
    names = ("sources", "targets") if len(limits) > 1 else ("rows",)
    shares = (sum(len(row[key]) >= limit for row in rows) / len(rows) for key, limit in limits.items())
    said = [
        f"{share:.1%} of the training {name} reach {limit} tokens"
        for name, share, limit in zip(names, shares, limits.values(), strict=True)
    ]
    return f"{' and '.join(said)}, at which longer texts are truncated"


def _stages(context: Context, space: Space, densities: list[float], cache: Decision) -> Iterator[Line]:
    """A line for the teacher and for each stage that trains."""
    recipe, batch = context.recipe, context.recipe.training.batch_size * context.recipe.training.accumulate
    name = teacher_name(context)
    yield "teacher", name or _training_of_teacher(context, batch)
    yield "cache", str(cache)
    yield "units", f"{', '.join(space.units)}: {len(space):,} in all"
    if recipe.target.embedding_rank == AUTO:
        yield "word embeddings", rank_text(embedding_rank(space))
    yield "target", _target(context, space)
    if space.budget.of_parameters and not leaves_density_open(recipe):
        yield "weights", _weights(recipe, space)
    if leaves_density_open(recipe):
        yield "density", _trials_of_densities(context, densities)
    if is_open(recipe):
        yield "depth", _trials(context, space)
    steps = steps_of_run(context)
    end = end_of_pruning(recipe)
    parts = f"{quantity(rounded(steps * end), 'step')} of pruning by {recipe.method.name}"
    if end < 1:
        parts += f", {rounded(steps * (1 - end)):,} of recovery"
    yield "training", f"{parts}, of {batch} rows"
    if names := recipe.measurement.baselines:
        yield "baselines", f"{', '.join(names)}: what is trained of them takes as many steps"


def _training_of_teacher(context: Context, batch: int) -> str:
    training, steps = context.recipe.training, steps_of_teacher(context)
    length = f"{training.teacher_steps:,} steps at most, trials included," if steps is None else quantity(steps, "step")
    rate = "chosen by trials" if training.teacher_learning_rate is None else f"of {training.teacher_learning_rate:.1e}"
    return f"trained first, in {length} of {batch} rows, at a learning rate {rate}"


def _target(context: Context, space: Space) -> str:
    """The amount to keep, and the share of the budget that it is."""
    target = context.recipe.target
    if target.keep_score is not None:
        return f"the smallest density that keeps {100 * target.keep_score:g}% of the teacher's score"
    share = share_to_keep(context.recipe, space)
    if target.size is not None:
        return f"{megabytes(target.size)} MB of weights, which is about density {share:.4f} of the parameters"
    if target.density is not None:
        return f"density {share:g} of the parameters"
    if target.keep is not None:
        return f"{target.keep:,} units"
    table = cast(LatencyTable, space.budget)  # no other amount is left
    ms = f"{share * table.dense_ms:.4g} of {table.dense_ms:.4g} ms"
    return f"{share:.1%} of the latency, {ms} ({table.protocol_text()})"


def _weights(recipe: Recipe, space: Space) -> str:
    """The megabytes of the file of the result, and where they will be."""
    tensors = tensors_at(space, size_goal_of(recipe, space).storage, share_to_keep(recipe, space))
    where = parts_text(parts(space, tensors))
    return f"about {megabytes(file_bytes(tensors))} MB ({where}), without the padding of heads of different sizes"


def _trials_of_densities(context: Context, densities: list[float]) -> str:
    named = ", ".join(f"{density:g}" for density in densities)
    if len(densities) == 1:
        return f"{named}: no other of the densities to choose from can be reached"
    return f"{most_trials(len(densities))} of {named} are tried at most, in {steps_of_trial(context):,} steps each"


def _trials(context: Context, space: Space) -> str:
    steps = steps_of_trial(context)
    if leaves_density_open(context.recipe):
        return f"two or three numbers of layers are tried at that density, in {steps:,} steps each"
    *fewer, most = layers_to_try(context.recipes, space)
    if not fewer:
        return f"{most} of {total_layers(space)} layers are kept: no other number can reach the target"
    if context.recipe.target.is_time and fewer[1:]:
        return f"{most}, {fewer[0]} and {fewer[1]} layers are tried, in {steps:,} steps each"
    perhaps = f", perhaps {' and '.join(map(str, fewer[1:]))}" if fewer[1:] else ""
    return f"{most} and {fewer[0]} layers are tried{perhaps}, in {steps:,} steps each"


def _costs(context: Context, stages: list[ExpectedStage], costs: Costs, disk: int) -> Iterator[Line]:
    """The seconds of the stages, and the disk and the memory that they need."""
    total, most = sum(stage.seconds or 0.0 for stage in stages), sum(stage.most_seconds for stage in stages)
    unknown = ", without the scoring of generated texts" if context.data.task.generates else ""
    yield "time", f"about {_at_most(total, most, ', at most {}')}{unknown}: {', '.join(map(_described, stages))}"
    yield "disk", f"at most {size(disk)}, {size(free_bytes(context.folder))} are free"
    yield "memory", ", ".join(f"about {size(peak)} {kind}" for kind, peak in costs.memory.items())


def _described(stage: ExpectedStage) -> str:
    if stage.result or stage.seconds is None:
        return f"{stage.name} {stage.result or 'unknown'}"
    return f"{stage.name} {_at_most(stage.seconds, stage.most_seconds, ' (at most {})')}"


def _at_most(seconds: float, most: float, words: str) -> str:
    """A number of seconds that is expected, and, if that is another one, the number at most, in these words."""
    expected, longest = duration(seconds), duration(most)
    return expected + (words.format(longest) if longest != expected else "")


def duration(seconds: float) -> str:
    """A number of seconds, as exactly as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
