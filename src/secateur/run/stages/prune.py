"""Stage 5: the student is pruned while the teacher is distilled into it, and then cut.

Runs for larger densities that branch off this pruning are cut when the schedule reaches their density.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from transformers import PreTrainedModel, TrainerControl

from secateur.methods.method import Method
from secateur.run import ramp_scores
from secateur.run.calibration import calibrated_method
from secateur.run.callbacks import DensityReached, KeptUnitsFile
from secateur.run.context import Context
from secateur.run.models import base_model, load_teacher, new_student, prepared
from secateur.run.ramp_rows import RampRows
from secateur.run.ramp_scores import RampScores
from secateur.run.run_data import Rows
from secateur.run.run_rounds import end_of_pruning, restarts
from secateur.run.stage_trainer import distilling_trainer, train
from secateur.run.stages.cut import cut_student
from secateur.run.stages.outputs import outputs_of
from secateur.run.target import share_to_keep
from secateur.run.training_arguments import learning_rate_of_run, rounded, steps_of_run
from secateur.surgery.factorisation import embedding_rank, factorise
from secateur.system import processes
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.trainer import PruningTrainer


def done(context: Context) -> bool:
    """Whether the cut model exists, or the result of its recovery."""
    return context.cut_folder.is_dir() or context.model_folder.is_dir()


def run(context: Context) -> None:
    """Prune, and write the cut model with all that recovery needs."""
    ramp = RampRows(context.data)
    student, outputs = _models(context, ramp)
    method = calibrated_method(context, student, lambda: ramp.without_scored(context.data.train_rows))
    trainer = _trainer(context, ramp, student, outputs, method)
    _watch_densities(context, trainer, method)
    train(context, trainer, "prune")
    processes.on_main(partial(cut_student, context, student, trainer, trainer.moments()))


def _models(context: Context, ramp: RampRows) -> tuple[PreTrainedModel, PreTrainedModel | CachedTeacher]:
    """The student, and the teacher's outputs; if these are cached, the memory of the teacher is released."""
    teacher = load_teacher(context)
    ramp_scores.begin(context, ramp, teacher)
    return new_student(context, teacher), outputs_of(context, teacher)


def _trainer(
    context: Context,
    ramp: RampRows,
    student: PreTrainedModel,
    outputs: PreTrainedModel | CachedTeacher,
    method: Method,
) -> PruningTrainer:
    """The trainer of the part of the run before the cut."""
    end = end_of_pruning(context.recipe)
    trainer = pruning_trainer(context, student, outputs, method, "prune", end=end, rows=ramp.others)
    trainer.add_callback(KeptUnitsFile(context.folder / "pruned.jsonl", method))
    if ramp.count:
        ramp_scores.record_reach(context, method.space)
        trainer.add_callback(RampScores(context, ramp, trainer))
    return trainer


def pruning_trainer(
    context: Context,
    student: PreTrainedModel,
    outputs: PreTrainedModel | CachedTeacher,
    method: Method,
    stage: str,
    end: float,
    rows: Rows | None = None,
) -> PruningTrainer:
    """The trainer of a run from its beginning to `end`, a fraction of it, under the masks of its method.

    Args:
        outputs: of the teacher.
        stage: the name of the folder that it trains in.
        rows: to train on; by default the training rows for distillation.
    """
    recipe = context.recipe
    settings, training = recipe.method, recipe.training
    only_scores = settings.train == "scores"
    if only_scores:
        student.requires_grad_(False)
    return distilling_trainer(
        context,
        student,
        stage,
        rounded(steps_of_run(context) * end),
        teacher=outputs,
        objective=context.distillation.terms(),
        rows=rows,
        method=method,
        end=end,
        shrink=settings.shrink and not only_scores,
        refit=settings.refit,
        decay=(0.0, 1.0) if training.decay == "stage" else (0.0, end),
        restarts=restarts(recipe),
        learning_rate=learning_rate_of_run(context),
    )


def _watch_densities(context: Context, trainer: PruningTrainer, method: Method) -> None:
    """Stop at this run's density if the schedule goes below it, and cut each branch at its density."""
    if context.recipe.target.toward is not None:
        trainer.add_callback(_when_reached(context, trainer, method, _stop))
    for branch in context.branches:
        trainer.add_callback(_when_reached(branch, trainer, method, partial(_cut_branch, branch, trainer)))


def _when_reached(context: Context, trainer: PruningTrainer, method: Method, action: Any) -> DensityReached:
    """Calls the action when the pruning reaches the density of the context's recipe."""
    share = share_to_keep(context.recipe, method.space)
    return DensityReached(trainer, method.share_schedule, share, action)


def _stop(control: TrainerControl) -> None:
    control.should_training_stop = True


def _cut_branch(branch: Context, trainer: PruningTrainer, control: TrainerControl) -> None:
    """Write the cut model of a branch, in the main process, without changing the random state."""
    if branch.cut_folder.is_dir() or branch.finished or not processes.is_main():
        return
    with torch.random.fork_rng():
        dense = base_model(branch)
        rank = embedding_rank(cast(Method, trainer.method).space)
        whole: Any = prepared(branch.recipe, factorise(dense, rank) if rank else dense, dense)
        whole.to(trainer.model.device).load_state_dict(trainer.whole_state())
        cut_student(branch, whole, trainer, trainer.moments())
