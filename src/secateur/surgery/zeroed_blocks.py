"""Zeroed blocks: tiles that are removed from a dense weight of which more is kept, and are stored as zeros.

While the cut model is trained they are kept at 0 (`kept_at_zero`), so that the counted density stays true, or they are
filled with new values first (`fill_zeroed_blocks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.axis_table import Parameter
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery.kept_indices import kept_indices, select_parts
from secateur.surgery.uncut import planned_space

SPREAD = 0.01
"""Standard deviation of new values, in standard deviations of the weight."""


def zeroed_blocks(small: PreTrainedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of each weight with zeroed blocks -> two `(out, into)` bools: in a zeroed block, and not padding of heads.

    Raises:
        UserError: `small` is not a cut model with its plan.
    """
    return {name: own for name, own in _tiled(small).items() if own[0].dim() > 1 and bool(own[0].any())}


def _tiled(small: PreTrainedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of each tiled weight, and of its bias -> two bools of its shape: removed with its tiles, and not padding."""
    space, plan = planned_space(small)
    kept = kept_indices(plan.read(space), plan)
    stored, rows = dict(small.named_parameters()), {grid.parameter.row for _, grid in space.tiled.values()}
    found = {}
    for name, parts in space.table.tensors.items():
        if name in stored and any(part.row in rows for part in parts):
            removed, whole = (
                [_in_removed_tiles(space, plan, part) for part in parts],
                [torch.ones(p.shape) for p in parts],
            )
            zeroed, real = (select_parts(parts, own, kept).gt(0).to(stored[name].device) for own in (removed, whole))
            found[name] = zeroed, real
    return found


def _in_removed_tiles(space: UnitSpace, plan: Plan, part: Parameter) -> Tensor:
    """`(out, into)`, or `(out,)` of a bias: 1 in the tiles of a weight that the plan removes."""
    mask = space.at_parameter(plan.masks, part)
    return torch.zeros(part.shape) if mask is None else (mask == 0).float()


@contextmanager
def kept_at_zero(small: PreTrainedModel) -> Iterator[None]:
    """Within, the gradient of zeroed blocks is 0: they stay 0 with any optimizer that does not move such weights.

    So is that of a bias whose row has no tiles, and of padding, which would learn where heads share a key that another
    of them needs.
    """
    weights = dict(small.named_parameters())
    handles = [weights[name].register_hook(_without(zeroed | ~real)) for name, (zeroed, real) in _tiled(small).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _without(zeroed: Tensor) -> Callable[[Tensor], Tensor]:
    """A hook that sets the gradient of these entries to 0."""
    return lambda gradient: gradient.masked_fill(zeroed, 0.0)


@torch.no_grad()
def fill_zeroed_blocks(small: PreTrainedModel, seed: int) -> None:
    """Fill zeroed blocks with values from N(mean, (0.01 std)^2) of their weight, in place; the plan then keeps them.

    Mean and deviation are those of the weight with its zeros (nn_pruning's `unzero_parameters`, which fills the zeros
    of every parameter; here padding, and zeros outside zeroed blocks, stay).
    """
    generator, weights = torch.Generator().manual_seed(seed), dict(small.named_parameters())
    for name, (zeroed, real) in zeroed_blocks(small).items():
        weight = weights[name]
        mean, deviation = weight[real].mean(), SPREAD * weight[real].std()
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight[zeroed] = (mean + deviation * noise)[zeroed]
    _plan_filled_tiles(small)


def _plan_filled_tiles(small: PreTrainedModel) -> None:
    """Keep every tile that is stored in the model's plan."""
    space, plan = planned_space(small)
    filled = torch.where(space.filled(plan.kept), plan.masks.masked_fill(plan.masks == 0, 1.0), 0.0)
    names = ("method", "asked", "embedding_rank", "embedding_rows", "vocabulary", "source")
    same: dict[str, Any] = {key: getattr(plan, key) for key in names}
    model: Any = small  # the type of a module has no attribute that is a plain value
    model.plan = Plan.of(space, filled, layouts=plan.layouts, **same).to_dict(space)
