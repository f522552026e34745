"""Groups: rows of units of one kind, and the axes of a model's table that each kind of units lies on.

A unit is one index of an axis, such as a neuron, several indices that live or die together, such as a head, or a tile
of a weight (`tiles`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from secateur.structure.axis_table import KV_AXES, AxisTable
from secateur.structure.tiles import EXAMPLES, Grid, grids, is_tiled
from secateur.structure.unit_names import kind_of, stack_of
from secateur.system.errors import UserError


@dataclass(frozen=True)
class Group:
    """A row of units of one kind.

    Attributes:
        axes: axis -> how many consecutive indices of it one unit covers; none for tiles.
        sites: those axes at which the mask of a unit is multiplied in the running model. A head covers QK and VO dims,
            and its mask acts on the VO dims alone.
        grids: of tiles, the weights that the units are parts of, at which their masks act.
        stride: distance between the indices of one unit: 1 if they are consecutive, half of a head if they are the two
            dims that a rotary position rotates together.
        shared: axis of the dims of heads -> how many heads in turn have the same units, those of their KV head; the
            width is that in one head.
        head_dim: dims of a head, which are repeated on these axes.
    """

    name: str
    kind: str
    size: int
    axes: Mapping[str, int]
    sites: tuple[str, ...]
    grids: tuple[Grid, ...] = ()
    stride: int = 1
    shared: Mapping[str, int] = field(default_factory=dict)
    head_dim: int = 1

    def spread(self, masks: Tensor, axis: str) -> Tensor:
        """`(size of the axis,)`: the value of each index, from those of the units, `(size,)`."""
        width, heads = self.axes[axis], self.shared.get(axis, 1)
        if width > 1:
            masks = masks.view(-1, 1, self.stride).expand(-1, width, self.stride).reshape(-1)
        if heads > 1:
            masks = masks.view(-1, 1, self.head_dim).expand(-1, heads, self.head_dim).reshape(-1)
        return masks

    def by_unit(self, values: Tensor, axis: str) -> Tensor:
        """`(size, indices)`: the values of the indices of each unit, from those of all, `(size of the axis,)`."""
        heads = self.shared.get(axis, 1)
        if heads > 1:
            values = values.view(-1, heads, self.head_dim).transpose(1, 2)
        return values.reshape(-1, self.axes[axis], self.stride, heads).transpose(1, 2).reshape(self.size, -1)


def _ffn(table: AxisTable) -> list[Group]:
    """Neurons of the feed-forward networks."""
    return [_one_axis(table, "ffn", layer) for layer in table.layers]


def _qk(table: AxisTable) -> list[Group]:
    """Dimensions of queries and keys, for each key separately; where positions are rotary, pairs of them."""
    _check_norms(table)
    return [_of_heads(table, "qk", one.block, 2 if one.rotary else 1) for one in table.attentions]


def _check_norms(table: AxisTable) -> None:
    """Refuse units that take QK dims out of a head.

    Raises:
        UserError: queries and keys are normed over all dims of their head.
    """
    if normed := next((one for one in table.attentions if one.norms), None):
        raise UserError(
            f"QK dims of {table.model_type} cannot be pruned, because {', '.join(normed.norms)} norm all dims of a "
            "head: choose from the other units, such as ffn, vo, head and hidden"
        )


def _vo(table: AxisTable) -> list[Group]:
    """Dimensions of values, for each value separately."""
    return [_of_heads(table, "vo", attention.block) for attention in table.attentions]


def _of_heads(table: AxisTable, name: str, block: str, width: int = 1) -> Group:
    """Dims of the heads of an attention, so many of each head in a unit; those of a KV head where heads share one."""
    axis, kv, dim = f"{block}.{name}", table.kv_axis(f"{block}.{name}"), table.head_dim
    shared = {axis: table.heads // table.kv_heads} if kv != axis else {}
    size, stride = table.sizes[kv] // width, dim // width if width > 1 else 1
    return Group(axis, name, size, dict.fromkeys((axis, kv), width), (axis,), (), stride, shared, dim)


def _one_axis(table: AxisTable, name: str, block: str) -> Group:
    axis = f"{block}.{name}"
    return Group(axis, name, table.sizes[axis], {axis: 1}, (axis,))


def _head(table: AxisTable) -> list[Group]:
    """Whole attention heads."""

    def group(block: str) -> Group:
        axes = {f"{block}.vo": table.head_dim, f"{block}.qk": table.head_dim}
        return Group(f"{block}.head", "head", table.heads, axes, (f"{block}.vo",))

    return [group(attention.block) for attention in table.attentions]


def _kv_head(table: AxisTable) -> list[Group]:
    """Whole keys and values with all heads that share them."""
    if not table.kv_axes:
        raise UserError(f"the heads of {table.model_type} share no keys and values: name the units head instead")
    wide = table.head_dim * table.heads // table.kv_heads

    def group(block: str) -> Group:
        axes = {f"{block}.{axis}": wide for axis in KV_AXES} | {
            f"{block}.{kv}": table.head_dim for kv in KV_AXES.values()
        }
        return Group(f"{block}.kv_head", "kv_head", table.kv_heads, axes, (f"{block}.vo",))

    return [group(attention.block) for attention in table.attentions]


def _sublayer(table: AxisTable) -> list[Group]:
    """Whole attentions and whole feed-forward networks."""
    return [Group(one.gate, "sublayer", 1, {one.gate: 1}, (one.gate,)) for one in table.sublayers]


def _layer(table: AxisTable) -> list[Group]:
    """Whole layers: their attentions and feed-forward network."""

    def group(layer: str) -> Group:
        gates = tuple(one.gate for one in table.sublayers if one.layer == layer)
        return Group(f"{layer}.layer", "layer", 1, dict.fromkeys(gates, 1), gates)

    return [group(layer) for layer in table.layers]


def _hidden(table: AxisTable) -> list[Group]:
    """Dimensions of the residual stream."""
    return [Group("hidden", "hidden", table.sizes["hidden"], {"hidden": 1}, ("hidden",))]


def tiles(table: AxisTable, kind: str) -> list[Group]:
    """Rectangles of the weights of attentions or of feed-forward networks."""
    found = grids(table, kind)
    if any(grid.axis in table.products for own in found.values() for grid in own):
        _check_norms(table)
    return [Group(name, kind, prod(own[0].shape), {}, (), own) for name, own in found.items()]


UNITS: Mapping[str, Callable[[AxisTable], list[Group]]] = {
    "ffn": _ffn,
    "qk": _qk,
    "vo": _vo,
    "head": _head,
    "kv_head": _kv_head,
    "sublayer": _sublayer,
    "layer": _layer,
    "hidden": _hidden,
}


def groups_of(table: AxisTable, name: str) -> list[Group]:
    """The groups that a name chooses: all of a kind (`ffn`), or those of one stack (`encoder.ffn`).

    Raises:
        UserError: the kind is not known, or the model has no such stack, or no units of the kind in it.
    """
    kind, stack = kind_of(name), stack_of(name)
    if kind not in UNITS and not is_tiled(kind):
        raise UserError(
            f"units {name!r} are not known: expected one of {', '.join(UNITS)}, tiles such as {', '.join(EXAMPLES)}, "
            "or one of these behind a stack of layers, such as encoder.ffn"
        )
    groups = tiles(table, kind) if is_tiled(kind) else UNITS[kind](table)
    if not stack:
        return groups
    found = [group for group in groups if stack_of(group.name) == stack]
    if not found:
        stacks = [one for one in dict.fromkeys(stack_of(layer) for layer in table.layers) if one]
        of = " or ".join(stacks) or "one stack"
        raise UserError(f"{table.model_type} has no {kind} of {stack!r} alone (its layers are of {of}): name {kind}")
    return found


def kinds_of(table: AxisTable) -> tuple[str, ...]:
    """The kinds of units that a model has, tiles apart."""
    normed = any(attention.norms for attention in table.attentions)
    absent = {"kv_head"} if not table.kv_axes else set()
    return tuple(kind for kind in UNITS if kind not in absent | ({"qk"} if normed else set()))
