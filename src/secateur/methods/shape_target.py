"""A shape as the target of gates: a number of units of each kind, the same in every layer.

Source: Sheared-LLaMA (Xia et al., ICLR 2024, arXiv 2310.06694), section 3.1: every kind has its own target and Lagrange
multipliers, and its constraint is averaged over the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from secateur.budget.ranking import highest
from secateur.budget.space import Space
from secateur.methods.schedules import Schedule, linear
from secateur.system.errors import UserError
from secateur.system.quantities import at_least


class ShapeTarget:
    """One constraint for each kind of unit that the shape names.

    Args:
        space: what is pruned.
        density: the schedule whose begin and end those of the targets are, which fall in a straight line from all units
            to the shape. Its values are upper limits alone, and may be the same throughout.
        shape: kind of unit -> number of units to keep in each layer (`{"ffn": 512}`), or in the whole model for a kind
            with one unit in each layer (`{"layer": 8}`).

    Raises:
        UserError: the shape names no kinds; the space has no units of a kind, or groups of different sizes; a number is
            out of range; or the space has a `round_to`.
    """

    def __init__(self, space: Space, density: Schedule, shape: Mapping[str, int]) -> None:
        if space.round_to > 1:
            raise UserError("a shape sets every size: leave round_to out, or the shape")
        if not isinstance(shape, Mapping) or not shape:
            raise UserError(f'shape is {shape!r}: expected the number of units of some kinds, as {{"ffn": 512}}')
        for kind, units in shape.items():
            _check(space, kind, units)
        self.space, self.density, self.shape = space, density, dict(shape)
        self.constraints = len(self.shape)
        self._ramp = linear(0.0, 1.0, begin=density.begin, end=density.end)

    def gaps(self, open_probability: Tensor, progress: float) -> list[Tensor]:
        done = self._ramp(progress)
        return [
            done * (units / rows.shape[-1] - 1.0) + 1.0 - open_probability[rows].mean(-1)
            for units, rows in self._rows(open_probability.device)
        ]

    def ramp_ended(self, progress: float) -> bool:
        return self._ramp(progress) == 1.0

    def kept(self, scores: Tensor, alive: Tensor, density: float, progress: float) -> Tensor:
        """`(N,)` bool: the highest-scored units of the shape, and all units of the kinds that it does not name.

        While the targets fall there are as many of them as these say, rounded, whatever the density.
        """
        done, kept = self._ramp(progress), torch.ones_like(scores, dtype=torch.bool)
        for units, rows in self._rows(scores.device):
            size = rows.shape[-1]
            kept[rows] = highest(scores[rows], round(size - done * (size - units)))
        if done < 1.0:
            return kept
        if (achieved := self.space.density(kept)) > density + 1e-12:
            least = at_least(achieved, ".4f")
            raise UserError(f"the shape keeps a density of {least}: ask for this much or more, not {density:g}")
        return kept

    def _rows(self, device: torch.device) -> Iterator[tuple[int, Tensor]]:
        """For each kind of the shape: the number of units to keep of each row, and the unit indices `(rows, n)`."""
        numbers = torch.arange(len(self.space), device=device)
        for kind, units in self.shape.items():
            rows = [own for group, own in self.space.by_group(numbers) if group.kind == kind]
            yield units, torch.stack(rows) if len(rows[0]) > 1 else torch.cat(rows).unsqueeze(0)


def _check(space: Space, kind: str, units: int) -> None:
    """Raise `UserError` for an entry of a shape that does not fit the space."""
    groups = [group for group in space.groups if group.kind == kind]
    if not groups:
        raise UserError(
            f"the shape names {kind!r}, the space has {', '.join(space.kinds)}: prune {kind!r} too, or leave it out"
        )
    if len(sizes := sorted({group.size for group in groups})) > 1:
        raise UserError(
            f"the shape names {kind!r}, whose groups have {' and '.join(map(str, sizes))} units: a shape is for "
            "layers of one size; ask for a density"
        )
    most = groups[0].size if groups[0].size > 1 else len(groups)
    if type(units) is not int or not 0 < units <= most:
        raise UserError(f"the shape keeps {units!r} of {kind!r}: expected a whole number from 1 to {most}")
