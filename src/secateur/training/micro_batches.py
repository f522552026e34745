"""Makes an optimizer step over several micro-batches and processes equal to the step of one large batch.

A term of the loss is an average over rows, tokens or labels, and micro-batches differ in their numbers of these. Each
micro-batch therefore has shares: its number of rows, tokens and labels, divided by the average number of the step's
micro-batches. The average of the terms times these shares is the average over the large batch. For the same reason, all
micro-batches of a step use one sample of stochastic masks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from secateur.methods.method import Method
from secateur.structure.encoded_rows import UNLABELLED
from secateur.training.step import predicts_next

Batch = dict[str, Tensor]

SHARES = "secateur_shares"
"""The key of a micro-batch with its shares."""


class MicroBatches:
    """The micro-batches of the present optimizer step.

    Args:
        model: that is trained; its shares have its type, or float32 if that is more precise.
    """

    def __init__(self, model: PreTrainedModel, method: Method | None, accelerator: Accelerator) -> None:
        self.model, self.method, self.accelerator = model, method, accelerator
        self._random_state: Tensor | None = None  # of the method, at the beginning of the step

    def begin(self, batches: list[Batch]) -> None:
        """Begin a step: give each micro-batch its shares if there are several, in this or in other processes."""
        if batches and (len(batches) > 1 or self.accelerator.num_processes > 1):
            dtype, unused = self.model.dtype, int(predicts_next(self.model))
            for batch, own in zip(batches, shares(batches, dtype, self.accelerator, unused), strict=True):
                batch[SHARES] = own  # type: ignore[assignment]  # taken out again before the model gets the batch
        if self.method is not None:
            self._random_state = self.method.get_extra_state() if len(batches) > 1 else None

    def repeat_sample(self) -> None:
        """Let the method sample the same masks in this micro-batch as in the first one of the step."""
        if self.method is not None and self._random_state is not None:
            self.method.set_extra_state(self._random_state)


def shares(
    batches: list[Batch], dtype: torch.dtype, accelerator: Accelerator, unused: int = 0
) -> list[dict[str, Tensor]]:
    """The shares `()` of each micro-batch: of `rows` and `tokens`, and of `labels` if batches have them.

    Args:
        unused: the labels at the beginning of each row that no output predicts.
    """
    counts = [_counts(batch, unused) for batch in batches]
    rows = [torch.stack([torch.as_tensor(n, device=accelerator.device) for n in one.values()]) for one in counts]
    numbers = torch.stack(rows).to(torch.promote_types(dtype, torch.float))  # (micro-batches, kinds of counts)
    mean = accelerator.reduce(numbers.mean(dim=0), reduction="mean")
    parts = numbers / mean.clamp(min=torch.finfo(mean.dtype).tiny)  # 0 of what no micro-batch has
    return [dict(zip(counts[0], own, strict=True)) for own in parts]


def _counts(batch: Mapping[str, Tensor], unused: int) -> dict[str, int | Tensor]:
    """The numbers of rows, real tokens and labels (not -100) of a batch; of tokens without a mask in units of a row."""
    rows = len(next(iter(batch.values())))
    counts: dict[str, int | Tensor] = {"rows": rows}
    counts["tokens"] = batch["attention_mask"].sum() if "attention_mask" in batch else rows  # all have as many
    if "labels" in batch:
        labels = batch["labels"]
        counts["labels"] = ((labels[:, unused:] if unused else labels) != UNLABELLED).sum()
    return counts
