"""GRAIN: gradient-based intra-attention pruning (Yang et al., ACL 2023, arXiv 2212.07634).

Equations, by the paper's numbers:
    eq. 4    importance of a unit = |sum of weight x gradient over the unit| = |dL/dmask|     `observe`
    sec 4.1  units inside attention: QK and VO dims beside FFN neurons                        the space
    eq. 6    a VO unit's importance x tanh(density of its head / alpha)                       `_regularise`
    sec 4.3  exponential moving average with beta, at every step                              `observe`
    eq. 5    gradient separation: importance hears the logits alone                           `listens_to`
    sec 4.4  embedding factorisation                                                          `Plan.embedding_rank`

Where the default differs from the published code (`faithful=True` reproduces it, see tests/golden):
    1. After the dead heads' QK dims are dropped, the freed parameters are refilled to the density asked for.
    2. Scores are divided by the unit's parameters, so units of different kinds compare (the published units are
       within 1 of each other: no effect there).
    3. The mask is set once more at the end of the schedule: the published loop stops one step short.
    4. The moving average is not taken after the choice has ended; the published code goes on to no effect.
Beyond the paper: evidence from one step in `every`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.method import Amount, Method
from secateur.methods.scheduled import Scheduled
from secateur.system.errors import UserError


@register("grain")
class Grain(Scheduled):
    """Keeps the units whose removal would change the (distillation) loss most, by a smoothed first-order estimate.

    Args:
        space: usually `Space(model, "ffn", "qk", "vo")`; any units work.
        density: the schedule, `cubic(1.0, target, begin=0.2, end=0.4)` in the paper.
        beta: smoothing of the importance (paper: 0.998).
        alpha: strength of the structure regularisation, 0 turns it off (paper: 0.3).
        separate: gradient separation; when False, importance hears the hidden-state term too.
        every: optimizer steps from one that is heard to the next; the moving average remembers as many steps as with 1.
        faithful: reproduce the published ranking (specification section 3), undershoot included.

    Raises:
        UserError: the density is out of reach, `every` is below 1, or `faithful` in a space that counts or rounds
            otherwise.
    """

    importance: Tensor

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        *,
        beta: float = 0.998,
        alpha: float = 0.3,
        separate: bool = True,
        every: int = 1,
        faithful: bool = False,
    ) -> None:
        super().__init__(space, share, density)
        if faithful and (space.budget.name != "parameters" or space.round_to > 1):
            raise UserError("the published ranking knows parameters alone: leave faithful out, or latency and round_to")
        if type(every) is not int or every < 1:
            raise UserError(f"every is {every!r}: expected a whole number of steps from 1 on, 1 to hear them all")
        self.beta, self.alpha, self.separate, self.every, self.faithful = beta, alpha, separate, every, faithful
        self.register_buffer("importance", torch.zeros_like(self.alive, dtype=torch.float))

    @property
    def listens_to(self) -> Mapping[str, float]:
        if self.progress >= self.asked.end or self.steps % self.every:
            return {}
        return {"labels": 1.0, "logits": 1.0, "hidden": 0.0 if self.separate else 1.0}

    def observe(self, gradient: Tensor) -> None:
        """Smooth the importance; in a step whose gradient is not finite it only decays.

        A removed unit adds nothing: its weights count as 0, while the gradient at its mask says what its return would
        do.
        """
        finite = bool(torch.isfinite(gradient).all())
        raw = self._regularise(gradient.abs() * self.alive) if finite else torch.zeros_like(gradient)
        beta = self.beta**self.every  # the steps in between, which nobody heard, count as this one
        self.importance.mul_(beta).add_(raw, alpha=1.0 - beta)

    def _regularise(self, raw: Tensor) -> Tensor:
        """Multiply VO importance by tanh(D / alpha), D the kept part of the unit's head (eq. 6).

        So sparse heads die out.
        """
        if self.alpha == 0.0:
            return raw
        raw = raw.clone()
        heads = self.space.table.heads
        for (group, own), (_, alive) in zip(self.space.by_group(raw), self.space.by_group(self.alive), strict=True):
            if group.kind == "vo":
                kept = alive.view(heads, -1).float().mean(dim=1, keepdim=True)
                own *= torch.tanh(kept / self.alpha).expand(-1, group.size // heads).flatten()
        return raw

    def advance(self, progress: float) -> None:
        if not self.faithful:
            super().advance(progress)
            return
        Method.advance(self, progress)
        if self.asked.begin <= progress < self.asked.end:
            self.alive.copy_(published_ranking(self.space, self.importance, self.asked(progress), self.alive))

    def scores(self) -> Tensor:
        if self.faithful:
            return self.importance
        return self.importance / self.space.unit_cost()


def published_ranking(space: Space, importance: Tensor, density: float, alive: Tensor) -> Tensor:
    """`(N,)` bool: GRAIN's own rule.

    Zero the lowest units while their share of the units' sizes is below 1 - density, then drop the QK dims of heads
    without VO dims; nothing is refilled, and nothing happens when no unit is to be added.
    """
    ranked = importance.masked_fill(~alive, -torch.inf)
    order = torch.argsort(ranked, stable=True)
    size = space.unit_cost().double()
    share = (size / size.sum())[order].cumsum(0)
    count = int(torch.searchsorted(share, 1.0 - density))
    if count <= int((~alive).sum()):
        return alive
    kept = torch.ones_like(alive)
    kept[order[:count]] = False
    return space.closure(kept)
