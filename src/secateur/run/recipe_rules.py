"""Rules between the keys of a recipe, across all groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.budget.amounts import not_a_fraction
from secateur.methods import METHODS
from secateur.run.recipe_target import AUTO, SPREAD
from secateur.structure.unit_names import kind_of
from secateur.system.errors import UserError

if TYPE_CHECKING:
    from secateur.run.recipe import Recipe
    from secateur.run.recipe_target import TargetRecipe

AMOUNTS = ("density", "size", "latency", "speedup", "keep", "keep_score")
"""Keys of `target` for the amount to keep; exactly one of them is set."""
LENGTHS = ("steps", "epochs", "minutes")
"""Keys of `training` for the length of the run; exactly one of them is set."""


def check(recipe: Recipe) -> None:
    """Refuse a recipe whose keys contradict each other.

    Raises:
        UserError: a rule is broken.
    """
    for rule in RULES:
        rule(recipe)


def _pruning_takes_time(recipe: Recipe) -> None:
    begin, end = recipe.method.begin, recipe.method.end
    if not begin < end:
        raise UserError(f"method.begin {begin} must be smaller than method.end {end}: pruning needs a part of the run")


def _selection_needs_evaluations(recipe: Recipe) -> None:
    if recipe.training.select and not recipe.training.evaluations:
        raise UserError(
            "training.select needs evaluations to choose from: set training.evaluations, or training.select: 0"
        )


def _selection_or_averaging(recipe: Recipe) -> None:
    if recipe.training.select and recipe.training.average:
        raise UserError(
            "training.select and training.average exclude each other, as both determine the final weights: drop one"
        )


def _augmented_texts_have_no_label(recipe: Recipe) -> None:
    if recipe.training.augment and recipe.distillation.labels_weight:
        raise UserError(
            "training.augment makes texts without a label: set distillation.labels_weight: 0, or training.augment: 0"
        )


def _rate_after_decay(recipe: Recipe) -> None:
    if recipe.training.decay == "stage" and recipe.training.recover_learning_rate is None:
        raise UserError(
            "training.decay: stage leaves no learning rate for the recovery: set training.recover_learning_rate, or "
            "training.decay: run"
        )


def _one_length(recipe: Recipe) -> None:
    asked = [f"training.{name}" for name in LENGTHS if getattr(recipe.training, name) is not None]
    if len(asked) != 1:
        names = " and ".join(asked) or "none of training.steps, training.epochs and training.minutes"
        raise UserError(f"{names} are the length of the run: set one of them")


def _recovery_for_its_keys(recipe: Recipe) -> None:
    needed = recipe.training.average or recipe.training.recover_learning_rate is not None
    if recipe.method.end == 1 and needed:
        raise UserError(
            "method.end: 1 leaves no recovery: drop training.average and training.recover_learning_rate, or lower "
            "method.end"
        )


def _one_amount(recipe: Recipe) -> None:
    check_amount(recipe.target)


def check_amount(target: TargetRecipe) -> None:
    """Refuse a target that does not say how much is kept, or says it twice."""
    asked = [name for name in AMOUNTS if getattr(target, name) is not None]
    if len(asked) > 1:
        names = " and ".join(f"target.{name}" for name in asked)
        raise UserError(f"{names} exclude each other: ask for one of them")
    if not asked:
        names = ", ".join(f"target.{name}" for name in AMOUNTS)
        raise UserError(f"nothing says how much is kept: ask for one of {names}")


def _uniform_by_density(recipe: Recipe) -> None:
    check_uniform(recipe.target)


def check_uniform(target: TargetRecipe) -> None:
    """Refuse uniform sizes with an amount that is not counted in parameters, or with removed layers."""
    others = [name for name in ("size", "latency", "speedup", "keep", "layers") if getattr(target, name) is not None]
    if target.uniform and others:
        raise UserError(f"target.uniform goes with a density, and not with target.{others[0]}: drop one of them")


def _protocol_of_a_latency(recipe: Recipe) -> None:
    check_protocol(recipe.target)


def check_protocol(target: TargetRecipe) -> None:
    """Refuse a protocol of times where no time is asked for, and beams of a forward."""
    given = [name for name in ("shape", "timed", "latency_table") if getattr(target, name)]
    given += ["beams"] if target.beams > 1 else []
    if given and not target.is_time:
        names = " and ".join(f"target.{name}" for name in given)
        raise UserError(f"{names} say how a latency or a speedup is measured: ask for one, or drop them")


def _svd_of_a_rank(recipe: Recipe) -> None:
    check_svd(recipe.target)


def check_svd(target: TargetRecipe) -> None:
    """Refuse a way to factorise word embeddings that are not factorised."""
    if target.embedding_svd == "plain" and target.embedding_rank is None:
        raise UserError(
            "target.embedding_svd says how word embeddings are factorised, and they are not: give "
            "target.embedding_rank, or drop it"
        )


def _shape_of_a_time(recipe: Recipe) -> None:
    target = recipe.target
    known = target.latency_table or target.shape or recipe.measurement.shapes
    if target.is_time and not known:
        raise UserError(
            "measurement.shapes is empty, and a latency or a speedup is measured at a shape: set target.shape, such as "
            "8x128"
        )


def _densities_are_fractions(recipe: Recipe) -> None:
    for density in recipe.target.densities:
        if not 0 < density <= 1:
            raise not_a_fraction(density, f"{density:g}")


def _densities_differ(recipe: Recipe) -> None:
    densities = recipe.target.densities
    if len(set(densities)) < len(densities):
        raise UserError(f"density {', '.join(f'{d:g}' for d in densities)} contains one twice: name each once")


def _toward_a_lower_density(recipe: Recipe) -> None:
    density, toward = recipe.target.density, recipe.target.toward
    if toward is not None and not (isinstance(density, float) and 0 < toward < density):
        raise UserError(f"target.toward {toward:g} must be a density below target.density, which is {density}")


def _layers_in_a_round(recipe: Recipe) -> None:
    """A number of layers needs layers to choose from, finer units to prune after them, and a method that can wait."""
    units, name = recipe.target.units, recipe.method.name
    if recipe.target.layers is None:
        if recipe.target.layer_rule == SPREAD:
            raise UserError("target.layer_rule: spread needs a number of layers: set target.layers, or leave it out")
        return
    kinds = {kind_of(name) for name in units}
    if "layer" not in kinds or len(kinds) == 1:
        raise UserError(
            f"target.layers needs layer and finer units among target.units, which are {', '.join(units)}: name them, "
            "such as layer,ffn,qk,vo"
        )
    if not METHODS.get(name).in_rounds:
        others = ", ".join(other for other, kind in METHODS.all().items() if kind.in_rounds)
        raise UserError(
            f"target.layers needs a method that prunes in rounds, one of {others}, and {name} chooses layers together "
            "with finer units: drop target.layers, or choose another method"
        )


def _amount_of_an_open_depth(recipe: Recipe) -> None:
    if recipe.target.layers == AUTO and recipe.target.keep is not None:
        raise UserError(
            "target.layers: auto needs an amount that models of other depths share, and target.keep counts units: "
            "name a number of layers, or ask for a density"
        )


def _texts_of_a_cut_vocabulary(recipe: Recipe) -> None:
    vocabulary = recipe.vocabulary
    if vocabulary.pieces == "all" and (vocabulary.texts or vocabulary.min_count > 1):
        raise UserError(
            "vocabulary.texts and vocabulary.min_count say which pieces are kept, and vocabulary.pieces is all: set it "
            "to task (--vocabulary task), or drop them"
        )


def _rates_that_restart(recipe: Recipe) -> None:
    if recipe.training.decay == "round" and recipe.target.layers is None:
        raise UserError("training.decay: round needs more than one round: set target.layers, or training.decay: run")


RULES = (
    _pruning_takes_time,
    _selection_needs_evaluations,
    _selection_or_averaging,
    _augmented_texts_have_no_label,
    _rate_after_decay,
    _one_length,
    _recovery_for_its_keys,
    _one_amount,
    _uniform_by_density,
    _protocol_of_a_latency,
    _svd_of_a_rank,
    _shape_of_a_time,
    _densities_are_fractions,
    _densities_differ,
    _toward_a_lower_density,
    _layers_in_a_round,
    _amount_of_an_open_depth,
    _texts_of_a_cut_vocabulary,
    _rates_that_restart,
)
