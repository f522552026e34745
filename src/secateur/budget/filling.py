"""The room that is left within a share, where a ranking of units has ended, and the units that still fit into it.

A ranking ends at the first unit that does not fit. Units of lower rank may fit: a neuron where a head does not, or one
in a feed-forward network that is closed, together with the network. Each is added with all that it needs to be alive
(`structure/needs.py`). Afterwards none fits any more: the share is reached to within the smallest unit that is left
out, and something is kept if anything fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.budget.ranking import TOLERANCE, descending, longest_prefix, rounded, with_best_hidden
from secateur.structure.needs import Needs

if TYPE_CHECKING:
    from secateur.budget.space import Space

SOMETHING = 0.5  # parameters; a unit that costs less is dead, or has nothing in it
ROUNDING = 1e-6  # parameters


class Filling:
    """Adds units to those that are kept in the order of their values `(N,)`, as long as they fit into a share.

    Units in places that are alive, such as the neurons of a network that keeps some, come before those that open a
    head, a sublayer or a layer again. Units at minus infinity are never added, nor those that need one.

    Args:
        share: that is not exceeded.
        share_of: the share that units `(N,)`, closed, cost.
        stored: the units `(N,)` that some cost, with those that cost nothing beside them.
    """

    def __init__(
        self,
        space: Space,
        values: Tensor,
        share: float,
        *,
        share_of: Callable[[Tensor], float],
        stored: Callable[[Tensor], Tensor],
    ) -> None:
        self.space, self.share, self.share_of, self.stored = space, share, share_of, stored
        self.values = values.masked_fill(~space.closure(values > -torch.inf), -torch.inf)

    def filled(self, kept: Tensor) -> Tensor:
        """`(N,)` bool: `kept`, closed, and the units that are added to it.

        Where `kept` has no parameters, it is replaced: every hidden dim of it would make what is added more expensive.
        """
        kept = self._with(kept, kept)
        kept = kept if self.share_of(kept) else self._nothing()
        while self._room(kept) >= self._smallest_cost(kept):
            opened = self._opened(kept := self._grown(kept))
            if opened is None:
                break
            kept = opened
        return kept

    def least(self) -> float:
        """The lowest share, above 0, that something of the layers can have."""
        models = [nothing := self._nothing(), *self._places(nothing, ~nothing)]
        return min(share for share in map(self.share_of, models) if share > 0)

    def _grown(self, kept: Tensor) -> Tensor:
        """`kept`, and units in places that are alive."""
        refused = self._first_dims(kept) | (self.values == -torch.inf)
        while True:
            cost, room = self.space.marginal_cost(kept), self._room(kept)
            fitting = (~self.stored(kept) & ~refused & (cost > SOMETHING) & (cost <= room)).nonzero().flatten()
            if not len(fitting):
                return kept
            best = fitting[descending(self.values[fitting])]
            near = int((cost[best].cumsum(0) <= room).sum())
            count = longest_prefix(self._shares(kept, best), len(best), self.share, near)
            if not count:
                refused |= self._as_costly(best[0])
            kept = self._with(kept, best[:count])

    def _as_costly(self, unit: Tensor) -> Tensor:
        """`(N,)` bool: a unit that costs more than its marginal cost, and those that do so like it.

        A head costs more than its VO dims, and so do the others of its attention, unless some share a value that is
        alive.
        """
        if self.space.table.heads > self.space.table.kv_heads:
            return torch.zeros_like(self.values, dtype=torch.bool).index_fill(0, unit, True)
        return self._group_numbers == self._group_numbers[unit]

    def _opened(self, kept: Tensor) -> Tensor | None:
        """`kept` with a unit in the first place that is dead and fits if it is opened; None for none."""
        if (room := self._room(kept)) < self._smallest_cost(kept):
            return None
        dead = self._first_dims(kept) | (self.space.marginal_cost(kept) <= SOMETHING)
        for opened in self._places(kept, dead):
            if room - self._room(opened) > SOMETHING and self.share_of(opened) <= self.share + TOLERANCE:
                return opened
        return None

    def _places(self, kept: Tensor, among: Tensor) -> Iterator[Tensor]:
        """`kept` with the best unit of each group among some, and what it needs, by the lowest value of these."""
        on_stream = self.values.masked_fill(~self._on_stream(kept), -torch.inf)
        values, preferred = on_stream.masked_fill(kept | ~among, -torch.inf), on_stream.masked_fill(kept, torch.inf)
        found = []
        for group, own in self.space.by_group(values):
            if bool((own > -torch.inf).any()):
                needed = self._needs.of(group, int(own.argmax()), preferred)
                found.append((float(preferred[needed].min()), needed))
        for _, needed in sorted(found, key=lambda one: one[0], reverse=True):
            yield self._with(kept, needed.nonzero().flatten())

    def _first_dims(self, kept: Tensor) -> Tensor:
        """`(N,)` bool: VO dims of heads that keep none: they bring a head back with all its QK dims, or without."""
        first, alive = torch.zeros_like(kept), self.space.read(kept).alive
        for group in self.space.groups:
            if group.kind == "vo":
                axis = group.sites[0]
                dims = alive[axis].view(self.space.table.heads, -1)
                empty = ~dims.any(dim=1, keepdim=True).expand_as(dims).reshape(-1)
                first[self.space.slices[group.name]] = group.by_unit(empty, axis).all(dim=1)
        return first

    def _on_stream(self, kept: Tensor) -> Tensor:
        """`(N,)` bool: all units but the tiles that cover no kept dim of the residual stream."""
        on_stream, hidden = torch.ones_like(kept), self.space.read(kept).alive["hidden"]
        for group, grid in self.space.tiled.values():
            dims = hidden.unsqueeze(grid.inner).expand(grid.parameter.shape)
            on_stream[self.space.slices[group.name]] = grid.sums(dims.float()) > 0
        return on_stream

    def _smallest_cost(self, kept: Tensor) -> float:
        """The fewest parameters that a unit, with what it needs, may add.

        A dim of a value that several heads share costs less where one of them is opened than where all are open.
        """
        of_all = 1.0 + self.space.table.heads / self.space.table.kv_heads
        if (rows := self.space.slices.get("hidden")) is None:
            return self.space.smallest * 2.0 / of_all
        whole = self.space.ones()
        whole[rows] = kept[rows].to(whole.dtype)
        costs = self.space.marginal_cost(whole) * 2.0 / of_all
        costs[rows] = self.space.marginal_cost(kept)[rows]
        return float(costs[costs > SOMETHING].min())

    def _room(self, kept: Tensor) -> float:
        """The parameters that still fit."""
        return (self.share - self.share_of(kept)) * self.space.total() + ROUNDING

    def _shares(self, kept: Tensor, units: Tensor) -> Callable[[int], float]:
        """From a number of further units to the share that they cost with those that are kept."""
        return lambda count: self.share_of(self._with(kept, units[:count]))

    def _nothing(self) -> Tensor:
        """`(N,)` bool: no unit but the best hidden dim."""
        return with_best_hidden(self.space, torch.zeros_like(self.values, dtype=torch.bool), self.values)

    def _with(self, kept: Tensor, units: Tensor) -> Tensor:
        """`kept` and further units, rounded and closed."""
        more = kept | units if units.dtype == torch.bool else kept.index_fill(0, units, True)
        more = with_best_hidden(self.space, more, self.values.masked_fill(more, torch.inf))
        return self.space.closure(rounded(self.space, more, self.values, self.space.round_to))

    @cached_property
    def _needs(self) -> Needs:
        return Needs(self.space)

    @cached_property
    def _group_numbers(self) -> Tensor:
        """`(N,)`: the number of the group of each unit."""
        sizes = torch.tensor([group.size for group in self.space.groups], device=self.values.device)
        return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
