"""The rounds of a run: layers first, if their number is set, and then finer units; a recovery follows each.

`method.begin` and `method.end` are fractions of each round. The last round is cut at its `end`, as a run without rounds
is; in those before it the masks alone change, and the model shrinks with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.budget.ranking import with_best_hidden
from secateur.budget.space import Space
from secateur.methods.rounds import CoarseRound, stacks_of
from secateur.run.recipe import Recipe
from secateur.run.recipe_target import AUTO, SPREAD
from secateur.structure.unit_names import kind_of

LAYER = "layer"


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


def is_open(recipe: Recipe) -> bool:
    """Whether the run itself chooses the number of layers (`stages/depth.py`)."""
    return recipe.target.layers == AUTO


def numbers_to_try(space: Space, share: float, largest: float) -> list[int]:
    """The numbers of layers that are tried for a share of the budget of a space with layers, the smallest first.

    They are all the layers, with one round of finer units, or where these alone cannot reach the share, as many layers
    as reach it with them; the number at which the layers that are left are as large a part of the model as what is left
    in them is of the layers, which is the square root of the share; and half as many again.

    Args:
        largest: the largest share at which the pruning cuts a model on its way; fewer layers than have it are not
            tried.
    """
    total, fewest = total_layers(space), len(stacks_of(space, LAYER))
    finer = Space(space.model, *finer_units(space.units), budget=space.budget, round_to=space.round_to)
    reaching = (n for n in range(total - 1, fewest, -1) if least_share(_rounds(n), space) <= share)
    most = total if space.budget.floor(finer) <= share else next(reaching, fewest)
    enough = next(n for n in range(fewest, total + 1) if n == total or _share(space, n) >= largest)
    even = min(most, max(enough, math.ceil(total * math.sqrt(share))))
    return sorted({even, min(most, math.ceil(1.5 * even)), most})


def total_layers(space: Space) -> int:
    """The number of layers that are units of a space."""
    return int(CoarseRound(LAYER, 1, 0.0, 1.0).units(space).sum())


def finer_units(names: Iterable[str]) -> tuple[str, ...]:
    """The units without layers."""
    return tuple(name for name in names if kind_of(name) != LAYER)


def _share(space: Space, layers: int) -> float:
    return share_after(_rounds(layers), space)


def _rounds(layers: int) -> list[CoarseRound]:
    return [CoarseRound(LAYER, layers, 0.0, 1.0)]


def with_layers(recipe: Recipe, layers: int, total: int) -> Recipe:
    """The recipe with a number of layers, of `total`."""
    return with_all_layers(recipe) if layers == total else changed(recipe, target={"layers": layers})


def with_all_layers(recipe: Recipe) -> Recipe:
    """The recipe that removes no layers: finer units are pruned in one round."""
    units = finer_units(recipe.target.units)
    training = {"decay": "run"} if recipe.training.decay == "round" else {}
    return changed(recipe, target={"layers": None, "layer_rule": "scores", "units": units}, training=training)


def changed(recipe: Recipe, **groups: dict[str, Any]) -> Recipe:
    """The recipe with other values of some keys of its groups."""
    return recipe.model_copy(
        update={name: getattr(recipe, name).model_copy(update=values) for name, values in groups.items()}
    )


def coarse_rounds(recipe: Recipe) -> tuple[CoarseRound, ...]:
    """The round in which layers are removed, if their number is set."""
    layers = recipe.target.layers
    if layers is None:
        return ()
    assert not isinstance(layers, str), "the stage `depth` chooses a number"
    begin, end = (last_round(recipe) * progress for progress in (recipe.method.begin, recipe.method.end))
    spread = recipe.target.layer_rule == SPREAD
    return (CoarseRound(LAYER, layers, begin, end, recovered=last_round(recipe), spread=spread),)


def reported(recipe: Recipe) -> dict[str, Any] | None:
    """The rounds for the report, in progress of the run; None for a run of one round."""
    if not (rounds := coarse_rounds(recipe)):
        return None
    (first,) = rounds
    times = {"begin": first.begin, "removed": first.end, "recovered": first.recovered}
    return {"layers": first.keep, **times, "finer": in_last_round(recipe, recipe.method.begin)}


def share_after(rounds: Sequence[CoarseRound], space: Space) -> float:
    """The largest share of the budget of a space that coarse rounds leave, whichever stack they keep most units of."""
    return max(space.share(kept) for kept in _kept_by(rounds, space)) if rounds else 1.0


def least_share(rounds: Sequence[CoarseRound], space: Space) -> float:
    """The least share that finer units can reach after coarse rounds, whichever stack these keep most units of."""
    if not rounds:
        return space.floor()
    coarse = torch.stack([one.units(space) for one in rounds]).any(0)
    return max(space.share(with_best_hidden(space, kept & coarse, space.ones())) for kept in _kept_by(rounds, space))


def _kept_by(rounds: Sequence[CoarseRound], space: Space) -> Iterator[Tensor]:
    """`(N,)` bool: what coarse rounds keep, if the units of one stack or another have the highest scores."""
    for preferred in stacks_of(space, rounds[-1].kind):
        kept, scores = space.ones().bool(), space.ones()
        scores[preferred] = 2.0
        for one in rounds:
            kept = one.kept(space, scores, kept, progress=1.0)
        yield kept
