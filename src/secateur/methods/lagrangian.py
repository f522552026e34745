"""Equality constraints on what gates keep, by Lagrange multipliers (CoFi, section 3.1; Wang et al., EMNLP 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur.system.errors import UserError


class Target(Protocol):
    """What gates should keep: one or several constraints that follow a schedule."""

    constraints: int

    def gaps(self, open_probability: Tensor, progress: float) -> list[Tensor]:
        """For every constraint `(rows,)`, expected sparsity minus its target; negative while too much is open.

        Args:
            open_probability: `(N,)`, differentiable.
            progress: of the run, in [0, 1].
        """
        ...

    def ramp_ended(self, progress: float) -> bool:
        """Whether the constraints are the last ones of the schedule."""
        ...

    def kept(self, scores: Tensor, alive: Tensor, density: float, progress: float) -> Tensor:
        """`(N,)` bool: the units to keep at a progress, at 1 in a plan.

        Args:
            scores: `(N,)` log alpha, minus infinity where a unit is not `alive`.
            alive: `(N,)` bool.
            density: upper limit of the counted density.
            progress: of the run, in [0, 1].

        Raises:
            UserError: the target cannot be met within that density.
        """
        ...


def penalty(gaps: Sequence[Tensor], multipliers: Tensor) -> Tensor:
    """`()`: `l1 gap + l2 gap^2`, averaged over the rows of a constraint and summed over constraints.

    Args:
        gaps: those of `Target.gaps`.
        multipliers: `(2, constraints)`, l1 and l2; the optimizer maximises over them.
    """
    constraints = zip(gaps, *multipliers, strict=True)
    return torch.stack([(l1 * gap + l2 * gap.square()).mean() for gap, l1, l2 in constraints]).sum()


def refuse_other_constraint(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Check, before a state is loaded, that it has multipliers, and evidence, if and only if the module has.

    Raises:
        UserError: it was saved under the other constraint, as every state was until version 0.2.0, or it has evidence
            and the module has none, or the reverse.
    """
    if f"{prefix}log_alpha" not in state:
        return
    saved, own = f"{prefix}multipliers" in state, getattr(module, "multipliers", None) is not None
    if saved != own:
        theirs, mine = ("lagrangian", "exact") if saved else ("exact", "lagrangian")
        raise UserError(
            f"the saved gates were trained with constraint={theirs}, and this run has constraint={mine}: "
            f"load them into a method with constraint={theirs}, or start a new run in another folder"
        )
    saved, own = f"{prefix}prior.odds" in state, getattr(module, "prior", None) is not None
    if saved != own:
        theirs, mine = ("with", "without") if saved else ("without", "with")
        raise UserError(
            f"the saved gates were trained {theirs} evidence, and this run is {mine} it: load them into a method whose "
            "option evidence is as it was, 0 for none, or start a new run in another folder"
        )
