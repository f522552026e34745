"""Block movement pruning: learned scores over tiles of weights (Lagunas et al., EMNLP 2021, arXiv 2109.04838).

By the sections of the specification, which follows the paper and its code (huggingface/nn_pruning):
    sec 2  a score for every tile of a weight, and for every neuron                              the space, `units_of`
    sec 3  hard masks by top-k, threshold or sigmoid threshold, straight-through gradient        `masks`, `BINARISERS`
    sec 3  the gradient of a tile's score is sum(W dL/dW), whether it is pruned or not: it may return   `masks`
    sec 4  cubic ramp of the threshold, and of the penalty with it                               `penalty`
    sec 5  L1 norm of the sigmoids of the scores, or the expected L0 norm                        `REGULARISERS`
    sec 8  variant `filled`: zeroed blocks become trainable weights after the cut                `fills_zeroed_blocks`
    sec 6  distillation is not part of the method: `Logits(divergence=True)` and `Labels` of `objectives`

Where the default differs from the published code (`faithful=True` reproduces it, see tests/golden):
    1. The density is the target. Every few steps, a controller sets the threshold at which the counted density is that
       of the schedule. The published code ramps the threshold itself, so that a density has to be found by trying
       strengths of the penalty.
    2. A score counts in the penalty in proportion to the parameters that it removes. In the published code every score
       tensor has the same weight.
    3. The mask of a neuron acts once, at its activation, so that a pruned neuron can return. In the published code
       (`1d_alt`, units `ffn/tied`) it acts on both weights, and a pruned neuron gets no gradient.
Not reproduced: gradients of scores are clipped together with those of the weights; evaluation uses the final threshold;
biases of the residual stream are masked; a head is removed when its query or key is empty (such a head attends
uniformly, so it is kept); scores of rows times columns (`1d`), shared between the weights of a layer (`joint`), or of
2:4 patterns; LayerNorm is kept, and GELU too unless the config of the recipe's model has ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.budget.parameters import Parameters
from secateur.budget.ranking import descending
from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.binarisers import BINARISERS
from secateur.methods.method import Amount, Method
from secateur.methods.movement_options import (
    TILE,
    check_choices,
    check_penalty_weights,
    check_variant,
    threshold_of,
    units_of,
)
from secateur.methods.movement_penalty import REGULARISERS, published_weights, weights_by_parameters
from secateur.methods.options import number, truth


@register("movement")
class Movement(Method):
    """Learns a score for every tile and neuron together with the weights; pruned units may return.

    Args:
        space: usually `Space(model, "attention/32x32", "ffn")`; any units work.
        density: the schedule that the controller follows, `cubic(1.0, target, begin=b, end=e)`. Where `faithful`, the
            ramp of the threshold has its begin and end, and its last value is an upper limit.
        variant: checks that the units are those of `units_of`; `filled` is `hybrid` with zeroed blocks filled after
            the cut.
        tile: side of the square tiles of the variant.
        binariser: `sigmoid` and `threshold` rank all scores together, `topk` keeps the same fraction of every group.
        threshold: its start and end, where `faithful` (paper: 0 to 0.1 for `sigmoid`).
        every: steps between updates of the mask by the controller; it also acts in the first step at the last density.
        strength: of the penalty at the end of the ramp (paper: 2.5 to 60).
        regulariser: `l1` or `l0`.
        weights: weight of a kind of units in the penalty, `{"ffn": 0.5}`; 1 by default.
        minimum: fraction of every group that is kept in any case, where `faithful`.
        learning_rate: of the scores; it follows the schedule of the run (paper: 0.01).
        faithful: the published threshold and penalty.

    Attributes:
        open: `(N,)` bool, the units whose mask is 1 at present.
        movement: `(N,)`, the learned scores, S of the paper.
        ramp: of the penalty, from 0 to 1.
        penalty_weights: `(N,)`, how much each score counts in the penalty.

    Raises:
        UserError: the density is out of reach, an argument is unknown, out of range or does not go with `faithful`,
            the variant has other units, or the space counts a latency.
    """

    open: Tensor
    penalty_weights: Tensor
    budgets = ("parameters",)
    monotone = False
    defaults = {
        "target.units": ("attention/32x32", "ffn"),
        "method.begin": 0.05,
        "method.ramp": 0.8,
        "method.end": 0.6,
        "distillation.temperature": 2.0,
        "distillation.divergence": True,
        "distillation.logits_weight": 0.9,
        "distillation.labels_weight": 0.1,
        "distillation.hidden": None,
        "training.freeze_embeddings": False,
    }

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        *,
        variant: str | None = None,
        tile: int = TILE,
        binariser: str = "sigmoid",
        threshold: Sequence[float] | None = None,
        every: int = 8,
        strength: float = 10.0,
        regulariser: str = "l1",
        weights: Mapping[str, float] | None = None,
        minimum: float = 0.0,
        learning_rate: float = 0.01,
        faithful: bool = False,
    ) -> None:
        super().__init__(space, share, density)
        self.variant, self.binariser, self.faithful = variant, binariser, truth("faithful", faithful)
        self.strength, self.regulariser = number("strength", strength, least=0.0), regulariser
        self.minimum = number("minimum", minimum, least=0.0, most=1.0)
        self.learning_rate, self.every = number("learning_rate", learning_rate, above=0.0), every
        check_choices(binariser, regulariser, every)
        check_penalty_weights({} if weights is None else weights, space.kinds)
        first, last = threshold_of(threshold, binariser, minimum, faithful)
        check_variant(variant, tile, faithful, space.units)
        self.budget = Parameters(count_zeros=self.fills_zeroed_blocks)
        self.threshold = replace(self.share_schedule, curve="cubic", start=first, stop=last)
        self.ramp = replace(self.share_schedule, curve="cubic", start=0.0, stop=1.0)
        self.movement = nn.Parameter(space.ones() * 0.0)
        self.register_buffer("open", torch.ones_like(self.alive))
        penalty_weights = (published_weights if faithful else weights_by_parameters)(space, weights or {})
        self.register_buffer("penalty_weights", penalty_weights, persistent=False)

    @classmethod
    def defaults_for(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The `defaults` with the units of the variant in the options."""
        variant, tile = options.get("variant") or "hybrid", options.get("tile", TILE)
        return {**cls.defaults, "target.units": units_of(variant, tile, bool(options.get("faithful")))}

    @property
    def shrinks(self) -> bool:
        return False

    @property
    def fills_zeroed_blocks(self) -> bool:
        return self.variant == "filled"

    # Masks

    def masks(self) -> Tensor:
        """`(N,)` of 0 and 1; the gradient of every mask, open or closed, is that of its score."""
        kept = self.open.to(self.movement.dtype)
        return kept + (self.movement - self.movement.detach()) if self.training else kept

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        before, density = self.share_schedule(self.progress), self.share_schedule(progress)
        super().advance(progress)
        if self.faithful:
            self.open.copy_(self._binarised())
        elif self.steps % self.every == 0 or before > density == self.share_schedule.stop:
            self.open.copy_(self._controlled(density))

    def _binarised(self) -> Tensor:
        """`(N,)` bool: the scores of each group, binarised at the present threshold."""
        rule, threshold = BINARISERS[self.binariser], self.threshold(self.progress)
        return torch.cat([rule(own, threshold, self.minimum) for _, own in self.space.by_group(self.movement)])

    def _controlled(self, density: float) -> Tensor:
        """`(N,)` bool: the scores above the threshold at which the counted density is the given one."""
        if density == 1.0:
            return torch.ones_like(self.open)
        return self.budget.leading(self.space, self.scores(), density, self.alive)

    # The penalty

    def penalty(self) -> Tensor:
        """`()`: strength x ramp x weighted mean of the regularised scores.

        Where `faithful`, the ramp is the threshold over its last value.
        """
        ramp = self.ramp(self.progress)
        if self.faithful and self.threshold.stop:
            ramp = self.threshold(self.progress) / self.threshold.stop
        return self.strength * ramp * (REGULARISERS[self.regulariser](self.movement) * self.penalty_weights).sum()

    def param_groups(self) -> list[dict[str, Any]]:
        """The scores, without weight decay; their own learning rate follows the schedule of the run."""
        return [{"params": [self.movement], "lr": self.learning_rate, "weight_decay": 0.0}]

    # Scores and the plan

    def scores(self) -> Tensor:
        """`(N,)`: the scores; with `topk` the rank of each in its group, as the fraction of scores that are lower."""
        scores = self.movement.detach()
        if self.binariser != "topk":
            return scores
        ranks = [descending(own).argsort() for _, own in self.space.by_group(scores)]
        return torch.cat([1.0 - (rank + 0.5) / len(rank) for rank in ranks])

    def reached_target(self) -> bool:
        """Whether the ramp has ended and the density is the last one of the schedule."""
        return self.progress >= self.share_schedule.end and self._counted(self.open) <= self.share_schedule.stop + 1e-9

    def chosen(self, density: float) -> Tensor:
        """`(N,)` masks at a density; where `faithful` those of the threshold, if they do not exceed it."""
        if self.faithful and self._counted(self.open) <= density <= 1.0:
            return self.open.float()
        among = self.open if self.faithful else self.alive
        return self.budget.choose(self.space, self.scores(), density, among, density).float()

    def _counted(self, kept: Tensor) -> float:
        """The density of the cut model, including its zeroed blocks if they are filled."""
        return self.budget.share(self.space, kept)

    @torch.no_grad()
    def log_values(self) -> dict[str, float]:
        """The counted `density`, its `density_target`, `density_filled` with tiles, and the lowest sigmoid kept."""
        target = {} if self.faithful else {"density_target": self.share_schedule(self.progress)}
        filled = {"density_filled": self.space.density(self.space.filled(self.open))} if self.space.tiled else {}
        lowest = float(torch.sigmoid(self.movement[self.open].min())) if bool(self.open.any()) else 1.0
        return {"density": self._counted(self.open), **target, **filled, "threshold": lowest}
