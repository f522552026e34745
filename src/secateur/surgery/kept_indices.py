"""Which indices of each axis a plan keeps, in the order in which they are stored, and tensors reduced to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from secateur.structure.axis_table import Parameter
from secateur.structure.head_buckets import Layout
from secateur.structure.plan import Plan
from secateur.structure.reading import Reading


def kept_indices(reading: Reading, plan: Plan) -> dict[str, Tensor]:
    """Axis -> kept indices in storage order; -1 is padding. Axes that are kept completely are left out.

    Args:
        reading: of the plan's masks.
    """
    alive, table = reading.alive, reading.table
    kept = {axis: reading.indices(axis) for axis in table.sizes if not bool(alive[axis].all())}
    for attention, layout in zip(table.attentions, plan.layouts, strict=True):
        axes = f"{attention.block}.qk", f"{attention.block}.vo"
        if any(axis in kept for axis in axes):
            sharing = reading.sharing(attention.block)
            for axis, runs in zip(axes, (2 if attention.rotary else 1, 1), strict=True):
                rows = _rows(reading.by_kv_head(axis), sharing.any(dim=1), layout, runs)
                kept[table.kv_axis(axis)] = _at(rows, reading.by_kv_head(axis), sharing.any(dim=1, keepdim=True))
                kept[axis] = _at(rows, reading.by_head(axis), sharing)
    return kept


def _rows(alive: Tensor, kept: Tensor, layout: Layout, runs: int) -> dict[int, Tensor]:
    """KV head -> its kept dims, padded with -1 to its bucket's width; the KV heads as they are stored.

    Args:
        alive: `(KV heads, head_dim)` bool.
        kept: `(KV heads,)` bool.
        runs: equal runs of a head that are padded one by one: 2 where the first half of a head's dims is rotated
            together with the second.
    """
    heads = kept.nonzero().flatten()
    widths = layout.widths(alive[heads].sum(dim=1).tolist())
    size = alive.shape[1] // runs
    rows = {}
    for bucket, width in zip(layout.buckets, widths, strict=True):
        for head in heads[list(bucket)].tolist():
            if stays_in_place(width, alive.shape[1], runs):
                rows[head] = torch.where(alive[head], torch.arange(width), -1)
                continue
            own = [run.nonzero().flatten() + number * size for number, run in enumerate(alive[head].view(runs, size))]
            rows[head] = torch.cat([functional.pad(one, (0, width // runs - len(one)), value=-1) for one in own])
    return rows


def stays_in_place(width: int, size: int, runs: int) -> bool:
    """Whether the dims of a head of that size stay where they are, with zeros for those that are removed.

    A head that is padded to its whole width has the shapes of the stock model, which then rotates it as its own.
    """
    return runs > 1 and width == size


def _at(rows: Mapping[int, Tensor], alive: Tensor, kept: Tensor) -> Tensor:
    """The stored indices of an axis, head by head the dims in `rows`, -1 for padding and for dims that are not alive.

    Args:
        rows: KV head -> its dims.
        alive: `(heads, head_dim)` bool.
        kept: `(KV heads, heads of each)` bool: the heads that share each, or itself alone.
    """
    dim, indices = alive.shape[1], []
    for number, row in rows.items():
        for head in (kept[number].nonzero().flatten() + number * kept.shape[1]).tolist():
            present = (row >= 0) & alive[head][row.clamp(min=0)]
            indices.append(torch.where(present, row + head * dim, -1))
    return torch.cat(indices) if indices else kept.new_empty(0, dtype=torch.long)


def select_kept(entry: Parameter, tensor: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
    """A tensor of the parameter's shape, reduced to the kept indices of each of its axes; padding is 0."""
    for dim, axis in enumerate(entry.axes):
        if axis is not None and axis in kept:
            tensor = select(tensor, dim, kept[axis])
    return tensor


def select_parts(parts: Sequence[Parameter], values: Iterable[Tensor], kept: Mapping[str, Tensor]) -> Tensor:
    """`select_kept` of a whole parameter, part by part.

    Args:
        parts: of the parameter, in their order (`AxisTable.tensors`).
        values: of each part, of its shape.
    """
    return torch.cat([select_kept(part, value, kept) for part, value in zip(parts, values, strict=True)])


def split_parts(
    parts: Sequence[Parameter], tensor: Tensor, stored: Mapping[str, Tensor], dim: int = 0
) -> Sequence[Tensor]:
    """The parts, as views, of a parameter that holds the `stored` indices of each axis, and all of the axes left out.

    Args:
        dim: that of the tensor on which the rows of the parts lie.
    """
    sizes = [len(stored[axis]) if (axis := part.axes[0] or "") in stored else part.shape[0] for part in parts]
    return tensor.split(sizes, dim=dim)


def select(tensor: Tensor, dim: int, indices: Tensor) -> Tensor:
    """`index_select` in which the index -1 gives zeros."""
    indices = indices.to(tensor.device)
    selected = tensor.index_select(dim, indices.clamp(min=0))
    shape = [1] * tensor.dim()
    shape[dim] = -1
    return selected * (indices >= 0).view(shape)
