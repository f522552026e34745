"""The default budget: parameters, of which a share is a density."""

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

TOLERANCE = 1e-12  # of a density that is met exactly


@dataclass(frozen=True)
class Parameters(Budget):
    """Counts the parameters that lie on axes inside layers (scope `prunable`).

    Attributes:
        filled: whether the zeros that removed tiles leave inside dense weights count as parameters.
    """

    name = "parameters"
    filled: bool = False

    def share(self, space: Space, masks: Tensor) -> float:
        return space.density(space.filled(masks > 0) if self.filled else masks)

    def floor(self, space: Space) -> float:
        return space.density(_first(space, torch.zeros(len(space)), 0))

    def check(self, space: Space, share: float) -> None:
        if not 0.0 < share <= 1.0:
            raise UserError(f"density {share} is not in (0, 1]: it is the fraction of parameters to keep")
        if share < (floor := self.floor(space)):
            raise UserError(
                f"density {share:g} is out of reach: pruning only {', '.join(space.units)} leaves at least "
                f"{floor:.4f}; raise the density or add units from {', '.join(UNITS)}"
            )

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """The highest-scored units, as many as fit after closure and rounding.

        The achieved density is at most the one asked for; what the closure frees goes to the next units in rank. What
        is kept is a prefix of the ranking, and the units that round its sizes up: a unit that does not fit ends it, so
        that large units (sublayers) high in the ranking can leave the density far below.
        """
        values = ranked(scores, alive)
        return space.closure(_first(space, values, self._count(space, values, share))) & alive

    def leading(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """What `choose` keeps of all units, and the units of as high a score that others make dead; of those `alive`.

        A method that learns its masks keeps these open. If they were closed, a unit whose return takes another's would
        not come back: both masks would be 0, and the gradient of neither would show it.
        """
        values = ranked(scores)
        count = self._count(space, values, share)
        open_units = with_best_hidden(space, highest(values, count), values)
        return (open_units | space.closure(_first(space, values, count))) & alive

    def _count(self, space: Space, values: Tensor, density: float) -> int:
        """How many of the units that are not at -inf fit into a density, the highest first."""
        return self._longest(space, partial(_first, space, values), int((values > -torch.inf).sum()), density)

    def fill(self, space: Space, kept: Tensor, scores: Tensor, density: float) -> Tensor:
        """`(N,)` bool: `kept`, and of the other units the highest-scored ones that still fit into `density`.

        Unlike `choose` it passes over what does not fit: afterwards no unit that would cost parameters fits any more,
        except those at -inf in `scores`, which are never added.
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

    def _longest(self, space: Space, prefix: Callable[[int], Tensor], most: int, density: float) -> int:
        """The largest count up to `most` whose units `prefix(count)` fit into `density`.

        They need not be closed: a unit that is dead because of others costs nothing.
        """
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.share(space, prefix(middle)) <= density + TOLERANCE
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def _first(space: Space, values: Tensor, count: int) -> Tensor:
    """`(N,)` bool: the `count` highest of `values`, with the best hidden dim, and what rounds their sizes up."""
    return rounded(space, with_best_hidden(space, highest(values, count), values), values, space.round_to)


def _with(kept: Tensor, units: Tensor, count: int) -> Tensor:
    """`kept` and the first `count` of the units of those indices."""
    return kept.index_fill(0, units[:count], True)
