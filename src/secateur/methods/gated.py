"""Methods that learn a gate for every unit: how many stay is fixed by what is asked for, which ones is learned."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.budget.units import Units, best
from secateur.methods.method import Method
from secateur.methods.schedules import Schedule, constant
from secateur.structure.space import Space
from secateur.system.errors import UserError


class Gated(Method):
    """Keeps the highest-scored units, as many as the last density of the schedule means; any of them may return.

    In a space that counts units that is a number; in another it is as many of the highest-scored as fit, those
    included that others make dead, and it may change with the scores.

    Args:
        density: the schedule of the run; a plain number is the density throughout.
        seed: of all that is drawn, the same on every rank; by default torch's own (`set_seed`).

    Raises:
        UserError: what is asked for is out of reach, or the space counts a latency.
    """

    monotone = False

    def __init__(self, space: Space, density: Schedule | float = 1.0, seed: int | None = None) -> None:
        super().__init__(space)
        if space.cost is not None and not isinstance(space.cost, Units):
            raise UserError(
                "gates are learned for a density or for a number of units: ask for one of these, or for a latency with "
                "a method that removes units along a schedule"
            )
        self.density = constant(density) if isinstance(density, int | float) else density
        space.check(self.density.stop)
        self.seed = torch.initial_seed() % 2**31 if seed is None else seed
        self.draws, self.count = 0, len(space)

    def drawn(self, bound: float) -> Tensor:
        """`(N,)` of the seed alone, uniform in (-bound, bound)."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(len(self.space), generator=generator) * 2 - 1
        return (bound * noise).to(self.space.model.device)

    @property
    def spread(self) -> float:
        """Xavier's bound for the matrix of groups x units of a group: `sqrt(6 / (rows + columns))`."""
        rows = len(self.space.groups)
        return (6.0 / (rows + len(self.space) / rows)) ** 0.5

    def uniform(self, like: Tensor) -> Tensor:
        """`(N,)` in (0, 1), drawn on the device; seed and count of draws alone decide it, on every rank alike.

        Draws are counted in training only: a rank may evaluate, or log, by itself.
        """
        generator = torch.Generator(like.device).manual_seed(self.seed * 1_000_003 + self.draws)
        self.draws += self.training
        noise = torch.rand(len(self.space), generator=generator, device=like.device, dtype=like.dtype)
        tiny = torch.finfo(like.dtype)
        return noise.clamp(tiny.tiny, 1.0 - tiny.eps)

    @property
    def begun(self) -> bool:
        """Whether anything is masked yet."""
        return self.progress >= self.density.begin

    def leading(self, share: float) -> Tensor:
        """`(N,)` bool: the highest-scored units at a density, or share of the units, with those that others kill."""
        scores = self.scores()
        if self.space.cost is not None:
            return self.space.keep(scores, share, alive=self.alive)
        return self.space.above(scores, share) & self.alive

    def advance(self, progress: float) -> None:
        super().advance(progress)
        self.count = int(self.leading(self.density.stop).sum())

    def settled(self) -> bool:
        return self.progress >= self.density.end

    def chosen(self, density: float) -> Tensor:
        return self.space.keep(self.scores(), density, alive=self.alive).float()

    def exactly(self, count: int) -> Tensor:
        return best(self.space, self.scores(), count, alive=self.alive).float()

    def get_extra_state(self) -> Tensor:
        own = torch.tensor([self.draws, self.count, self.seed], dtype=torch.double)
        return torch.cat([super().get_extra_state(), own])

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state)
        self.draws, self.count, self.seed = (int(number) for number in state[-3:])
