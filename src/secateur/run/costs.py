"""The cost of a run's steps: what has been measured of it (`step_times`), and how it changes while the model is pruned.

The time of a step changes linearly with the share of the budget that the schedule keeps, from that of the unpruned
model to that at the target. A model that does not shrink while it is pruned costs the former until it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from secateur.budget.space import Space
from secateur.methods.schedules import linear
from secateur.run.recipe import Recipe
from secateur.run.run_rounds import coarse_rounds, end_of_pruning, share_after
from secateur.run.target import schedule_of, share_to_keep
from secateur.training.shrink_policy import ENOUGH

ROUNDING = 1e-9
"""Tolerance of a number of cuts."""
POINTS = 200
"""Points of the schedule over which the time of a step is averaged."""


@dataclass(frozen=True)
class Speed:
    """The seconds of a model.

    Attributes:
        step: of an optimizer step, on a batch of average length.
        token: of a forward without gradients in the precision of training, for each token of the batch.
        scored: the same in the precision of the weights, in which results are scored and timed.
    """

    step: float
    token: float
    scored: float

    def toward(self, other: Speed, fraction: float) -> Speed:
        """The speed at a fraction of the way from this one to another, in [0, 1]."""
        pairs = ((self.step, other.step), (self.token, other.token), (self.scored, other.scored))
        return Speed(*(a + (b - a) * fraction for a, b in pairs))


@dataclass(frozen=True)
class Costs:
    """What has been measured of a run.

    Attributes:
        dense: the student before pruning, under its method, and the forward of the teacher.
        targets: number of layers that are kept first, None without such a round -> the student at the target.
        shrinks: whether the model is cut while it is pruned.
        cut: seconds of a cut.
        new_shape: seconds by which the first step on batches of a length takes longer after a cut, because libraries
            compile code for each shape.
        lengths: number of different lengths of batches.
        teacher_step: seconds of a step that trains the teacher; None if it is not trained by the run.
        weights: number of weights of the student before pruning.
        memory: kind of memory -> peak in bytes (`process_memory.peaks`).
    """

    dense: Speed
    targets: Mapping[int | str | None, Speed]
    shrinks: bool
    cut: float
    new_shape: float
    lengths: int
    teacher_step: float | None
    weights: int
    memory: Mapping[str, int]


@dataclass(frozen=True)
class Pace:
    """The speed of the student over the progress of a run.

    Attributes:
        recipe: whose number of layers is not open.
        space: of the model before pruning.
    """

    recipe: Recipe
    space: Space
    costs: Costs

    @cached_property
    def target(self) -> Speed:
        """The speed of the model that is cut."""
        return self._at(self._target_share)

    @cached_property
    def cut_at(self) -> float:
        """The progress at which the model is cut: the end of pruning, or where the schedule passes the target."""
        end = end_of_pruning(self.recipe)
        if self.recipe.target.toward is None:
            return end
        progress = (end * point / POINTS for point in range(POINTS))
        return next((one for one in progress if self._share(one) < self._target_share), end)

    def pruning(self, end: float) -> Speed:
        """The average speed from the beginning of the run to `end`, a progress of it, under the method."""
        if not self.costs.shrinks:
            return self.costs.dense
        share = sum(self._share((point + 0.5) / POINTS * end) for point in range(POINTS)) / POINTS
        return self._at(share)

    def cutting(self, end: float, steps: float) -> float:
        """The seconds of cutting the model while it is pruned until `end`, in that many steps, and of new shapes."""
        if not self.costs.shrinks:
            return 0.0
        cuts = int(math.log(self._share(end)) / math.log(ENOUGH) + ROUNDING)
        new_shapes = min(self.costs.lengths, steps / (cuts + 1))
        return cuts * (self.costs.cut + self.costs.new_shape * new_shapes)

    def _share(self, progress: float) -> float:
        """The share of the budget that is kept at a progress of the run."""
        rounds = coarse_rounds(self.recipe)
        if rounds and progress < rounds[0].end:
            return linear(1.0, self._after_layers, begin=rounds[0].begin, end=rounds[0].end)(progress)
        return schedule_of(self.recipe, self._target_share, self._after_layers)(progress)

    @cached_property
    def _after_layers(self) -> float:
        return share_after(coarse_rounds(self.recipe), self.space)

    @cached_property
    def _target_share(self) -> float:
        return share_to_keep(self.recipe, self.space)

    def _at(self, share: float) -> Speed:
        """The speed of a model of this share, between the unpruned one and the lowest target, which were measured."""
        least = self.recipe.target.toward or self._target_share
        fraction = (1.0 - share) / (1.0 - least) if least < 1.0 else 0.0
        return self.costs.dense.toward(self.costs.targets[self.recipe.target.layers], min(1.0, fraction))
