"""The knapsack: the best choice of small ones, a choice near the bound of large ones, the limit in both."""

from itertools import product

import numpy as np
import pytest

from secateur.budget.knapsack import Group, bound, choose, relaxed


def total(groups, chosen, name):
    return sum(float(getattr(group, name)[option]) for group, option in zip(groups, chosen, strict=True))


def small(seed):
    """Up to five groups of up to six options, and a limit between the cheapest choice and the dearest."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 7, size=random.integers(1, 6))
    groups = [Group(random.random(n), random.random(n) * random.choice([1.0, 1e3])) for n in sizes]
    low, high = (sum(float(end(group.prices)) for group in groups) for end in (np.min, np.max))
    return groups, low + random.random() * (high - low)


@pytest.mark.parametrize("seed", range(200))
def test_a_small_choice_is_the_best(seed):
    groups, limit = small(seed)
    every = product(*(range(len(group.prices)) for group in groups))
    best = max(total(groups, one, "values") for one in every if total(groups, one, "prices") <= limit)
    chosen = choose(groups, limit)
    assert total(groups, chosen, "prices") <= limit * (1 + 1e-9)
    assert total(groups, chosen, "values") == pytest.approx(best, rel=1e-4)


def test_the_limit_may_be_met_exactly():
    groups = [Group(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 6.0])) for _ in range(3)]
    assert sorted(choose(groups, 7.0)) == [1, 1, 2]


def test_what_may_not_be_taken_is_not():
    groups = [Group(np.array([0.0, 1.0]), np.array([0.0, -np.inf])), Group(np.array([0.0, 1.0]), np.array([0.0, 1.0]))]
    assert choose(groups, 5.0).tolist() == [0, 1]


@pytest.mark.parametrize("part", [0.9, 0.3, 0.1])
def test_a_large_choice_is_near_the_bound(part):
    """Ten groups of a thousand options with a price for having any: no choice is worth more than the bound."""
    random = np.random.default_rng(0)
    sizes = np.arange(1001)
    groups = [
        Group(sizes * 0.01 + 0.2 * (sizes > 0), np.cumsum(np.append(0.0, -np.sort(-random.random(1000)))))
        for _ in range(10)
    ]
    limit = part * 102.0
    chosen = choose(groups, limit)
    assert total(groups, chosen, "prices") <= limit * (1 + 1e-9)
    highest = bound(groups, limit, relaxed(groups, limit)[0])
    assert 0.999 * highest <= total(groups, chosen, "values") <= highest * (1 + 1e-9)
