"""Iterative pruning by head importance (Michel, Levy and Neubig, NeurIPS 2019, arXiv 1905.10650).

Equations, as in the code of differentiable subset pruning (Li et al., TACL 2021), which compares with this method:
    eq. 2   importance of a head: the expected |dL/dm| at its mask m = 1                               `observe`
    sec 4.1 the importance is divided by the L2 norm of its layer's                                    `normalised`
    sec 4.1 the least important heads are removed, a fixed number at a time                            `step`
    code    importance is estimated again after each removal, with the present masks (`exact_pruning`) `exact`

Where the default differs from that code:
    1. A removed unit counts as 0 in the norm of its layer (`faithful`: its gradient, which is rarely 0, counts).
    2. The absolute value of the gradient of each step is summed. The published code does so for BERT, with batches;
       for translation it sums signed gradients, in which batches of opposite sign cancel (`signed`).
    3. The importance is that of the labels and logits terms of the loss, whichever the run has.
    4. A removal follows after a part of the run; in the published code after a pass over the training set.
The published code also rescales the importance to [0, 1] and divides it by the number of tokens, which does not change
the ranking. Kinds with one unit in each layer (sublayers) are normalised over all layers, because their own norm would
make all of them equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.method import Amount, finite
from secateur.methods.options import truth
from secateur.methods.rounds import CoarseRound
from secateur.methods.scheduled import Scheduled
from secateur.methods.schedules import Schedule, linear
from secateur.system.errors import UserError
from secateur.system.model_state import device_of

SMALLEST_NORM = 1e-20  # is added to a norm
ROUNDING = 1e-9  # tolerance of shares


def normalised(space: Space, importance: Tensor) -> Tensor:
    """`(N,)`: the importance of each unit over the L2 norm of its layer's."""
    result = torch.zeros_like(importance)
    for rows in _normalised_together(space):
        result[rows] = importance[rows] / (torch.linalg.vector_norm(importance[rows]) + SMALLEST_NORM)
    return result


def _normalised_together(space: Space) -> Iterator[Tensor]:
    """Indices of units that share a norm: those of a group, or of all groups of a kind with one unit each."""
    singles: dict[str, list[Tensor]] = {}
    numbers = torch.arange(len(space), device=device_of(space.model))
    for group, rows in space.by_group(numbers):
        if group.size > 1:
            yield rows
        else:
            singles.setdefault(group.kind, []).append(rows)
    yield from (torch.cat(rows) for rows in singles.values())


@register("michel")
class Michel(Scheduled):
    """Removes the least important units, a fixed number at a time, by |d(loss)/d(mask)| within their layer.

    Args:
        space: usually `Space(model, "head")`; any units work.
        density: the schedule. It is followed in steps of `step` units; each step is taken as soon as it begins.
        rounds: as of `Scheduled`.
        step: units that are removed at a time, on average where units differ in size; by default a twelfth
            (paper: 12 of BERT's 144 heads, 4 of 72 in translation).
        exact: estimate the importance again after each removal; if not, that of the whole model decides all of them.
        normalise: divide by the norm of the layer.
        signed: sum signed gradients, as published for translation.
        faithful: removed units count in the norm of their layer.

    Attributes:
        importance: `(N,)`, summed since the last removal; if not `exact`, since the beginning, or the recovery from
            coarse rounds.
        step_share: the share of the budget that `step` units have.

    Raises:
        UserError: the share is out of reach, or `step` is not a number of units of the space.
    """

    importance: Tensor

    renamed_state = {"heard": "importance"}
    defaults = {
        "target.units": ("head",),
        "method.train": "scores",
        "method.begin": 0.03,
        "method.end": 0.25,
        "distillation.temperature": 4.0,
    }

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        rounds: Sequence[CoarseRound] = (),
        *,
        step: int | None = None,
        exact: bool = True,
        normalise: bool = True,
        signed: bool = False,
        faithful: bool = False,
    ) -> None:
        super().__init__(space, share, density, rounds)
        step = math.ceil(len(space) / 12) if step is None else step
        if type(step) is not int or not 1 <= step <= len(space):
            raise UserError(f"step is {step!r}: expected a whole number of units from 1 to {len(space)}")
        self.step = step
        self.exact, self.normalise = truth("exact", exact), truth("normalise", normalise)
        self.signed, self.faithful = truth("signed", signed), truth("faithful", faithful)
        self.step_share = step * (1.0 - space.floor()) / len(space)
        self.register_buffer("importance", torch.zeros_like(self.alive, dtype=torch.float))

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """A straight line: the same number of optimizer steps between removals."""
        return linear(1.0, density, begin=begin, end=end)

    @property
    def listens_to(self) -> Mapping[str, float]:
        target = self._target_share()
        decided = target <= self.share_schedule.stop or (target < self.share_schedule.start and not self.exact)
        if decided or self.recovering:
            return {}
        return {"labels": 1.0, "logits": 1.0}

    def observe(self, gradient: Tensor) -> None:
        gradient = finite(gradient)
        self.importance += gradient if self.signed else gradient.abs()

    def _target_share(self) -> float:
        """The share after the step of `step` units that the schedule is in."""
        start = self.share_schedule.start
        passed = (start - self.share_schedule(self.progress)) / self.step_share
        target = start - math.ceil(passed - ROUNDING) * self.step_share
        return target if target > self.share_schedule.stop + ROUNDING else self.share_schedule.stop

    def reached_target(self) -> bool:
        return self._target_share() == self.share_schedule.stop

    def remove_units(self) -> None:
        before = self.alive.clone()
        self.advance_rounds(self.progress)
        if (target := self._target_share()) < self.space.share(self.alive) - ROUNDING:
            self.keep_within(target)
        if self.exact and not torch.equal(self.alive, before):
            self.forget_evidence()

    def forget_evidence(self) -> None:
        self.importance.zero_()

    def scores(self) -> Tensor:
        """`(N,)`: the importance since the last removal, normalised."""
        importance = self.importance if self.faithful else self.importance * self.alive
        return normalised(self.space, importance) if self.normalise else importance
