"""Modules that replace stock ones where sublayers or all their units are removed, or where word embeddings are thinner.

Word embeddings are thinner as a product of two factors, in int8, or both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Bias(nn.Module):
    """A Linear of which only the bias remains: its sublayer has no units, but its output bias still contributes."""

    weight: Tensor

    def __init__(self, size: int, like: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(like.new_empty(size))
        self.register_buffer("weight", like.new_empty(size, 0))  # no stock model accepts this shape, see `Zero`

    def forward(self, input: Tensor) -> Tensor:
        return _after(input, self.bias.expand(*input.shape[:-1], -1))


def _after(input: Tensor, output: Tensor) -> Tensor:
    """The output of a module whose input has width 0. In training, the modules before it get a gradient of 0.

    So they do in the masked model: without any gradient, optimizers would skip their weights. It may be a norm, or the
    embeddings of positions that all attentions read.
    """
    return output + input.sum() if input.requires_grad else output


class Zero(nn.Module):
    """The output of a removed sublayer: a scalar 0, which the residual connection adds.

    The empty `weight` makes a stock model refuse the checkpoint; transformers only warns of a missing tensor.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", like.new_empty(0, 0))

    def forward(self, input: Tensor) -> Tensor:
        return _after(input, input.new_zeros(()))


class Skip(nn.Module):
    """In place of the module that adds a sublayer to the residual stream, where the sublayer is removed.

    It returns the residual stream unchanged. Its children keep their names, so that a stock model refuses the
    checkpoint, as with the `weight` of `Zero`.
    """

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        for name, child in stock.named_children():
            self.add_module(name, child)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return _after(hidden_states, input_tensor)


class Empty(nn.Module):
    """A Linear without outputs: `(..., any)` to `(..., 0)`."""

    def forward(self, input: Tensor) -> Tensor:
        return input[..., :0]


def factor_of(stock: nn.Module) -> float:
    """The factor by which an embedding multiplies the rows that it looks up; only BART's has one other than 1."""
    return float(vars(stock).get("embed_scale", 1.0))


class QuantisedEmbedding(nn.Module):
    """Word embeddings in int8, a row at a time: row r is `scale[r] * rows[r]`.

    The rows are buffers, not parameters: they have no gradient, and the modules around them can be trained. A scale
    has 16 significant bits (`quantisation.quantised`), so that a product is exact in fp32, whatever computes it.

    Attributes:
        rows: `(rows, size)` of int8.
        scale: `(rows,)` of fp32, also in a model that is cast to another type.
        weight: `(rows, 0)`, in the type in which the model computes. No stock model accepts this shape, see `Zero`.
        embedding_dim: size of a row.
        factor: by which looked-up rows are multiplied, see `factor_of`.
    """

    rows: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, like: Tensor, factor: float = 1.0) -> None:
        """An embedding with the shape, device and type of a table `(rows, size)`, but not its values."""
        super().__init__()
        count, size = like.shape
        self.register_buffer("rows", like.new_empty(count, size, dtype=torch.int8))
        self.register_buffer("scale", like.new_empty(count, dtype=torch.float32))
        self.register_buffer("weight", like.new_empty(count, 0))
        self.embedding_dim, self.factor = size, factor

    def values(self) -> Tensor:
        """The whole table `(rows, size)`, in the type in which the model computes."""
        return (self.rows.float() * self.scale[:, None]).to(self.weight.dtype)

    def lookup(self, input: Tensor) -> Tensor:
        rows = functional.embedding(input, self.rows)
        return (rows.float() * self.scale[input].unsqueeze(-1)).to(self.weight.dtype)

    def logits(self, states: Tensor) -> Tensor:
        """`(..., size)` to `(..., rows)`, as an output layer that shares the table."""
        return functional.linear(states, self.values())

    def forward(self, input: Tensor) -> Tensor:
        return _multiplied(self.lookup(input), self.factor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedEmbedding:
        """As in PyTorch, but the scales stay in fp32."""
        scale = self.scale
        super()._apply(fn, recurse)
        if self.scale.dtype != scale.dtype:
            self.scale = scale.to(self.scale.device)
        return self


class FactorisedEmbedding(nn.Module):
    """Word embeddings as a table `(rows, rank)` and a projection to `(size,)` without bias (GRAIN, section 4.4).

    Attributes:
        weight: `(rows, 0)`. No stock model accepts this shape, see `Zero`.
    """

    table: nn.Embedding | QuantisedEmbedding
    weight: Tensor

    def __init__(
        self, rows: int, size: int, rank: int, padding_idx: int | None, factor: float = 1.0, **options: Any
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, rank, padding_idx=padding_idx, **options)
        self.projection = nn.Linear(rank, size, bias=False, **options)
        self.register_buffer("weight", torch.empty(rows, 0, **options))
        self.factor = factor

    @classmethod
    def like(cls, stock: nn.Embedding, rank: int) -> FactorisedEmbedding:
        """An embedding with the shape, device and type of a stock one, but not its values."""
        options: dict[str, Any] = {"device": stock.weight.device, "dtype": stock.weight.dtype}
        rows, size = stock.num_embeddings, stock.embedding_dim
        return cls(rows, size, rank, stock.padding_idx, factor_of(stock), **options)

    def _factor(self) -> Tensor:
        """The table `(rows, rank)`."""
        return self.table.values() if isinstance(self.table, QuantisedEmbedding) else self.table.weight

    def lookup(self, input: Tensor) -> Tensor:
        return self.projection(self.table(input))

    def logits(self, states: Tensor) -> Tensor:
        """`(..., size)` to `(..., rows)`, as an output layer that shares the table and the projection."""
        return functional.linear(functional.linear(states, self.projection.weight.T), self._factor())

    def forward(self, input: Tensor) -> Tensor:
        return _multiplied(self.lookup(input), self.factor)


Table = QuantisedEmbedding | FactorisedEmbedding


def _multiplied(rows: Tensor, factor: float) -> Tensor:
    return rows if factor == 1.0 else rows * factor


class SharedEmbedding(nn.Module):
    """An embedding that looks up the table of another, as the encoder's and the decoder's do."""

    def __init__(self, stock: nn.Module, table: Table) -> None:
        super().__init__()
        self.shared = (table,)  # a tuple: as a child, the table would have a second name among the weights
        self.factor = factor_of(stock)

    def forward(self, input: Tensor) -> Tensor:
        return _multiplied(self.shared[0].lookup(input), self.factor)


class SharedHead(nn.Module):
    """An output layer without bias whose weight is the table of an embedding."""

    def __init__(self, stock: nn.Linear, table: Table) -> None:
        super().__init__()
        self.shared = (table,)  # as in `SharedEmbedding`
        self.in_features, self.out_features = stock.in_features, stock.out_features

    def forward(self, input: Tensor) -> Tensor:
        return self.shared[0].logits(input)
