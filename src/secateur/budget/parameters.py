"""Parameters as the budget, the default: a share of them is a density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.budget.budget import Budget
from secateur.budget.filling import Filling
from secateur.budget.ranking import (
    TOLERANCE,
    descending,
    highest,
    longest_prefix,
    ranked,
    rounded,
    with_best_hidden,
)
from secateur.budget.wider import lowering_units, or_units_from
from secateur.structure.groups import kinds_of
from secateur.system.errors import UserError
from secateur.system.quantities import at_least

if TYPE_CHECKING:
    from secateur.budget.space import Space


FEW = 64  # units; where no more are left, what is kept before the last share depends on it


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

    def least(self, space: Space) -> float:
        """The lowest share, above 0, that something of the layers can have: that of the smallest unit."""
        return self._filling(space, space.ones().double(), 1.0).least()

    def kinds(self, space: Space) -> tuple[str, ...]:
        """The kinds of units that can be named."""
        return kinds_of(space.table)

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor, last: float) -> Tensor:
        """The highest-scored units, as many as fit after closure and rounding, and then those that fit into the rest.

        The achieved density is at most the requested one; units that are dead because of others leave room for the
        next in rank. The units kept are a prefix of the ranking, those that round sizes up, and of the others those
        that still fit (`filling.py`), so that none that is left out does. Where a large unit, such as a layer beside
        neurons, ends the prefix far below the density, it is ranked otherwise: at the last share by `_selection`, and
        before it so that the units that would be kept at the last share come first.
        """
        values = kept_first = ranked(scores, alive)
        if share > last and self._few_fit(space, last):
            kept_first = values.masked_fill(self.choose(space, scores, last, alive, last), torch.inf)
            ranking = self._ranking(space, kept_first)
            count = longest_prefix(ranking.share, len(ranking), share)
        else:
            ranking, count = self._selection(space, values, share)
        return self._filled(space, values, share, space.closure(ranking.first(count)) & alive)

    def leading(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """The alive units in the ranking of all units that `choose` keeps, or that are dead because of others.

        A method that learns its masks keeps the latter open. If they were closed too, two units that need each other
        could not return: both masks would be 0, and so would the gradients of both. Those that would come alive with
        units that fit into the rest are closed.
        """
        ranking, count = self._selection(space, ranked(scores), share)
        open_units = with_best_hidden(space, highest(ranking.values, count), ranking.values)
        first = space.closure(ranking.first(count)) & alive
        kept = self._filled(space, ranked(scores, alive), share, first)
        together = (open_units & alive) | kept
        return together & ~(space.closure(together) & ~kept)

    def _few_fit(self, space: Space, share: float) -> bool:
        """Whether what is left at a share depends on single units: some are large, or few fit."""
        return bool(space.large.any()) or share * space.total() < FEW * float(space.unit_cost().max())

    def _selection(self, space: Space, values: Tensor, share: float) -> tuple[Ranking, int]:
        """The ranking by which units are kept within a share, and the number of them, the largest that fits.

        If the next unit is large and there is room for a small one, it is ranked before all that were not moved, or
        left out if it does not fit then. Units that were moved stay in the order of their values, so that the best of
        them are kept. Each large unit is moved at most twice, so that this ends. If there are enough small units, what
        is kept is then within one of them of the share.
        """
        places = _places(values)
        ranking = self._ranking(space, places)
        count = longest_prefix(ranking.share, len(ranking), share)
        while True:
            following = ranking.following(count)
            if following is None or not space.large[following]:
                return ranking, count
            if share - ranking.share(count) <= space.small_step + TOLERANCE:
                return ranking, count
            moved = bool(places[following] > len(places))
            places = places.clone()
            places[following] = -torch.inf if moved else places[following] + len(places)
            ranking = self._ranking(space, places)
            count = longest_prefix(ranking.share, len(ranking), share, near=count)

    def _ranking(self, space: Space, values: Tensor) -> Ranking:
        return Ranking(space, values, partial(self.share, space))

    def add_fitting_units(self, space: Space, kept: Tensor, scores: Tensor, density: float) -> Tensor:
        """`(N,)` bool: `kept`, closed, and of the other units the highest-scored ones that still fit into `density`.

        Afterwards no further unit fits, alone or with the units that it needs, except those at -inf in `scores`, which
        are never added.
        """
        return self._filled(space, ranked(scores), density, kept)

    def _filled(self, space: Space, values: Tensor, share: float, kept: Tensor) -> Tensor:
        return self._filling(space, values, share).filled(kept)

    def _filling(self, space: Space, values: Tensor, share: float) -> Filling:
        stored = space.filled if self.count_zeros else space.closure
        return Filling(space, values, share, share_of=partial(self.share, space), stored=stored)


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


def _places(values: Tensor) -> Tensor:
    """`(N,)` double: the places of units in the order of their values, from N for the highest down to 1.

    Units at minus infinity stay there.
    """
    places = torch.empty_like(values, dtype=torch.double)
    places[descending(values)] = torch.arange(len(values), 0, -1, dtype=torch.double, device=values.device)
    return places.masked_fill(values == -torch.inf, -torch.inf)


def _with(kept: Tensor, units: Tensor, count: int) -> Tensor:
    """`kept`, and the first `count` units of the given indices."""
    return kept.index_fill(0, units[:count], True)
