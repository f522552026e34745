"""Which gates have settled: those that were closed in every step of a period (an option of CoFi, beyond the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SETTLED_BELOW = 0.1
"""A gate counts as closed if its probability of being open is below this; at CoFi's lower bound it is 0.047."""


class Settling(nn.Module):
    """Observes the gates after every optimizer step, and returns those that have settled at the end of each period.

    Args:
        alive: `(N,)` bool, for the number of gates and the device.

    Attributes:
        shut: `(N,)` bool, gates closed in every step of the present period.
        idle: `(N,)` bool, gates that were closed throughout at least one period.
        reopened: `(N,)` bool, gates that have opened after having been idle.
    """

    shut: Tensor
    idle: Tensor
    reopened: Tensor

    def __init__(self, alive: Tensor) -> None:
        super().__init__()
        self.register_buffer("shut", torch.ones_like(alive))
        self.register_buffer("idle", torch.zeros_like(alive))
        self.register_buffer("reopened", torch.zeros_like(alive))

    def observe(self, open_probability: Tensor) -> None:
        """Update with the probabilities `(N,)` that gates are open."""
        self.shut &= open_probability < SETTLED_BELOW
        self.reopened |= self.idle & (open_probability >= 0.5)

    def end_period(self) -> Tensor:
        """`(N,)` bool: the gates that were closed in every step of the period; starts the next period."""
        settled = self.shut.clone()
        self.idle |= settled
        self.shut.fill_(True)
        return settled
