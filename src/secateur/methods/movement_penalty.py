"""The penalty of block movement pruning: how a score is regularised, and how much each unit counts (section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods.gates import HardConcrete

REGULARISERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "l1": torch.sigmoid,
    "l0": HardConcrete(temperature=2 / 3).open_probability,
}


def weights_by_parameters(space: Space, kind_weights: Mapping[str, float]) -> Tensor:
    """`(N,)`: the fraction of the parameters that each unit has, times the weight of its kind (1 by default)."""
    cost = space.unit_cost()
    return torch.cat([kind_weights.get(group.kind, 1.0) * own for group, own in space.by_group(cost / cost.sum())])


def published_weights(space: Space, kind_weights: Mapping[str, float]) -> Tensor:
    """`(N,)`: equal weights for kinds, for the groups of a kind and for the units of a group, times the kind's own."""
    kinds = [group.kind for group in space.groups]
    weights = [
        torch.full_like(own, kind_weights.get(group.kind, 1.0) / (len(space.kinds) * kinds.count(group.kind)))
        / group.size
        for group, own in space.by_group(space.ones())
    ]
    return torch.cat(weights)
