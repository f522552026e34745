"""Methods that remove units along a schedule of densities, and never bring one back."""

from __future__ import annotations

from secateur.methods.method import Method
from secateur.methods.schedules import Schedule, constant
from secateur.structure.space import Space


class Scheduled(Method):
    """Keeps the best-scored units at the density that the schedule gives for the progress made.

    Args:
        density: progress in [0, 1] -> density; a plain number is the final density, for use without training. Where
            the space has a `cost`, it is the share of that.
    """

    def __init__(self, space: Space, density: Schedule | float = 1.0) -> None:
        super().__init__(space)
        self.density = constant(density) if isinstance(density, int | float) else density
        space.check(self.density.stop)

    def settled(self) -> bool:
        return self.density(self.progress) == self.density.stop

    def advance(self, progress: float) -> None:
        super().advance(progress)
        target = self.density(progress)
        if target < 1.0 and target < self.space.share(self.alive):
            self.alive.copy_(self.space.keep(self.scores(), target, alive=self.alive))
