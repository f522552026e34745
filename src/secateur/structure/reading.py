"""What masks keep of a model, axis by axis: one `Reading` answers all questions about counts, sizes and indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from secateur.structure import cost
from secateur.structure.axis_table import AxisTable, layer_label
from secateur.structure.tiles import Grid


@dataclass(frozen=True, eq=False)
class Reading:
    """The effective masks of every axis and gate, computed once by `Space.read` for all questions about them.

    Attributes:
        table: the labelled table of the model.
        effective: axis -> `(size,)`, gate -> `(1,)`: see `Space.effective`.
        tiles: label of a tiled weight -> how it is tiled, and the masks `(units,)` of its tiles.

    Examples:
        >>> reading = space.read(kept)
        >>> reading.density(), reading.head_sizes(0), reading.indices("3.ffn")
    """

    table: AxisTable
    effective: Mapping[str, Tensor]
    tiles: Mapping[str, tuple[Grid, Tensor]]

    @cached_property
    def alive(self) -> dict[str, Tensor]:
        """Axis -> `(size,)` bool, gate -> `(1,)` bool: where the effective mask is not 0."""
        return {axis: values > 0 for axis, values in self.effective.items()}

    @cached_property
    def lengths(self) -> dict[str, Tensor]:
        """Kept length of every axis and gate, `()` each, differentiable in soft masks."""
        return {axis: values.sum() for axis, values in self.effective.items()}

    def parameters(self, scope: str = "prunable") -> Tensor:
        """Kept parameters, `()`: exact for masks of 0 and 1, multilinear (an expectation) for soft ones.

        Of a tiled weight the entries in kept tiles count; `Space.filled` gives the units that are stored.

        Args:
            scope: `prunable`, `layers` or `model`, see `cost.in_scope`.
        """
        return torch.as_tensor(cost.parameters(self.table, self.lengths, scope, self._tiled_counts))

    @cached_property
    def _tiled_counts(self) -> dict[str, Tensor]:
        """Label of a tiled weight, and of its bias where that does not follow -> its kept entries, `()`."""
        counts = {}
        for name, (grid, masks) in self.tiles.items():
            out, into = (self.effective[axis or ""] for axis in grid.parameter.axes)
            counts[name] = grid.count(masks, (out, into))
            if (bias := self._bias_of(grid)) is not None:
                counts[bias] = (out * grid.present(masks)).sum()
        return counts

    def _bias_of(self, grid: Grid) -> str | None:
        """Label of the bias of a tiled weight if its rows can be empty at indices that are kept.

        Other products of queries and keys keep them, or the dims that rotary positions rotate together with them.
        """
        if len(self.table.products.get(grid.axis, ())) < 2 and grid.axis not in self.table.rotary:
            return None
        return next((p.label for p in self.table.parameters if p.row is grid.parameter.row and len(p.axes) == 1), None)

    def density(self, scope: str = "prunable") -> float:
        """Kept parameters over all parameters of the scope."""
        lengths, counts = _numbers(self.lengths), _numbers(self._tiled_counts)
        return float(cost.parameters(self.table, lengths, scope, counts)) / cost.total(self.table, scope)

    def flops(self, tokens: int) -> float:
        """Floating point operations of the layers for one sequence of `tokens`; see `cost.flops`.

        Removed tiles inside a kept weight are zeros that are multiplied, so they count.
        """
        return float(cost.flops(self.table, self.lengths, tokens))

    def indices(self, axis: str) -> Tensor:
        """The kept indices of an axis, in order."""
        return self.alive[axis].nonzero().flatten()

    def by_head(self, axis: str) -> Tensor:
        """`(heads, head_dim)` bool: the kept indices of an axis such as `3.qk` or `3.vo`, head by head."""
        return self.alive[axis].view(self.table.heads, -1)

    def heads(self, block: str) -> Tensor:
        """`(heads,)` bool: the kept heads of an attention; a head without VO dims is removed."""
        return self.by_head(f"{block}.vo").any(dim=1)

    def by_kv_head(self, axis: str) -> Tensor:
        """`(KV heads, head_dim)` bool: the kept dims of the keys, `3.qk`, or of the values, `3.vo`."""
        return self.alive[self.table.kv_axis(axis)].view(self.table.kv_heads, -1)

    def sharing(self, block: str) -> Tensor:
        """`(KV heads, heads of each)` bool: the kept heads of an attention by the key and value that they share."""
        return self.heads(block).view(self.table.kv_heads, -1)

    def head_sizes(self, number: int) -> tuple[list[int], list[int]]:
        """QK dims and VO dims of each kept KV head, in order, of the attention with that number in the table.

        They are those of each kept head, unless heads share keys and values.
        """
        block = self.table.attentions[number].block
        kept = self.sharing(block).any(dim=1)
        qk, vo = (self.by_kv_head(f"{block}.{axis}")[kept].sum(dim=1).tolist() for axis in ("qk", "vo"))
        return qk, vo

    def heads_of_each(self, number: int) -> list[int]:
        """The number of kept heads that share each kept KV head: 1 of each, unless heads share keys and values."""
        return [n for n in self.sharing(self.table.attentions[number].block).sum(dim=1).tolist() if n]

    def layers_left(self) -> Tensor:
        """`(layers,)` bool: layers that keep an attention or the feed-forward network; the others are the identity."""
        gates = [[self.alive[s.gate] for s in self.table.sublayers if s.layer == layer] for layer in self.table.layers]
        return torch.stack([torch.cat(own).any() for own in gates])

    def kinds(self) -> dict[str, tuple[int, int]]:
        """Kind of attention -> how many attentions of it keep heads, and how many there are; {} where all are alike."""
        counts: dict[str, tuple[int, int]] = {}
        for attention in self.table.attentions:
            if attention.kind is not None:
                kept, total = counts.get(attention.kind, (0, 0))
                counts[attention.kind] = kept + int(self.heads(attention.block).any()), total + 1
        return counts

    def summary(self) -> list[dict[str, Any]]:
        """One row per layer: kept / total of heads, QK dims, VO dims and neurons; the residual stream in a last row.

        A second attention of a layer has a row of its own after the layer's, without neurons.
        """
        rows = [self._summary_row(block) for block in self.table.blocks]
        return [*rows, {"layer": "stream", "hidden": _kept_of_all(self.alive["hidden"])}]

    def _summary_row(self, block: str) -> dict[str, Any]:
        axes = {axis: self.alive.get(f"{block}.{axis}") for axis in ("qk", "vo", "ffn")}
        sizes = {axis: _kept_of_all(alive) for axis, alive in axes.items() if alive is not None}
        return {"layer": layer_label(block), "heads": _kept_of_all(self.heads(block)), **sizes}


def _numbers(lengths: Mapping[str, Tensor]) -> dict[str, float]:
    """The values of tensors `()`, copied from their device at once."""
    return dict(zip(lengths, torch.stack([*lengths.values()]).tolist(), strict=True)) if lengths else {}


def _kept_of_all(alive: Tensor) -> str:
    return f"{int(alive.sum())}/{len(alive)}"
