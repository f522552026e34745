"""The terms of the loss in a log line, averaged since the previous line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class TermAverages:
    """Sums of the loss terms, kept on the device until a log line needs their averages."""

    def __init__(self) -> None:
        self._of_step = False
        self.clear()

    def clear(self) -> None:
        """Forget everything, for a new log line."""
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the terms `()` of a micro-batch, by name."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        self._count += 1
        self._of_step = True

    def step_over(self) -> bool:
        """Whether terms were added since the previous call, which ended the optimizer step before."""
        computed, self._of_step = self._of_step, False
        return computed

    def take(self, average: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """`loss_NAME` of every term, averaged over micro-batches and by `average` over processes; then start anew."""
        if not self._sums:
            return {}
        means = average(torch.stack([*self._sums.values()]) / self._count).cpu()
        logs = {f"loss_{name}": float(mean) for name, mean in zip(self._sums, means, strict=True)}
        self.clear()
        return logs
