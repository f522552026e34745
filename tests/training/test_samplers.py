"""The order of rows: like lengths together, continued behind earlier rows, split among processes."""

from statistics import mean

import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from secateur.training.samplers import ByLength, SplitBatches, StageOrder


def test_an_order_by_length_does_not_go_from_long_to_short():
    """A training that ends within an epoch has seen rows of all lengths; Trainer takes the long ones first."""
    lengths = [1 + number % 40 for number in range(1600)]
    theirs = list(LengthGroupedSampler(8, lengths=lengths, generator=torch.Generator().manual_seed(0)))
    mine = ByLength(8, lengths, seed=0)
    overall = mean(lengths)
    assert mean(lengths[row] for row in theirs[:200]) > 1.4 * overall
    for epoch in range(5):
        mine.set_epoch(epoch)
        order = list(mine)
        assert sorted(order) == list(range(1600))
        assert mean(lengths[row] for row in order[:200]) == pytest.approx(overall, rel=0.3)
        batches = [order[first : first + 8] for first in range(0, 1600, 8)]
        assert max(max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches) <= 2


def test_an_order_continues_after_the_rows_that_were_taken():
    lengths = [1 + number % 7 for number in range(100)]
    whole, rest = ByLength(8, lengths, seed=3), ByLength(8, lengths, seed=3, first=64)
    stream = list(whole)
    whole.set_epoch(1)
    stream += list(whole)
    found = list(rest)
    assert found == stream[64:164] and len(found) == len(lengths)
    rest.set_epoch(1)
    assert list(rest)[:36] == stream[164:]


def test_rows_of_a_group_come_one_after_another():
    lengths, groups = [1 + number % 400 for number in range(1200)], [[n, n + 400, n + 800] for n in range(400)]
    order = ByLength(12, lengths, seed=2, groups=groups)
    found = list(order)
    assert sorted(found) == list(range(1200)) and len(order) == 1200
    triples = [tuple(found[first : first + 3]) for first in range(0, 1200, 3)]
    assert {*map(tuple, groups)} == {*triples}
    batches = [[lengths[row] for row in found[first : first + 12]] for first in range(0, 1200, 12)]
    assert mean(max(batch) - min(batch) for batch in batches) < 40  # a tenth of the longest
    assert list(ByLength(12, lengths, seed=2, first=24, groups=groups))[:1176] == found[24:]


def test_the_parts_of_a_batch_differ_by_one_row():
    batches = BatchSampler(SequentialSampler(range(11)), batch_size=2, drop_last=False)
    parts = SplitBatches(batches, processes=2)
    assert list(parts) == [[0, 1], [2, 3], [4, 5], [6, 7], [8], [9, 10]] and len(parts) == 6


def test_a_process_without_a_row_takes_the_first_one():
    batches = BatchSampler(SequentialSampler(range(5)), batch_size=2, drop_last=False)
    assert list(SplitBatches(batches, processes=2))[2:] == [[4], [4]]


def test_the_epoch_is_passed_to_the_sampler_of_split_batches():
    """Trainer itself does not reach them where it resumes within an epoch."""
    order = StageOrder(seed=3, rows_seen=0)
    rows = order.by_length([1, 2, 3], 2)
    order.begin_epoch(4)
    assert rows.epoch == 0  # one process: Trainer sets it
    order.split(BatchSampler(rows, batch_size=2, drop_last=False), processes=2)
    order.begin_epoch(5)
    assert rows.epoch == 5
