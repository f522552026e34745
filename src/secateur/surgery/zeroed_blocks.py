"""Zeros that tiles leave inside the dense weights of a cut model: where they are, held at 0 in training, or filled.

A tile that is gone from a weight of which more is left is stored as zeros. They stay zeros while the cut model is
trained (`held`), so that the density that was counted stays true, or are given new values first (`fill`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.plan import Plan
from secateur.surgery.cut import kept_indices, planned, taken

SPREAD = 0.01  # of new values, in standard deviations of the weight


def holes(small: PreTrainedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of each weight that has holes -> `(out, into)` bool: where they are, and where it is no padding of heads.

    Raises:
        UserError: `small` is no cut model with its plan.
    """
    space, plan = planned(small)
    kept = kept_indices(plan.read(space), plan)
    stored = dict(small.named_parameters())
    found = {}
    for name, (_, grid) in space.tiled.items():
        mask = space.at_parameter(plan.masks, grid.parameter)
        if name in stored and mask is not None:
            parts = ((mask == 0).float(), torch.ones_like(mask))
            gone, real = (taken(grid.parameter, part, kept).gt(0).to(stored[name].device) for part in parts)
            if bool(gone.any()):
                found[name] = gone, real
    return found


@contextmanager
def held(small: PreTrainedModel) -> Iterator[None]:
    """Within, no gradient reaches a hole: what is 0 stays 0 with any optimizer that moves nothing without one."""
    own = dict(small.named_parameters())

    def closing(gone: Tensor) -> object:
        return lambda gradient: gradient.masked_fill(gone, 0.0)

    handles = [own[name].register_hook(closing(gone)) for name, (gone, _) in holes(small).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def fill(small: PreTrainedModel, seed: int) -> None:
    """Give every hole a value from N(mean, (0.01 std)^2) of its weight, in place; in the plan its tile is kept again.

    Mean and deviation are those of the weight with its zeros (nn_pruning's `unzero_parameters`, which fills every
    parameter's zeros; here padding and zeros that no tile has made stay).
    """
    generator, own = torch.Generator().manual_seed(seed), dict(small.named_parameters())
    for name, (gone, real) in holes(small).items():
        weight = own[name]
        mean, deviation = weight[real].mean(), SPREAD * weight[real].std()
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight[gone] = (mean + deviation * noise)[gone]
    space, plan = planned(small)
    filled = torch.where(space.filled(plan.kept), plan.masks.masked_fill(plan.masks == 0, 1.0), 0.0)
    said: Any = {
        "method": plan.method,
        "asked": plan.asked,
        "embedding_rank": plan.embedding_rank,
        "source": plan.source,
    }
    model: Any = small  # a module's type knows no attribute that is a plain value
    model.plan = Plan.of(space, filled, layouts=plan.layouts, **said).to_dict(space)
