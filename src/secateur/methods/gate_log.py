"""What the log of a training says of gates, for each kind of unit: how open they are, and what moves them."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.structure.space import UnitSpace


class GateLog:
    """Averages over the gates of each kind of unit. Gradients are averaged over the steps since the last log.

    They stay on the device until they are logged.
    """

    def __init__(self, space: UnitSpace) -> None:
        self.kinds = tuple(dict.fromkeys(group.kind for group in space.groups))
        numbers = [self.kinds.index(group.kind) for group in space.groups]
        self._kind = torch.tensor(numbers).repeat_interleave(torch.tensor([group.size for group in space.groups]))
        self._gradients: Tensor | None = None
        self._steps = 0

    def observe(self, gradient: Tensor | None, alive: Tensor) -> None:
        """Add the gradients `(N,)` of one step, of the gates that are `alive`; none before pruning begins."""
        if gradient is not None:
            own = self._means(gradient.abs(), alive)
            self._gradients = own if self._gradients is None else self._gradients + own
            self._steps += 1

    def take(self, open_probability: Tensor, alive: Tensor) -> dict[str, float]:
        """For each kind, `open_KIND`, the mean probability `(N,)` that a gate is open, and `gradient_KIND`.

        The latter is the mean absolute gradient of the loss, with its penalty, by log alpha since the last call. A gate
        that is not alive counts as closed, and has no gradient.
        """
        values = self._named("open_", self._means(open_probability * alive, torch.ones_like(alive)))
        if self._gradients is not None:
            values |= self._named("gradient_", self._gradients / self._steps)
        self._gradients, self._steps = None, 0
        return values

    def of_penalty(self, penalty: Tensor, log_alpha: Tensor, alive: Tensor) -> dict[str, float]:
        """For each kind, `penalty_KIND`: the mean absolute gradient of a penalty `()` by log alpha `(N,)`."""
        (gradient,) = torch.autograd.grad(penalty, log_alpha)
        return self._named("penalty_", self._means(gradient.abs(), alive))

    def _means(self, values: Tensor, counted: Tensor) -> Tensor:
        """`(kinds,)`: the mean of values `(N,)` over the units of each kind that count; 0 where none does."""
        self._kind = self._kind.to(values.device)
        sums, numbers = values.new_zeros(2, len(self.kinds))
        sums.index_add_(0, self._kind, values * counted)
        numbers.index_add_(0, self._kind, counted.to(values.dtype))
        return sums / numbers.clamp(min=1.0)

    def _named(self, prefix: str, means: Tensor) -> dict[str, float]:
        return {f"{prefix}{kind}": value for kind, value in zip(self.kinds, means.tolist(), strict=True)}
