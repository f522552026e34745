"""Modules that replace stock ones where sublayers or all their units are removed, or embeddings are factorised."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Bias(nn.Module):
    """A Linear of which only the bias remains: its sublayer has no units, but its output bias still contributes."""

    def __init__(self, size: int, like: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(like.new_empty(size))
        self.register_buffer("weight", like.new_empty(size, 0))  # no stock model accepts this shape, see `Zero`

    def forward(self, input: Tensor) -> Tensor:
        return self.bias.expand(*input.shape[:-1], -1)


class Zero(nn.Module):
    """The output of a removed sublayer: a scalar 0, which the residual connection adds.

    The empty `weight` makes a stock model refuse the checkpoint; transformers only warns of a missing tensor. In
    training the 0 is a sum over an input of width 0, so that the modules before it, such as a norm, have a gradient of
    0, as in the masked model. Without any gradient, optimizers would skip their weights.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", like.new_empty(0, 0))

    def forward(self, input: Tensor) -> Tensor:
        return input.sum() if input.requires_grad else input.new_zeros(())


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
        return input_tensor


class Empty(nn.Module):
    """A Linear without outputs: `(..., any)` to `(..., 0)`."""

    def forward(self, input: Tensor) -> Tensor:
        return input[..., :0]


class FactorisedEmbedding(nn.Module):
    """Word embeddings as a table `(rows, rank)` and a projection to `(size,)` without bias (GRAIN, section 4.4)."""

    def __init__(self, rows: int, size: int, rank: int, padding_idx: int | None, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, rank, padding_idx=padding_idx, **options)
        self.projection = nn.Linear(rank, size, bias=False, **options)

    @classmethod
    def like(cls, stock: nn.Embedding, rank: int) -> FactorisedEmbedding:
        """An embedding with the shape, device and type of a stock one, but not its values."""
        options = {"device": stock.weight.device, "dtype": stock.weight.dtype}
        return cls(stock.num_embeddings, stock.embedding_dim, rank, stock.padding_idx, **options)

    @property
    def weight(self) -> Tensor:
        """The product `(rows, size)`, for code that reads the shape of an embedding."""
        return self.table.weight @ self.projection.weight.T

    def forward(self, input: Tensor) -> Tensor:
        return self.projection(self.table(input))
