"""The labelled table of one model: each of its parameters, with the axis and the size of each dimension.

`binding.bind` makes it. What an axis is, and how axes are named, is in `architecture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from secateur.structure.architecture import VOCABULARIES, Attention, Axis, Linear, Row
from secateur.system.errors import UserError

KV_AXES = {"qk": "key", "vo": "value"}
"""Axis of the dims of heads -> that of the KV heads which several of them share."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a model, or one part of it where its rows lie on several axes in turn.

    Attributes:
        name: of the whole parameter.
        axes, shape: of each dimension of the part.
        row: what the table says of its module.
        layer: name of its layer, None outside layers.
        start: first row of the part in the whole parameter.
    """

    name: str
    axes: tuple[Axis, ...]
    shape: tuple[int, ...]
    row: Row
    layer: str | None
    start: int = 0

    @property
    def label(self) -> str:
        """Its name, with its rows where it is a part: no other in the table has the same."""
        return self.name + (f"[{self.start}:{self.start + self.shape[0]}]" if self._is_part else "")

    @property
    def _is_part(self) -> bool:
        return isinstance(self.row, Linear) and self.row.parts > 1

    def of(self, whole: Tensor) -> Tensor:
        """Its rows, as a view, of a tensor of the whole parameter's shape."""
        return whole.narrow(0, self.start, self.shape[0]) if self._is_part else whole

    @cached_property
    def inner(self) -> bool:
        """Whether a dimension lies on an axis inside a layer (qk, vo, ffn): these parameters count in the density."""
        return any(axis not in (None, "hidden", *VOCABULARIES) for axis in self.axes)


