"""The order of units by score, and the first of them: every choice of units ranks in this way.

Ties are kept in the order of the space. Units without a score (NaN) come last; units that may not be kept are at minus
infinity and are never among the first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.structure.space import UnitSpace

SIZED = ("ffn", "qk", "vo", "hidden")
"""Kinds of units that are dims of a size: what `round_to` makes multiples of."""


def ranked(scores: Tensor, alive: Tensor | None = None) -> Tensor:
    """`(N,)` double: scores in which NaN is the lowest number, and units that are not `alive` are at -inf."""
    values = scores.detach().double().nan_to_num(nan=torch.finfo(torch.double).min)
    return values if alive is None else values.masked_fill(~alive, -torch.inf)


def highest(values: Tensor, count: Tensor | int) -> Tensor:
    """Bool as `values`: the `count` highest along the last dimension, those at -inf excepted.

    Args:
        count: a number, or a tensor of one number for each row, `(rows, 1)`.
    """
    order = values.argsort(dim=-1, descending=True, stable=True)
    if isinstance(count, int):
        first = torch.zeros_like(values, dtype=torch.bool).scatter_(-1, order[..., :count], True)
    else:
        first = order.argsort(dim=-1) < count
    return first & (values > -torch.inf)


def with_best_hidden(space: UnitSpace, kept: Tensor, values: Tensor) -> Tensor:
    """`(N,)` bool: `kept`, and in any case the best dim of the residual stream: no model is without one."""
    if "hidden" not in space.slices:
        return kept
    rows = space.slices["hidden"]
    best = torch.tensor(rows.start, device=kept.device) + values[rows].argmax()
    return kept.index_fill(0, best, True)


def rounded(space: UnitSpace, kept: Tensor, values: Tensor, multiple: int) -> Tensor:
    """`(N,)` bool: `kept` and the highest of the units that died alone, until every size is a multiple.

    Sizes become multiples, or all units that are not at -inf in `values`. Heads and networks that are dead stay dead,
    and a head without QK dims stays without.
    """
    if multiple == 1:
        return kept
    kept = space.closure(kept)
    for group in space.groups:
        if group.kind in SIZED:
            rows = space.slices[group.name]
            parts = space.table.heads if group.kind in ("qk", "vo") else 1
            kept[rows] = _rounded_up(kept[rows].view(parts, -1), values[rows].view(parts, -1), multiple).flatten()
    return kept


def _rounded_up(kept: Tensor, values: Tensor, multiple: int) -> Tensor:
    """`(parts, n)` bool: in every part with units the next highest as well, up to a multiple of units."""
    counts, alive = kept.sum(dim=1), (values > -torch.inf).sum(dim=1)
    wanted = torch.minimum((counts + multiple - 1) // multiple * multiple, torch.maximum(alive, counts))
    return highest(values.masked_fill(kept, torch.inf), wanted.unsqueeze(1))
