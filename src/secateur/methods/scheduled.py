"""Methods that remove units along a schedule and never restore one."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.methods.method import Method


class Scheduled(Method):
    """Keeps the highest-scored units within the share that the schedule returns for the present progress."""

    def reached_target(self) -> bool:
        return self.share_schedule(self.progress) == self.share_schedule.stop

    def advance(self, progress: float) -> None:
        super().advance(progress)
        share = self.share_schedule(progress)
        if share < 1.0 and share < self.space.share(self.alive):
            self.alive.copy_(self.space.choose(self.scores_toward_the_end(), share, alive=self.alive))

    def scores_toward_the_end(self) -> Tensor:
        """The scores, with the units first that the last share of the schedule would keep now.

        They are first anyway if all units have about one size. Among units of different sizes, a large one could
        otherwise stay until all small ones are removed, and then not fit into the last share.
        """
        scores = self.scores()
        if not self.space.mixed:
            return scores
        last = self.space.choose(scores, self.share_schedule.stop, alive=self.alive)
        return scores.masked_fill(last, torch.inf)
