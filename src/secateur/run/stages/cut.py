"""The end of pruning: the student is cut by its method's plan, compared with the masked model, and saved."""

from __future__ import annotations

from typing import cast

from transformers import PreTrainedModel

from secateur.deploy.verification import Verification
from secateur.deploy.verify import verify
from secateur.methods.method import Method
from secateur.run.context import Context
from secateur.run.distillation import save_state
from secateur.run.records import CUT_AT, FORMAT, VERIFIED
from secateur.run.size_goal import size_goal_of
from secateur.run.target import share_to_keep
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut, cut_moments
from secateur.surgery.factorisation import embedding_rank
from secateur.surgery.optimizer_state import Moments
from secateur.surgery.zeroed_blocks import fill_zeroed_blocks
from secateur.training.trainer import PruningTrainer


def cut_student(
    context: Context, student: PreTrainedModel, trainer: PruningTrainer, moments: dict[str, Moments]
) -> None:
    """Cut a student by the present plan of its trainer's method, and write all that recovery needs, the model last.

    Args:
        context: of the run that recovers, which is the trainer's own or branches off it.
        student: the student in its unpruned shape.
        moments: of the trainer.
    """
    method = cast(Method, trainer.method)
    plan, vocabulary = final_plan(context, method), context.data.vocabulary
    if vocabulary is not None:
        plan = plan.with_vocabulary(student, vocabulary)
    trainer.refit.to_plan(student, plan)
    small = cut(student, plan)
    verified = proved(verify(context.data.batches(), dense=student, plan=plan), "masked and cut")
    own = {**moments, "model": cut_moments(student, plan, moments["model"])}
    save_state(context.folder, trainer.terms, own)
    FORMAT.merge(context.folder / VERIFIED, {"masked_compact": verified.masked_compact})
    FORMAT.merge(context.folder / CUT_AT, {"progress": trainer.progress, "rows": trainer.rows_taken})
    if method.fills_zeroed_blocks:
        fill_zeroed_blocks(small, context.recipe.seed)
    save(small, context.cut_folder, tokenizer=context.data.tokenizer, replace=True)


def final_plan(context: Context, method: Method) -> Plan:
    """The plan of a method for the target of the run."""
    target, rank = context.recipe.target, embedding_rank(method.space)
    if target.size is not None:
        goal = size_goal_of(context.recipe, method.space)
        return goal.plan(method, share_to_keep(context.recipe, method.space))
    if target.keep is not None:
        return method.plan(embedding_rank=rank, keep=target.keep)
    return method.plan(share_to_keep(context.recipe, method.space), rank)


def proved(verification: Verification, what: str) -> Verification:
    """The verification, if its models give the same outputs. Otherwise there is a bug, and the run must stop."""
    if not verification.passed:
        differences = [d for d in (verification.masked_compact, verification.compact_loaded) if d is not None]
        raise RuntimeError(
            f"the model as {what} differs by {max(differences):.2g} in a logit: this is a bug of secateur, "
            "please report it with the recipe; the run has stopped"
        )
    return verification
