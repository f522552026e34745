"""The mean of a model's weights over the end of its training, in place of the last weights.

At a constant learning rate the weights end somewhere around a minimum, and their mean lies nearer to it: Polyak and
Juditsky 1992 (SIAM J. Control Optim. 30(4); Ruppert found it too); for networks Izmailov et al. 2018
(arXiv:1803.05407, algorithm 1), who average once an epoch what is averaged here after every step. Where the learning
rate falls to 0 the last weights have come to rest by themselves, and the mean of a long part lags behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Averaging(nn.Module):
    """The uniform mean of the trainable weights after each of the last steps. A checkpoint of it is `mean`.

    What is frozen has no mean and no copy. Nothing that counts steps is kept: the caller's step says how many weights
    the mean is of.

    Attributes:
        mean: `(P,)` float32, of all trainable parameters end to end; 0 before the first step that counts.

    Args:
        model: whose weights; they keep their number, shapes and places.
        part: the last part of all steps, in (0, 1]; at least one step counts.
    """

    mean: Tensor

    def __init__(self, model: nn.Module, part: float) -> None:
        super().__init__()
        self.part = part
        self._weights: Sequence[nn.Parameter] = [weight for weight in model.parameters() if weight.requires_grad]
        size = sum(weight.numel() for weight in self._weights)
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float32, device=next(model.parameters()).device))

    @torch.no_grad()
    def add(self, step: int, steps: int) -> None:
        """Count the weights as they are after `step` of `steps`, from 1; before its part of them does nothing."""
        if count := self._counted(step, steps):
            for mean, weight in self._pairs():
                mean.lerp_(weight.float(), 1 / count)

    @torch.no_grad()
    def take(self, step: int, steps: int) -> None:
        """Make the mean the model's weights; those that it has stay if training ended before any counted."""
        if self._counted(step, steps):
            for mean, weight in self._pairs():
                weight.copy_(mean)

    def _counted(self, step: int, steps: int) -> int:
        """Of how many steps the mean is after `step`."""
        return max(0, step - steps + max(1, round(self.part * steps)))

    def _pairs(self) -> Iterator[tuple[Tensor, nn.Parameter]]:
        """Each weight after its mean, which is a view of `mean`."""
        means = self.mean.split([weight.numel() for weight in self._weights])
        for mean, weight in zip(means, self._weights, strict=True):
            yield mean.view_as(weight), weight
