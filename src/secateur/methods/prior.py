"""A prior of gates by evidence, under which one price for all gates means the same for units of every size.

The odds that a gate is open are what its unit is worth over what the unit costs, to the power of a weight w, times what
the gate has learned:

    log alpha = learned + w (log I - log c) - price

    I      the Fisher information of the unit's mask: its mean squared gradient while nothing is pruned     `observe`
    c      the parameters of the unit
    price  the same number for all gates, at which the expected density is that of the schedule         `projection.py`

Gates that all start open do not tell what their units cost: the price that closes half of the neurons then closes half
of the residual stream as well.

Dims of the stream cross all other units, so that a dim costs what is left of those, and any other unit costs what is
left of the stream. As pruning goes on a dim therefore becomes cheap: with s the part of the stream that is open and d
the density, its cost falls by d / s^2 beside the cost of other units.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.budget.space import Space
from secateur.methods.method import Waiting, finite
from secateur.system.model_state import device_of

log = logging.getLogger(__name__)

LEAST = 1e-4
"""The least information, in medians of that of all units: a unit without a gradient has no logarithm."""


class EvidencePrior(nn.Module):
    """Observes the gradients of masks before pruning begins, and says by how much gates are to move from then on.

    Args:
        space: what is pruned.
        weight: w.

    Attributes:
        information: `(N,)`, the sum of squared gradients.
        odds: `(N,)`, `w (log I - log c)` as it is in the gates, without what the price has taken from all of them.
    """

    information: Tensor
    odds: Tensor

    def __init__(self, space: Space, weight: float) -> None:
        super().__init__()
        self.space, self.weight = space, weight
        self.stream = space.slices.get("hidden", slice(0))
        for name in ("information", "odds"):
            self.register_buffer(name, torch.zeros(len(space), device=device_of(space.model)))

    def observe(self, gradient: Tensor) -> None:
        """Add the gradient `(N,)` of one step; one that is not finite, at which a training ends, counts as 0."""
        self.information += finite(gradient).square()

    @property
    def known(self) -> bool:
        """Whether a gradient was observed that says anything."""
        return bool(self.information.any())

    def change(self, open_probability: Tensor) -> Tensor:
        """`(N,)`: by how much log alpha is to change, of all gates at first, and then of the stream's dims.

        Nothing changes where no gradient was observed.

        Args:
            open_probability: `(N,)`, for the cost of the stream's dims.
        """
        known = self.information[self.information > 0]
        if not len(known):
            return torch.zeros_like(self.odds)
        worth = self.information.clamp(min=LEAST * float(known.median()))
        odds = worth.log() - self.space.unit_cost().to(worth).log()
        stream = open_probability[self.stream]
        if len(stream):
            odds[self.stream] += 2.0 * float(stream.mean().log()) - math.log(self.space.density(open_probability))
        before = self.odds.clone()
        self.odds.copy_(self.weight * odds)
        return self.odds - before


class Informed(Waiting):
    """A method whose gates may have a prior, for which it observes gradients until pruning begins.

    Where it has observed none, as in a schedule that begins with the first step, its gates have no prior.
    """

    prior: EvidencePrior | None

    @property
    def listens_to(self) -> Mapping[str, float]:
        return {} if self.prior is None or self.begun else {"labels": 1.0, "logits": 1.0}

    @property
    def informed(self) -> bool:
        """Whether gates have evidence, or may get some until pruning begins."""
        return self.prior is not None and (not self.begun or self.prior.known)

    def observe(self, gradient: Tensor) -> None:
        if self.prior is not None:
            self.prior.observe(gradient)

    def advance(self, progress: float) -> None:
        first = not self.begun or self.steps == 0
        super().advance(progress)
        if first and self.begun and self.prior is not None and not self.informed:
            log.warning(
                "evidence: no gradient was observed before pruning begins, at %g of the run, so that gates are trained "
                "as with evidence=0: begin later",
                self.share_schedule.begin,
            )
