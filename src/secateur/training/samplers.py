"""The order of training rows: grouped by similar length, continued by later stages, and split among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch.utils.data import BatchSampler
from transformers import TrainingArguments

from secateur.system.compat.trainer import LengthGroupedSampler, SeedableRandomSampler
from secateur.training.examples import Examples


def seed_of_order(args: TrainingArguments) -> int:
    """The seed of the order of the rows."""
    return args.seed if args.data_seed is None else args.data_seed


class StageOrder:
    """The order of the rows of one stage; the hooks of `HookedTrainer`.

    Args:
        rows_seen: rows that earlier stages have taken; the order continues after them.
        examples: of the rows, if those of an example should be in the same batch.
    """

    def __init__(self, seed: int, rows_seen: int, examples: Examples | None = None) -> None:
        self.seed, self.rows_seen = seed, rows_seen
        self.groups = examples.groups if examples is not None else None
        self._batches: SplitBatches | None = None

    def by_length(self, lengths: list[int], batch_size: int) -> ByLength:
        return ByLength(batch_size, lengths, self.seed, self.rows_seen, self.groups)

    def split(self, batches: BatchSampler, processes: int) -> SplitBatches:
        self._batches = SplitBatches(batches, processes)
        return self._batches

    def begin_epoch(self, epoch: int) -> None:
        if self._batches is not None:
            self._batches.set_epoch(epoch)


class SplitBatches(BatchSampler):
    """Splits each batch of a run in one process into one part for each process, which come one after another.

    Parts differ by one row at most. If the last batch of an epoch has fewer rows than there are processes, those
    without a row take its first one.
    """

    def __init__(self, batches: BatchSampler, processes: int) -> None:
        super().__init__(batches.sampler, batches.batch_size * processes, batches.drop_last)
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the sampler of the rows."""
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
    """Rows grouped by length, in an order that depends on the seed and the epoch only.

    Trainer's own sampler uses the global random generator, whose state a resumed training cannot restore in the middle
    of an epoch. It also sorts rows from long to short, repeatedly, so that a training that ends within an epoch has
    seen more long rows than short ones.

    Args:
        first: rows that were taken before.
        groups: the places of rows that belong together, which come one after another, by the length of the longest; a
            group that a batch has no space for goes on in another one. By default each row is alone.
    """

    def __init__(
        self,
        batch_size: int,
        lengths: list[int],
        seed: int,
        first: int = 0,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.rows, self.size, self.groups = len(lengths), batch_size, groups or [[row] for row in range(len(lengths))]
        longest = [max(lengths[row] for row in group) for group in self.groups]
        together = max(1, batch_size * len(self.groups) // self.rows)  # groups of a batch, on average
        super().__init__(together, lengths=longest, generator=torch.Generator())
        self.seed, self.epoch, self.first = seed, 0, first

    def __len__(self) -> int:
        return self.rows

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """The rows of one epoch, which begins after `first` rows and the earlier epochs."""
        epoch, start = divmod(self.first + self.epoch * self.rows, self.rows)
        yield from islice(self._order(epoch), start, None)
        yield from islice(self._order(epoch + 1), start)

    def _order(self, epoch: int) -> Iterator[int]:
        """Batches of rows of similar length, in random order; the last one may be smaller."""
        self.generator.manual_seed(1_000_003 * self.seed + epoch)
        rows, size = [row for group in super().__iter__() for row in self.groups[group]], self.size
        full = len(rows) // size
        for place in torch.randperm(full, generator=self.generator).tolist():
            yield from rows[place * size : (place + 1) * size]
        yield from rows[full * size :]
