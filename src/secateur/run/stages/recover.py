"""Stage 6: the cut model is trained further with the same teacher, and saved as the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from secateur.budget.space import Space
from secateur.deploy.verify import verify
from secateur.run.context import Context
from secateur.run.distillation import CutModel
from secateur.run.models import base_model, load_compact, load_teacher, prepared, problem_type_to_save
from secateur.run.records import CUT_AT, FORMAT, VERIFIED
from secateur.run.run_rounds import restarts
from secateur.run.stage_trainer import distilling_trainer, train
from secateur.run.stages.cut import proved
from secateur.run.stages.outputs import outputs_of
from secateur.run.training_arguments import learning_rate_of_run, rounded, steps_of_run
from secateur.structure.plan import Plan
from secateur.structure.plan_file import read_plan
from secateur.surgery.checkpoint import save
from secateur.surgery.optimizer_state import Moments
from secateur.surgery.storage import as_stored
from secateur.surgery.zeroed_blocks import kept_at_zero
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.training.trainer import PruningTrainer


def done(context: Context) -> bool:
    """Whether the result exists."""
    return context.model_folder.is_dir()


def run(context: Context) -> None:
    """Train the cut model for the rest of the run, if there is any, and save it."""
    small = load_compact(context.cut_folder)
    _check_vocabulary(context, read_plan(context.cut_folder / "plan.json"))
    cut_at = FORMAT.read(context.folder / CUT_AT)
    if cut_at["progress"] < 1:
        trainer = _trainer(context, small, cut_at["progress"], cut_at["rows"])
        with kept_at_zero(small):
            train(context, trainer, "recover")
    processes.on_main(partial(save_result, context, small))


def _check_vocabulary(context: Context, plan: Mapping[str, Any]) -> None:
    """Refuse to go on with a cut model whose vocabulary is not that of the texts, because these have changed.

    Args:
        plan: of the cut model, as plain values.
    """
    ours = context.data.vocabulary
    if plan.get("vocabulary") != (ours and ours.to_dict()):
        raise UserError(
            f"the texts or the tokenizer have other pieces than the cut model in {context.cut_folder}: start a new run "
            "with another --output, or restore them"
        )


def _trainer(context: Context, small: PreTrainedModel, begin: float, rows_seen: int) -> PruningTrainer:
    """The trainer of the part of the run from `begin` on."""
    state, teacher = context.distillation, load_teacher(context)
    cut_model = _cut_model(context, small, teacher)
    return recovery_trainer(
        context,
        small,
        "recover",
        begin,
        moments=partial(state.saved_moments, cut_model),
        teacher=outputs_of(context, teacher),
        objective=state.saved_terms(cut_model),
        rows_seen=rows_seen,
    )


def recovery_trainer(
    context: Context,
    model: PreTrainedModel,
    stage: str,
    begin: float,
    *,
    moments: Callable[[], Mapping[str, Moments]],
    **options: Any,
) -> PruningTrainer:
    """The trainer of a pruned model from `begin`, a fraction of a run, to its end.

    If recovery has its own learning rate it starts with a new optimizer and warms up to that rate, which then decreases
    to 0, or stays where that of pruning has decreased to 0 by itself (`decay: stage`). Otherwise it goes on with the
    schedule and the moments of pruning. Noise, such as dropout, is not that of pruning.

    Args:
        stage: the name of the folder that it trains in.
        moments: returns those of pruning.
        options: as for `distilling_trainer`.
    """
    recipe = context.recipe
    own_rate = recipe.training.recover_learning_rate
    return distilling_trainer(
        context,
        model,
        stage,
        rounded(steps_of_run(context) * (1 - begin)),
        begin=begin,
        decay=None if own_rate is None else (0.0, 1.0),
        restarts=restarts(recipe) if own_rate is None else (),
        learning_rate=own_rate or learning_rate_of_run(context),
        constant=recipe.training.decay == "stage",
        moments=moments() if own_rate is None else None,
        seed=recipe.seed + 1,
        average=recipe.training.average,
        **options,
    )


def _cut_model(context: Context, small: PreTrainedModel, teacher: PreTrainedModel) -> CutModel:
    """The cut model with its plan, which fits the student before the cut; the teacher may have another shape."""
    dense = base_model(context)
    plan = Plan.load(context.cut_folder / "plan.json", dense)
    model = prepared(context.recipe, small, dense)
    return CutModel(model, teacher, plan, Space(dense, *context.recipe.target.units))


def save_result(context: Context, small: PreTrainedModel) -> None:
    """Save the result of training, which gets its final name once the files are verified to be the trained model."""
    unproved = context.folder / "unproved"
    small.config.problem_type = problem_type_to_save(context, small.config)
    storage = context.recipe.storage
    small = as_stored(small, dtype=storage.dtype, embeddings=storage.embeddings)
    save(small, unproved, tokenizer=context.data.tokenizer, store=storage.dtype, replace=True)
    verified = proved(verify(context.data.batches(), compact=small, folder=unproved), "trained and saved")
    numbers = {"compact_loaded": verified.compact_loaded, "examples": verified.examples}
    FORMAT.merge(context.folder / VERIFIED, numbers)
    unproved.rename(context.model_folder)
