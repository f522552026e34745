"""All prunable units of one model, end to end in one flat vector of length N: masks, scores and gradients are `(N,)`.

A unit lives or dies as one; a group is a row of units. `effective(axis) = product over the groups acting on the axis of
mask.repeat_interleave(width)` is the whole algebra: counts, masks at their sites and cuts are read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure import cost
from secateur.structure.architecture import Parameter, Table, find
from secateur.structure.reading import Reading
from secateur.structure.tiles import EXAMPLES, Grid, grids, is_tiled
from secateur.system.errors import UserError


@dataclass(frozen=True)
class Group:
    """A row of units of one kind.

    `axes` gives how many consecutive indices of each axis one unit covers; `sites` are those axes among them at which
    its mask is multiplied (a head covers QK and VO dims, and its mask acts on the VO dims alone). Units that are tiles
    cover no index, but a part of each weight in `grids`, at which their masks act.
    """

    name: str
    kind: str
    size: int
    axes: Mapping[str, int]
    sites: tuple[str, ...]
    grids: tuple[Grid, ...] = ()


def _ffn(table: Table) -> list[Group]:
    """Neurons of the feed-forward networks."""
    return [_one_axis(table, "ffn", layer) for layer in table.layers]


def _qk(table: Table) -> list[Group]:
    """Dimensions of queries and keys, each head's own."""
    return [_one_axis(table, "qk", attention.block) for attention in table.attentions]


def _vo(table: Table) -> list[Group]:
    """Dimensions of values, each head's own."""
    return [_one_axis(table, "vo", attention.block) for attention in table.attentions]


def _one_axis(table: Table, name: str, block: str) -> Group:
    axis = f"{block}.{name}"
    return Group(axis, name, table.sizes[axis], {axis: 1}, (axis,))


def _head(table: Table) -> list[Group]:
    """Whole attention heads."""

    def group(block: str) -> Group:
        axes = {f"{block}.vo": table.head_dim, f"{block}.qk": table.head_dim}
        return Group(f"{block}.head", "head", table.heads, axes, (f"{block}.vo",))

    return [group(attention.block) for attention in table.attentions]


def _sublayer(table: Table) -> list[Group]:
    """Whole attentions and whole feed-forward networks."""
    return [Group(one.gate, "sublayer", 1, {one.gate: 1}, (one.gate,)) for one in table.sublayers]


def _layer(table: Table) -> list[Group]:
    """Whole layers, attentions and feed-forward network at once."""

    def group(layer: str) -> Group:
        gates = tuple(one.gate for one in table.sublayers if one.layer == layer)
        return Group(f"{layer}.layer", "layer", 1, dict.fromkeys(gates, 1), gates)

    return [group(layer) for layer in table.layers]


def _hidden(table: Table) -> list[Group]:
    """Dimensions of the residual stream."""
    return [Group("hidden", "hidden", table.sizes["hidden"], {"hidden": 1}, ("hidden",))]


def _tiles(table: Table, kind: str) -> list[Group]:
    """Rectangles of the weights of attentions or of feed-forward networks, by their size."""
    return [Group(name, kind, prod(own[0].shape), {}, (), own) for name, own in grids(table, kind).items()]


UNITS: Mapping[str, Callable[[Table], list[Group]]] = {
    "ffn": _ffn,
    "qk": _qk,
    "vo": _vo,
    "head": _head,
    "sublayer": _sublayer,
    "layer": _layer,
    "hidden": _hidden,
}


SIZED = ("ffn", "qk", "vo", "hidden")
"""Kinds of units that are dims of a size: what `round_to` makes multiples of."""


