"""The method's masks on the model, for as long as it is trained or evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.methods.method import Method
from secateur.surgery.masking import Attachment, attached
from secateur.system.model_state import device_of


class TrainingMasks:
    """Puts the masks of a method on a model; without a method it does nothing.

    Attributes:
        attachment: the masks while they are on the model, else None.
    """

    def __init__(self, model: PreTrainedModel, method: Method | None) -> None:
        self.model, self.method = model, method
        self.attachment: Attachment | None = None
        self._fixed: Tensor | None = None

    @contextmanager
    def attached(self, device: torch.device) -> Iterator[None]:
        """Within the block, every forward is masked. Blocks may be nested; the outermost removes the masks.

        Afterwards the method is where the model is, which may have been gathered on the CPU.
        """
        if self.method is None or self.attachment is not None:
            yield
            return
        self.method.to(device)
        with attached(self.model, self.method.space, self._of_forward) as self.attachment:
            try:
                yield
            finally:
                self.attachment = None
                self.method.to(device_of(self.model))

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Within the block, in which the model's modules may be exchanged, the masks that are on it are off."""
        if self.attachment is not None:
            self.attachment.detach()
        yield
        if self.attachment is not None:
            self.attachment.attach(self.attachment.stored)

    @contextmanager
    def fixed(self, masks: Tensor | None) -> Iterator[None]:
        """Within the block every forward takes these masks `(N,)`."""
        self._fixed = masks
        try:
            yield
        finally:
            self._fixed = None

    def _of_forward(self) -> Tensor:
        return self.sample() if self._fixed is None else self._fixed

    def sample(self) -> Tensor:
        """`(N,)`: the masks that the method samples for one forward; the deterministic ones outside of training."""
        assert self.method is not None
        self.method.train(self.model.training)
        return self.method.masks()


def masked(call: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a trainer that runs under the masks, `self.masks`, whoever calls it."""

    @wraps(call)
    def under_masks(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        with trainer.masks.attached(trainer.args.device):
            return call(trainer, *args, **kwargs)

    return under_masks
