"""The order of rows: like lengths together, continued behind earlier rows, split among processes."""

from statistics import mean

import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from secateur.training.samplers import ByLength, SplitBatches, StageOrder, rows_after


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


def batches(order, size, steps, processes=1):
    """The batches of some steps of a training, of all its processes, as Trainer takes them epoch by epoch."""
    split, found = SplitBatches(BatchSampler(order, size, drop_last=False), processes), []
    for epoch in range(-(-steps * processes // len(split))):
        split.set_epoch(epoch)
        found += list(split)
    return found[: steps * processes]


@pytest.mark.parametrize(("rows", "processes"), [(96, 1), (100, 1), (100, 3), (5, 1)])
def test_two_stages_take_the_batches_of_one(rows, processes):
    """Also where the batch does not divide the rows: the last batch of an epoch is then in its place."""
    lengths, size = [1 + number % 7 for number in range(rows)], 8 // processes
    whole = size * processes
    one = batches(ByLength(whole, lengths, seed=3), size, 60, processes)
    for cut in (1, 8, 12, 13, 14, 27):
        first = rows_after(cut, rows, whole, 1)
        assert first == sum(map(len, batches(ByLength(whole, lengths, seed=3), whole, cut)))
        rest = batches(ByLength(whole, lengths, seed=3, first=first), size, 60 - cut, processes)
        assert rest == one[cut * processes :]
        again = rows_after(9, rows, whole, 1, before=first)
        assert again == rows_after(cut + 9, rows, whole, 1)


def test_batches_of_a_later_stage_have_rows_of_similar_length():
    """Where it begins within a batch it would mix the longest rows of one with the shortest of another."""
    lengths = [1 + number % 40 for number in range(1604)]
    for first in (rows_after(250, len(lengths), 8, 1), 2003):
        found = batches(ByLength(8, lengths, seed=0, first=first), 8, 400)
        spans = [max(own) - min(own) for own in ([lengths[row] for row in batch] for batch in found)]
        assert sum(span > 2 for span in spans) <= 2  # those that are left of an epoch


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("before", [0, 24, 100, 132])
def test_rows_are_counted_through_short_batches_and_steps(accumulate, before):
    """Micro-batches are 12 of 8 rows and one of 4 in each epoch of the rows."""
    sizes = [*[8] * 12, 4]
    place = before // 100 * 13 + before % 100 // 8
    epoch = [sizes[(place + number) % 13] for number in range(13)]
    steps = [sum(epoch[first : first + accumulate]) for first in range(0, 13, accumulate)]
    taken = before
    for done in range(3 * len(steps)):
        assert rows_after(done, 100, 8, accumulate, before) == taken
        taken += steps[done % len(steps)]


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
