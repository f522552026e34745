"""Random pruning: the ranking depends on the seed alone."""

import pytest
import torch
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.random import Random


@pytest.fixture(scope="module")
def space():
    return Space(tiny("bert"))


def test_the_ranking_depends_on_the_seed_of_torch_and_not_on_its_state(space):
    orders = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        torch.rand(len(orders))  # earlier samples do not matter
        orders.append(Random(space).scores())
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


def test_a_seed_of_its_own_neither_reads_nor_changes_the_state_of_torch(space):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = Random(space, seed=7).scores()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert torch.equal(first, Random(space, seed=7).scores())
    assert not torch.equal(first, Random(space, seed=8).scores())
