"""Optimal brain surgeon over structures: the units whose removal, with the rest refitted, changes a sublayer least.

Sources: Hassibi and Stork, Second Order Derivatives for Network Pruning, NIPS 1992; for structures, with units that go
one by one, Kurtic et al., ZipLM, NeurIPS 2023, arXiv 2302.04089, section 3:
    the loss of removing the columns S of a Linear with inputs of second moments H: `sum_i W_iS ((H^-1)_SS)^-1 W_iS^T`
    the weights that remain, so that others take over: `W - W_S ((H^-1)_SS)^-1 (H^-1)_S`
    H^-1 without S, by block elimination, so that the next unit is chosen given those that are gone: `Elimination`

H is the covariance of what the Linear reads on real tokens (`E x x^T` where it has no bias), with a ridge. The loss is
the growth of the squared error of the sublayer's output; it needs no labels and no gradient. The weights stay as they
are here: those of the chosen units are refitted when the model is cut (`surgery/compensation.py`).

Where it differs from ZipLM:
    1. The units of all sublayers are compared by the growth of the error, per parameter. ZipLM searches for the sizes
       of sublayers by trying hundreds of models on a loss. (The error over the variance of the sublayer's output, tried
       on held-out rows, is much worse: RESULTS.md.)
    2. The choice is made once, on the dense model; a schedule follows its order.
    3. Units that no Linear reads are ranked by the variance of the outputs that go with them, without a refit: a hidden
       dim by its part of the variance of each sublayer's output, a sublayer by all of it, a QK dim and a tile by a part
       of it, that of the squared products of query and key weights, or of the squared weights.
Before any input was read, inputs count as independent, with variance 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.method import Amount
from secateur.methods.options import number
from secateur.methods.rounds import CoarseRound
from secateur.methods.scheduled import Scheduled
from secateur.structure.architecture import Linear
from secateur.structure.axis_table import Parameter
from secateur.structure.groups import Group
from secateur.surgery.input_moments import Batch, second_moments
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating, without_weights

COLLECTED = 32
"""Removals of single inputs that are subtracted from the matrices at once."""


@register("obs")
class Obs(Scheduled):
    """Removes the units that a refitted sublayer misses least, by the second moments of its inputs; needs no labels.

    Args:
        space: usually `Space(model, "head", "ffn")`, units that a Linear reads; any units work.
        density: the schedule.
        rounds: as of `Scheduled`.
        ridge: added to the diagonal of H, over its mean.

    Attributes:
        importance: `(N,)`: the growth of the squared error at the removal of each unit, given those that went before.

    Raises:
        UserError: the share is out of reach, or the ridge is not positive.

    Examples:
        >>> method = Obs(Space(model, "head", "ffn"))
        >>> method.calibrate(batches)
        >>> plan = method.plan(0.6)
    """

    importance: Tensor
    defaults = {"target.units": ("head", "ffn")}

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        rounds: Sequence[CoarseRound] = (),
        *,
        ridge: float = 0.01,
    ) -> None:
        super().__init__(space, share, density, rounds)
        self.ridge = number("ridge", ridge, above=0.0)  # inputs that always occur together need one
        self.register_buffer("importance", self._importance({}))

    def calibrate(self, batches: Sequence[Batch]) -> None:
        if not batches:
            raise UserError("expected batches of inputs to calibrate Obs on, got none: give some rows of data")
        with evaluating([self.space.model]):
            paths = [row.path for row in self.space.table.readers.values()]
            moments = second_moments(self.space.model, paths, batches)
        for path, one in moments.items():
            one.check(path)
        biased = {path for path in moments if self.space.model.get_submodule(path).bias is not None}
        covariances = {path: one.covariance(centred=path in biased)[0] for path, one in moments.items()}
        self.importance.copy_(self._importance(covariances))

    def scores(self) -> Tensor:
        """`(N,)`: the importance per parameter."""
        return self.importance / self.space.unit_cost()

    @torch.no_grad()
    def _importance(self, covariances: Mapping[str, Tensor]) -> Tensor:
        """`(N,)`, from the covariance of the inputs of each Linear, by its path; the identity for those without.

        Zeros for a model without weights: they are set by the process that has these.
        """
        if without_weights(self.space.model):
            return torch.zeros(len(self.space))

        @cache
        def variances(path: str) -> Tensor:
            weight = self._weight(path)
            return ((weight @ covariances[path] if path in covariances else weight) * weight).sum(1)

        found = [
            self._alone(group, variances) if self._reader_of(group) is None else self._read(group, covariances)
            for group in self.space.groups
        ]
        return torch.cat([one.float().to(self.alive.device) for one in found])

    def _reader_of(self, group: Group) -> Linear | None:
        """The Linear that reads the units of a group."""
        return self.space.table.readers.get(group.sites[0]) if group.sites else None

    def _read(self, group: Group, covariances: Mapping[str, Tensor]) -> Tensor:
        """`(units,)` of a group that a Linear reads, from the covariance `(into, into)` of its inputs, by its path."""
        axis = group.sites[0]
        path, size = self.space.table.reader(axis).path, self.space.table.sizes[axis]
        order = group.by_unit(torch.arange(size), axis)  # of a value that heads share: the same dim of each
        weight = self._weight(path)[:, order.flatten()]
        if path not in covariances:
            return independent_losses(weight, order.shape[1], self.ridge)
        covariance = covariances[path][order.flatten()][:, order.flatten()]
        return removal_losses(weight, covariance, order.shape[1], self.ridge)

    def _alone(self, group: Group, variances: Callable[[str], Tensor]) -> Tensor:
        """`(units,)` of another group, from the variances `(hidden,)` of the output of each sublayer, by its Linear."""
        table = self.space.table
        gates = {axis: sublayer.gate for sublayer in table.sublayers for axis in sublayer.axes}
        if group.kind == "hidden":
            return torch.stack([variances(row.path) for row in table.readers.values()]).sum(0)
        if group.grids:
            squares = [grid.sums(self._values(grid.parameter).square()) for grid in group.grids]
            scales = [variances(table.writer(gates[grid.axis]).path).sum() for grid in group.grids]
            return torch.stack([parts_of(one) * scale for one, scale in zip(squares, scales, strict=True)]).sum(0)
        if group.kind == "qk":
            sides = (table.queries(group.sites[0]), table.keys(group.sites[0]))
            values = ([self._values(table.weight(row)) for row in side] for side in sides)
            query, key = (torch.cat(own, dim=1).square().sum(1) for own in values)
            products = group.by_unit(query * table.at_heads(key, group.sites[0]), group.sites[0]).sum(1)
            return parts_of(products) * variances(table.writer(gates[group.sites[0]]).path).sum()
        return torch.stack([variances(table.writer(gate).path).sum() for gate in group.sites]).sum().view(1)

    def _weight(self, path: str) -> Tensor:
        return self.space.model.get_parameter(f"{path}.weight").detach().double()

    def _values(self, parameter: Parameter) -> Tensor:
        return parameter.of(self.space.model.get_parameter(parameter.name).detach().double())


def parts_of(values: Tensor) -> Tensor:
    """`(units,)`: the part that each value, from 0 on, has of their sum; 0 where all of them are 0."""
    return values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)


def removal_losses(weight: Tensor, inputs: Tensor, width: int = 1, ridge: float = 0.01) -> Tensor:
    """`(units,)`: the growth of the squared error at the removal of each unit, one by one, the cheapest first.

    A unit that went later never counts less than one that went before, so that the order is that of the removals.

    Args:
        weight: `(out, into)`, of the Linear that reads the units.
        inputs: `(into, into)`, the covariance of its inputs.
        width: inputs of one unit, which lie side by side.
        ridge: over the mean of the diagonal of `inputs`.
    """
    damped = inputs + ridge * inputs.diagonal().mean().clamp(min=1e-12) * torch.eye(len(inputs)).to(inputs)
    elimination = Elimination(weight, torch.cholesky_inverse(torch.linalg.cholesky(damped)), width)
    losses, most = torch.zeros(len(inputs) // width).to(weight), 0.0
    for _ in range(len(losses)):
        unit, growth = elimination.remove_cheapest()
        most = max(most, growth)
        losses[unit] = most
    return losses


def independent_losses(weight: Tensor, width: int = 1, ridge: float = 0.01) -> Tensor:
    """`(units,)`: what `removal_losses` gives for inputs whose covariance is the identity, in closed form.

    H is then a multiple of the identity, so that no weight that is left can take over: the loss of a unit is the
    squared norm of its weights times `1 + ridge`, whichever others are gone.
    """
    return (1.0 + ridge) * weight.square().sum(0).view(-1, width).sum(1)


class Elimination:
    """A Linear that loses units one by one, with the others refitted, and the inverse of H without these.

    With P the inverse and S the inputs of a unit, `P_SS = L L^T`, `R = L^-1 P_S` and `C = W_S L^-T`, a removal is
    `P - R^T R` and `W - C R`, and its loss the sum of the squares of C. Removals are collected and subtracted many at a
    time, as one product of matrices.

    Args:
        weight: W `(out, into)`.
        inverse: P `(into, into)`.
        width: inputs of a unit.
    """

    def __init__(self, weight: Tensor, inverse: Tensor, width: int) -> None:
        self.weight, self.inverse, self.width = weight, inverse, width
        self.left = torch.arange(len(inverse) // width, device=weight.device)  # their numbers in the beginning
        self.gone = torch.zeros(len(self.left), dtype=torch.bool, device=weight.device)
        self._begin()

    def _begin(self) -> None:
        """No removals are collected; for units of one input, the diagonal of P and the squared norms of W's columns."""
        self.rows, self.columns = self.inverse[:0], self.weight[:, :0]
        self.diagonal, self.squares = self.inverse.diagonal().clone(), self.weight.square().sum(0)

    def remove_cheapest(self) -> tuple[int, float]:
        """Remove the unit of the lowest loss: its number in the beginning, and the loss."""
        losses = (self.squares / self.diagonal if self.width == 1 else self._losses()).masked_fill(self.gone, torch.inf)
        unit = int(losses.argmin())
        number = int(self.left[unit])
        self._remove(unit)
        return number, float(losses[unit])

    def _losses(self) -> Tensor:
        """`(units,)`, of units of several inputs."""
        blocks = self.inverse.view(len(self.left), self.width, len(self.left), self.width).diagonal(dim1=0, dim2=2)
        columns = self.weight.view(len(self.weight), len(self.left), self.width).permute(1, 2, 0)
        return (columns * torch.linalg.solve(blocks.permute(2, 0, 1), columns)).sum((1, 2))

    def _remove(self, unit: int) -> None:
        own = slice(unit * self.width, (unit + 1) * self.width)
        present = self.inverse[own] - self.rows[:, own].T @ self.rows  # P_S
        factor = torch.linalg.cholesky(present[:, own])
        rows = torch.linalg.solve_triangular(factor, present, upper=False)
        weight = self.weight[:, own] - self.columns @ self.rows[:, own]  # W_S
        columns = torch.linalg.solve_triangular(factor, weight.T, upper=False).T
        if self.width == 1:
            product = columns.T @ self.weight - (columns.T @ self.columns) @ self.rows  # C^T W
            self.squares += (rows * (columns.square().sum() * rows - 2 * product)).squeeze(0)
            self.diagonal -= rows.square().squeeze(0)
        self.rows, self.columns = torch.cat([self.rows, rows]), torch.cat([self.columns, columns], dim=1)
        self.gone[unit] = True
        if len(self.rows) >= COLLECTED or self.width > 1:
            self._subtract()

    def _subtract(self) -> None:
        """Subtract the removals that were collected, and leave out what is gone."""
        kept = (~self.gone).repeat_interleave(self.width)
        self.inverse = self.inverse[kept][:, kept] - self.rows[:, kept].T @ self.rows[:, kept]
        self.weight = self.weight[:, kept] - self.columns @ self.rows[:, kept]
        self.left, self.gone = self.left[~self.gone], self.gone[~self.gone]
        self._begin()
