"""The contract of a budget: what a model is measured by when units are chosen.

A *share* is what the kept units cost over what the unpruned model costs, in (0, 1]. Where parameters are counted the
share is the density; of a latency of 5 ms, where the unpruned model takes 20 ms, it is 0.25.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from secateur.budget.space import Space


class Budget(ABC):
    """What the units of a space cost, and which of them to keep within a share of it.

    A subclass has no state of its own that depends on a space: one budget may serve several spaces.

    Attributes:
        name: what is counted, such as `parameters`; methods declare by this name which budgets they can follow.
    """

    name: ClassVar[str]

    @abstractmethod
    def share(self, space: Space, masks: Tensor) -> float:
        """The share that masks `(N,)` of 0 and 1 leave."""

    @abstractmethod
    def floor(self, space: Space) -> float:
        """The lowest share that the units of the space can reach: everything is removed that may be."""

    @abstractmethod
    def check(self, space: Space, share: float) -> None:
        """Refuse a share that is no fraction, or that the space cannot reach.

        Raises:
            UserError: the message names the floor.
        """

    @abstractmethod
    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """`(N,)` bool, closed: the best units within a share, among those that are `alive` `(N,)` bool."""

    def leading(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """`(N,)` bool: what `choose` keeps, and units of as high a score that are dead because of others."""
        return self.choose(space, scores, share, alive)

    def record(self, space: Space, masks: Tensor, share: float | None) -> Mapping[str, Any] | None:
        """What a plan keeps on record besides its densities, as plain values; None for nothing."""
        return None