class Cost(Protocol):
    """What a space counts in place of parameters, such as milliseconds (`latency.LatencyTable`).

    A share is what the kept units cost over what the unpruned model costs, in (0, 1]: where parameters are counted it
    is the density.
    """

    def share(self, space: Space, kept: Tensor) -> float:
        """The share that `kept` `(N,)` costs."""

    def check(self, space: Space, share: float) -> None:
        """Refuse a share that is no fraction or that the space cannot reach, naming the floor."""

    def keep(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """`(N,)` bool, closed: of the units `alive` those worth most within a share."""

    def verdict(self, space: Space, kept: Tensor, share: float | None) -> dict[str, Any] | None:
        """What a plan says of it: asked, predicted, and how it was measured; plain values. None: nothing."""


class Space:
    """The prunable units of a model, in the order in which the kinds are named, each layer by layer.

    Args:
        cost: what `keep` counts; parameters by default.
        round_to: sizes that `keep` leaves are multiples of this (or whole): an FFN's neurons, the stream's dims, and
            each head's QK and VO dims.

    Example:
        >>> space = Space(model, "ffn", "qk", "vo")
        >>> kept = space.keep(scores, density=0.05)     # (N,) bool
        >>> space.density(kept)                         # at most 0.05

    Raises:
        UserError: an unknown kind of unit, tiles that do not fit, a `round_to` below 1 or with tiles, or a model that
            `architecture.find` refuses.
    """

    def __init__(self, model: PreTrainedModel, *units: str, cost: Cost | None = None, round_to: int = 1) -> None:
        names = units or ("ffn", "qk", "vo")
        unknown = [name for name in names if name not in UNITS and not is_tiled(name)]
        if unknown or len(set(names)) < len(names):
            raise UserError(
                f"units {names} are not a choice from {', '.join(UNITS)}, each at most once, or tiles "
                f"such as {', '.join(EXAMPLES)}"
            )
        if round_to < 1:
            raise UserError(f"round_to {round_to} is below 1: sizes are rounded up to a multiple of it, 1 leaves them")
        if round_to > 1 and any(map(is_tiled, names)):
            raise UserError(f"round_to {round_to} knows no tiles, whose own size decides: leave one of them out")
        self.model = model
        self.cost, self.round_to = cost, round_to
        self.units = tuple(names)
        self.table = find(model)
        self.groups = tuple(
            group
            for name in names
            for group in (_tiles(self.table, name) if is_tiled(name) else UNITS[name](self.table))
        )
        self.tiled = _by_weight(self.groups)
        ends = torch.tensor([group.size for group in self.groups]).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        self.slices = {g.name: slice(a, b) for g, a, b in zip(self.groups, starts, ends, strict=True)}

    def __len__(self) -> int:
        return sum(group.size for group in self.groups)

    def ones(self) -> Tensor:
        """`(N,)` of ones on the model's device: everything kept."""
        return torch.ones(len(self), device=self.model.device)

    def at_sites(self, masks: Tensor) -> dict[str, Tensor]:
        """What multiplies the activations at each site: axis -> `(size,)`, a sublayer's gate -> `(1,)`."""
        return self._product(masks, lambda group: {site: group.axes[site] for site in group.sites})

    def effective(self, masks: Tensor) -> dict[str, Tensor]:
        """How much of each index is there: axis -> `(size,)`, gate -> `(1,)`.

        A gate counts into the axes behind it, a head without VO dims has no QK dims, and an index is not there for
        which one of the weights on its axis has no tile.
        """
        product = self._product(masks, lambda group: group.axes)
        for name, size in self.table.sizes.items():
            product.setdefault(name, masks.new_ones(size))
        for group, grid in self.tiled.values():
            product[grid.axis] = product[grid.axis] * grid.present(masks[self.slices[group.name]])
        for sublayer in self.table.sublayers:
            gate = product.setdefault(sublayer.gate, masks.new_ones(1))
            for axis in sublayer.axes:
                product[axis] = product[axis] * gate
        for attention in self.table.attentions:
            qk, vo = f"{attention.block}.qk", f"{attention.block}.vo"
            heads = (product[vo] > 0).view(self.table.heads, -1).any(dim=1)
            product[qk] = product[qk] * heads.repeat_interleave(self.table.head_dim)
        return product

    def read(self, masks: Tensor) -> Reading:
        """The effective masks `(N,)` and everything that follows from them: ask one reading all questions about them.

        Masks are read in double precision, in which the counts of parameters are exact.
        """
        masks = masks.double()
        tiles = {name: (grid, masks[self.slices[group.name]]) for name, (group, grid) in self.tiled.items()}
        return Reading(self.table, self.effective(masks), tiles)

    def _product(self, masks: Tensor, axes: Callable[[Group], Mapping[str, int]]) -> dict[str, Tensor]:
        product: dict[str, Tensor] = {}
        for group in self.groups:
            mask = masks[self.slices[group.name]]
            for axis, width in axes(group).items():
                wide = mask.repeat_interleave(width) if width > 1 else mask
                product[axis] = product[axis] * wide if axis in product else wide
        return product

    def at_parameter(self, masks: Tensor, parameter: Parameter) -> Tensor | None:
        """What the tiles multiply a parameter by: a weight `(out, into)`, and the bias of its inner rows `(out,)`.

        A bias goes with the last tile of its row, so that a row without tiles is 0: the bias mask of block movement
        pruning. None where there are no tiles.
        """
        weight = f"{parameter.name.rpartition('.')[0]}.weight"
        if weight not in self.tiled:
            return None
        group, grid = self.tiled[weight]
        own = masks[self.slices[group.name]]
        if parameter.name == weight:
            return grid.spread(own)
        return grid.present(own) if grid.inner == 0 else None

    def filled(self, kept: Tensor) -> Tensor:
        """`(N,)` bool: `kept`, closed, with all tiles that lie in what it leaves: what dense modules store of it."""
        alive, filled = self.read(kept).alive, self.closure(kept)
        for group, grid in self.tiled.values():
            filled[self.slices[group.name]] |= grid.touching(alive[grid.axis])
        return filled

    def lengths(self, masks: Tensor) -> dict[str, Tensor]:
        """Kept length of every axis and gate, `()` each, differentiable in soft masks."""
        return self.read(masks).lengths

    def parameters(self, masks: Tensor, scope: str = "prunable") -> Tensor:
        """Kept parameters, `()`: exact for masks of 0 and 1, multilinear (an expectation) for soft ones.

        A tiled weight counts what lies in kept tiles; what is stored of it is `filled`.

        `scope`: `prunable`, `layers` or `model`, see `cost.counts`.
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

        Tiles that are gone from a weight that is left are zeros in it, and are multiplied.
        """
        return self.read(masks).flops(tokens)

    def unit_cost(self) -> Tensor:
        """`(N,)` prunable parameters that go with each unit when it alone is removed from the full model.

        2d+1 for an FFN neuron or a VO dim, 2d+2 for a QK dim (GRAIN section 4.1.1, biases counted).
        """
        return self.marginal_cost(self.ones()).float()

    def marginal_cost(self, kept: Tensor) -> Tensor:
        """`(N,)` prunable parameters that go with each unit when it alone leaves `kept`, or come when it joins.

        Exact, for the count is multilinear, but for the QK dims that the first VO dim of a dead head revives.
        """
        with torch.enable_grad():
            masks = kept.detach().double().requires_grad_()
            return torch.autograd.grad(self.parameters(masks), masks)[0]

    def closure(self, kept: Tensor) -> Tensor:
        """`(N,)` bool: `kept` without the units that are dead because of others.

        A head without VO dims is dead and takes its QK dims; one with VO but no QK dims lives (uniform attention).
        A removed sublayer takes all that is behind it. All heads dead is not the sublayer dead: its bias still speaks.
        A tile dies with the indices of the inner axis that it lies on.
        """
        alive = self.read(kept).alive
        closed = kept.clone().bool()
        for group in self.groups:
            reached = [alive[site].view(group.size, -1).any(dim=1) for site in group.sites]
            reached += [grid.touching(alive[grid.axis]) for grid in group.grids]
            closed[self.slices[group.name]] &= torch.stack(reached).any(dim=0)
        return closed

    def floor(self) -> float:
        """The lowest density that these units can reach: everything removed that may be."""
        return self.density(self._prefix(torch.zeros(len(self)), 0))

    def share(self, masks: Tensor) -> float:
        """The part of the unpruned model that is left, as `keep` counts it: the density, or the share of `cost`."""
        return self.density(masks) if self.cost is None else self.cost.share(self, masks)

    def keep(self, scores: Tensor, density: float, alive: Tensor | None = None, *, filled: bool = False) -> Tensor:
        """`(N,)` bool: the highest-scored units, as many as fit into `density` after `closure` and rounding.

        The achieved density is at most the one asked for; what the closure frees goes to the next units in rank. Units
        that are not `alive` are never kept, and where it is to be `filled`, the zeros between tiles count as well. One
        hidden dim at least stays. What is kept is a prefix of the ranking (and
        what rounds it up): a unit that does not fit ends it, so large units (sublayers) high in it can leave the
        density far below. A space with a `cost` takes the share of it in place of the density, and the units that are
        worth most for it.

        Raises:
            UserError: `density` is outside (0, 1] or below the floor of the space.
        """
        self.check(density)
        alive = torch.ones_like(scores, dtype=torch.bool) if alive is None else alive
        if self.cost is not None:
            return self.cost.keep(self, scores.detach().double(), density, alive)
        ranked = _ranked(scores).masked_fill(~alive, -torch.inf)
        return self._prefix(ranked, self._most(ranked, density, filled)) & alive

    def above(self, scores: Tensor, density: float, *, filled: bool = False) -> Tensor:
        """`(N,)` bool: what `keep` keeps, by parameters, and the units of as high a score that others make dead.

        Closed, a unit whose return takes another's would not come back: both would be 0, and neither's gradient would
        tell of it.
        """
        self.check(density)
        ranked = _ranked(scores)
        count = self._most(ranked, density, filled)
        return self._keep_first(ranked, count) | self._prefix(ranked, count)

    def _most(self, ranked: Tensor, density: float, filled: bool) -> int:
        """How many of those that are not at -inf in `ranked` fit into `density`, the highest first."""
        prefix = partial(self._prefix, ranked)
        whole = (lambda count: self.filled(prefix(count))) if filled else prefix
        return self._longest(whole, int((ranked > -torch.inf).sum()), density)

    def _prefix(self, ranked: Tensor, count: int) -> Tensor:
        """`(N,)` bool, closed: the `count` highest of `ranked`, and what rounds their sizes up."""
        return self.closure(self.rounded(self._keep_first(ranked, count), ranked))

    def rounded(self, kept: Tensor, ranked: Tensor) -> Tensor:
        """`(N,)` bool: `kept` and, of the units that died alone, the highest of `ranked` that round every size up.

        Sizes become multiples of `round_to`, or all units that are not at -inf in `ranked`. Heads and networks that
        are dead stay dead, and a head without QK dims stays without.
        """
        if self.round_to == 1:
            return kept
        kept = self.closure(kept)
        for group in self.groups:
            if group.kind in SIZED:
                rows = self.slices[group.name]
                parts = self.table.heads if group.kind in ("qk", "vo") else 1
                sizes = (kept[rows].view(parts, -1), ranked[rows].view(parts, -1))
                kept[rows] = _rounded_up(*sizes, self.round_to).flatten()
        return kept

    def fill(self, kept: Tensor, scores: Tensor, density: float) -> Tensor:
        """`(N,)` bool: `kept`, and of the other units the highest-scored ones that still fit into `density`.

        Unlike `keep` it passes over what does not fit: afterwards no unit that would cost parameters fits any more, but
        for those at -inf in `scores`, which are never added.
        """
        kept, refused = kept.clone(), scores == -torch.inf
        while True:
            cost, room = self.marginal_cost(kept), density * self.total() - float(self.parameters(self.closure(kept)))
            fitting = (~kept & ~refused & (cost > 0.5) & (cost <= room + 1e-6)).nonzero().flatten()
            if not len(fitting):
                return kept
            best = fitting[scores[fitting].argsort(descending=True, stable=True)]
            if count := self._longest(partial(_with, kept, best), len(best), density):
                kept = _with(kept, best, count)
            else:
                refused[best[0]] = True

    def _longest(self, prefix: Callable[[int], Tensor], most: int, density: float) -> int:
        """The largest count up to `most` whose units `prefix(count)` fit into `density` after closure."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.density(prefix(middle)) <= density + 1e-12  # closing changes no count
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def check(self, density: float) -> None:
        """Refuse a density, or a share of the cost, that is no fraction or that these units cannot reach."""
        if self.cost is not None:
            self.cost.check(self, density)
            return
        if not 0.0 < density <= 1.0:
            raise UserError(f"density {density} is not in (0, 1]: it is the fraction of parameters to keep")
        floor = self.floor()
        if density < floor:
            raise UserError(
                f"density {density:g} is out of reach: pruning only {', '.join(self.units)} leaves at least "
                f"{floor:.4f}; raise the density or add units from {', '.join(UNITS)}"
            )

    def _keep_first(self, ranked: Tensor, count: int) -> Tensor:
        """The `count` highest of `ranked`, ties in the order of the space.

        The best hidden dim is kept whatever the count.
        """
        order = torch.argsort(ranked, descending=True, stable=True)
        kept = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
        kept[order[:count]] = True
        if "hidden" in self.slices:
            rows = self.slices["hidden"]
            kept[rows.start + int(ranked[rows].argmax())] = True
        return kept


def _by_weight(groups: tuple[Group, ...]) -> dict[str, tuple[Group, Grid]]:
    """Name of a weight in tiles -> its group, and how it lies.

    Raises:
        UserError: two kinds tile one weight.
    """
    found: dict[str, tuple[Group, Grid]] = {}
    for group in groups:
        for grid in group.grids:
            if (other := found.setdefault(grid.parameter.name, (group, grid))[0]) is not group:
                raise UserError(f"{other.kind} and {group.kind} tile the same weights: name one of them")
    return found


def _ranked(scores: Tensor) -> Tensor:
    """`(N,)` double: units without a score come last, but before the dead."""
    return scores.detach().double().nan_to_num(nan=torch.finfo(torch.double).min)


def _rounded_up(kept: Tensor, ranked: Tensor, multiple: int) -> Tensor:
    """`(parts, n)` bool: in every part with units the next highest as well, up to a multiple of units."""
    counts, alive = kept.sum(dim=1), (ranked > -torch.inf).sum(dim=1)
    wanted = torch.minimum((counts + multiple - 1) // multiple * multiple, torch.maximum(alive, counts))
    order = ranked.masked_fill(kept, torch.inf).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) < wanted.unsqueeze(1)


def _with(kept: Tensor, units: Tensor, count: int) -> Tensor:
    """`kept` and the first `count` of the units of those numbers."""
    return kept.index_fill(0, units[:count], True)
