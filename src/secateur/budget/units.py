"""Exactly K units, whatever they cost: what is asked for by `keep`, in place of a density or a time.

K counts units that are there in the end. So it can be asked only where no unit dies because of another
(`Space.closure`): of heads, or of heads and neurons, but not of heads and their own VO dims, nor of tiles.
"""

from __future__ import annotations

from math import floor

import torch
from torch import Tensor

from secateur.structure.space import Space
from secateur.system.errors import UserError


class Units:
    """A `cost` of a space that counts units: a share is the units kept over all units.

    Example:
        >>> space = Space(model, "head", cost=Units())
        >>> kept = space.keep(scores, 12 / len(space))     # (N,) bool, 12 of it True
    """

    def share(self, space: Space, kept: Tensor) -> float:
        return float((kept > 0).sum()) / len(space)

    def check(self, space: Space, share: float) -> None:
        if not 0.0 < share <= 1.0:
            raise UserError(f"share {share} is not in (0, 1]: it is the fraction of units to keep")
        check_count(space, self.count(space, share))

    def keep(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        return _highest(space, _ranked(scores, alive), min(self.count(space, share), int(alive.sum())))

    def verdict(self, space: Space, kept: Tensor, share: float | None) -> None:
        """Nothing: how many units are kept a plan says by itself."""

    @staticmethod
    def count(space: Space, share: float) -> int:
        """As many units as fit into a share."""
        return floor(share * len(space) + 1e-6)


def best(space: Space, scores: Tensor, count: int, alive: Tensor | None = None) -> Tensor:
    """`(N,)` bool: exactly `count` units, the highest-scored, ties in the order of the space.

    Units that are not `alive` are never kept; of the hidden dims the best one always is.

    Raises:
        UserError: fewer are alive, or as `check_count`.
    """
    check_count(space, count)
    ranked = _ranked(scores, alive)
    if (left := int((ranked > -torch.inf).sum())) < count:
        raise UserError(f"keep {count}: only {left} units are left to choose from; ask for so many, or fewer")
    return _highest(space, ranked, count)


def _ranked(scores: Tensor, alive: Tensor | None) -> Tensor:
    """`(N,)` double: units without a score come last, but before those that are not alive."""
    ranked = scores.detach().double().nan_to_num(nan=torch.finfo(torch.double).min)
    return ranked if alive is None else ranked.masked_fill(~alive, -torch.inf)


def _highest(space: Space, ranked: Tensor, count: int) -> Tensor:
    if "hidden" in space.slices:
        rows = space.slices["hidden"]
        ranked[rows.start + int(ranked[rows].argmax())] = torch.inf
    kept = torch.zeros_like(ranked, dtype=torch.bool)
    kept[ranked.argsort(descending=True, stable=True)[:count]] = True
    return kept


def check_count(space: Space, count: int) -> None:
    """Refuse a number of units that there is not, or that cannot be exact.

    Raises:
        UserError: it is not a whole number in [1, N], sizes are to be rounded, or units die because of others.
    """
    if type(count) is not int or not 1 <= count <= len(space):
        raise UserError(f"keep {count!r} is no number of units: expected a whole number from 1 to {len(space)}")
    if space.round_to > 1:
        raise UserError(f"keep says exactly how many: round_to {space.round_to} would add some; leave it out")
    if (pair := _nested(space)) is not None:
        raise UserError(
            f"keep {count} cannot be exact: a unit of {pair[1]} dies when those of {pair[0]} that hold it up are "
            "gone; name units that stand alone (head, or head and ffn), or ask for a density"
        )


def _nested(space: Space) -> tuple[str, str] | None:
    """Two kinds of units, the second of which has units that the closure takes with those of the first."""
    for group in space.groups:
        if group.grids:
            return group.kind, group.kind
    names = torch.tensor([space.units.index(group.kind) for group in space.groups])
    of_unit = names.repeat_interleave(torch.tensor([group.size for group in space.groups])).to(space.model.device)
    for number, name in enumerate(space.units):
        kept = of_unit != number
        if bool((taken := kept & ~space.closure(kept)).any()):
            return name, space.units[int(of_unit[taken][0])]
    return None
