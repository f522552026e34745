"""The optimizer's moments of the weights of terms, once a student was cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.surgery.optimizer_state import ORDERS, Moments, check_shapes
from secateur.training.step import Term, restrict_terms


@torch.no_grad()
def restricted_moments(terms: Sequence[Term], moments: Moments, dims: Tensor, layers: Tensor) -> Moments:
    """Moments of the weights of terms, cut by the code that cuts these weights: each stands in for its weight.

    Args:
        terms: bound; the moments of a term that is restricted already are.
        moments: by the names of the weights in a `ModuleList` of the terms.
        dims: as of `Term.restrict`, as `layers`.

    Raises:
        UserError: a moment has another shape than its weight, or as of `restrict_terms`.
    """
    restricted: Moments = {name: dict(state) for name, state in moments.items()}
    for order in ORDERS if moments else ():
        stand_ins = copy.deepcopy(list(terms))
        weights = dict(nn.ModuleList(stand_ins).named_parameters())
        check_shapes(moments, weights)
        own = [name for name in weights if order in moments.get(name, {})]
        for name in own:
            weights[name].copy_(moments[name][order])
        restrict_terms(stand_ins, dims, layers)
        cut = dict(nn.ModuleList(stand_ins).named_parameters())
        restricted |= {name: {**restricted[name], order: cut[name].detach()} for name in own}
    return restricted
