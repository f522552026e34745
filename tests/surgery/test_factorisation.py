"""The rank of factorised word embeddings that is chosen by kept energy, and only where the factors are smaller."""

import pytest
import torch
from tiny_models import tiny

from secateur.surgery.factorisation import chosen_rank, rank_for, rank_text


def of_rank(rank, rows=60, size=24, noise=0.0):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(*shape, generator=generator) for shape in ((rows, rank), (rank, size), (rows, size))]
    return parts[0] @ parts[1] + noise * parts[2]


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_chosen_rank_keeps_the_energy_and_one_less_does_not(rank):
    weight = of_rank(rank, noise=0.1)
    chosen = chosen_rank(weight)
    assert chosen is not None and chosen <= rank
    squares = torch.linalg.svdvals(weight.double()).square()
    assert squares[: chosen - 1].sum() < 0.9 * squares.sum() <= squares[:chosen].sum()


@pytest.mark.parametrize(
    "weight", [torch.eye(24), of_rank(24, rows=30, noise=20.0), torch.ones(1, 8)], ids=["flat", "noise", "row"]
)
def test_a_table_whose_factors_would_not_be_smaller_stays_whole(weight):
    assert chosen_rank(weight) is None


def test_a_rank_is_chosen_for_a_model_only_where_that_is_asked():
    model = tiny("bert", dtype=torch.float32)
    assert (rank_for(None, model), rank_for(7, model), rank_for("auto", model)) == (None, 7, None)
    assert rank_text(None).startswith("whole: factors with 0.9 of the squares")
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(of_rank(3, 50, 32))
    assert (rank := rank_for("auto", model)) in (1, 2, 3)
    assert rank_text(rank) == f"factorised to rank {rank}, which keeps 0.9 of the squares of their values"
