"""What a unit needs in order to be alive: its head, its sublayer and its layer, or tiles of other weights."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from secateur.structure.groups import Group
from secateur.structure.space import UnitSpace
from secateur.structure.tiles import Grid


class Needs:
    """The units without which others of a space are dead.

    QK dims also need a VO dim of their head, which is not named: a VO dim with what it needs is alive without them.
    """

    def __init__(self, space: UnitSpace) -> None:
        self.space = space
        self.heads_axis = {kv: axis for axis, kv in space.table.kv_axes.items()}

    def of(self, group: Group, place: int, values: Tensor) -> Tensor:
        """`(N,)` bool: one unit of a group, and those that it needs; of tiles in its place the highest of `values`."""
        unit = torch.zeros(group.size, device=values.device)
        unit[place] = 1.0
        axis, index = self._first_index(group, unit)
        needed = self._factors(axis, index)
        needed[self.space.slices[group.name].start + place] = True
        for other, grid in self.space.tiled.values():
            if other is not group and self._axis(grid) == axis:
                rows = self.space.slices[other.name]
                best = values[rows].masked_fill(~self._touching(grid, axis, index), -torch.inf).argmax()
                needed[rows.start + int(best)] = True
        return needed

    def _first_index(self, group: Group, unit: Tensor) -> tuple[str, int]:
        """An axis that a unit acts on, and the first index of it there."""
        if not group.grids:
            return group.sites[0], int(group.spread(unit, group.sites[0]).argmax())
        grid, axis = group.grids[0], self._axis(group.grids[0])
        return axis, int(self._at_heads(grid.present(unit), grid, axis).int().argmax())

    def _factors(self, axis: str, index: int) -> Tensor:
        """`(N,)` bool: the units whose masks are factors of the mask of an index."""
        masks, effective = self._unpruned
        if not effective[axis].requires_grad:  # nothing but tiles acts on the axis
            return torch.zeros_like(masks, dtype=torch.bool)
        with torch.enable_grad():
            return torch.autograd.grad(effective[axis][index], masks, retain_graph=True)[0] != 0

    @cached_property
    def _unpruned(self) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.enable_grad():
            masks = self.space.ones().double().requires_grad_()
            return masks, self.space.effective(masks)

    def _axis(self, grid: Grid) -> str:
        """The inner axis of tiles; that of the heads where it is that of the keys and values which they share."""
        return self.heads_axis.get(grid.axis, grid.axis)

    def _at_heads(self, values: Tensor, grid: Grid, axis: str) -> Tensor:
        return values if grid.axis == axis else self.space.table.at_heads(values, axis)

    def _touching(self, grid: Grid, axis: str, index: int) -> Tensor:
        """`(units,)` bool: the tiles that cover an index of the axis."""
        numbers = torch.arange(self.space.table.sizes[grid.axis], device=self._unpruned[0].device)
        return grid.touching(numbers == self._at_heads(numbers, grid, axis)[index])
