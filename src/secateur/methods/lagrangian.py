"""Equality constraints on what gates keep, by Lagrange multipliers (CoFi, section 3.1; Wang et al., EMNLP 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Target(Protocol):
    """What the gates of a space are to keep, as one or several constraints that follow a schedule."""

    constraints: int

    def gaps(self, open_probability: Tensor, progress: float) -> list[Tensor]:
        """For each constraint `(rows,)`, expected sparsity minus its target: below 0 while too much is open.

        Args:
            open_probability: `(N,)`, differentiable.
            progress: of the run, in [0, 1].
        """
        ...

    def kept(self, scores: Tensor, alive: Tensor, density: float) -> Tensor:
        """`(N,)` bool: the units that a plan keeps.

        Args:
            scores: `(N,)` log alpha, minus infinity where a unit is not `alive`.
            alive: `(N,)` bool.
            density: at most this counted density.

        Raises:
            UserError: the target cannot be met at that density.
        """
        ...


def penalty(gaps: Sequence[Tensor], multipliers: Tensor) -> Tensor:
    """`()`: the sum over constraints of the mean over their rows of `l1 gap + l2 gap^2`.

    Args:
        gaps: as `Target.gaps` returns them.
        multipliers: `(2, constraints)`, l1 and l2; the optimizer maximises over them.
    """
    constraints = zip(gaps, *multipliers, strict=True)
    return torch.stack([(l1 * gap + l2 * gap.square()).mean() for gap, l1, l2 in constraints]).sum()
