"""The space: the prunable units of a model, and the budget by which they are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import SupportsFloat

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.budget import Budget
from secateur.budget.parameters import Parameters
from secateur.budget.ranking import TOLERANCE, with_best_hidden
from secateur.structure.groups import Group
from secateur.structure.space import UnitSpace
from secateur.structure.tiles import is_tiled
from secateur.system.deprecation import deprecated
from secateur.system.errors import UserError
from secateur.system.quantities import at_least


class Space(UnitSpace):
    """The prunable units of a model, in the order in which the kinds are named, each layer by layer.

    Args:
        units: kinds of units, see `structure.groups.UNITS`, by default `ffn`, `qk` and `vo`; behind the name of a
            stack, such as `encoder.ffn`, those of its layers alone.
        budget: what is counted when units are chosen: `Parameters`, `Units` or a `LatencyTable`.
        round_to: chosen sizes are multiples of this number, or the unpruned size: the neurons of a feed-forward
            network, the dims of the residual stream, and the QK and VO dims of each head.
        cost: deprecated name of `budget`.

    Examples:
        >>> space = Space(model, "ffn", "qk", "vo")
        >>> kept = space.choose(scores, density=0.05)   # (N,) bool
        >>> space.density(kept)                         # at most 0.05

    Raises:
        UserError: an unknown kind of unit, tiles that do not fit, a `round_to` below 1 or with tiles, or a model that
            `binding.bind` refuses.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *units: str,
        budget: Budget = Parameters(),  # noqa: B008 - frozen, and the same for every space
        round_to: int = 1,
        cost: Budget | None = None,
    ) -> None:
        super().__init__(model, *units)
        if not isinstance(round_to, int) or round_to < 1:
            raise UserError(
                f"round_to {round_to!r} is not a whole number from 1: sizes are rounded up to multiples of it"
            )
        if round_to > 1 and any(map(is_tiled, self.units)):
            raise UserError(f"round_to {round_to} does not apply to tiles, which have their own size: leave one out")
        if cost is not None:
            deprecated("Space(cost=...)", "Space(budget=...)")
        self.budget = budget if cost is None else cost
        self.round_to = round_to

    def by_group(self, values: Tensor) -> Iterator[tuple[Group, Tensor]]:
        """Every group with its part of `(N,)` values, as a view."""
        for group in self.groups:
            yield group, values[self.slices[group.name]]

    def share(self, masks: Tensor) -> float:
        """The cost of the model pruned by masks `(N,)` of 0 and 1 over that of the unpruned model."""
        return self.budget.share(self, masks)

    def floor(self) -> float:
        """The lowest share that these units can reach."""
        return self.budget.floor(self)

    @cached_property
    def smallest(self) -> float:
        """The parameters of the smallest unit, of those that have some in the unpruned model."""
        cost = self.unit_cost()
        return float(cost[cost > 0].min())

    @cached_property
    def least(self) -> float:
        """The lowest density, above 0, of a model with something left of its layers."""
        return Parameters().least(self)

    @cached_property
    def large(self) -> Tensor:
        """`(N,)` bool: units of more than twice the parameters of the smallest, such as layers beside neurons."""
        return self.unit_cost() > 2 * self.smallest

    @cached_property
    def small_step(self) -> float:
        """The density of the largest unit that is not large."""
        return float(self.unit_cost()[~self.large].max()) / self.total()

    def requested_share(self, share: float | None, density: float | None) -> float:
        """The share that is passed under one of the two names, after a check that these units can reach it.

        Raises:
            UserError: both are given, or neither; a density is given where something other than parameters is counted;
                or the share is not a number, not a fraction or out of reach.
        """
        if density is not None and not self.budget.of_parameters:
            raise UserError(
                f"a density is a share of the parameters, and this space counts {self.budget.name}: ask for a share"
            )
        amounts = [amount for amount in (share, density) if amount is not None]
        if len(amounts) != 1:
            raise UserError("expected one of share and density: the share of the budget, or of the parameters, to keep")
        if isinstance(amounts[0], bool) or not isinstance(amounts[0], SupportsFloat):
            name = "density" if share is None else "share"
            raise UserError(f"{name} {amounts[0]!r} is not a number: give a fraction such as 0.05")
        amount = float(amounts[0])
        self.budget.check(self, amount)
        return amount

    def check_something_left(self, kept: Tensor, share: float) -> None:
        """Check that the units kept `(N,)` within a share leave a part of the layers.

        Raises:
            UserError: they leave nothing.
        """
        if self.density(kept) == 0.0:
            raise self._nothing_left(share)

    def _nothing_left(self, share: float, more: str = "more") -> UserError:
        """The refusal of a share within which nothing of the layers fits, with how much to ask for instead."""
        return UserError(
            f"{share:.4g} of the {self.budget.name} is out of reach: pruning {', '.join(self.units)} to it leaves "
            f"nothing of the layers; ask for {more}, or name smaller units"
        )

    def check_something_fits(self, share: float) -> None:
        """Check that some units fit into a share, so that `choose` leaves something, whatever the scores are.

        Raises:
            UserError: as `requested_share`, or none fit.
        """
        self.requested_share(share, None)
        if not self.budget.of_parameters:
            nothing = self.ones().double() * 0
            cost = self.marginal_cost(with_best_hidden(self, nothing > 0, nothing))
            smallest_first = -cost.masked_fill(cost <= 0, float(cost.max()) + 1)  # a unit that is dead alone comes last
            self.check_something_left(self.choose(smallest_first, share), share)
        elif self.floor() == 0.0 and share < self.least - TOLERANCE:
            raise self._nothing_left(share, f"{at_least(self.least, '.4g')} or more")

    def choose(
        self,
        scores: Tensor,
        share: float | None = None,
        alive: Tensor | None = None,
        *,
        density: float | None = None,
        last: float | None = None,
    ) -> Tensor:
        """`(N,)` bool: the units to keep within a share of the budget, by their scores `(N,)`.

        The result is closed, costs at most the share, and has at least one hidden dim. The rule is that of the budget,
        such as `Parameters.choose`.

        Args:
            share: of the cost of the unpruned model.
            alive: `(N,)` bool; units that are not alive are never kept.
            last: the share that a schedule reaches in the end, by default `share`: large units, such as layers, are
                then removed so that it can still be reached.
            density: the same as `share`, where parameters are counted.

        Raises:
            UserError: as `requested_share`.
        """
        amount = self.requested_share(share, density)
        alive = torch.ones_like(scores, dtype=torch.bool) if alive is None else alive
        return self.budget.choose(self, scores.detach(), amount, alive, amount if last is None else last)

    def leading(self, scores: Tensor, share: float, alive: Tensor | None = None) -> Tensor:
        """`(N,)` bool: the units that `choose` keeps, and units of the same rank that are dead because of others."""
        amount = self.requested_share(share, None)
        alive = torch.ones_like(scores, dtype=torch.bool) if alive is None else alive
        return self.budget.leading(self, scores.detach(), amount, alive)

    def keep(self, scores: Tensor, density: float, alive: Tensor | None = None) -> Tensor:
        """Deprecated name of `choose`, whose `density` is the share of any budget."""
        deprecated("Space.keep(...)", "Space.choose(...)")
        return self.choose(scores, density, alive)
