"""Weight averaging: the average of a model's weights over the last steps of its training, in place of the last weights.

At a constant learning rate the weights keep moving around a minimum, and their average lies nearer to it: Polyak and
Juditsky 1992 (SIAM J. Control Optim. 30(4); also found by Ruppert); for networks Izmailov et al. 2018
(arXiv:1803.05407, algorithm 1), who average once an epoch where this module averages after every step. Where the
learning rate falls to 0 the weights converge by themselves, and the average over many steps lags behind them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from secateur.system.parts import whole


class Averaging(nn.Module):
    """The uniform average of the trainable weights after each of the last steps. Its state in a checkpoint is `mean`.

    Frozen weights are not averaged and not copied. No step counter is kept: how many weights have been averaged follows
    from the step that the caller passes.

    Attributes:
        mean: `(P,)` float32, of all trainable parameters end to end; 0 before the first step that counts.

    Args:
        model: whose weights are averaged.
        part: the last part of all steps, in (0, 1]; at least one step counts.
    """

    mean: Tensor

    def __init__(self, model: nn.Module, part: float) -> None:
        super().__init__()
        self.part = part
        self._of = (model,)  # in a tuple, so that it is no submodule
        size = sum(weight.numel() for weight in self._weights())
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float32, device=next(model.parameters()).device))

    @torch.no_grad()
    def add(self, step: int, steps: int) -> None:
        """Add the weights as they are after `step`, from 1, of `steps`; before the last part of them do nothing."""
        if count := self._counted(step, steps):
            for mean, weight in self._pairs():
                mean.lerp_(whole(weight).float().to(mean.device), 1 / count)

    @torch.no_grad()
    def take(self, step: int, steps: int) -> None:
        """Set the model's weights to the average; they stay if training ended before a step counted."""
        if self._counted(step, steps):
            for mean, weight in self._pairs():
                weight.copy_(mean)

    def _counted(self, step: int, steps: int) -> int:
        """How many steps have been averaged after `step`."""
        return max(0, step - steps + max(1, round(self.part * steps)))

    def _pairs(self) -> Iterator[tuple[Tensor, nn.Parameter]]:
        """Each weight with its average, a view of `mean`."""
        weights = self._weights()
        means = self.mean.split([weight.numel() for weight in weights])
        for mean, weight in zip(means, weights, strict=True):
            yield mean.view(weight.shape), weight

    def _weights(self) -> list[nn.Parameter]:
        return [weight for weight in self._of[0].parameters() if weight.requires_grad]
