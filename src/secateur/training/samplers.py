"""The order in which training takes rows: like lengths together, behind what was taken, shared by processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler
from transformers.trainer_pt_utils import LengthGroupedSampler


class Parts(BatchSampler):
    """Each batch that one process would take, in as many parts as there are processes, part after part.

    Parts differ by a row at the most. Where an epoch's last batch has fewer rows than there are processes, those
    without a row take its first one.
    """

    def __init__(self, batches: BatchSampler, processes: int) -> None:
        super().__init__(batches.sampler, batches.batch_size * processes, batches.drop_last)
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        """To the rows' own order."""
        if isinstance(self.sampler, ByLength | SeedableRandomSampler):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            for part in range(self.processes):
                first, last = (len(batch) * number // self.processes for number in (part, part + 1))
                yield batch[first:last] or batch[:1]

    def __len__(self) -> int:
        return super().__len__() * self.processes


class ByLength(LengthGroupedSampler):
    """Rows grouped by length, in an order that the seed and the epoch alone decide.

    Trainer's own draws from the global generator, whose state in the middle of an epoch is not that of its start; and
    it goes from long rows to short ones, again and again, so that a training that ends on the way has seen long ones.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int, first: int = 0) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch, self.first = seed, 0, first

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """As many rows as there are, from the place where `first` rows and the epochs before this one end."""
        epoch, start = divmod(self.first + self.epoch * len(self.lengths), len(self.lengths))
        yield from islice(self._order(epoch), start, None)
        yield from islice(self._order(epoch + 1), start)

    def _order(self, epoch: int) -> Iterator[int]:
        """Batches of rows of like length, shuffled; the last one may be smaller."""
        self.generator.manual_seed(1_000_003 * self.seed + epoch)
        rows, size = list(super().__iter__()), self.batch_size
        whole = len(rows) // size
        for place in torch.randperm(whole, generator=self.generator).tolist():
            yield from rows[place * size : (place + 1) * size]
        yield from rows[whole * size :]
