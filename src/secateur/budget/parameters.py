"""Parameters as the budget, the default: a share of them is a density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.budget.budget import Budget
from secateur.budget.ranking import descending, highest, ranked, rounded, with_best_hidden
from secateur.structure.space import UNITS
from secateur.system.errors import UserError

if TYPE_CHECKING:
    from secateur.budget.space import Space

TOLERANCE = 1e-12  # of densities
FIRST, LAST = torch.finfo(torch.double).max, torch.finfo(torch.double).min
"""The values of a unit that ranks before all others of a finite score, or after them; it may be kept in either case."""
MOST_LARGE_UNITS = 32
"""Number of large units that are left out in turn, until smaller ones fit in their place."""


@dataclass(frozen=True)
class Parameters(Budget):
    """Counts the parameters that lie on axes inside layers (scope `prunable`).

    Attributes:
        count_zeros: whether the zeroed blocks that removed tiles leave inside dense weights count as parameters.
    """

    name = "parameters"
    count_zeros: bool = False

    def share(self, space: Space, masks: Tensor) -> float:
        return space.density(space.filled(masks > 0) if self.count_zeros else masks)

    def floor(self, space: Space) -> float:
        return space.density(_highest_rounded(space, torch.zeros(len(space)), 0))

    def smallest(self, space: Space) -> float:
        return space.density(_smallest(space, space.ones().double()))

    def check(self, space: Space, share: float) -> None:
        if not 0.0 < share <= 1.0:
            raise UserError(f"density {share} is not in (0, 1]: it is the fraction of parameters to keep")
        if share < (least := space.smallest if space.mixed else self.floor(space)) - TOLERANCE:
            raise _out_of_reach(space, share, f"leaves at least {least:.4f}", "raise the density")

    def check_left(self, space: Space, kept: Tensor, share: float) -> None:
        if self.share(space, kept) == 0.0:
            raise _out_of_reach(space, share, "would leave nothing of the layers", "raise the density")

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """The highest-scored units, as many as fit after closure and rounding.

        The achieved density is at most the requested one; units that are dead because of others leave room for the
        next in rank. The units kept are a prefix of the ranking, plus those that round sizes up. Where a large unit,
        such as a layer, ends the prefix more than a small unit below the density, `_refined` finds a closer choice.
        """
        values = ranked(scores, alive)
        count = self._count(space, values, share)
        kept = _highest_rounded(space, values, count)
        if self._ends_early(space, values, count, kept, share):
            kept = self._refined(space, values, share)
        return space.closure(kept) & alive

    def _ends_early(self, space: Space, values: Tensor, count: int, kept: Tensor, share: float) -> bool:
        """Whether the next unit in rank is large and there is room for a small one, or nothing is left."""
        if count == int((values > -torch.inf).sum()):
            return False
        achieved, large = self.share(space, kept), bool(space.large[descending(values)[count]])
        return achieved == 0.0 or (large and share - achieved > self._step(space))

    def _refined(self, space: Space, values: Tensor, share: float) -> Tensor:
        """`(N,)` bool: the units that come closest to a share where a large unit ends the prefix of the ranking.

        In this order, until one is within a small unit: the prefix with small units of lower rank in the place of the
        large one; the large units down to this one, with as many small units as fit; and the same at the next large
        unit that does not fit, with this one ranked last.
        """
        values, candidates = values.clone(), []
        for _ in range(MOST_LARGE_UNITS):
            count = self._count(space, values, share)
            prefix = _highest_rounded(space, values, count)
            candidates.append(self._with_smaller(space, prefix, values, share))
            if not self._ends_early(space, values, count, candidates[-1], share):
                break
            candidates.append(self._with_large(space, values, count, share))
            if share - self.share(space, candidates[-1]) <= self._step(space):
                break
            values[descending(values)[count]] = LAST
        best = max(candidates, key=lambda kept: self.share(space, kept))
        return best if self.share(space, best) > 0.0 else self._from_smallest(space, values, share)

    def _from_smallest(self, space: Space, values: Tensor, share: float) -> Tensor:
        """`(N,)` bool: a smallest model of these units, and small units that fit; for very low shares."""
        kept = _smallest(space, values)
        if self.share(space, kept) > share + TOLERANCE:
            return torch.zeros_like(kept)
        return self._with_smaller(space, kept, values, share)

    def _with_smaller(self, space: Space, kept: Tensor, values: Tensor, share: float) -> Tensor:
        """`kept`, and small units that fit; where sizes are rounded they might not stay multiples."""
        return kept if space.round_to > 1 else self.add_fitting_units(space, kept, values, share)

    def _with_large(self, space: Space, values: Tensor, count: int, share: float) -> Tensor:
        """`(N,)` bool: the large unit after a prefix, the large ones of the prefix, and as many small ones as fit.

        Units at +inf come before all of them.
        """
        within = values.masked_fill(~(space.large & highest(values, count + 1)) & (values < torch.inf), -torch.inf)
        within[descending(values)[count]] = FIRST
        first = highest(within, self._count(space, within, share))
        values = torch.where(first, torch.inf, torch.where(space.large & (values > -torch.inf), LAST, values))
        return _highest_rounded(space, values, self._count(space, values, share))

    def _step(self, space: Space) -> float:
        """The density of the largest of the small units."""
        return float(space.unit_cost()[~space.large].max()) / space.total() + TOLERANCE

    def leading(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """The alive units in the ranking of all units that `choose` keeps, or that are dead because of others.

        A method that learns its masks keeps the latter open. If they were closed too, two units that need each other
        could not return: both masks would be 0, and so would the gradients of both.
        """
        values = ranked(scores)
        count = self._count(space, values, share)
        open_units = with_best_hidden(space, highest(values, count), values)
        return (open_units | self.choose(space, scores, share, torch.ones_like(alive))) & alive

    def _count(self, space: Space, values: Tensor, density: float) -> int:
        """The number of units that fit into a density, in the order of the ranking; units at -inf are left out."""
        return self._longest(space, partial(_highest_rounded, space, values), int((values > -torch.inf).sum()), density)

    def add_fitting_units(self, space: Space, kept: Tensor, scores: Tensor, density: float) -> Tensor:
        """`(N,)` bool: `kept`, and of the other units the highest-scored ones that still fit into `density`.

        Unlike `choose` it skips units that do not fit. Afterwards no further unit that costs parameters fits, except
        those at -inf in `scores`, which are never added.
        """
        kept, refused = kept.clone(), scores == -torch.inf
        while True:
            cost, room = space.marginal_cost(kept), density * space.total() - float(space.parameters(kept))
            fitting = (~kept & ~refused & (cost > 0.5) & (cost <= room + 1e-6)).nonzero().flatten()
            if not len(fitting):
                return kept
            best = fitting[descending(scores[fitting])]
            if count := self._longest(space, partial(_with, kept, best), len(best), density):
                kept = _with(kept, best, count)
            else:
                refused[best[0]] = True

    def _longest(self, space: Space, prefix: Callable[[int], Tensor], limit: int, density: float) -> int:
        """The largest count up to `limit` whose units `prefix(count)` fit into `density`.

        The units need not be closed, because a unit that is dead because of others costs nothing.
        """
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.share(space, prefix(middle)) <= density + TOLERANCE
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def _highest_rounded(space: Space, values: Tensor, count: int) -> Tensor:
    """`(N,)` bool: the `count` highest of `values`, the best hidden dim, and the units that round sizes up."""
    return rounded(space, with_best_hidden(space, highest(values, count), values), values, space.round_to)


def _with(kept: Tensor, units: Tensor, count: int) -> Tensor:
    """`kept`, and the first `count` units of the given indices."""
    return kept.index_fill(0, units[:count], True)


def _smallest(space: Space, values: Tensor) -> Tensor:
    """`(N,)` bool: of the units that are not at -inf, a smallest model of which something is left."""
    groups = list(space.slices.values())
    return min((_reduced(space, values, order) for order in (groups, groups[::-1])), key=space.density)


def _reduced(space: Space, values: Tensor, groups: Sequence[slice]) -> Tensor:
    """`(N,)` bool: what is left when each group in turn keeps none or its best unit, as long as something is left."""
    kept = values > -torch.inf
    for rows in groups:
        best = rows.start + int(values[rows].argmax())
        for left in ([], [best]):
            fewer = kept.clone()
            fewer[rows] = False
            fewer[left] = kept[left]
            fewer = _highest_rounded(space, values.masked_fill(~fewer, -torch.inf), int(fewer.sum()))
            if space.density(fewer) > 0.0:
                kept = fewer
                break
    return kept


def _out_of_reach(space: Space, share: float, because: str, advice: str) -> UserError:
    others = ", ".join(UNITS)
    return UserError(
        f"density {share:g} is out of reach: pruning only {', '.join(space.units)} {because}; {advice} or add units "
        f"from {others}"
    )
