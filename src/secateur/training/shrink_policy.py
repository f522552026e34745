"""Cuts the model while it is pruned: when it pays, and what else has to follow the new shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.methods.method import Method
from secateur.surgery.shrinking import Shrinking
from secateur.system import process_memory
from secateur.training.masks import TrainingMasks

ENOUGH = 0.75
"""The model is cut when the method keeps at most this part of the density that the model has. Each cut makes libraries
prepare code for new shapes (RESULTS.md)."""


@dataclass(frozen=True)
class ShrinkPolicy:
    """Decides when a model is cut to what its method keeps, and keeps masks, optimizer and DDP in step with it.

    Attributes:
        keeps_best: whether the weights of an evaluation may be restored once the method has settled: they need the
            shapes of the end, so that nothing is cut from then on.
        optimizer: returns the optimizer whose moments are cut too, if there is one already.
        rewrap: called after the parameters were exchanged.
    """

    shrinking: Shrinking
    method: Method
    masks: TrainingMasks
    keeps_best: bool
    optimizer: Callable[[], torch.optim.Optimizer | None]
    rewrap: Callable[[], None]

    def due(self) -> bool:
        """Whether a cut would make the model much smaller than it is."""
        if self.keeps_best and self.method.reached_target():
            return False
        return self._density(self.method.alive) <= ENOUGH * self._density(self.shrinking.kept)

    def cut(self, kept: Tensor) -> None:
        """Cut the model and its moments to the units `kept`, `(N,)` bool."""
        self._change(lambda optimizer: self.shrinking.cut(kept, optimizer))

    def cut_as_restored(self) -> None:
        """Cut the model to the units that a checkpoint says it had, before its weights are loaded."""
        if not bool(self.shrinking.kept.all()):
            self.cut(self.shrinking.kept)

    def restore(self) -> None:
        """Give the model and its moments their first shapes, with zeros for what was cut away."""
        self._change(self.shrinking.restore)

    def _density(self, units: Tensor) -> float:
        """What would be stored of these units: a tile leaves a weight with its whole row or column only."""
        space = self.method.space
        return space.density(space.filled(units) if space.tiled else units)

    def _change(self, change: Callable[[torch.optim.Optimizer | None], None]) -> None:
        attachment = self.masks.attachment
        if attachment is not None:
            attachment.detach()
        change(self.optimizer())
        if attachment is not None:
            attachment.attach(self.shrinking.places)
        self.rewrap()
        process_memory.release_free_pages()
