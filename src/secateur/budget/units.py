"""Units as the budget: exactly K units, the `keep` of a recipe or plan.

K is the number of units after closure. It can therefore be requested only where no unit is dead because of another
(`UnitSpace.closure`): for heads, or for heads and neurons, but not for heads and their VO dims, nor for tiles.
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.budget.budget import Budget
from secateur.budget.ranking import highest_units, ranked
from secateur.system.errors import UserError
from secateur.system.model_state import device_of

if TYPE_CHECKING:
    from secateur.budget.space import Space


class Units(Budget):
    """Counts units: a share is the number of units kept over the number of all units.

    Examples:
        >>> space = Space(model, "head", budget=Units())
        >>> kept = space.choose(scores, 12 / len(space))     # (N,) bool, 12 of them True
    """

    name = "units"

    def share(self, space: Space, masks: Tensor) -> float:
        return float((masks > 0).sum()) / len(space)

    def floor(self, space: Space) -> float:
        return 0.0

    def check(self, space: Space, share: float) -> None:
        if not 0.0 < share <= 1.0:
            raise UserError(f"share {share} is not in (0, 1]: it is the fraction of units to keep")
        check_count(space, self.count(space, share))

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor, last: float) -> Tensor:
        return highest_units(space, ranked(scores, alive), min(self.count(space, share), int(alive.sum())))

    @staticmethod
    def count(space: Space, share: float) -> int:
        """The number of units that fit into a share."""
        return floor(share * len(space) + 1e-6)


def choose_exactly(space: Space, scores: Tensor, count: int, alive: Tensor | None = None) -> Tensor:
    """`(N,)` bool: exactly the `count` highest-scored units; of equal scores the first in the space.

    Units that are not `alive` are never kept. If hidden dims are units, the best one is always kept.

    Raises:
        UserError: fewer units are alive, or `check_count` refuses the number.
    """
    check_count(space, count)
    values = ranked(scores, alive)
    if (available := int((values > -torch.inf).sum())) < count:
        raise UserError(f"keep {count}: only {available} units are left to choose from; ask for that many, or fewer")
    return highest_units(space, values, count)


def check_count(space: Space, count: int) -> None:
    """Check that a number of units can be kept exactly.

    Raises:
        UserError: it is not a whole number in [1, N], the space has a `round_to`, or units can be dead because of
            others.
    """
    if type(count) is not int or not 1 <= count <= len(space):
        raise UserError(f"keep {count!r} is not a number of units: expected a whole number from 1 to {len(space)}")
    if space.round_to > 1:
        raise UserError(
            f"keep is an exact number of units, and round_to {space.round_to} would add some: leave one of the two out"
        )
    if (pair := _dependent_kinds(space)) is not None:
        raise UserError(
            f"keep {count} cannot be exact: a unit of {pair[1]} is dead when the units of {pair[0]} that it needs are "
            "removed; name independent units (head, or head and ffn), or ask for a density"
        )


def _dependent_kinds(space: Space) -> tuple[str, str] | None:
    """Two kinds of units such that units of the second are dead when units of the first are removed; None for none."""
    for group in space.groups:
        if group.grids:
            return group.kind, group.kind
    kinds = torch.tensor([space.kinds.index(group.kind) for group in space.groups])
    of_unit = kinds.repeat_interleave(torch.tensor([group.size for group in space.groups])).to(device_of(space.model))
    for number, name in enumerate(space.kinds):
        kept = of_unit != number
        if bool((dead := kept & ~space.closure(kept)).any()):
            return name, space.kinds[int(of_unit[dead][0])]
    return None
