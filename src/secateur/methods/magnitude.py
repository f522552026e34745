"""Magnitude pruning: keep the units with the largest weights.

Source: Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, applied to
structures: the score of a unit is the root mean square of the weights that are removed with it. The weights are read
again at every step of the schedule, so that training may change the ranking of the units that are left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.methods import register
from secateur.methods.scheduled import Scheduled
from secateur.structure.axis_table import Parameter
from secateur.structure.groups import Group
from secateur.system.parts import whole

Sums = dict[str, Tensor]
"""A sum for each index of an axis, or for a gate."""


@register("magnitude")
class Magnitude(Scheduled):
    """Score = root mean square of the unit's weights; needs no training.

    Examples:
        >>> plan = Magnitude(Space(model, "head", "ffn")).plan(0.5)
    """

    reads_weights = True

    @torch.no_grad()
    def scores(self) -> Tensor:
        squares, counts = self._axis_sums()
        return torch.cat([self._group_scores(group, squares, counts) for group in self.space.groups])

    def _group_scores(self, group: Group, squares: Sums, counts: Sums) -> Tensor:
        """`(size,)`: the root mean square of the weights on the axes and in the tiles of each unit."""
        total, count = torch.zeros(2, group.size, device=self.alive.device)
        for axis in group.axes:
            total += group.by_unit(squares[axis], axis).sum(1)
            count += group.by_unit(counts[axis], axis).sum(1)
        for grid in group.grids:
            weight = self._values(grid.parameter)
            total += grid.sums(weight.square())
            count += grid.rows * grid.columns
        return (total / count).sqrt()

    def _axis_sums(self) -> tuple[Sums, Sums]:
        """Sums of squared weights, and numbers of weights, by axis and by gate."""
        squares: Sums = {}
        counts: Sums = {}
        for parameter in self.space.table.parameters:
            if not parameter.inner:
                continue
            weight = self._values(parameter).square()
            for dim, axis in enumerate(parameter.axes):
                sums = weight.movedim(dim, 0).reshape(weight.shape[dim], -1).sum(1)  # `sum(dim=())` sums all of a bias
                _add(squares, axis, sums)
                _add(counts, axis, torch.full_like(sums, weight.numel() / weight.shape[dim]))
            _add(squares, parameter.row.behind, weight.sum().view(1))
            _add(counts, parameter.row.behind, weight.new_full((1,), weight.numel()))
        return squares, counts

    def _values(self, parameter: Parameter) -> Tensor:
        return parameter.of(whole(self.space.model.get_parameter(parameter.name).detach()).float())


def _add(sums: Sums, axis: str | None, values: Tensor) -> None:
    if axis is not None:
        sums[axis] = sums[axis] + values if axis in sums else values
