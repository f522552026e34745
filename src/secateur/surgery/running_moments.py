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

import torch
from torch import Tensor, nn

from secateur.surgery.compensation import RIDGE, solved

DECAY = 0.9
"""What is left of the sums whenever tokens are added: the window is some ten additions long."""


class RunningMoments(nn.Module):
    """Decaying sums over tokens, with as many inputs as the Linear had before pruning.

    Attributes:
        count: `()`, of tokens.
        x: `(into,)`, of the inputs.
        xx: `(into, into)`, of their products.
    """

    count: Tensor
    x: Tensor
    xx: Tensor

    def __init__(self, into: int, like: Tensor) -> None:
        """`like`: a tensor whose device the sums have, and whose dtype, but float32 at least."""
        super().__init__()
        dtype = torch.promote_types(like.dtype, torch.float32)
        for name, shape in {"count": (), "x": (into,), "xx": (into, into)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=like.device))
        self._new: list[Tensor] = []

    def begin(self) -> None:
        """Begin to collect tokens, unless that has begun."""
        self._new = self._new or [torch.zeros_like(total) for total in (self.count, self.x, self.xx)]

    def collect(self, inputs: Tensor, columns: Tensor) -> None:
        """Collect tokens `(tokens, stored)`.

        Args:
            columns: `(stored,)`, the number of each stored input before pruning, -1 for padding.
        """
        present = columns >= 0
        values, where = inputs[:, present].to(self.x.dtype), columns[present]
        count, x, xx = self._new
        count += len(values)
        x[where] += values.sum(0)
        xx[where.unsqueeze(1), where] += values.T @ values

    def settle(self, average: Callable[[Tensor], Tensor]) -> None:
        """Add what was collected to the sums, averaged over the processes."""
        for total, new in zip((self.count, self.x, self.xx), self._new, strict=False):
            total.mul_(DECAY).add_(average(new))
        self._new = []

    def made_up(self, weight: Tensor, removed: Tensor, kept: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
        """The change of the weight `(out, into)`, 0 but for kept inputs, and of the bias `(out,)`.

        Args:
            weight: `(out, into)`, before the removal.
            removed, kept: `(into,)` bool, the inputs that leave and those that stay.
            centred: whether there is a bias; without one moments are around 0.
        """
        count = self.count.clamp(min=1)
        mean, xx = self.x / count, self.xx / count
        if centred:
            xx = xx - torch.outer(mean, mean)
        lost = weight.to(xx.dtype)[:, removed]
        change = torch.zeros_like(weight, dtype=xx.dtype)
        change[:, kept] = solved(xx[kept][:, kept], lost @ xx[removed][:, kept], RIDGE)
        return change, lost @ mean[removed] - change @ mean
