"""Methods that remove units along a schedule and never restore one."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods.method import Amount, Method
from secateur.methods.rounds import CoarseRound
from secateur.system import compat


class Scheduled(Method):
    """Keeps the highest-scored units within the share that the schedule returns for the present progress.

    Examples:
        Two of six layers are left halfway, and the heads and dims of these from there on:

        >>> space = Space(model, "layer", "ffn", "qk", "vo")
        >>> method = Grain(
        ...     space,
        ...     density=cubic(2 / 6, 0.05, begin=0.5, end=0.55),
        ...     rounds=[CoarseRound("layer", keep=2, begin=0.0, end=0.05)],
        ... )

    Args:
        rounds: coarse rounds that come before the schedule. The units of their kinds are not pruned otherwise.

    Raises:
        UserError: a round does not fit the space.
    """

    in_rounds = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "in_rounds" not in cls.__dict__:
            cls.in_rounds = "rounds" in signature(cls.__init__).parameters  # a method of one's own may not take them

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        rounds: Sequence[CoarseRound] = (),
    ) -> None:
        super().__init__(space, share, density)
        for one in rounds:
            one.check(space)
        self.rounds = tuple(rounds)
        self._chosen = (1.0, compat.version_of(self.alive))  # the share that units were last chosen for, and which

    @property
    def recovering(self) -> bool:
        """Whether the model recovers from a coarse round, in which no evidence is collected."""
        return any(one.recovering(self.progress) for one in self.rounds)

    def reached_target(self) -> bool:
        return self.share_schedule(self.progress) == self.share_schedule.stop

    def advance(self, progress: float) -> None:
        before = self.progress
        super().advance(progress)
        self.remove_units()
        if any(one.recovers_between(before, progress) for one in self.rounds):
            self.forget_evidence()

    def remove_units(self) -> None:
        """Remove the units that coarse rounds and the schedule no longer keep at the present progress."""
        self.advance_rounds(self.progress)
        self.keep_within(self.share_schedule(self.progress))

    def forget_evidence(self) -> None:
        """Begin anew with what gradients said of units: the model has recovered from a coarse round.

        A method that observes gradients overrides this.
        """

    def keep_within(self, share: float) -> None:
        """Remove the lowest-ranked units once the schedule has begun, if the model costs more than a share."""
        begun = not self.rounds or self.progress > self.share_schedule.begin
        within, version = self._chosen
        # the host waits for a GPU only where the schedule goes on, or others were loaded
        if begun and (share < within or version != compat.version_of(self.alive)):
            if share < self.space.share(self.alive):
                last = self.share_schedule.stop
                self.alive.copy_(self.space.choose(self.ranking(), share, alive=self.alive, last=last))
            self._chosen = (share, compat.version_of(self.alive))

    def advance_rounds(self, progress: float) -> None:
        """Remove the units that the coarse rounds no longer keep."""
        for one in self.rounds:
            own = one.units(self.space)
            if int((own & self.alive).sum()) > one.count(progress, int(own.sum())):
                self.alive.copy_(one.kept(self.space, self.scores(), self.alive, progress))

    def ranking(self) -> Tensor:
        """`(N,)`: the scores, with the units of coarse rounds before all others."""
        scores = self.scores()
        for one in self.rounds:
            scores = scores.masked_fill(one.units(self.space), torch.inf)
        return scores

    def chosen(self, share: float) -> Tensor:
        masks = self.masks().detach()
        return masks * self.space.choose(self.ranking(), share, alive=masks > 0)
