"""The loss of a task on batches of rows, without training: its gradient with respect to the masks of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.space import Space
from secateur.surgery.input_moments import Batch, on_device
from secateur.surgery.masking import attached
from secateur.system.model_state import evaluating
from secateur.tasks.task import Task


@contextmanager
def own_loss(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """A context in which a model is in evaluation mode and has the loss of a task.

    A forward with labels would set what is unset.
    """
    came = model.config.problem_type
    model.config.problem_type = task.head().get("problem_type", came)
    try:
        with evaluating([model]):
            yield
    finally:
        model.config.problem_type = came


def mask_gradients(model: PreTrainedModel, space: Space, batches: Iterable[Batch]) -> Iterator[Tensor]:
    """`(N,)` of each labelled batch: the gradient of the model's loss with respect to masks of ones."""
    with torch.enable_grad(), attached(model, space, space.ones()) as attachment:
        for batch in batches:
            yield torch.autograd.grad(model(**on_device(batch, model)).loss, attachment.masks)[0]
