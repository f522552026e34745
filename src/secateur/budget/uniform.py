"""Parameters as the budget, of a model whose layers all keep the same sizes.

Engines that know nothing of secateur, and the configs of stock models, have one size of each kind for all layers. So
each layer keeps its own best units, as many as every other layer: the same number of neurons, of keys and values, and
of heads that share each of these. The scores say which units of a layer are kept, and not how many.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.budget.parameters import Parameters
from secateur.budget.ranking import TOLERANCE, highest, longest_prefix, ranked
from secateur.structure.groups import Group
from secateur.system.errors import UserError

if TYPE_CHECKING:
    from secateur.budget.space import Space

WHOLE = ("kv_head", "head")
"""Kinds of units of which every layer keeps at least one."""
KINDS = (*WHOLE, "ffn", "hidden")
"""The kinds of units of which all layers can keep the same number."""
Heads = Mapping[str, int]
"""Kind of `WHOLE` -> the number that is kept: of the keys of a layer, and of the heads that share one."""


class UniformParameters(Parameters):
    """Counts parameters, and keeps the same sizes in every layer.

    For every number of heads, as many neurons and hidden dims as fit are kept, the same fraction of both. Of these
    models the one is taken in which heads and the rest keep the most similar fractions.

    Examples:
        >>> space = Space(model, "kv_head", "ffn", budget=UniformParameters())
        >>> kept = space.choose(scores, density=0.5)
    """

    name = "uniform parameters"

    def floor(self, space: Space) -> float:
        return self.share(space, _kept(space, space.ones(), dict.fromkeys(WHOLE, 1), 0.0))

    def check(self, space: Space, share: float) -> None:
        """As for parameters.

        Raises:
            UserError: also where a kind of units is none of `KINDS`.
        """
        if other := [kind for kind in space.kinds if kind not in KINDS]:
            raise UserError(
                f"{', '.join(other)} cannot be pruned to the same sizes in every layer: choose the units from "
                f"{', '.join(KINDS)}, or leave uniform out"
            )
        super().check(space, share)

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor, last: float) -> Tensor:
        """The best units of each layer, in equal numbers that fit after closure."""
        values = ranked(scores, alive)
        steps = max([group.size for group in space.groups if group.kind not in WHOLE], default=0)
        best, distance = torch.zeros_like(alive), float("inf")
        for heads in _numbers_of_heads(space):

            def cost(number: int, heads: Heads = heads) -> float:
                return self.share(space, _kept(space, values, heads, number / max(steps, 1)))

            if cost(0) > share + TOLERANCE:
                continue
            number = longest_prefix(cost, steps, share)
            own = [heads[group.kind] / _rows(space, group)[1] for group in space.groups if group.kind in heads]
            apart = abs(number / steps - fmean(own)) if own and steps else -fmean(own or [1.0])
            if apart < distance:
                best, distance = _kept(space, values, heads, number / max(steps, 1)), apart
        return space.closure(best) & alive

    def kinds(self, space: Space) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if kind in super(UniformParameters, self).kinds(space))

    def leading(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        return self.choose(space, scores, share, alive, share)


def _numbers_of_heads(space: Space) -> list[Heads]:
    """The numbers of heads to try: those nearest to each fraction, of all kinds that are units."""
    sizes = {group.kind: _rows(space, group)[1] for group in space.groups if group.kind in WHOLE}
    steps = 2 * lcm(*sizes.values())
    found = {
        tuple((kind, max(1, round(Fraction(part * size, steps)))) for kind, size in sizes.items())
        for part in range(steps + 1)
    }
    return [dict(numbers) for numbers in sorted(found)]


def _rows(space: Space, group: Group) -> tuple[int, int]:
    """Rows of units in a group, of which each keeps the same number, and their size."""
    rows = space.table.kv_heads if group.kind == "head" and space.table.kv_axes else 1
    return rows, group.size // rows


def _kept(space: Space, values: Tensor, heads: Heads, fraction: float) -> Tensor:
    """`(N,)` bool: in every row the highest values: so many heads, and this fraction of the other units."""
    kept = torch.zeros(len(space), dtype=torch.bool, device=values.device)
    for group, own in space.by_group(values):
        rows, size = _rows(space, group)
        count = heads.get(group.kind) or _rounded(fraction * size, size, space.round_to)
        kept[space.slices[group.name]] = highest(own.view(rows, size), count).flatten()
    return kept


def _rounded(count: float, size: int, multiple: int) -> int:
    """The number of neurons or dims to keep: at least one, a multiple, or all."""
    return size if count >= size else min(size, max(int(count + 1e-9) // multiple * multiple, multiple))
