"""The ranking: equal scores in order, NaN last, units that are not alive never selected."""

import torch

from secateur.budget.ranking import highest, ranked

NAN, INF = float("nan"), float("inf")


def test_units_without_a_score_rank_last_and_units_that_are_not_alive_are_never_selected():
    values = ranked(torch.tensor([1.0, NAN, 3.0, -2.0]), torch.tensor([True, True, False, True]))
    assert values.dtype == torch.double
    assert [highest(values, count).nonzero().flatten().tolist() for count in range(5)] == [
        [],
        [0],
        [0, 3],
        [0, 1, 3],
        [0, 1, 3],
    ]


def test_of_equal_scores_the_first_are_selected():
    assert highest(torch.ones(5), 3).tolist() == [True, True, True, False, False]


def test_every_row_may_have_its_own_count():
    values = torch.tensor([[1.0, 2.0, 3.0], [3.0, -INF, 1.0]])
    assert highest(values, 2).tolist() == [[False, True, True], [True, False, True]]
    assert highest(values, torch.tensor([[1], [3]])).tolist() == [[False, False, True], [True, False, True]]
