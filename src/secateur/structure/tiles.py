"""Tiles: units that are rectangles of a weight, for masks at the weight itself.

`attention/32x32` tiles the four weights of every attention, `ffn/32x32` those of every feed-forward network: 32 indices
of the inner axis (QK, VO, neurons) by 32 dims of the residual stream, in whichever order the weight has them. Two sizes
have names: `attention/head` is one head by the whole residual stream, and `ffn/tied` one neuron by the whole residual
stream, with one unit for its row of the first weight and its column of the second. `1x1` prunes single weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from secateur.structure.architecture import Linear
from secateur.structure.axis_table import AxisTable, Parameter
from secateur.system.errors import UserError

AXES = {"attention": ("qk", "vo"), "ffn": ("ffn",)}
"""Part of a layer, as in the name of a kind of tiles before the slash -> its inner axes."""
KINDS = ("", "position_")
"""Of contents, and of relative positions, where these have projections of their own."""
NAMES = {
    "qk": ("query", "key", "position_query", "position_key"),
    "vo": ("value", "output"),
    "ffn": ("gate", "up", "down"),
}
"""Names of the weights on an inner axis, those that write to it first; a network that is not gated has the last two."""
EXAMPLES: Mapping[str, str] = {
    "attention/32x32": "Tiles of the weights of attentions, of any size: QK or VO dims by dims of the residual stream.",
    "attention/head": "A head's part of each of an attention's weights.",
    "ffn/32x32": "Tiles of the weights of feed-forward networks, of any size: neurons by dims of the residual stream.",
    "ffn/tied": "Neurons of the feed-forward networks, masked at both weights.",
}
"""An example of each kind, and what its units are."""
NAMED = {"head": "attention", "tied": "ffn"}
"""Named size of a tile -> the part of a layer that it is for."""


@dataclass(frozen=True)
class Grid:
    """A weight `(out, into)` in tiles of `(rows, columns)`; its units are the tiles, row by row."""

    parameter: Parameter
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tiles along the rows and along the columns of the weight."""
        out, into = self.parameter.shape
        return out // self.rows, into // self.columns

    @property
    def inner(self) -> int:
        """The dimension of the weight, 0 or 1, on the inner axis; the other is on the residual stream."""
        return int(self.parameter.axes[0] == "hidden")

    @property
    def axis(self) -> str:
        """The inner axis."""
        return str(self.parameter.axes[self.inner])

    def spread(self, masks: Tensor) -> Tensor:
        """`(out, into)`: the mask of each entry of the weight, from the masks of the tiles `(units,)`."""
        (down, across), (rows, columns) = self.shape, (self.rows, self.columns)
        return masks.view(down, 1, across, 1).expand(down, rows, across, columns).reshape(self.parameter.shape)

    def sums(self, weight: Tensor) -> Tensor:
        """`(units,)`: the sum over each tile of a tensor `(out, into)`."""
        down, across = self.shape
        return weight.reshape(down, self.rows, across, self.columns).sum(dim=(1, 3)).reshape(-1)

    def present(self, masks: Tensor) -> Tensor:
        """`(size of the inner axis,)` bool: the indices on which the weight keeps any tile."""
        tiles = (masks > 0).view(self.shape).any(dim=1 - self.inner)
        return tiles.repeat_interleave((self.rows, self.columns)[self.inner])

    def touching(self, alive: Tensor) -> Tensor:
        """`(units,)` bool: the tiles on at least one index of the inner axis that is `alive`."""
        lines = alive.view(self.shape[self.inner], -1).any(dim=1)
        return lines.unsqueeze(1 - self.inner).expand(self.shape).reshape(-1)

    def count(self, masks: Tensor, lengths: tuple[Tensor, Tensor]) -> Tensor:
        """`()`: kept entries of the weight.

        Args:
            masks: of the tiles, `(units,)`.
            lengths: the effective masks of the indices of both axes, `(out,)` and `(into,)`.
        """
        down, across = (length.view(n, -1).sum(dim=1) for length, n in zip(lengths, self.shape, strict=True))
        return down @ masks.view(self.shape) @ across


def is_tiled(kind: str) -> bool:
    """Whether a kind of units is tiles."""
    return "/" in kind


def grids(table: AxisTable, kind: str) -> dict[str, tuple[Grid, ...]]:
    """Name of each group -> the weights that its tiles are in: one weight, or the two or three of `ffn/tied`.

    Raises:
        UserError: the kind is unknown, or its tiles do not divide a weight.
    """
    part, _, size = kind.partition("/")
    extent = _tile_extent(table, part, size)
    groups: dict[str, tuple[Grid, ...]] = {}
    for block in table.layers if part == "ffn" else [attention.block for attention in table.attentions]:
        own = {
            f"{block}.{part}.{name}/{size}": _grid(table, row, extent)
            for axis in AXES[part]
            for name, row in _named(table, block, axis)
        }
        groups |= {f"{block}.{kind}": tuple(own.values())} if size == "tied" else {n: (g,) for n, g in own.items()}
    return groups


def _tile_extent(table: AxisTable, part: str, size: str) -> tuple[int, int]:
    """The size of a tile along the inner axis and along the residual stream."""
    sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
    if part not in AXES or not (sizes or NAMED.get(size) == part):
        raise UserError(f"{part}/{size} is not a kind of tiles: expected a name such as {', '.join(EXAMPLES)}")
    if sizes:
        return int(sizes[1]), int(sizes[2])
    return (table.head_dim if size == "head" else 1), table.sizes["hidden"]


def _named(table: AxisTable, block: str, axis: str) -> list[tuple[str, Linear]]:
    """(name, row) of each weight on an inner axis; no weight reads the axis of queries and keys."""
    if axis == "qk":
        sides = zip(("query", "key"), (table.queries(f"{block}.qk"), table.keys(f"{block}.qk")), strict=True)
        found = {f"{kind}{name}": row for name, own in sides for kind, row in zip(KINDS, own, strict=False)}
        return [(name, found[name]) for name in NAMES[axis] if name in found]
    rows = [*table.makers(f"{block}.{axis}"), table.reader(f"{block}.{axis}")]
    return list(zip(NAMES[axis][-len(rows) :], rows, strict=True))


def _grid(table: AxisTable, row: Linear, extent: tuple[int, int]) -> Grid:
    parameter = table.weight(row)
    sides = extent[::-1] if row.out == "hidden" else extent
    if any(whole % side for whole, side in zip(parameter.shape, sides, strict=True)):
        raise UserError(
            f"tiles of {sides[0]} x {sides[1]} do not divide {parameter.name} of {parameter.shape[0]} x "
            f"{parameter.shape[1]}: choose sizes that do"
        )
    return Grid(parameter, *sides)
