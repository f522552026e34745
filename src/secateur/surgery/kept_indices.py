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
        qk, vo = f"{attention.block}.qk", f"{attention.block}.vo"
        if qk in kept or vo in kept:
            heads = reading.heads(attention.block).nonzero().flatten()
            kept[qk] = _by_bucket(reading.by_head(qk), heads, layout, runs=2 if attention.rotary else 1)
            kept[vo] = _by_bucket(reading.by_head(vo), heads, layout)
    return kept


def _by_bucket(alive: Tensor, heads: Tensor, layout: Layout, runs: int = 1) -> Tensor:
    """Kept indices of an axis, bucket by bucket and head by head, each head padded with -1 to its bucket's width.

    Args:
        alive: `(heads of the model, head_dim)` bool.
        heads: `(kept heads,)`, their numbers.
        runs: equal runs of a head that are padded one by one: 2 where the first half of a head's dims is rotated
            together with the second.
    """
    widths = layout.widths(alive[heads].sum(dim=1).tolist())
    size = alive.shape[1] // runs
    rows = []
    for bucket, width in zip(layout.buckets, widths, strict=True):
        for head in heads[list(bucket)].tolist():
            for number, run in enumerate(alive[head].view(runs, size)):
                indices = run.nonzero().flatten() + head * alive.shape[1] + number * size
                rows.append(functional.pad(indices, (0, width // runs - len(indices)), value=-1))
    return torch.cat(rows) if rows else heads


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
