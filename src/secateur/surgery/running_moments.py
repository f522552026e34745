"""Running second moments of what a Linear reads, and the refit by them when it loses some of its inputs.

A Linear with weight W and bias b reads z, the masked activations. When the units R are removed and K stay, its new
weight and bias on K minimise, over the tokens of the recent batches,

    E |W z + b - W' z_K - b'|^2 + r |W' - W_K|^2

so that the units that stay take over what those that leave contributed. With C the covariances of z and m its means:

    W' = W_K + W_R C_RK (C_KK + r I)^-1        b' = b + W_R m_R - (W' - W_K) m_K

This is the update of optimal brain surgery for a layer's own squared error (Hassibi and Stork, 1993; Frantar and
Alistarh, NeurIPS 2022) with a ridge, all units that leave together. A unit whose mask was 0 contributed nothing, so
nothing is made up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from secateur.surgery.compensation import RIDGE, solved

DECAY = 0.9
"""What is left of the weight of older tokens whenever some are added: the window is some ten additions long."""

LEAST = 1e-30
"""The least number of tokens that is divided by."""


class Part(NamedTuple):
    """The moments of some tokens: how many they are `()`, the mean `(into,)`, and the sums of products `(into, into)`.

    Products are those of inputs less their mean: of inputs far from 0, a difference of large sums would leave noise.
    """

    tokens: Tensor
    mean: Tensor
    products: Tensor

    def around(self, mean: Tensor) -> Tensor:
        """`(into, into)`: the sums of products of inputs less another mean."""
        return torch.addr(self.products, self.tokens * (self.mean - mean), self.mean - mean)


class RunningMoments(nn.Module):
    """Moments of tokens, the older the lighter, with as many inputs as the Linear had before pruning.

    Attributes:
        count: `()`, of tokens.
        mean: `(into,)`, of the inputs.
        products: `(into, into)`, the sums of the products of inputs less their mean.
    """

    count: Tensor
    mean: Tensor
    products: Tensor

    def __init__(self, into: int, like: Tensor) -> None:
        """`like`: a tensor whose device the moments have, and whose dtype, but float32 at least."""
        super().__init__()
        dtype = torch.promote_types(like.dtype, torch.float32)
        for name, shape in {"count": (), "mean": (into,), "products": (into, into)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=like.device))
        self._new: Part | None = None

    def begin(self) -> None:
        """Begin to collect tokens, unless that has begun."""
        self._new = self._new or self._nothing()

    def collect(self, inputs: Tensor, columns: Tensor) -> None:
        """Collect tokens `(tokens, stored)`.

        Args:
            columns: `(stored,)`, the number of each stored input before pruning, -1 for padding.
        """
        assert self._new is not None
        present = columns >= 0
        values, where = inputs[:, present].to(self.mean.dtype), columns[present]
        mean, part = values.sum(0) / max(1, len(values)), self._nothing()
        values = values - mean
        part.tokens.fill_(len(values))
        part.mean[where] = mean
        part.products[where.unsqueeze(1), where] = values.T @ values
        self._new = _joined(self._new, part)

    def settle(self, average: Callable[[Tensor], Tensor]) -> None:
        """Add what was collected to the moments, averaged over the processes."""
        if self._new is None:
            return
        own, count = self._new, average(self._new.tokens)
        mean = average(own.tokens * own.mean) / count.clamp(min=LEAST)
        new = Part(count, mean, average(own.around(mean)))
        joined = _joined(Part(DECAY * self.count, self.mean, DECAY * self.products), new)
        for total, value in zip((self.count, self.mean, self.products), joined, strict=True):
            total.copy_(value)
        self._new = None

    def made_up(self, weight: Tensor, removed: Tensor, kept: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
        """The change of the weight `(out, into)`, 0 but for kept inputs, and of the bias `(out,)`.

        Args:
            weight: `(out, into)`, before the removal.
            removed, kept: `(into,)` bool, the inputs that leave and those that stay.
            centred: whether there is a bias; without one moments are around 0.
        """
        mean, xx = self.mean, self.products / self.count.clamp(min=LEAST)
        if not centred:
            xx = xx + torch.outer(mean, mean)
        lost = weight.to(xx.dtype)[:, removed]
        change = torch.zeros_like(weight, dtype=xx.dtype)
        change[:, kept] = solved(xx[kept][:, kept], lost @ xx[removed][:, kept], RIDGE)
        return change, lost @ mean[removed] - change @ mean

    def _nothing(self) -> Part:
        """The moments of no tokens."""
        return Part(torch.zeros_like(self.count), torch.zeros_like(self.mean), torch.zeros_like(self.products))


def _joined(one: Part, other: Part) -> Part:
    """The moments of the tokens of both."""
    tokens = one.tokens + other.tokens
    mean = (one.tokens * one.mean + other.tokens * other.mean) / tokens.clamp(min=LEAST)
    return Part(tokens, mean, one.around(mean) + other.around(mean))