@dataclass(frozen=True)
class Sublayer:
    """An attention or a feed-forward network of a layer: its gate, and the inner axes behind the gate."""

    gate: str
    layer: str
    axes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class AxisTable:
    """An architecture bound to a model: rows with full module paths and full axis names, and the size of each axis.

    Attributes:
        sizes: of each axis but those of the vocabulary.
        vocabularies: the same of the axes of the vocabulary: `vocabulary`, and `target_vocabulary` in a model whose
            decoder has word embeddings of its own; empty in a family whose tables do not name them.
        buffers: name of each buffer along the vocabulary -> the axes of its dimensions.
        shapes: path of each Linear -> `(out, into)`.
        layers: their names, `0` or `encoder.0`; each has the axis `ffn` and the gate `mlp`.
        stacks: how many stacks of layers there are.
        heads: of each attention.
        kv_heads: the number of keys and values of each attention: that of its heads, unless several share them.
        attentions: stack by stack, and within a stack all layers of one attention before the next attention (the order
            of heads of differentiable subset pruning: encoder, cross-attention, decoder).
        sublayers: layer by layer.
        embeddings: path of the word embeddings.
    """

    model_type: str
    rows: tuple[Row, ...]
    parameters: tuple[Parameter, ...]
    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, int]]
    layers: tuple[str, ...]
    stacks: int
    heads: int
    kv_heads: int
    attentions: tuple[Attention, ...]
    sublayers: tuple[Sublayer, ...]
    embeddings: str
    vocabularies: Mapping[str, int]
    buffers: Mapping[str, tuple[Axis, ...]]

    @cached_property
    def tensors(self) -> dict[str, tuple[Parameter, ...]]:
        """Name of each parameter of the model -> its parts in their order: one, unless its rows lie on several axes."""
        parts: dict[str, tuple[Parameter, ...]] = {}
        for parameter in self.parameters:
            parts[parameter.name] = (*parts.get(parameter.name, ()), parameter)
        return parts

    @cached_property
    def modules(self) -> dict[str, tuple[Row, ...]]:
        """Path of each module -> its rows: one, unless its outputs lie on several axes in turn."""
        rows: dict[str, tuple[Row, ...]] = {}
        for row in self.rows:
            rows[row.path] = (*rows.get(row.path, ()), row)
        return rows

    def weight(self, row: Linear) -> Parameter:
        """The weight of a Linear, or of the part of one that a row is about."""
        return next(one for one in self.tensors[f"{row.path}.weight"] if one.row is row)

    @cached_property
    def rotary(self) -> frozenset[str]:
        """The axes of QK dims of which dims i and i + half of a head are rotated together."""
        axes = (f"{attention.block}.qk" for attention in self.attentions if attention.rotary)
        return frozenset(own for axis in axes for own in (axis, self.kv_axis(axis)))

    @cached_property
    def kv_axes(self) -> dict[str, str]:
        """Axis of the dims of heads (`3.qk`, `3.vo`) -> that of the KV heads which they share; empty if none do."""
        pairs = ((f"{a.block}.{own}", f"{a.block}.{kv}") for a in self.attentions for own, kv in KV_AXES.items())
        return {axis: kv for axis, kv in pairs if kv in self.sizes}

    def kv_axis(self, axis: str) -> str:
        """The axis of the KV heads for that of their heads; the axis itself where heads share none."""
        return self.kv_axes.get(axis, axis)

    def at_heads(self, values: Tensor, axis: str) -> Tensor:
        """`(size of an axis of heads,)`: values of the dims of KV heads, `(size of their axis,)`, at each head.

        They are the same where heads share none.
        """
        shared = values.view(self.kv_heads, 1, -1)
        return shared.expand(-1, self.sizes[axis] // values.numel(), -1).reshape(-1)

    @property
    def head_dim(self) -> int:
        """Dimensions of one head before pruning; the softmax scale stays that of a head of this size."""
        return self.sizes[f"{self.attentions[0].block}.vo"] // self.heads

    @property
    def blocks(self) -> tuple[str, ...]:
        """The prefixes of axis names in reading order: each layer, followed by its further attentions."""
        further = [attention.block for attention in self.attentions if attention.block not in self.layers]
        return tuple(
            block for layer in self.layers for block in (layer, *(b for b in further if b.startswith(f"{layer}.")))
        )

    def one_stack(self, what: str) -> None:
        """Refuse what is not made for encoder-decoders.

        Raises:
            UserError: the model has several stacks.
        """
        if self.stacks > 1:
            raise UserError(f"{what} of an encoder-decoder ({self.model_type}) is not supported: use an encoder alone")

    def own_words(self, what: str) -> None:
        """Refuse what is done to word embeddings in a model that has none.

        Raises:
            UserError: the table names none.
        """
        if not self.vocabularies:
            raise UserError(
                f"{what} of a {self.model_type!r} model is not possible: it has no word embeddings, or its "
                "architecture does not name them with rows='vocabulary' (docs/add-an-architecture.md); leave it out"
            )

    def writer(self, sublayer: str) -> Linear:
        """The Linear through which a sublayer (`3.attention`) writes to the residual stream."""
        return next(r for r in self.rows if isinstance(r, Linear) and r.behind == sublayer and r.out == "hidden")

    def reader(self, axis: str) -> Linear:
        """The Linear whose input lies on an inner axis (`3.vo`, `3.ffn`)."""
        return next(row for row in self.rows if isinstance(row, Linear) and row.into == axis)

    @cached_property
    def readers(self) -> dict[str, Linear]:
        """Inner axis -> the Linear whose input lies on it, which writes its sublayer's output; QK axes have none."""
        inner = {axis for sublayer in self.sublayers for axis in sublayer.axes}
        return {row.into: row for row in self.rows if isinstance(row, Linear) and row.into in inner}

    def makers(self, axis: str) -> list[Linear]:
        """The Linears whose output lies on an inner axis or that of its KV heads, in order (query first)."""
        own = {axis, self.kv_axis(axis)}
        return [row for row in self.rows if isinstance(row, Linear) and row.out in own]

    def queries(self, axis: str) -> list[Linear]:
        """The makers of an axis of QK dims that make queries, at which its masks act; the others make keys."""
        makers = self.makers(axis)
        return [row for row in makers if row.queries or row is makers[0]]

    def keys(self, axis: str) -> list[Linear]:
        """The makers of an axis of QK dims that make keys."""
        return [row for row in self.makers(axis) if row not in self.queries(axis)]

    @cached_property
    def products(self) -> dict[str, list[tuple[Row, ...]]]:
        """Axis of QK dims -> the pairs of a query and a key whose products are summed.

        Contents are compared with contents and with positions, positions only with contents.
        """
        pairs: dict[str, list[tuple[Row, ...]]] = {}
        for axis in (f"{attention.block}.qk" for attention in self.attentions):
            (query, *others), (key, *more) = self.queries(axis), self.keys(axis)
            pairs[axis] = [(query, key), *((query, other) for other in more), *((other, key) for other in others)]
        return pairs


def layer_label(layer: str) -> int | str:
    """A layer in a report: its number where that is the whole name, else its name."""
    return int(layer) if layer.isdigit() else layer
