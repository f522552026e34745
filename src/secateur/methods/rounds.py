"""Coarse rounds: layers or sublayers are reduced to a number of them before finer units are pruned.

A layer that is removed saves its norms, additions and calls as well as its weights, and what is left of the model can
recover from it before its heads and dims are chosen. In one ranking of all units the effect of a layer is estimated
while the others are there, and the recovery comes after all has been removed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.budget.ranking import highest, ranked
from secateur.budget.space import Space
from secateur.methods.options import number, truth
from secateur.methods.schedules import linear
from secateur.structure.unit_names import stack_of
from secateur.system.errors import UserError
from secateur.system.model_state import device_of

ROUNDING = 1e-9  # tolerance of counts
COARSE = ("layer", "sublayer")
"""Kinds of units that contain units of other kinds, and are pruned in rounds of their own, in this order."""


@dataclass(frozen=True)
class CoarseRound:
    """One kind of units is reduced to a number, one unit after the other in equal intervals.

    Attributes:
        kind: of the units, one of `COARSE`.
        keep: the number of them that is left.
        begin: progress in [0, 1] at which the removal begins: the first unit is removed one interval after it.
        end: progress, above `begin`, at which the last one is removed.
        recovered: progress, from `end` on, until which the model then recovers: methods collect no evidence between
            `end` and it, and what they collected before does not count after it (but for `obs`, whose inputs are those
            of the dense model, and `magnitude`, which collects none). By default they collect all the time.
        spread: keep units that are evenly spread over the depth of each stack, instead of those of the highest scores:
            the rule by which NASH makes a decoder shallow (Ko et al., Findings of EMNLP 2023, section 4).
    """

    kind: str
    keep: int
    begin: float
    end: float
    recovered: float | None = None
    spread: bool = False

    def recovering(self, progress: float) -> bool:
        """Whether the units have been removed, and the model recovers."""
        return self.recovered is not None and self.end <= progress < self.recovered

    def recovers_between(self, before: float, progress: float) -> bool:
        """Whether the recovery ends within a step that leads from one progress to another."""
        return self.recovered is not None and before < self.recovered <= progress

    def count(self, progress: float, total: int) -> int:
        """The number of units to keep at a progress, of `total`."""
        return math.ceil(linear(total, self.keep, begin=self.begin, end=self.end)(progress) - ROUNDING)

    def units(self, space: Space) -> Tensor:
        """`(N,)` bool: the units of its kind."""
        own = torch.zeros(len(space), dtype=torch.bool, device=device_of(space.model))
        for group, part in space.by_group(own):
            part.fill_(group.kind == self.kind)
        return own

    def kept(self, space: Space, scores: Tensor, alive: Tensor, progress: float) -> Tensor:
        """`(N,)` bool, closed: `alive`, and of the units of the kind only those of the highest scores.

        The best unit of each stack of layers is among them; if they are `spread`, those that are left in the end.
        """
        own = self.units(space)
        values = ranked(scores, own & alive)
        stacks = stacks_of(space, self.kind)
        for units, last in zip(stacks, in_proportion(self.keep, [len(units) for units in stacks]), strict=True):
            values[units[evenly_spread(last, len(units))] if self.spread else units[values[units].argmax()]] = torch.inf
        count = self.count(progress, int(own.sum()))
        return space.closure(alive & (~own | highest(values, count)))

    def check(self, space: Space) -> None:
        """Check that the round fits a space.

        Raises:
            UserError: the kind is not among its units, the number is not one of theirs, the round takes no time, or an
                option is of another type.
        """
        total = int(self.units(space).sum())
        if self.kind not in COARSE or not total:
            raise UserError(
                f"a round of {self.kind!r} needs units of this kind, one of {', '.join(COARSE)}, and the space has "
                f"{', '.join(space.units)}: name it among the units"
            )
        fewest = len(stacks_of(space, self.kind))
        if type(self.keep) is not int or not fewest <= self.keep <= total:
            raise UserError(
                f"{self.keep} {self.kind}s cannot be kept: expected a whole number from {fewest} to {total}"
            )
        truth("spread in a round", self.spread)
        times = (self.begin, self.end, *([] if self.recovered is None else [self.recovered]))
        begin, end, *recovered = (number("progress in a round", time, least=0.0, most=1.0) for time in times)
        if not begin < end or any(time < end for time in recovered):
            raise UserError(
                f"a round of {self.kind!r} has begin={begin:g}, end={end:g} and recovered={self.recovered}: expected "
                "begin before end, and recovered from end on; change one of them"
            )


def in_proportion(count: int, sizes: Sequence[int]) -> list[int]:
    """How many of `count` units each stack has, in proportion to its size; at least one."""
    shares = [1] * len(sizes)
    for _ in range(count - len(sizes)):
        shares[min(range(len(sizes)), key=lambda stack: (shares[stack] + 0.5) / sizes[stack])] += 1
    return shares


def evenly_spread(count: int, total: int) -> list[int]:
    """The middle one of each of `count` equal parts of a depth: 1 and 4 of 6, the first of which is 0."""
    return [int((part + 0.5) * total / count) for part in range(count)]


def stacks_of(space: Space, kind: str) -> list[Tensor]:
    """The indices of the units of a kind in each stack of layers that has some, from the bottom up.

    Args:
        kind: one of `COARSE`.
    """
    stacks: dict[str, list[int]] = {}
    for group in space.groups:
        if group.kind == kind:
            stacks.setdefault(stack_of(group.name), []).append(space.slices[group.name].start)
    return [torch.tensor(units, device=device_of(space.model)) for units in stacks.values()]
