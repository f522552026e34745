"""Head importance, iterative (Michel, Levy and Neubig, NeurIPS 2019, arXiv 1905.10650).

Equations, as the published code of differentiable subset pruning has them, which compares itself with this:
    eq. 2   importance of a head: the expected |dL/dm| at its mask, with masks of 1                `observe`
    sec 4.1 normalised by the L2 norm of its layer's                                               `normalised`
    sec 4.1 heads go from the least important on, so many at a time                                `step`
    code    the importance of the rest is taken anew under the present masks (`exact_pruning`)     `exact`

Where the default differs:
    1. A removed unit counts as 0 in the norm of its layer (`faithful`: its gradient counts, as it is rarely 0).
    2. The absolute value is that of a step's gradient, always; published for BERT so, of the batch, but for translation
       signed gradients are summed, and those of opposite batches cancel (`signed`).
    3. The importance is of the loss terms of the task and of the logits, whatever the recipe has of them.
    4. The next removal comes after a part of the run; published, after a pass over the training set.
Min and max of all importances are published as 0 and 1, and sums divided by the tokens: no rank changes by that.
Kinds with one unit a layer (sublayers) are normalised over all layers: their own norm would make all equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.method import Amount, Method
from secateur.methods.scheduled import Scheduled
from secateur.methods.schedules import Schedule, linear
from secateur.system.errors import UserError

SMALLEST = 1e-20  # is added to a norm


def normalised(space: Space, importance: Tensor) -> Tensor:
    """`(N,)`: every layer's importance over its L2 norm."""
    found = torch.zeros_like(importance)
    for rows in _layers(space):
        found[rows] = importance[rows] / (torch.linalg.vector_norm(importance[rows]) + SMALLEST)
    return found


def _layers(space: Space) -> Iterator[Tensor]:
    """Numbers of the units that are normalised together: a group's, or those of all groups of one unit each."""
    alone: dict[str, list[Tensor]] = {}
    numbers = torch.arange(len(space), device=space.model.device)
    for group, rows in space.by_group(numbers):
        if group.size > 1:
            yield rows
        else:
            alone.setdefault(group.kind, []).append(rows)
    yield from (torch.cat(rows) for rows in alone.values())


@register("michel")
class Michel(Scheduled):
    """Removes the least important units, so many at a time, by |d(loss)/d(mask)| within their layer.

    Args:
        space: usually `Space(model, "head")`; any units work.
        density: the schedule: its way down is taken in strides of `step` units, each when it begins.
        step: units that go at a time, on the average where they are of different sizes; by default a twelfth
            (paper: 12 of BERT's 144 heads, 4 of 72 in translation).
        exact: take the importance anew after each removal; if not, that of the whole model decides all of them.
        normalise: by layers.
        signed: sum signed gradients, as published for translation.
        faithful: removed units count in the norm of their layer.

    Raises:
        UserError: what is asked for is out of reach, or `step` is no number of units.
    """

    heard: Tensor

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
        *,
        step: int | None = None,
        exact: bool = True,
        normalise: bool = True,
        signed: bool = False,
        faithful: bool = False,
    ) -> None:
        super().__init__(space, share, density)
        step = math.ceil(len(space) / 12) if step is None else step
        if type(step) is not int or not 1 <= step <= len(space):
            raise UserError(f"step is {step!r}: expected a whole number of units from 1 to {len(space)}")
        self.step, self.exact, self.normalise = step, exact, normalise
        self.signed, self.faithful = signed, faithful
        self.stride = step * (1.0 - space.floor()) / len(space)  # the share that `step` units have
        self.register_buffer("heard", torch.zeros_like(self.alive, dtype=torch.float))

    @classmethod
    def schedule(cls, density: float, begin: float, end: float) -> Schedule:
        """A line: equally many steps between one removal and the next."""
        return linear(1.0, density, begin=begin, end=end)

    @property
    def listens_to(self) -> Mapping[str, float]:
        target = self._target()
        if target <= self.asked.stop or (target < 1.0 and not self.exact):
            return {}
        return {"labels": 1.0, "logits": 1.0}

    def observe(self, gradient: Tensor) -> None:
        self.heard += gradient if self.signed else gradient.abs()

    def _target(self) -> float:
        """The share that the schedule asks for, down to the end of the stride that it is on."""
        passed = (1.0 - self.asked(self.progress)) / self.stride
        target = 1.0 - math.ceil(passed - 1e-9) * self.stride
        return target if target > self.asked.stop + 1e-9 else self.asked.stop

    def settled(self) -> bool:
        return self._target() == self.asked.stop

    def advance(self, progress: float) -> None:
        Method.advance(self, progress)
        target = self._target()
        if target >= self.space.share(self.alive) - 1e-9:
            return
        self.alive.copy_(self.space.choose(self.scores(), target, alive=self.alive))
        if self.exact:
            self.heard.zero_()

    def scores(self) -> Tensor:
        """`(N,)`: what was heard since the last removal, normalised."""
        heard = self.heard if self.faithful else self.heard * self.alive
        return normalised(self.space, heard) if self.normalise else heard
