"""The order of training rows: grouped by similar length, continued by later stages, and split among processes.

Stages share one sequence of batches. An epoch is whole batches in random order and then what is left, if the batch does
not divide the rows. A stage that begins within an epoch first takes the rest of it; its own epochs, which Trainer
counts, then begin at that place in each epoch of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler
from transformers import TrainingArguments

from secateur.system.compat.trainer import LengthGroupedSampler, SeedableRandomSampler
from secateur.training.examples import Examples


def seed_of_order(args: TrainingArguments) -> int:
    """The seed of the order of the rows."""
    return args.seed if args.data_seed is None else args.data_seed


def rows_after(steps: int, rows: int, batch: int, accumulate: int, before: int = 0) -> int:
    """The number of training rows that a run has taken, repeated ones counted again.

    Args:
        steps: optimizer steps of the present stage.
        rows: of one epoch.
        batch: rows of a micro-batch of all processes together; the last one of an epoch may have fewer.
        accumulate: micro-batches of a step; the last step of one of the stage's epochs may have fewer.
        before: rows that earlier stages have taken.
    """
    of_epoch = -(-rows // batch)
    epochs, rest = divmod(steps, -(-of_epoch // accumulate))
    earlier, within = divmod(before, rows)
    batches = (earlier + epochs) * of_epoch + within // batch + min(rest * accumulate, of_epoch)
    return batches // of_epoch * rows + batches % of_epoch * batch


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

    def rows_taken(self, steps: int, rows: Any, args: TrainingArguments) -> int:
        """`rows_after` some steps of this stage on `rows`, which have a length."""
        batch = args.train_batch_size * args.world_size
        return rows_after(steps, len(rows), batch, args.gradient_accumulation_steps, self.rows_seen)

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

    Rows by length come in the batches of `ByLength`: cut out of its rows, those behind a short one would be shifted.

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
        for batch in self._batches():
            for part in range(self.processes):
                first, last = (len(batch) * number // self.processes for number in (part, part + 1))
                yield batch[first:last] or batch[:1]

    def _batches(self) -> Iterable[list[int]]:
        """The batches of one epoch, of all processes."""
        if not isinstance(self.sampler, ByLength):
            return super().__iter__()
        batches = self.sampler.batches(self.batch_size)
        return (batch for batch in batches if not self.drop_last or len(batch) == self.batch_size)

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
        """The rows of the batches of one epoch."""
        for batch in self.batches(self.size):
            yield from batch

    def batches(self, size: int) -> Iterator[list[int]]:
        """The batches of one epoch, which begins with the one of row number `first`, and after the earlier epochs.

        Args:
            size: rows of a batch: those by which rows were grouped, or a micro-batch of these.
        """
        epoch, start = divmod(self.first, self.rows)
        earlier = self._of_epoch(epoch + self.epoch, size)
        yield from islice(earlier, start // size, None)
        yield from islice(self._of_epoch(epoch + self.epoch + 1, size), start // size)

    def _of_epoch(self, epoch: int, size: int) -> Iterator[list[int]]:
        """Batches of rows of similar length, in random order; the last one may be smaller."""
        self.generator.manual_seed(1_000_003 * self.seed + epoch)
        rows = [row for group in super().__iter__() for row in self.groups[group]]
        full = len(rows) // self.size
        order = torch.randperm(full, generator=self.generator).tolist()
        for place in [*order, full]:
            grouped = rows[place * self.size : (place + 1) * self.size]
            for first in range(0, len(grouped), size):
                yield grouped[first : first + size]
