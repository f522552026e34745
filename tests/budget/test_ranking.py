"""The order of units: ties in order, NaN last, units that are not alive never."""

import torch

from secateur.budget.ranking import highest, ranked

NAN, INF = float("nan"), float("inf")


def test_units_without_a_score_come_last_and_dead_ones_never():
    values = ranked(torch.tensor([1.0, NAN, 3.0, -2.0]), torch.tensor([True, True, False, True]))
    assert values.dtype == torch.double
    assert [highest(values, count).nonzero().flatten().tolist() for count in range(5)] == [
        [],
        [0],
        [0, 3],
        [0, 1, 3],
        [0, 1, 3],
    ]


def test_ties_are_kept_in_order():
    assert highest(torch.ones(5), 3).tolist() == [True, True, True, False, False]


def test_rows_have_counts_of_their_own():
    values = torch.tensor([[1.0, 2.0, 3.0], [3.0, -INF, 1.0]])
    assert highest(values, 2).tolist() == [[False, True, True], [True, False, True]]
    assert highest(values, torch.tensor([[1], [3]])).tolist() == [[False, False, True], [True, False, True]]
