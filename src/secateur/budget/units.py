"""Units as the budget: exactly K of them, whatever they cost, which is what `keep` asks for in a recipe or a plan.

K counts the units that are kept in the end. So it can be asked for only where no unit dies because of another
(`UnitSpace.closure`): of heads, or of heads and neurons, but not of heads and their own VO dims, nor of tiles.
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.budget.budget import Budget
from secateur.budget.ranking import highest_units, ranked
from secateur.system.errors import UserError

if TYPE_CHECKING:
    from secateur.budget.space import Space


class Units(Budget):
    """Counts units: a share is the units kept over all units.

    Example:
        >>> space = Space(model, "head", budget=Units())
        >>> kept = space.choose(scores, 12 / len(space))     # (N,) bool, 12 of it True
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

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        return highest_units(space, ranked(scores, alive), min(self.count(space, share), int(alive.sum())))

    @staticmethod
    def count(space: Space, share: float) -> int:
        """The number of units that fit into a share."""
        return floor(share * len(space) + 1e-6)


def best(space: Space, scores: Tensor, count: int, alive: Tensor | None = None) -> Tensor:
    """`(N,)` bool: exactly `count` units, the highest-scored, ties in the order of the space.

    Units that are not `alive` are never kept. If hidden dims are units, the best one is always kept.

    Raises:
        UserError: fewer are alive, or as `check_count`.
    """
    check_count(space, count)
    values = ranked(scores, alive)
    if (left := int((values > -torch.inf).sum())) < count:
        raise UserError(f"keep {count}: only {left} units are left to choose from; ask for that many, or fewer")
    return highest_units(space, values, count)


def check_count(space: Space, count: int) -> None:
    """Refuse a number of units that the space does not have, or that cannot be exact.

    Raises:
        UserError: it is not a whole number in [1, N], sizes are to be rounded, or units die because of others.
    """
    if type(count) is not int or not 1 <= count <= len(space):
        raise UserError(f"keep {count!r} is no number of units: expected a whole number from 1 to {len(space)}")
    if space.round_to > 1:
        raise UserError(f"keep says exactly how many: round_to {space.round_to} would add some; leave it out")
    if (pair := _nested(space)) is not None:
        raise UserError(
            f"keep {count} cannot be exact: a unit of {pair[1]} dies when the units of {pair[0]} that it needs are "
            "removed; name units that stand alone (head, or head and ffn), or ask for a density"
        )


def _nested(space: Space) -> tuple[str, str] | None:
    """Two kinds of units, the second of which has units that die with those of the first."""
    for group in space.groups:
        if group.grids:
            return group.kind, group.kind
    kinds = torch.tensor([space.units.index(group.kind) for group in space.groups])
    of_unit = kinds.repeat_interleave(torch.tensor([group.size for group in space.groups])).to(space.model.device)
    for number, name in enumerate(space.units):
        kept = of_unit != number
        if bool((taken := kept & ~space.closure(kept)).any()):
            return name, space.units[int(of_unit[taken][0])]
    return None
