"""The check before the first stage: mistakes are reported before the folder is touched or a step is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from secateur.budget.latency import LatencyTable
from secateur.measure.random_inputs import check_models
from secateur.methods.method import Method
from secateur.run import begun_with, records, run_length
from secateur.run.context import Context
from secateur.run.disk_check import check_disk
from secateur.run.loss_check import check_loss
from secateur.run.models import base_model, named_teacher, shaped
from secateur.run.recipe import Recipe
from secateur.run.run_folder import check_claim
from secateur.run.run_rounds import is_open, total_layers, with_layers
from secateur.run.score_goal import leaves_density_open, recipes_to_try, with_density
from secateur.run.target import (
    latency_table,
    layers_to_try,
    new_method,
    schedule_of,
    share_to_keep,
    space_of,
    unmeasured_method,
)
from secateur.run.teacher_check import check_score, check_tokens
from secateur.run.training_arguments import training_arguments
from secateur.structure.binding import bind, check_family
from secateur.structure.images import image_tokens
from secateur.structure.positions import positions
from secateur.surgery.checkpoint import read_config
from secateur.surgery.opening import check_vocabulary
from secateur.system import compat, processes
from secateur.system.compat.sharding_trainer import sharding_of
from secateur.system.errors import UserError, reason_of
from secateur.tasks.checkpoint_labels import model_type_of
from secateur.tasks.rows import check_length
from secateur.training.checks import check_devices
from secateur.training.evidence import heard
from secateur.training.running_refit import check_refit

log = logging.getLogger(__name__)


def check(context: Context) -> LatencyTable | None:
    """Check that a recipe fits its model, its data and its folder, and return the latency table if it needs one.

    All processes must call it.

    Raises:
        UserError: it does not fit.
    """
    recipe = context.recipe
    if len(recipe.target.densities) > 1:
        raise UserError("a run has one density: use `secateur.run.density_sweep.sweep` for several, or give one")
    records.check(context.folder)
    check_claim(context.folder, recipe)
    _check_processes(run_length.decided(context).recipe)
    _check_trackers(recipe.training.report_to)
    check_prunable(recipe.model)
    context.data.check()
    processes.on_main(partial(begun_with.check, context))
    model, teacher = _check_whole(context.whole)
    return processes.where_whole(partial(_check_student, context, model, teacher))


def check_prunable(model: str) -> None:
    """Refuse a model of a family that cannot be pruned before its weights are downloaded; a teacher may be of any.

    Args:
        model: a folder, or a name on the hub.

    Raises:
        UserError: its family is not supported, or it has no config.
    """
    if Path(model).is_dir():
        read_config(Path(model))
    else:
        check_family(model_type_of(model), f"model {model!r}")


def _check_student(context: Context, model: PreTrainedModel, teacher: PreTrainedModel | None) -> LatencyTable | None:
    """Check what the student is, and what is done with it; the latency table, if the recipe needs one.

    Args:
        model, teacher: with the whole vocabulary.
    """
    recipe = context.recipe
    student = shaped(context, context.data.with_kept_rows(model))
    check_unmeasured(context, student)
    check_length(max(context.data.task.limits(recipe.data.max_length).values()), model=model)
    _check_shapes(recipe, model)
    check_loss(context, student, teacher and context.data.with_kept_rows(teacher))
    check_disk(context, student)
    table = latency_table(context, student)  # last, because measuring one takes minutes
    if table is not None:
        check_target(context, student, table)
    return table


def _check_shapes(recipe: Recipe, model: PreTrainedModel) -> None:
    """Refuse shapes of measured latencies that the model cannot read.

    Raises:
        UserError: one has more tokens than the model has positions, or the inputs of the model are not known.
    """
    shapes = recipe.measurement.shapes
    limit = None if image_tokens(model) is not None else positions(model)
    longest = max((tokens for _, tokens in shapes), default=0)
    if limit is not None and longest > limit:
        fitting = ",".join(dict.fromkeys(f"[{batch},{min(tokens, limit)}]" for batch, tokens in shapes))
        raise UserError(
            f"measurement.shapes has one of {longest} tokens, and {type(model).__name__} has {limit} positions: set "
            f"shorter ones, such as by --set 'measurement.shapes=[{fitting}]'"
        )
    for shape in shapes:
        check_models([model], *shape)


def check_unmeasured(context: Context, student: PreTrainedModel) -> None:
    """Check what no latency table decides: the storage, the units, the method, and a target that is no time.

    Args:
        student: before pruning.

    Raises:
        UserError: they do not fit, or the target cannot be reached.
    """
    recipe = context.recipe
    _check_projection(recipe)
    _check_width(context)
    if recipe.storage.embeddings == "int8":
        bind(student).own_words("word embeddings in int8")
    if recipe.target.is_time:
        _check_method(context, recipe, unmeasured_method(recipe, student))
    else:
        check_target(context, student, None)


def check_target(context: Context, student: PreTrainedModel, table: LatencyTable | None) -> None:
    """Check that the method can reach the target of a recipe by its units.

    Args:
        student: before pruning.

    Raises:
        UserError: it cannot.
    """
    for decided in _densities(context, student):
        _check_depths(decided, student, table)


def _check_width(context: Context) -> None:
    """Refuse a score that pruned hidden dims leave undefined, because outputs get shorter than the teacher's."""
    target, task = context.recipe.target, context.data.task
    if "hidden" in target.units and target.output_dim is None and task.of_one_width:
        raise UserError(
            f"the metric {task.metric} compares outputs with the teacher's, and pruned hidden dims make them shorter: "
            "set target.output_dim: teacher (--output-dim teacher), or choose another metric"
        )


