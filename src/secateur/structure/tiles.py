"""Tiles: units that are rectangles of a weight, for masks at the weight itself.

`attention/32x32` tiles the four weights of every attention, `ffn/32x32` those of every feed-forward network: 32 indices
of the inner axis (QK, VO, neurons) by 32 dims of the stream, whichever way the weight lies. Two sizes have names:
`attention/head` is one head by the whole stream, and `ffn/tied` one neuron by the whole stream, with one unit for its
row on the way up and its column on the way down. `1x1` prunes single weights.
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
"""The inner axes of what may be tiled, by the name that stands before the slash."""
NAMES = {"qk": ("query", "key"), "vo": ("value", "output"), "ffn": ("gate", "up", "down")}
"""What the weights on an inner axis are called, those that write to it first; a network without a gate has two."""
EXAMPLES: Mapping[str, str] = {
    "attention/32x32": "Tiles of the weights of attentions, of any size: QK or VO dims by dims of the stream.",
    "attention/head": "A head's part of each of an attention's weights.",
    "ffn/32x32": "Tiles of the weights of feed-forward networks, of any size: neurons by dims of the stream.",
    "ffn/tied": "Neurons of the feed-forward networks, masked at both weights.",
}
"""A name of each kind, and what its units are."""
NAMED = {"head": "attention", "tied": "ffn"}


@dataclass(frozen=True)
class Grid:
    """A weight `(out, into)` in tiles of `(rows, columns)`; its units are the tiles, row by row."""

    parameter: Parameter
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles below each other, and side by side."""
        out, into = self.parameter.shape
        return out // self.rows, into // self.columns

    @property
    def inner(self) -> int:
        """The dimension of the weight that lies inside the layer; the other lies on the stream."""
        return int(self.parameter.axes[0] == "hidden")

    @property
    def axis(self) -> str:
        """The inner axis."""
        return str(self.parameter.axes[self.inner])

    def spread(self, masks: Tensor) -> Tensor:
        """`(out, into)`: the mask of each weight, from those of the tiles `(units,)`."""
        (down, across), (rows, columns) = self.shape, (self.rows, self.columns)
        return masks.view(down, 1, across, 1).expand(down, rows, across, columns).reshape(self.parameter.shape)

    def sums(self, weight: Tensor) -> Tensor:
        """`(units,)`: what `(out, into)` sums to over each tile."""
        down, across = self.shape
        return weight.reshape(down, self.rows, across, self.columns).sum(dim=(1, 3)).reshape(-1)

    def present(self, masks: Tensor) -> Tensor:
        """`(size of the inner axis,)` bool: where the weight has a tile at all."""
        tiles = (masks > 0).view(self.shape).any(dim=1 - self.inner)
        return tiles.repeat_interleave((self.rows, self.columns)[self.inner])

    def touching(self, alive: Tensor) -> Tensor:
        """`(units,)` bool: the tiles that lie on one of the indices of the inner axis that are `alive`."""
        lines = alive.view(self.shape[self.inner], -1).any(dim=1)
        return lines.unsqueeze(1 - self.inner).expand(self.shape).reshape(-1)

    def count(self, masks: Tensor, lengths: tuple[Tensor, Tensor]) -> Tensor:
        """`()`: kept weights, with how much of each index is there on both axes, `(out,)` and `(into,)`."""
        down, across = (length.view(n, -1).sum(dim=1) for length, n in zip(lengths, self.shape, strict=True))
        return down @ masks.view(self.shape) @ across


def is_tiled(kind: str) -> bool:
    """Whether a name is that of tiles."""
    return "/" in kind


def grids(table: AxisTable, kind: str) -> dict[str, tuple[Grid, ...]]:
    """Group -> its weights in tiles, one weight a group; the two that a neuron ties in one.

    Raises:
        UserError: the name is none of tiles, or the tiles do not divide a weight.
    """
    part, _, size = kind.partition("/")
    wanted = _inner_by_stream(table, part, size)
    found: dict[str, tuple[Grid, ...]] = {}
    for block in table.layers if part == "ffn" else [attention.block for attention in table.attentions]:
        own = {
            f"{block}.{part}.{name}/{size}": _grid(table, row, f"{block}.{axis}", wanted)
            for axis in AXES[part]
            for name, row in _named(table, block, axis)
        }
        found |= {f"{block}.{kind}": tuple(own.values())} if size == "tied" else {n: (g,) for n, g in own.items()}
    return found


def _inner_by_stream(table: AxisTable, part: str, size: str) -> tuple[int, int]:
    """A tile's extent along the inner axis and along the stream."""
    sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
    if part not in AXES or not (sizes or NAMED.get(size) == part):
        raise UserError(f"{part}/{size} is no kind of tile: name them as in {', '.join(EXAMPLES)}")
    if sizes:
        return int(sizes[1]), int(sizes[2])
    return (table.head_dim if size == "head" else 1), table.sizes["hidden"]


def _named(table: AxisTable, block: str, axis: str) -> list[tuple[str, Linear]]:
    """The weights on an inner axis, each after its name; queries and keys have no reader of their own."""
    makers = table.makers(f"{block}.{axis}")
    rows = makers if axis == "qk" else [*makers, table.reader(f"{block}.{axis}")]
    return list(zip(NAMES[axis][-len(rows) :], rows, strict=True))


def _grid(table: AxisTable, row: Linear, axis: str, wanted: tuple[int, int]) -> Grid:
    parameter = next(p for p in table.parameters if p.row is row and len(p.axes) == 2)
    sides = wanted if row.out == axis else wanted[::-1]
    if any(whole % side for whole, side in zip(parameter.shape, sides, strict=True)):
        raise UserError(
            f"tiles of {sides[0]} x {sides[1]} do not divide {parameter.name} of {parameter.shape[0]} x "
            f"{parameter.shape[1]}: choose sizes that do"
        )
    return Grid(parameter, *sides)
