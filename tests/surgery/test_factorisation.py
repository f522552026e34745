"""Factorised word embeddings: their rank, which is chosen by kept energy, and rows weighted by frequency."""

import pytest
import torch
from tiny_models import tiny

from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import chosen_rank, factorise, rank_for, rank_text
from secateur.system.errors import UserError

COUNTS = torch.tensor([9, 0, 400, 3] * 11 + [0])  # of 45 pieces; the tiny models have 50 rows


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


def product(model):
    """The table that the factors of a model approximate."""
    factors = model.get_input_embeddings()
    return factors.table.weight @ factors.projection.weight.T


@pytest.mark.parametrize("counts", [None, COUNTS], ids=["plain", "frequency"])
def test_factors_are_the_truncated_svd_of_the_weighted_rows(counts):
    model = tiny("bert")
    table = model.get_input_embeddings().weight.detach()
    scale = torch.ones(50, 1, dtype=torch.float64)
    if counts is not None:
        scale[:45, 0] = (counts + 1).double().sqrt()
    left, values, right = torch.linalg.svd(scale * table, full_matrices=False)
    expected = (left[:, :5] * values[:5]) @ right[:5] / scale
    torch.testing.assert_close(product(factorise(model, 5, counts)), expected, rtol=1e-9, atol=1e-11)


def test_weighted_factors_are_nearer_to_the_rows_that_occur():
    model = tiny("bert")
    table = model.get_input_embeddings().weight
    plain, weighted = (product(factorise(model, 5, counts)) - table for counts in (None, COUNTS))
    occurrences = COUNTS.unsqueeze(1).double()
    assert (occurrences * weighted[:45].square()).sum() < 0.7 * (occurrences * plain[:45].square()).sum()
    assert weighted.square().sum() > plain.square().sum()


def test_a_rank_is_chosen_by_the_rows_that_occur():
    """Ten rows of a flat table are all that the texts use."""
    weight = torch.eye(24).repeat(4, 1)
    assert chosen_rank(weight, torch.full((96,), 7)) is None
    assert chosen_rank(weight, torch.tensor([10**6] * 10)) == 10


def test_a_cut_is_that_of_the_model_with_weighted_factors():
    model = tiny("bert")
    plan = Plan.of_all_units(model, embedding_rank=5)
    at_once, later = cut(model, plan, COUNTS), cut(factorise(model, 5, COUNTS), plan)
    torch.testing.assert_close(at_once.state_dict(), later.state_dict(), rtol=0, atol=0)
    assert not torch.equal(product(at_once), product(cut(model, plan)))


def test_counts_of_more_pieces_than_rows_are_refused():
    with pytest.raises(UserError, match=r"expected counts of at most 50 pieces, which the model has, got 51"):
        factorise(tiny("bert"), 5, torch.ones(51))


@pytest.mark.parametrize("rank", [0, 20, 1.5, True, "auto", "8", None])
def test_a_rank_that_is_no_number_of_columns_is_refused(rank):
    model = tiny("bert")
    with pytest.raises(UserError, match=f"embedding rank {rank!r} is not a whole number from 1 to 19: it must shrink"):
        factorise(model, rank)
    if rank is not None:
        with pytest.raises(UserError, match=f"embedding rank {rank!r} is not a whole number"):
            Plan.of_all_units(model, embedding_rank=rank)
