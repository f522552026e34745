"""Methods that remove units along a schedule and never restore one."""

from __future__ import annotations

from secateur.methods.method import Method


class Scheduled(Method):
    """Keeps the highest-scored units within the share that the schedule returns for the present progress."""

    def reached_target(self) -> bool:
        return self.share_schedule(self.progress) == self.share_schedule.stop

    def advance(self, progress: float) -> None:
        super().advance(progress)
        share = self.share_schedule(progress)
        if share < 1.0 and share < self.space.share(self.alive):
            self.alive.copy_(self.space.choose(self.scores(), share, alive=self.alive))