def _check_projection(recipe: Recipe) -> None:
    if "hidden" in recipe.target.units and not recipe.distillation.hidden_projection:
        raise UserError(
            "distillation.hidden_projection: false needs the whole residual stream: leave it on, or take hidden out "
            "of the units"
        )


def _check_whole(context: Context) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """The recipe's model, which must suit its tokenizer, and the teacher that the recipe names, which must suit both.

    Args:
        context: with the whole vocabulary.
    """
    check_tokens(context)
    model = base_model(context)
    _check_devices(context)
    check_vocabulary(context.data.tokenizer, model, context.recipe.model)
    teacher = named_teacher(context)
    _check_teacher(context, model, teacher)
    return model, teacher


def _check_processes(recipe: Recipe) -> None:
    """No launcher may split models but as this package does, and each process must have as many rows of a batch.

    Args:
        recipe: with the steps that minutes have become, if an earlier attempt has decided them.
    """
    processes.refuse_sharding()
    size, count = recipe.training.batch_size, processes.count()
    if size % count:
        raise UserError(
            f"batch_size {size} cannot be shared by {count} processes: the rows of a batch are those of all of them, "
            "so give a multiple"
        )
    if count > 1 and recipe.training.minutes is not None:
        raise UserError(
            f"training.minutes are measured in one process, and this run has {count}: give training.steps instead"
        )


def _check_devices(context: Context) -> None:
    """Each process must see one device, which computes in the precision of training."""
    try:
        arguments = training_arguments(context, "prune", 1, learning_rate=1.0)
    except ValueError as error:
        raise UserError(f"this machine cannot train by the recipe ({error}): set training.bf16: false") from error
    check_devices(arguments, sharded=False)
    if sharding_of(arguments) is not None:
        _check_parts(context)


def _check_parts(context: Context) -> None:
    """Refuse what needs a whole model in each process while it is trained in parts."""
    used = {
        "method.refit": context.recipe.method.refit,
        "scores of generated texts": context.data.task.generates,
        "several densities of one pruning": bool(context.branches),
    }
    for what in (name for name, wanted in used.items() if wanted):
        raise UserError(
            f"{what} needs a whole model in each process, and FSDP gives each a part: leave it out, or start with "
            "torchrun or accelerate launch --multi_gpu"
        )


def _check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that Trainer does not know, or whose package is missing."""
    for name in names:
        try:
            compat.tracker_callback(name)()
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(
                f"training.report_to {name!r} cannot be used ({reason_of(error)}): follow that, or name another tracker"
            ) from error


def _check_teacher(context: Context, model: PreTrainedModel, teacher: PreTrainedModel | None) -> None:
    """A teacher must suit the terms of the loss, have a score, and have the student's shapes if that starts from it."""
    for term in context.distillation.terms():
        term.bind(model, teacher or model)
        if (remark := term.remark()) is not None:
            log.info("%s", remark)
    if teacher is None:
        return
    check_score(context, teacher)
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (model, teacher)]
    if context.recipe.distillation.start == "teacher" and shapes[0] != shapes[1]:
        raise UserError("the student cannot start from a teacher of another shape: set distillation.start: model")


def _densities(context: Context, student: PreTrainedModel) -> list[Context]:
    """The context with each density that may be chosen, if the recipe leaves that open; trials need rows."""
    recipe, task = context.recipe, context.data.task
    if not leaves_density_open(recipe):
        return [context]
    if not task.greater_is_better:
        raise UserError(
            f"target.keep_score needs a metric of which more is better, and {task.metric} is none: ask for a density"
        )
    _check_trial_rows(context, "target.keep_score", "ask for a density")
    return [replace(context, recipe=with_density(recipe, density)) for density in recipes_to_try(recipe, student)]


def _check_trial_rows(context: Context, key: str, instead: str) -> None:
    if not context.data.trial_count:
        raise UserError(
            f"{key} holds out a quarter of the training rows, and there are "
            f"{len(context.data.task.splits['train'])}: {instead}, or give at least 4 rows"
        )


def _check_depths(context: Context, student: PreTrainedModel, table: LatencyTable | None) -> None:
    """The method must suit every number of layers that may be chosen, and trials need rows."""
    recipe = context.recipe
    if not is_open(recipe):
        _check_method(context, recipe, new_method(recipe, student, table))
        return
    space = space_of(recipe, student, table)
    numbers = layers_to_try(context.recipes, space)
    for layers in numbers:
        decided = with_layers(recipe, layers, total_layers(space))
        _check_method(context, decided, new_method(decided, student, table))
    if len(numbers) > 1:
        _check_trial_rows(context, "target.layers: auto", "name a number of layers")


def _check_method(context: Context, recipe: Recipe, method: Method) -> None:
    """The schedule of the method must be one that the recipe can use, and the loss must have what it observes."""
    if method.space.tiled and processes.in_parts():
        raise UserError("tiles cannot be trained in parts (FSDP): choose other units, or start with torchrun")
    heard(method.listens_to, context.distillation.terms())
    if recipe.method.refit:
        check_refit(method)
    if recipe.target.toward is not None:
        share = share_to_keep(recipe, method.space)
        if schedule_of(recipe, share)(0.0) < share:
            raise UserError(
                f"{recipe.method.name!r} keeps as much at first as in the end, so that one pruning gives one density: "
                "ask for one"
            )
    if recipe.method.end == 1 and method.fills_zeroed_blocks:
        raise UserError("method.end: 1 leaves no recovery, in which what is filled is trained: lower method.end")
