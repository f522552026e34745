"""Cutting the model while it is pruned: when a cut is worth its cost, and what has to follow the new shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.methods.method import Method
from secateur.surgery.shrinking import Shrinking
from secateur.system import process_memory
from secateur.system.parts import is_sharded
from secateur.training.masks import TrainingMasks

ENOUGH = 0.75
"""The model is cut when the density that the method keeps is at most this fraction of the model's, because libraries
compile code for new shapes after each cut (RESULTS.md)."""


@dataclass(frozen=True)
class ShrinkPolicy:
    """Decides when a model is cut to what its method keeps, and keeps masks, optimizer and DDP in step with it.

    Attributes:
        keeps_best: whether the weights of an evaluation may be restored later. Nothing is then cut once the method has
            settled, so that these weights have the final shapes.
        optimizer: returns the optimizer whose moments are cut too, if it exists already.
        replaced: called after the parameters have been replaced.
    """

    shrinking: Shrinking
    method: Method
    masks: TrainingMasks
    keeps_best: bool
    optimizer: Callable[[], torch.optim.Optimizer | None]
    replaced: Sequence[Callable[[], None]]

    def due(self) -> bool:
        """Whether a cut would make the model much smaller than it is."""
        if self.keeps_best and self.method.reached_target():
            return False
        return self._density(self.method.alive) <= ENOUGH * self._density(self.shrinking.kept)

    def cut(self, kept: Tensor) -> None:
        """Cut the model and its moments to the units `kept`, `(N,)` bool."""
        self._change(lambda optimizer: self.shrinking.cut(kept, optimizer))

    def cut_as_restored(self) -> None:
        """Cut the model to the units that it had in a checkpoint, before the weights of that are loaded."""
        if not bool(self.shrinking.kept.all()):
            self.cut(self.shrinking.kept)

    def restore(self) -> None:
        """Give the model and its moments their original shapes, with zeros where they were cut."""
        self._change(self.shrinking.restore)

    def abandon(self) -> None:
        """Restore the model after a training, which may have failed: without waiting for other processes.

        A model in parts stays as it is, because the other processes would have to help.
        """
        if not is_sharded(self.shrinking.model):
            self.shrinking.restore(self.optimizer())

    def _density(self, units: Tensor) -> float:
        """The density that would be stored for these units: tiles are cut only with their whole row or column."""
        space = self.method.space
        return space.density(space.filled(units) if space.tiled else units)

    def _change(self, change: Callable[[torch.optim.Optimizer | None], None]) -> None:
        attachment = self.masks.attachment
        if attachment is not None:
            attachment.detach()
        change(self.optimizer())
        if attachment is not None:
            attachment.attach(self.shrinking.stored)
        for call in self.replaced:
            call()
        process_memory.release_heap()
