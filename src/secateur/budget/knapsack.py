"""The multiple-choice knapsack: one item of every class, total cost within a limit, total value as high as possible.

Dominated items (another item costs no more and has at least the value) are dropped first. A Lagrange multiplier then
gives a feasible choice and an upper bound (Sinha and Zoltners, The Multiple-Choice Knapsack Problem, Operations
Research 27, 1979). Exchanges between two classes improve the choice, and dynamic programming over the items that the
bound still allows closes the remaining gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

RELATIVE_GAP = 1e-4  # a choice this close to the upper bound is returned: scores are not known more precisely
MAX_STATES = 1000  # of the dynamic program; of more, the one of the highest value in every interval of cost is kept
BISECTIONS = 60  # of the multiplier
ROUNDING = 1e-12  # relative error allowed in sums of floats


@dataclass(frozen=True)
class ItemClass:
    """The items of which exactly one is taken: costs and values `(n,)`; an item of value -inf is never taken."""

    costs: np.ndarray
    values: np.ndarray

    def efficient(self) -> np.ndarray:
        """Indices `(m,)` of the Pareto-efficient items by rising cost, and so by rising value."""
        order = np.lexsort((-self.values, self.costs))
        best_before = np.concatenate([[-np.inf], np.maximum.accumulate(self.values[order])[:-1]])
        return order[self.values[order] > best_before]

    def restricted(self, items: np.ndarray) -> ItemClass:
        """The class with these items alone."""
        return ItemClass(self.costs[items], self.values[items])

    def reduced_values(self, multiplier: float) -> np.ndarray:
        """`(n,)`: values less the multiplier times the costs."""
        return self.values - multiplier * self.costs


NOTHING = ItemClass(np.zeros(1), np.zeros(1))
"""A class whose only item has no cost and no value: an exchange with it changes one class alone."""


def solve(classes: Sequence[ItemClass], limit: float) -> np.ndarray:
    """The item `(classes,)` to take of every class; the cheapest items together must be within the limit.

    The choice is optimal up to `RELATIVE_GAP`, or close to it where the dynamic program had to drop states.
    """
    efficient = [one.efficient() for one in classes]
    reduced = [one.restricted(items) for one, items in zip(classes, efficient, strict=True)]
    multiplier, chosen = lagrangian(reduced, limit)
    chosen = exchanged(reduced, limit, chosen)
    gap = upper_bound(reduced, limit, multiplier) - total_value(reduced, chosen)
    if gap > RELATIVE_GAP * abs(total_value(reduced, chosen)):
        other = exchanged(reduced, limit, dynamic_program(reduced, limit, multiplier, gap))
        chosen = max(chosen, other, key=lambda choice: total_value(reduced, choice))
    return np.array([items[item] for items, item in zip(efficient, chosen, strict=True)])


def upper_bound(classes: Sequence[ItemClass], limit: float, multiplier: float) -> float:
    """An upper bound on the value of all choices within the limit, for any multiplier (value per cost, at least 0)."""
    return sum(float(one.reduced_values(multiplier).max()) for one in classes) + multiplier * limit


def lagrangian(classes: Sequence[ItemClass], limit: float) -> tuple[float, np.ndarray]:
    """The multiplier that minimises the upper bound, and a choice within the limit close to it.

    At that multiplier the best items change from a choice beyond the limit to one within it. Starting from the choice
    within it, the classes take their item of the other choice one after another, while the limit allows.
    """
    low, high = 0.0, 1.0
    if total_cost(classes, chosen := _best_at(classes, low)) <= limit:
        return low, chosen
    while total_cost(classes, _best_at(classes, high)) > limit:
        low, high = high, 4.0 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = total_cost(classes, _best_at(classes, middle)) <= limit
        low, high = (low, middle) if fits else (middle, high)
    return high, _extended(classes, limit, _best_at(classes, high), _best_at(classes, low))


def _best_at(classes: Sequence[ItemClass], multiplier: float) -> np.ndarray:
    """The item of highest reduced value of every class; among equals the cheapest, which comes first."""
    return np.array([int(np.argmax(one.reduced_values(multiplier))) for one in classes])


def _extended(classes: Sequence[ItemClass], limit: float, chosen: np.ndarray, larger: np.ndarray) -> np.ndarray:
    """The choice with the items of a larger one, class by class, wherever the limit allows."""
    for number in range(len(classes)):
        candidate = chosen.copy()
        candidate[number] = larger[number]
        chosen = candidate if total_cost(classes, candidate) <= limit else chosen
    return chosen


def exchanged(classes: Sequence[ItemClass], limit: float, chosen: np.ndarray) -> np.ndarray:
    """The choice after every change of one class, or of two at once, that raises its value within the limit.

    Items must be Pareto-efficient and sorted by cost.
    """
    classes, chosen = [*classes, NOTHING], np.append(chosen, 0)
    improved = True
    while improved:
        improved = False
        for pair in combinations(range(len(classes)), 2):
            one, other = (classes[number] for number in pair)
            now = [chosen[number] for number in pair]
            room = limit * (1.0 + ROUNDING) - total_cost(classes, chosen) + one.costs[now[0]] + other.costs[now[1]]
            best = _best_pair(one, other, room)
            gain = one.values[best[0]] + other.values[best[1]] - one.values[now[0]] - other.values[now[1]]
            if gain > ROUNDING * abs(total_value(classes, chosen)):
                chosen[list(pair)], improved = best, True
    return chosen[:-1]


def _best_pair(one: ItemClass, other: ItemClass, room: float) -> tuple[int, int]:
    """The items of two classes with the highest value within the room; both classes are sorted by cost."""
    affordable = np.searchsorted(other.costs, room - one.costs, side="right") - 1
    together = np.where(affordable >= 0, one.values + other.values[affordable], -np.inf)
    best = int(together.argmax())
    return best, int(affordable[best])


def dynamic_program(classes: Sequence[ItemClass], limit: float, multiplier: float, gap: float) -> np.ndarray:
    """The best choice whose value is at most `gap` below the upper bound, by extending partial choices class by class.

    The shortfall of an item is how far its reduced value is below the best of its class. Shortfalls add up to the
    distance from the upper bound, so that a partial choice beyond `gap` is dropped.
    """
    cheapest = [float(one.costs[0]) for one in classes]
    costs = values = shortfalls = np.zeros(1)
    trail = []
    for number, one in enumerate(classes):
        reduced = one.reduced_values(multiplier)
        costs, values, shortfalls = (
            np.add.outer(so_far, more).ravel()
            for so_far, more in ((costs, one.costs), (values, one.values), (shortfalls, reduced.max() - reduced))
        )
        room = limit * (1.0 + ROUNDING) - sum(cheapest[number + 1 :])
        feasible = np.flatnonzero((costs <= room) & (shortfalls <= gap * (1.0 + RELATIVE_GAP)))
        states = feasible[ItemClass(costs[feasible], values[feasible]).efficient()]
        states = _thinned(states, costs[states] / limit)
        costs, values, shortfalls = costs[states], values[states], shortfalls[states]
        trail.append(states)
    return _traced(trail, classes)


def _thinned(states: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """At most about `MAX_STATES` of states that rise in cost and value: the last in every step of cost."""
    if len(states) <= MAX_STATES:
        return states
    steps = np.floor(costs * MAX_STATES)
    return states[np.append(steps[1:] != steps[:-1], True)]


def _traced(trail: Sequence[np.ndarray], classes: Sequence[ItemClass]) -> np.ndarray:
    """The items that led to the last state, which has the highest value."""
    chosen, state = [], -1
    for states, one in zip(reversed(trail), reversed(classes), strict=True):
        state, item = divmod(int(states[state]), len(one.costs))
        chosen.append(item)
    return np.array(chosen[::-1])


def total_cost(classes: Sequence[ItemClass], chosen: np.ndarray) -> float:
    """The summed costs of the chosen items."""
    return sum(float(one.costs[item]) for one, item in zip(classes, chosen, strict=True))


def total_value(classes: Sequence[ItemClass], chosen: np.ndarray) -> float:
    """The summed values of the chosen items."""
    return sum(float(one.values[item]) for one, item in zip(classes, chosen, strict=True))
