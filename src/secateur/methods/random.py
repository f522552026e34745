"""Random pruning, the baseline of all methods: the ranking is sampled once, at construction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.method import Amount
from secateur.methods.options import check_seed
from secateur.methods.rounds import CoarseRound
from secateur.methods.scheduled import Scheduled


@register("random")
class Random(Scheduled):
    """Score = uniform noise from `seed`, the same on every machine and rank; by default torch's own (`set_seed`)."""

    order: Tensor

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        rounds: Sequence[CoarseRound] = (),
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, share, density, rounds)
        check_seed(seed)
        generator = torch.Generator().manual_seed(torch.initial_seed() if seed is None else seed)
        noise = torch.rand(len(space), generator=generator)
        self.register_buffer("order", noise.to(self.alive.device))

    def scores(self) -> Tensor:
        return self.order
