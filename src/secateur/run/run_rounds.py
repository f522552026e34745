"""The rounds of a run: layers first, if their number is set, and then finer units; a recovery follows each.

`method.begin` and `method.end` are fractions of each round. The last round is cut at its `end`, as a run without rounds
is; in those before it the masks alone change, and the model shrinks with them.
"""

from __future__ import annotations

from collections.abc import Sequence

from secateur.budget.space import Space
from secateur.methods.rounds import CoarseRound
from secateur.run.recipe import Recipe


def last_round(recipe: Recipe) -> float:
    """The progress of the run at which its last round begins."""
    return 0.0 if recipe.target.layers is None else recipe.method.layer_round


def in_last_round(recipe: Recipe, progress: float) -> float:
    """The progress of the run at a progress of its last round."""
    begin = last_round(recipe)
    return begin + (1.0 - begin) * progress


def end_of_pruning(recipe: Recipe) -> float:
    """The progress of the run at which the model is cut and the last recovery begins."""
    return in_last_round(recipe, recipe.method.end)


def restarts(recipe: Recipe) -> tuple[float, ...]:
    """The progress of the run at which the schedule of the learning rate starts again."""
    begin = last_round(recipe)
    return (begin,) if begin and recipe.training.decay == "round" else ()


def coarse_rounds(recipe: Recipe) -> tuple[CoarseRound, ...]:
    """The round in which layers are removed, if their number is set."""
    if recipe.target.layers is None:
        return ()
    begin, end = (last_round(recipe) * progress for progress in (recipe.method.begin, recipe.method.end))
    return (CoarseRound("layer", recipe.target.layers, begin, end),)


def share_after(rounds: Sequence[CoarseRound], space: Space) -> float:
    """The share of the budget of a space that is left after coarse rounds, whichever units they keep."""
    kept = space.ones().bool()
    for one in rounds:
        kept = one.kept(space, space.ones(), kept, progress=1.0)
    return space.share(kept)
