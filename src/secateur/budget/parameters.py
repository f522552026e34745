"""Parameters as the budget, the default: a share of them is a density."""

from __future__ import annotations

from collections.abc import Callable
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

    def check(self, space: Space, share: float) -> None:
        if not 0.0 < share <= 1.0:
            raise UserError(f"density {share} is not in (0, 1]: it is the fraction of parameters to keep")
        if share < (floor := self.floor(space)):
            raise UserError(
                f"density {share:g} is out of reach: pruning only {', '.join(space.units)} leaves at least "
                f"{floor:.4f}; raise the density or add units from {', '.join(UNITS)}"
            )

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor, last: float) -> Tensor:
        """The highest-scored units, as many as fit after closure and rounding.

        The achieved density is at most the requested one; units that are dead because of others leave room for the
        next in rank. The units kept are a prefix of the ranking, plus those that round sizes up. Where a large unit,
        such as a layer beside neurons, ends the prefix far below the density, it is ranked otherwise: at the last
        share by `_selection`, and before it so that the units that would be kept at the last share come first.
        """
        values = ranked(scores, alive)
        if share > last and bool(space.large.any()):
            values = values.masked_fill(self.choose(space, scores, last, alive, last), torch.inf)
            count = self._count(space, values, share)
        else:
            values, count = self._selection(space, values, share)
        return space.closure(_highest_rounded(space, values, count)) & alive

    def leading(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """The alive units in the ranking of all units that `choose` keeps, or that are dead because of others.

        A method that learns its masks keeps the latter open. If they were closed too, two units that need each other
        could not return: both masks would be 0, and so would the gradients of both.
        """
        values, count = self._selection(space, ranked(scores), share)
        open_units = with_best_hidden(space, highest(values, count), values)
        return (open_units | space.closure(_highest_rounded(space, values, count))) & alive

    def _selection(self, space: Space, values: Tensor, share: float) -> tuple[Tensor, int]:
        """The ranking by which units are kept within a share, and the number of them, the largest that fits.

        If the next unit is large and there is room for a small one, it is ranked first, or left out if it does not fit
        then. Each large unit is moved at most twice, so that this ends. If there are enough small units, what is kept
        is then within one of them of the share.
        """
        values = values.clone()
        while True:
            count = self._count(space, values, share)
            following = _in_rank(values, count)
            if following is None or not space.large[following]:
                return values, count
            if share - self.share(space, _highest_rounded(space, values, count)) <= space.small_step + TOLERANCE:
                return values, count
            values[following] = -torch.inf if values[following] == torch.inf else torch.inf

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


def _in_rank(values: Tensor, rank: int) -> int | None:
    """The index of the value of a rank, from 0; None for ranks after the last value above -inf."""
    return int(descending(values)[rank]) if rank < int((values > -torch.inf).sum()) else None


def _with(kept: Tensor, units: Tensor, count: int) -> Tensor:
    """`kept`, and the first `count` units of the given indices."""
    return kept.index_fill(0, units[:count], True)
