"""Methods that remove units along a schedule, and never bring one back."""

from __future__ import annotations

from secateur.methods.method import Method


class Scheduled(Method):
    """Keeps the best-scored units within the share that the schedule gives for the progress made."""

    def settled(self) -> bool:
        return self.asked(self.progress) == self.asked.stop

    def advance(self, progress: float) -> None:
        super().advance(progress)
        share = self.asked(progress)
        if share < 1.0 and share < self.space.share(self.alive):
            self.alive.copy_(self.space.choose(self.scores(), share, alive=self.alive))
