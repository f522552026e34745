"""All prunable units of one model, end to end in one flat vector of length N: masks, scores and gradients are `(N,)`.

A unit is kept or removed as a whole; a group is a row of units of one kind. The effective mask of an axis is the
product, over the groups that act on it, of `Group.spread`. Counts, masks in the running model and cuts are derived from
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure import cost
from secateur.structure.architecture import Linear, Row
from secateur.structure.axis_table import Parameter
from secateur.structure.binding import bind
from secateur.structure.groups import Group, groups_of
from secateur.structure.reading import Reading
from secateur.structure.tiles import Grid
from secateur.system.errors import UserError
from secateur.system.model_state import device_of


class UnitSpace:
    """The prunable units of a model, in the order in which the kinds are named, each layer by layer.

    It answers which units exist, which are dead because of others, and how many parameters they have. How many units to
    keep, and which, is decided in `budget.space.Space`.

    Args:
        units: kinds of units, see `groups.UNITS`, by default `ffn`, `qk` and `vo`; behind the name of a stack, such as
            `encoder.ffn`, those of its layers alone.

    Raises:
        UserError: an unknown kind of unit or stack, tiles that do not fit, or a model that `binding.bind` refuses.
    """

    def __init__(self, model: PreTrainedModel, *units: str) -> None:
        names = units or ("ffn", "qk", "vo")
        if others := [name for name in names if not isinstance(name, str)]:
            raise UserError(f"{others[0]!r} is no kind of units: name each by itself, as in Space(model, 'ffn', 'vo')")
        self.model = model
        self.units = tuple(names)
        self.table = bind(model)
        self.groups = tuple(group for name in names for group in groups_of(self.table, name))
        self.kinds = tuple(dict.fromkeys(group.kind for group in self.groups))
        if len({group.name for group in self.groups}) < len(self.groups):
            raise UserError(f"units {', '.join(names)} name some units twice: name each kind, or each of a stack, once")
        self.tiled = _by_weight(self.groups)
        ends = torch.tensor([group.size for group in self.groups]).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        self.slices = {g.name: slice(a, b) for g, a, b in zip(self.groups, starts, ends, strict=True)}

    def __repr__(self) -> str:
        counts = {kind: sum(group.size for group in self.groups if group.kind == kind) for kind in self.kinds}
        units = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        return f"{type(self).__name__}({self.table.model_type}: {units} in {len(self.groups)} groups)"

    def __len__(self) -> int:
        return sum(group.size for group in self.groups)

    def ones(self) -> Tensor:
        """`(N,)` of ones on the model's device (`model_state.device_of`): everything kept."""
        return torch.ones(len(self), device=device_of(self.model))

    def at_sites(self, masks: Tensor) -> dict[str, Tensor]:
        """The factors of activations at each site: axis -> `(size,)`, a sublayer's gate -> `(1,)`."""
        return self._product(masks, lambda group: group.sites)

    def effective(self, masks: Tensor) -> dict[str, Tensor]:
        """The effective mask of each index: axis -> `(size,)`, gate -> `(1,)`.

        A gate multiplies the axes behind it, a head without VO dims has no QK dims, a key or a value of which no head
        needs a dim does not have it, and an index is 0 where one of the tiled weights on its axis keeps no tile,
        neither for itself nor for the dim that is rotated together with it; of QK dims, where that is so in every
        product of queries and keys.
        """
        product = self._product(masks, lambda group: group.axes)
        for name, size in self.table.sizes.items():
            product.setdefault(name, masks.new_ones(size))
        for axis, present in self._present(masks).items():
            product[axis] = product[axis] * present
        for sublayer in self.table.sublayers:
            if (gate := product.get(sublayer.gate)) is None:
                product[sublayer.gate] = masks.new_ones(1)
                continue
            for axis in sublayer.axes:
                product[axis] = product[axis] * gate
        for attention in self.table.attentions:
            qk, vo = f"{attention.block}.qk", f"{attention.block}.vo"
            heads = (product[vo] > 0).view(self.table.heads, -1).any(dim=1, keepdim=True)
            product[qk] = (product[qk].view(self.table.heads, -1) * heads).flatten()
        for axis, kv in self.table.kv_axes.items():  # a key or a value is needed where a head that shares it needs it
            needed = (product[axis] > 0).view(self.table.kv_heads, -1, self.table.head_dim).any(dim=1)
            product[kv] = product[kv] * needed.flatten()
        return product

    def _present(self, masks: Tensor) -> dict[str, Tensor]:
        """Axis of tiled weights -> the indices that their tiles leave, `(size of the axis,)` bool."""
        by_axis: dict[str, dict[Row, Tensor]] = {}
        of_heads = {kv: axis for axis, kv in self.table.kv_axes.items()}
        for group, grid in self.tiled.values():
            present, axis = self._needed(grid, masks[self.slices[group.name]]), of_heads.get(grid.axis, grid.axis)
            if axis != grid.axis:
                present = self.table.at_heads(present, axis)
            by_axis.setdefault(axis, {})[grid.parameter.row] = present
        needed = {axis: self.table.products.get(axis, [tuple(own)]) for axis, own in by_axis.items()}
        return {
            axis: torch.stack([torch.stack([own[row] for row in rows]).all(0) for rows in needed[axis]]).any(0)
            for axis, own in by_axis.items()
        }

    def _needed(self, grid: Grid, masks: Tensor) -> Tensor:
        """`(size of the inner axis,)` bool: the indices that a weight with these masks of its tiles needs."""
        present = grid.present(masks)
        if grid.axis not in self.table.rotary:
            return present
        pairs = present.view(-1, 2, self.table.head_dim // 2)
        return pairs.any(dim=1, keepdim=True).expand_as(pairs).reshape(-1)

    def read(self, masks: Tensor) -> Reading:
        """The effective masks of masks `(N,)`, computed once for all questions about them.

        Masks are read in double precision, in which the counts of parameters are exact.
        """
        masks = masks.double()
        tiles = {name: (grid, masks[self.slices[group.name]]) for name, (group, grid) in self.tiled.items()}
        return Reading(self.table, self.effective(masks), tiles)

    def _product(self, masks: Tensor, axes: Callable[[Group], Iterable[str]]) -> dict[str, Tensor]:
        product: dict[str, Tensor] = {}
        for group in self.groups:
            mask = masks[self.slices[group.name]]
            for axis in axes(group):
                own = group.spread(mask, axis)
                product[axis] = product[axis] * own if axis in product else own
        return product

    def at_parameter(self, masks: Tensor, parameter: Parameter) -> Tensor | None:
        """The factors of a parameter from the masks of its tiles: of a weight `(out, into)`, of its bias `(out,)`.

        The bias of an inner index is removed with the last tile of its row, so that a row without tiles is 0: the bias
        mask of block movement pruning. None where no mask of tiles acts.
        """
        row = parameter.row
        weight = self.table.weight(row) if isinstance(row, Linear) and not row.tied else None
        if weight is None or weight.label not in self.tiled:
            return None
        group, grid = self.tiled[weight.label]
        own = masks[self.slices[group.name]]
        if parameter is weight:
            return grid.spread(own)
        return grid.present(own) if grid.inner == 0 else None

    def filled(self, kept: Tensor) -> Tensor:
        """`(N,)` bool: the units that are stored: `kept`, closed, with all tiles in the remaining rows and columns."""
        alive, filled = self.read(kept).alive, self.closure(kept)
        for group, grid in self.tiled.values():
            filled[self.slices[group.name]] |= grid.touching(alive[grid.axis])
        return filled

    def lengths(self, masks: Tensor) -> dict[str, Tensor]:
        """Kept length of every axis and gate, `()` each, differentiable in soft masks."""
        return self.read(masks).lengths

    def parameters(self, masks: Tensor, scope: str = "prunable") -> Tensor:
        """Kept parameters, `()`: exact for masks of 0 and 1, multilinear (an expectation) for soft ones.

        Of a tiled weight the entries in kept tiles count; `filled` gives the units that are stored.

        Args:
            scope: `prunable`, `layers` or `model`, see `cost.in_scope`.
        """
        return self.read(masks).parameters(scope)

    def total(self, scope: str = "prunable") -> int:
        """Parameters of the unpruned model within a scope."""
        return cost.total(self.table, scope)

    def density(self, masks: Tensor, scope: str = "prunable") -> float:
        """Kept parameters over all parameters of the scope."""
        return self.read(masks).density(scope)

    def flops(self, masks: Tensor, tokens: int) -> float:
        """Floating point operations of the layers for one sequence of `tokens`; see `cost.flops`.

        Removed tiles inside a kept weight are zeros that are multiplied, so they count.
        """
        return self.read(masks).flops(tokens)

    def unit_cost(self) -> Tensor:
        """`(N,)` prunable parameters that are removed with each unit when it alone is removed from the full model.

        2d+1 for an FFN neuron or a VO dim, 2d+2 for a QK dim (GRAIN section 4.1.1, biases counted).
        """
        return self.marginal_cost(self.ones()).float()

    def marginal_cost(self, kept: Tensor) -> Tensor:
        """`(N,)`: the change of the number of prunable parameters when one unit is removed from `kept`, or added to it.

        Exact because the count is multilinear, except for the QK dims that return with the first VO dim of a head.
        """
        with torch.enable_grad():
            masks = kept.detach().double().requires_grad_()
            return torch.autograd.grad(self.parameters(masks), masks)[0]

    def closure(self, kept: Tensor) -> Tensor:
        """`(N,)` bool: `kept` without the units that are dead because of others.

        A head without VO dims is dead, and so are its QK dims; a head with VO but no QK dims is alive (uniform
        attention). All units behind a removed sublayer are dead. A sublayer whose heads are all dead is alive: its
        output bias still contributes. A tile is dead if all indices of the inner axis that it covers are.
        """
        alive = self.read(kept).alive
        closed = kept.clone().bool()
        for group in self.groups:
            reached = [group.by_unit(alive[site], site).any(dim=1) for site in group.sites]
            reached += [grid.touching(alive[grid.axis]) for grid in group.grids]
            closed[self.slices[group.name]] &= torch.stack(reached).any(dim=0)
        return closed


def _by_weight(groups: tuple[Group, ...]) -> dict[str, tuple[Group, Grid]]:
    """`Parameter.label` of a tiled weight -> its group, and how it is tiled.

    Raises:
        UserError: two kinds of units tile one weight.
    """
    by_weight: dict[str, tuple[Group, Grid]] = {}
    for group in groups:
        for grid in group.grids:
            if (other := by_weight.setdefault(grid.parameter.label, (group, grid))[0]) is not group:
                raise UserError(f"{other.kind} and {group.kind} tile the same weights: name one of them")
    return by_weight
