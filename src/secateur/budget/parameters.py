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
from secateur.budget.wider import lowering_units, or_units_from
from secateur.structure.groups import kinds_of
from secateur.system.errors import UserError
from secateur.system.quantities import at_least

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
    of_parameters = True
    count_zeros: bool = False

    def share(self, space: Space, masks: Tensor) -> float:
        return space.density(space.filled(masks > 0) if self.count_zeros else masks)

    def floor(self, space: Space) -> float:
        return space.density(Ranking(space, torch.zeros(len(space)), space.density).first(0))

    def check(self, space: Space, share: float) -> None:
        if not 0.0 < share <= 1.0:
            raise UserError(f"density {share} is not in (0, 1]: it is the fraction of parameters to keep")
        if share < (floor := self.floor(space)):
            others = or_units_from(lowering_units(space, self.kinds(space), self.floor))
            raise UserError(
                f"density {share:g} is out of reach: pruning only {', '.join(space.units)} leaves at least "
                f"{at_least(floor, '.4f')}; raise the density{others}"
            )

    def kinds(self, space: Space) -> tuple[str, ...]:
        """The kinds of units that can be named."""
        return kinds_of(space.table)

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
            ranking = self._ranking(space, values)
            count = longest_prefix(ranking.share, len(ranking), share)
        else:
            ranking, count = self._selection(space, values, share)
        return space.closure(ranking.first(count)) & alive

    def leading(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """The alive units in the ranking of all units that `choose` keeps, or that are dead because of others.

        A method that learns its masks keeps the latter open. If they were closed too, two units that need each other
        could not return: both masks would be 0, and so would the gradients of both.
        """
        ranking, count = self._selection(space, ranked(scores), share)
        open_units = with_best_hidden(space, highest(ranking.values, count), ranking.values)
        return (open_units | space.closure(ranking.first(count))) & alive

    def _selection(self, space: Space, values: Tensor, share: float) -> tuple[Ranking, int]:
        """The ranking by which units are kept within a share, and the number of them, the largest that fits.

        If the next unit is large and there is room for a small one, it is ranked first, or left out if it does not fit
        then. Each large unit is moved at most twice, so that this ends. If there are enough small units, what is kept
        is then within one of them of the share.
        """
        ranking = self._ranking(space, values)
        count = longest_prefix(ranking.share, len(ranking), share)
        while True:
            following = ranking.following(count)
            if following is None or not space.large[following]:
                return ranking, count
            if share - ranking.share(count) <= space.small_step + TOLERANCE:
                return ranking, count
            ranked_first = bool(ranking.values[following] == torch.inf)
            values = ranking.values.clone()
            values[following] = -torch.inf if ranked_first else torch.inf
            ranking = self._ranking(space, values)
            count = longest_prefix(ranking.share, len(ranking), share, near=count)

    def _ranking(self, space: Space, values: Tensor) -> Ranking:
        return Ranking(space, values, partial(self.share, space))

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
            if count := longest_prefix(partial(self._share_with, space, kept, best), len(best), density):
                kept = _with(kept, best, count)
            else:
                refused[best[0]] = True

    def _share_with(self, space: Space, kept: Tensor, units: Tensor, count: int) -> float:
        return self.share(space, _with(kept, units, count))


class Ranking:
    """The units of a space in the order of their values `(N,)`; units at minus infinity are left out.

    Args:
        share_of: the share of the budget that units `(N,)` cost. They need not be closed, because a unit that is dead
            because of others costs nothing.
    """

    def __init__(self, space: Space, values: Tensor, share_of: Callable[[Tensor], float]) -> None:
        self.space, self.values, self.share_of = space, values, share_of
        self.order = descending(values)[: int((values > -torch.inf).sum())]
        self.shares: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.order)

    def first(self, count: int) -> Tensor:
        """`(N,)` bool: the first `count` units, the best hidden dim, and the units that round sizes up."""
        kept = _with(torch.zeros_like(self.values, dtype=torch.bool), self.order, count)
        return rounded(self.space, with_best_hidden(self.space, kept, self.values), self.values, self.space.round_to)

    def share(self, count: int) -> float:
        """The share of the budget that the first `count` units cost."""
        if count not in self.shares:
            self.shares[count] = self.share_of(self.first(count))
        return self.shares[count]

    def following(self, count: int) -> int | None:
        """The index of the unit after the first `count`; None after the last."""
        return int(self.order[count]) if count < len(self) else None


def longest_prefix(share: Callable[[int], float], limit: int, amount: float, near: int | None = None) -> int:
    """The largest count up to `limit` whose share is within an amount; shares grow with the count.

    Args:
        near: a count that is probably close to it.
    """

    def fits(count: int) -> bool:
        return share(count) <= amount + TOLERANCE

    low, high = (0, limit) if near is None else _around(min(near, limit), limit, fits)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _around(near: int, limit: int, fits: Callable[[int], bool]) -> tuple[int, int]:
    """The bounds of the largest count that fits, found in steps from `near` that double."""
    step = 1
    if near == 0 or fits(near):
        while near + step <= limit and fits(near + step):
            near, step = near + step, 2 * step
        return near, min(near + step - 1, limit)
    while near - step > 0 and not fits(near - step):
        near, step = near - step, 2 * step
    return max(near - step, 0), near - 1


def _with(kept: Tensor, units: Tensor, count: int) -> Tensor:
    """`kept`, and the first `count` units of the given indices."""
    return kept.index_fill(0, units[:count], True)
