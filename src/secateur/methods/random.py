"""Random pruning: the baseline that every evidence must beat. The order is drawn once, from the seed."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.methods.method import register
from secateur.methods.scheduled import Scheduled
from secateur.schedules import Schedule
from secateur.space import Space


@register("random")
class Random(Scheduled):
    """Score = uniform noise, drawn at construction from `seed`, the same on every machine and rank."""

    order: Tensor

    def __init__(self, space: Space, density: Schedule | float = 1.0, *, seed: int = 0) -> None:
        super().__init__(space, density)
        noise = torch.rand(len(space), generator=torch.Generator().manual_seed(seed))
        self.register_buffer("order", noise.to(self.alive.device))

    def scores(self) -> Tensor:
        return self.order
