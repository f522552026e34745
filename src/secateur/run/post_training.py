"""Cut a model without training: the units that a method chooses from the weights, or from some rows of data too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.budget import Budget
from secateur.budget.latency import LatencyTable, check_measurable
from secateur.budget.space import Space
from secateur.budget.units import check_count
from secateur.measure.latency_sweep import measure_again, target_reached
from secateur.methods import METHODS
from secateur.methods.method import Calibrated, Method, before_pruning
from secateur.run.calibration import Calibration
from secateur.run.recipe_groups import MethodRecipe
from secateur.run.recipe_rules import check_amount, check_protocol, check_uniform
from secateur.run.recipe_storage import StorageRecipe
from secateur.run.recipe_target import TargetRecipe
from secateur.run.size_goal import SizeGoal, size_goal
from secateur.run.target import Unmeasured, counted, given_table, measured_table
from secateur.structure.binding import bind
from secateur.structure.plan import Plan, check_embedding_rank
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.compensation import check_refittable
from secateur.surgery.cut import cut, in_vocabulary
from secateur.surgery.factorisation import AUTO, factorise, rank_for, rank_text
from secateur.surgery.vocabulary.pruning import with_pieces
from secateur.surgery.vocabulary.rows import cut_rows
from secateur.system.errors import UserError

log = logging.getLogger(__name__)

RANK, SVD = "target.embedding_rank", "target.embedding_svd"
SHAPE = (8, 128)
"""(batch, tokens) of a latency or a speed-up, where neither the target nor its table says one."""


def cut_without_training(
    dense: PreTrainedModel,
    target: TargetRecipe,
    method: MethodRecipe,
    storage: StorageRecipe = StorageRecipe(),  # noqa: B008 - frozen
    *,
    vocabulary: Vocabulary | None = None,
    calibration: Calibration | None = None,
    counts: Tensor | None = None,
) -> tuple[PreTrainedModel, dict[str, Any] | None]:
    """The cut model; where the target is a latency or a speed-up, also what was predicted and what is measured.

    Args:
        storage: how the weights of the result will be written, on which a size depends.
        vocabulary: the pieces that are kept; the rest is cut first.
        calibration: rows, in the pieces that are kept, from which the method may learn, and to whose outputs of the
            dense model the weights that are left are refitted.
        counts: of the pieces that are kept, by which rows of the word embeddings are weighted (`factorise`).

    Raises:
        UserError: the target is out of reach, the method learns in training which units to keep, or it learns from rows
            and there are none.
    """
    check_target(target)
    narrow = dense if vocabulary is None else cut_rows(dense, vocabulary)
    rank = _rank(target.embedding_rank, narrow, counts)
    if rank and (target.size is not None or target.is_time):
        narrow = factorise(narrow, rank, counts)  # because a size or a time is that of the factors
    table = _latency_table(narrow, target, method, calibration) if target.is_time else None
    fewer_pieces = "--vocabulary TEXTS" if vocabulary is None else None
    goal = None if target.size is None else size_goal(target, storage, narrow, fewer_pieces)
    plan = _plan(narrow, target, rank, method, calibration, table or goal)
    if vocabulary is not None:
        plan = plan.with_vocabulary(narrow, vocabulary)
    small = cut(narrow, plan, counts)
    if calibration is not None:
        calibration.compensate(small, narrow, plan)
    if table is None:
        return small, None
    return small, target_reached(plan.latency or {}, measure_again(table, small, narrow))


def check_target(target: TargetRecipe) -> None:
    """Refuse a target that contradicts itself, or that only a run reaches.

    Raises:
        UserError: it does.
    """
    check_amount(target)
    check_uniform(target)
    check_protocol(target)
    if len(target.densities) > 1:
        raise UserError("a cut has one density: ask for one, or prune to several with `secateur prune`")
    if target.keep_score is not None:
        raise UserError("a score is kept by training: use `secateur prune`, or ask for a density")


def cut_by_plan(
    dense: PreTrainedModel,
    plan: Plan,
    calibration: Callable[[Vocabulary | None], Calibration] | None = None,
    counts: Tensor | None = None,
) -> PreTrainedModel:
    """The model cut by a plan, and refitted on rows in the pieces that it keeps.

    Args:
        calibration: makes the rows, given the pieces that are kept of more; None where the model keeps all that it has.
        counts: of the pieces that the plan keeps, by which rows of the word embeddings are weighted (`factorise`).

    Raises:
        UserError: as `cut`, or weights with tiles should be refitted.
    """
    narrow = in_vocabulary(dense, plan)
    small = cut(narrow, plan, counts)
    if calibration is not None:
        calibration(plan.pieces_left_to_cut(dense)).compensate(small, narrow, plan)
    return small


def says_what_is_cut(given: Mapping[str, Any]) -> list[str]:
    """The keys among these that a plan decides: what is kept, and by what method."""
    return [key for key in given if key.startswith(("target.", "method.")) and key != SVD]


def only_thinner(given: Mapping[str, Any], fewer_pieces: bool) -> bool:
    """Whether these keys ask for thinner word embeddings or another type of weights, and for no pruning.

    Args:
        fewer_pieces: whether pieces of the vocabulary are removed, which are no units either.

    Raises:
        UserError: they do, and name the method that would prune.
    """
    prunes = {*says_what_is_cut(given)} - {RANK, "method.name"}
    kept = not prunes and (fewer_pieces or changes_weights(given))
    if kept and "method.name" in given:
        raise UserError(
            f"method.name {given['method.name']} chooses units, and nothing says how many: all are kept with fewer "
            "pieces, thinner word embeddings or another type of weights alone; add target.density, or leave the method "
            "out"
        )
    return kept


def changes_weights(given: Mapping[str, Any]) -> bool:
    """Whether these keys ask for thinner word embeddings or another type of weights."""
    return any(key == RANK or key.startswith("storage.") for key in given)


def thinner(
    model: PreTrainedModel,
    rank: int | str | None,
    vocabulary: Vocabulary | None,
    counts: Tensor | None = None,
    *,
    compact: bool,
) -> PreTrainedModel:
    """A model of which all units are kept, with word embeddings of a rank and of the pieces that are kept.

    A compact model keeps the units that it has, and an ordinary one of whose embeddings the pieces alone are cut stays
    an ordinary one unless it should become `compact`.

    Args:
        counts: of the pieces that are kept, by which rows of the word embeddings are weighted (`factorise`).

    Raises:
        UserError: a compact model should be factorised.
    """
    if not getattr(model.config, "secateur", None) and (compact or rank is not None):
        narrow = model if vocabulary is None else cut_rows(model, vocabulary)
        plan = Plan.of_all_units(narrow, embedding_rank=_rank(rank, narrow, counts), vocabulary=vocabulary)
        return cut(narrow, plan, counts)
    if rank is not None:
        raise UserError("the word embeddings of a compact model cannot be factorised: factorise the model before")
    return model if vocabulary is None else with_pieces(model, vocabulary)


def _plan(
    dense: PreTrainedModel,
    target: TargetRecipe,
    rank: int | None,
    method: MethodRecipe,
    calibration: Calibration | None,
    goal: LatencyTable | SizeGoal | None = None,
) -> Plan:
    table = goal if isinstance(goal, LatencyTable) else None
    space = _space(dense, target, table or counted(target), calibration)
    if isinstance(goal, SizeGoal):
        goal.check(space)
        return goal.plan(_post_training(space, method, calibration), 1.0)
    share = _share(space, target, table)
    choice = _post_training(space, method, calibration)
    return choice.plan(share, embedding_rank=rank, keep=target.keep)


def _space(dense: PreTrainedModel, target: TargetRecipe, budget: Budget, calibration: Calibration | None) -> Space:
    """The units of a target with a budget, of which the weights that are left can be refitted if they shall be."""
    space = Space(dense, *target.units, budget=budget, round_to=target.round_to)
    if calibration is not None and calibration.refit:
        check_refittable(space)
    return space


def _share(space: Space, target: TargetRecipe, table: LatencyTable | None) -> float | None:
    """The share of the space's budget that a target asks for; None where it is a number of units.

    Raises:
        UserError: these units cannot reach it, or cannot be of that number.
    """
    if target.keep is not None:
        check_count(space, target.keep)
        return None
    share = target.densities[0] if table is None else table.share_of(target.latency, target.speedup)
    space.check_something_fits(share)
    return share


def _latency_table(
    dense: PreTrainedModel, target: TargetRecipe, method: MethodRecipe, calibration: Calibration | None
) -> LatencyTable:
    """The table of the target's file, which must be of the target's shape, or one that is measured now.

    Raises:
        UserError: the table does not fit, or the method, whatever is measured.
    """
    space = _space(dense, target, Unmeasured(), calibration)
    check_measurable(space)
    _untaught(space, method, calibration)
    return given_table(target) if target.latency_table is not None else measured_table(target, dense, SHAPE)


def _post_training(space: Space, recipe: MethodRecipe, calibration: Calibration | None) -> Method:
    """The method, which must be able to choose without training, after it has seen the rows, if there are any."""
    method = _untaught(space, recipe, calibration)
    if calibration is not None:
        calibration.teach(method)
    return method


def _untaught(space: Space, recipe: MethodRecipe, calibration: Calibration | None) -> Method:
    """The method before it has seen the rows.

    Raises:
        UserError: it cannot choose without training, or not by these rows.
    """
    try:
        method = before_pruning(METHODS.get(recipe.name), space, **recipe.options)
    except TypeError as error:
        raise UserError(f"the options of {recipe.name!r} do not fit: {error}") from error
    learns = isinstance(method, Calibrated) or bool(method.listens_to)
    if method.param_groups():
        raise UserError(f"{recipe.name!r} learns its choice in training: use `secateur prune`, or cut by fisher or obs")
    if learns and calibration is None:
        raise UserError(f"{recipe.name!r} chooses by rows of data: name some by --data, or cut by magnitude")
    if calibration is not None:
        calibration.check(method)
    return method


def _rank(asked: int | str | None, model: PreTrainedModel, counts: Tensor | None) -> int | None:
    """The rank of the word embeddings, which is logged where it is chosen here.

    Raises:
        UserError: they cannot have it.
    """
    rank = rank_for(asked, model, counts)
    if rank is not None:
        check_embedding_rank(bind(model), rank)
    if asked == AUTO:
        log.info("word embeddings: %s", rank_text(rank))
    return rank
