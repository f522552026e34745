"""`transformers.Trainer` that takes its rows in an order of one's own."""

from __future__ import annotations

from typing import Any, Protocol

from torch.utils.data import BatchSampler, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

__all__ = ["LengthGroupedSampler", "OrderedTrainer", "RowOrder"]


class RowOrder(Protocol):
    """Decides in which order training takes rows, and which process takes which."""

    def by_length(self, lengths: list[int], batch_size: int) -> Sampler[int]:
        """The order of rows of these lengths (tokens) in which rows of similar length are batched together.

        Args:
            batch_size: rows of one batch of all processes together.
        """

    def split(self, batches: BatchSampler, processes: int) -> BatchSampler:
        """The batches of all processes: each of `batches` is divided into `processes` parts."""

    def begin_epoch(self, epoch: int) -> None:
        """Called when an epoch begins, or when a resumed training continues within it."""


class OrderedTrainer(Trainer):
    """A Trainer whose training takes rows in the order of `row_order`, if it is to group them by length.

    Rows without token ids, such as those of images, have one length: Trainer would refuse them.
    """

    row_order: RowOrder

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        rows: Any = self.train_dataset
        if self._have_one_length(rows):
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return self.row_order.by_length([1] * len(rows), size * self.args.world_size)
        sampler = super()._get_train_sampler(*args, **kwargs)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        return self.row_order.by_length(sampler.lengths, sampler.batch_size * self.args.world_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        if self._have_one_length(eval_dataset):
            return SequentialSampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset)

    def _have_one_length(self, rows: Any) -> bool:
        grouped = self.args.train_sampling_strategy == "group_by_length"
        return grouped and hasattr(rows, "__len__") and len(rows) > 0 and "input_ids" not in rows[0]
