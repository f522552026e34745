"""GRAIN: gradient-based intra-attention pruning (Yang et al., ACL 2023, arXiv 2212.07634).

Equations, by the paper's numbers:
    eq. 4    importance of a unit = |sum of weight x gradient over the unit| = |dL/dmask|     `observe`
    sec 4.1  units: QK and VO dims of the attention, and FFN neurons                          the space
    eq. 6    structure regularisation: importance of a VO dim x tanh(density of its head / alpha)   `_regularised`
    sec 4.3  exponential moving average with factor beta, at every step                       `observe`
    eq. 5    gradient separation: only the gradient of the logits term is observed            `listens_to`
    sec 4.4  embedding factorisation                                                          `Plan.embedding_rank`

Where the default differs from the published code (`faithful=True` reverts 1 to 3, see tests/golden):
    1. After the QK dims of dead heads are removed, units are kept in their place until the target density is reached.
    2. Importance is divided by the root of the number of parameters of the unit, so that units of different sizes
       compare: it is the sum of as many terms of either sign, which grows with the root of their number. (Divided by
       the number, heads among neurons are all removed first.) Units of the paper differ by one parameter, so that this
       has no effect on them.
    3. The mask is updated once more at the end of the schedule; the published loop stops one step earlier.
    4. The moving average stops at the end of the schedule; in the published code it goes on without effect.
Beyond the paper: `every` observes the gradient of only some steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.method import Amount, finite
from secateur.methods.options import number, truth
from secateur.methods.rounds import CoarseRound
from secateur.methods.scheduled import Scheduled
from secateur.system.errors import UserError


@register("grain")
class Grain(Scheduled):
    """Keeps the units whose removal would change the (distillation) loss most, by a smoothed first-order estimate.

    Args:
        space: usually `Space(model, "ffn", "qk", "vo")`; any units work.
        density: the schedule, `cubic(1.0, target, begin=0.2, end=0.4)` in the paper.
        rounds: as of `Scheduled`.
        beta: smoothing of the importance, from 0 to below 1 (paper: 0.998).
        alpha: strength of the structure regularisation, 0 turns it off (paper: 0.3).
        separate: gradient separation; if False, the gradient of the hidden-state term is observed too.
        every: observe the gradient in one of this many optimizer steps; the moving average
            spans as many steps as with 1.
        faithful: the published ranking, which keeps less than the target density.

    Raises:
        UserError: the share is out of reach, a number is not in its range, or `faithful` with a space that does not
            count parameters or has a `round_to`, or with rounds.
    """

    importance: Tensor
    vo_units: Tensor
    vo_heads: Tensor
    head_dims: Tensor

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        rounds: Sequence[CoarseRound] = (),
        *,
        beta: float = 0.998,
        alpha: float = 0.3,
        separate: bool = True,
        every: int = 1,
        faithful: bool = False,
    ) -> None:
        super().__init__(space, share, density, rounds)
        self.separate, self.faithful = truth("separate", separate), truth("faithful", faithful)
        if faithful and (space.budget.name != "parameters" or space.round_to > 1 or rounds):
            raise UserError(
                "the published ranking is for parameters alone, in one round: leave faithful out, or latency, "
                "round_to and layers"
            )
        if type(every) is not int or every < 1:
            raise UserError(f"every is {every!r}: expected a whole number of steps from 1 on, 1 to observe all of them")
        self.beta, self.alpha = number("beta", beta, least=0.0, below=1.0), number("alpha", alpha, least=0.0)
        self.every = every
        self.register_buffer("importance", torch.zeros_like(self.alive, dtype=torch.float))
        for name, numbers in zip(("vo_units", "vo_heads", "head_dims"), _vo_dims_of_heads(space), strict=True):
            self.register_buffer(name, numbers.to(self.alive.device), persistent=False)

    @classmethod
    def defaults_for(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The published ranking has one round."""
        return {**cls.defaults, "target.layers": None} if options.get("faithful") else cls.defaults

    @property
    def listens_to(self) -> Mapping[str, float]:
        if self.recovering or self.progress >= self.share_schedule.end or self.steps % self.every:
            return {}
        return {"labels": 1.0, "logits": 1.0, "hidden": 0.0 if self.separate else 1.0}

    def observe(self, gradient: Tensor) -> None:
        """Update the moving average; a gradient that is not finite counts as 0, so that it only decays.

        A training ends at such a gradient (`Method.observe`); the published one, in fp16, goes on.

        The importance of a removed unit is 0, because its weights count as 0: the gradient at its mask is the effect
        of restoring it.
        """
        importance = self._regularised(finite(gradient).abs() * self.alive)
        beta = self.beta**self.every  # the steps that are not observed count as this one
        self.importance.mul_(beta).add_(importance, alpha=1.0 - beta)

    def _regularised(self, importance: Tensor) -> Tensor:
        """With VO importance multiplied by tanh(D / alpha), D the fraction kept of the unit's head (eq. 6).

        As a result sparse heads are removed completely.
        """
        if self.alpha == 0.0 or not len(self.vo_units):
            return importance
        alive = self.alive[self.vo_units].float()
        kept = alive.new_zeros(len(self.head_dims)).index_add(0, self.vo_heads, alive) / self.head_dims
        own = importance[self.vo_units] * torch.tanh(kept / self.alpha)[self.vo_heads]
        return importance.index_copy(0, self.vo_units, own)

    def remove_units(self) -> None:
        if not self.faithful:
            super().remove_units()
        elif self.share_schedule.begin <= self.progress < self.share_schedule.end:
            density = self.share_schedule(self.progress)
            self.alive.copy_(published_ranking(self.space, self.importance, density, self.alive))

    def forget_evidence(self) -> None:
        self.importance.zero_()  # the average starts again, of the model that has recovered

    def scores(self) -> Tensor:
        if self.faithful:
            return self.importance
        return self.importance / self.space.unit_cost().sqrt()


def _vo_dims_of_heads(space: Space) -> tuple[Tensor, Tensor, Tensor]:
    """The indices of the units that are VO dims, the number of the head of each, and the VO dims of each head.

    Heads that share a value have their VO dims in common, and count as one here.
    """
    numbers = torch.arange(len(space))
    units, heads, dims = [numbers[:0]], [numbers[:0]], [numbers[:0]]
    for group in space.groups:
        if group.kind == "vo":
            size = group.size // space.table.kv_heads
            units.append(numbers[space.slices[group.name]])
            heads.append(numbers[: group.size] // size + space.table.kv_heads * (len(heads) - 1))
            dims.append(torch.full((space.table.kv_heads,), size))
    return torch.cat(units), torch.cat(heads), torch.cat(dims)


def published_ranking(space: Space, importance: Tensor, density: float, alive: Tensor) -> Tensor:
    """`(N,)` bool: the published rule.

    The lowest units are removed while their share of all unit sizes is below 1 - density, and then the QK dims of
    heads without VO dims. No unit is kept in their place. `alive` is returned where no further unit is to be removed.
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
