"""The knapsack: the best choice of small_knapsack ones, a choice near the bound of large ones, the limit in both."""

from itertools import product

import numpy as np
import pytest

from secateur.budget.knapsack import ItemClass, lagrangian, solve, upper_bound


def total(classes, chosen, name):
    return sum(float(getattr(one, name)[option]) for one, option in zip(classes, chosen, strict=True))


def small_knapsack(seed):
    """Up to five classes of up to six options, and a limit between the lowest and the highest cost of a choice."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 7, size=random.integers(1, 6))
    classes = [ItemClass(random.random(n), random.random(n) * random.choice([1.0, 1e3])) for n in sizes]
    low, high = (sum(float(end(one.costs)) for one in classes) for end in (np.min, np.max))
    return classes, low + random.random() * (high - low)


@pytest.mark.parametrize("seed", range(200))
def test_the_choice_of_a_small_knapsack_is_optimal(seed):
    classes, limit = small_knapsack(seed)
    every = product(*(range(len(one.costs)) for one in classes))
    best = max(total(classes, one, "values") for one in every if total(classes, one, "costs") <= limit)
    chosen = solve(classes, limit)
    assert total(classes, chosen, "costs") <= limit * (1 + 1e-9)
    assert total(classes, chosen, "values") == pytest.approx(best, rel=1e-4)


def test_the_limit_may_be_met_exactly():
    classes = [ItemClass(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 6.0])) for _ in range(3)]
    assert sorted(solve(classes, 7.0)) == [1, 1, 2]


def test_an_item_of_value_minus_infinity_is_never_taken():
    classes = [
        ItemClass(np.array([0.0, 1.0]), np.array([0.0, -np.inf])),
        ItemClass(np.array([0.0, 1.0]), np.array([0.0, 1.0])),
    ]
    assert solve(classes, 5.0).tolist() == [0, 1]


@pytest.mark.parametrize("part", [0.9, 0.3, 0.1])
def test_the_choice_of_a_large_knapsack_is_near_the_upper_bound(part):
    """Ten classes of a thousand options with a fixed cost: no choice exceeds the bound."""
    random = np.random.default_rng(0)
    sizes = np.arange(1001)
    classes = [
        ItemClass(sizes * 0.01 + 0.2 * (sizes > 0), np.cumsum(np.append(0.0, -np.sort(-random.random(1000)))))
        for _ in range(10)
    ]
    limit = part * 102.0
    chosen = solve(classes, limit)
    assert total(classes, chosen, "costs") <= limit * (1 + 1e-9)
    highest = upper_bound(classes, limit, lagrangian(classes, limit)[0])
    assert 0.999 * highest <= total(classes, chosen, "values") <= highest * (1 + 1e-9)
