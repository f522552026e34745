"""The contract of a budget: the cost of a model by which units are chosen.

A *share* is the cost of the pruned model over the cost of the unpruned model, in (0, 1]. Where parameters are counted,
the share is the density. A latency of 5 ms has a share of 0.25 where the unpruned model takes 20 ms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from secateur.budget.space import Space


class Budget(ABC):
    """The cost of the units of a space, and the choice of units within a share of it.

    A budget holds no state of a space, so that several spaces may use the same one.

    Attributes:
        name: what is counted, such as `parameters`; methods declare the budgets that they support by this name.
        of_parameters: whether a share is a density.
    """

    name: ClassVar[str]
    of_parameters: ClassVar[bool] = False

    @abstractmethod
    def share(self, space: Space, masks: Tensor) -> float:
        """The share of the model pruned by masks `(N,)` of 0 and 1."""

    @abstractmethod
    def floor(self, space: Space) -> float:
        """The lowest share that the units of the space can reach, with all units removed that may be."""

    @abstractmethod
    def check(self, space: Space, share: float) -> None:
        """Check that a share is a fraction and that the space can reach it.

        Raises:
            UserError: it is not, or cannot; the message names the floor.
        """

    @abstractmethod
    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor, last: float) -> Tensor:
        """`(N,)` bool, closed: the best units within a share, among those that are `alive` `(N,)` bool.

        `last` is the share that a schedule reaches in the end, `share` itself if there is none. Where units rank and
        are of different sizes, enough must remain for it.
        """

    def leading(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """`(N,)` bool: the units that `choose` keeps, and units of the same rank that are dead because of others."""
        return self.choose(space, scores, share, alive, share)

    def record(self, space: Space, masks: Tensor, share: float | None) -> Mapping[str, Any] | None:
        """What a plan records besides its densities, as plain values; None for nothing."""
        return None
