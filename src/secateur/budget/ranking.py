"""The ranking of units by score, which every choice of units uses.

Units of equal score rank in the order of the space. Units without a score (NaN) rank last. Units that may not be kept
have a score of minus infinity and are never selected.
"""

from __future__ import annotations

from collections.abc import Callable
from math import lcm

import torch
from torch import Tensor

from secateur.structure.space import UnitSpace

TOLERANCE = 1e-12  # of shares
SIZED = ("ffn", "qk", "vo", "hidden")
"""Kinds of units that are dims of a tensor, whose numbers `round_to` makes multiples."""


def ranked(scores: Tensor, alive: Tensor | None = None) -> Tensor:
    """`(N,)` double: scores with NaN replaced by the lowest number, and -inf for units that are not `alive`."""
    values = scores.detach().double().nan_to_num(nan=torch.finfo(torch.double).min)
    return values if alive is None else values.masked_fill(~alive, -torch.inf)


def descending(values: Tensor) -> Tensor:
    """Indices along the last dimension, the highest value first; equal values stay in order."""
    return values.argsort(dim=-1, descending=True, stable=True)


def highest(values: Tensor, count: Tensor | int) -> Tensor:
    """Bool of the shape of `values`: the `count` highest values along the last dimension, never one of -inf.

    Args:
        count: a number, or a tensor `(rows, 1)` with a number for each row.
    """
    order = descending(values)
    if isinstance(count, int):
        selected = torch.zeros_like(values, dtype=torch.bool).scatter_(-1, order[..., :count], True)
    else:
        selected = order.argsort(dim=-1) < count
    return selected & (values > -torch.inf)


def highest_units(space: UnitSpace, values: Tensor, count: int) -> Tensor:
    """`(N,)` bool: exactly `count` units, the highest values, with the best hidden dim among them in any case."""
    required = with_best_hidden(space, torch.zeros_like(values, dtype=torch.bool), values)
    return highest(values.masked_fill(required, torch.inf), count)


def with_best_hidden(space: UnitSpace, kept: Tensor, values: Tensor) -> Tensor:
    """`(N,)` bool: `kept` and the best dim of the residual stream, because a model needs at least one."""
    if "hidden" not in space.slices:
        return kept
    rows = space.slices["hidden"]
    best = torch.tensor(rows.start, device=kept.device) + values[rows].argmax()
    return kept.index_fill(0, best, True)


def rounded(space: UnitSpace, kept: Tensor, values: Tensor, multiple: int) -> Tensor:
    """`(N,)` bool: `kept`, closed, with further units in order of value until every size is a multiple.

    Where too few units are above -inf in `values`, all of them are kept. Heads and feed-forward networks that are dead
    stay dead, and a head without QK dims stays without.
    """
    if multiple == 1:
        return kept
    kept = space.closure(kept)
    for group in space.groups:
        if group.kind in SIZED:
            rows = space.slices[group.name]
            parts = space.table.kv_heads if group.kind in ("qk", "vo") else 1
            width = group.axes[group.sites[0]]
            units = lcm(multiple, width) // width
            kept[rows] = _rounded_up(kept[rows].view(parts, -1), values[rows].view(parts, -1), units).flatten()
    return kept


def _rounded_up(kept: Tensor, values: Tensor, multiple: int) -> Tensor:
    """`(parts, n)` bool: in every part that keeps units, also the next highest, up to a multiple."""
    counts, alive = kept.sum(dim=1), (values > -torch.inf).sum(dim=1)
    wanted = torch.minimum((counts + multiple - 1) // multiple * multiple, torch.maximum(alive, counts))
    return highest(values.masked_fill(kept, torch.inf), wanted.unsqueeze(1))


def longest_prefix(share: Callable[[int], float], limit: int, amount: float, near: int | None = None) -> int:
    """The largest count up to `limit` whose share is within an amount; shares grow with the count.

    Args:
        near: a count that is probably close to it.
    """

    def fits(count: int) -> bool:
        return share(count) <= amount + TOLERANCE

    low, high = (0, limit) if near is None else _around(min(near, limit), limit, fits)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _around(near: int, limit: int, fits: Callable[[int], bool]) -> tuple[int, int]:
    """The bounds of the largest count that fits, found in steps from `near` that double."""
    step = 1
    if near == 0 or fits(near):
        while near + step <= limit and fits(near + step):
            near, step = near + step, 2 * step
        return near, min(near + step - 1, limit)
    while near - step > 0 and not fits(near - step):
        near, step = near - step, 2 * step
    return max(near - step, 0), near - 1
