"""The multiple-choice knapsack: one option of every group, the prices within a limit, the values as high as can be.

Options that another one beats in price and in value are dropped; a Lagrange multiplier gives a first choice and a bound
on the best (Sinha and Zoltners, The Multiple-Choice Knapsack Problem, Operations Research 27, 1979); exchanges between
two groups improve it; and what gap is left is searched by dynamic programming over the options that the bound allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

ENOUGH = 1e-4  # relative: a choice this near to the bound stands, for no score is known better than that
STATES = 1000  # partial choices that the search goes on with; where there are more, the best of every step in price
HALVINGS = 60
NOISE = 1e-12  # of sums of floats, relative


@dataclass(frozen=True)
class Group:
    """The options of which one is taken: prices and values `(n,)`; a value may be -inf, which is never taken."""

    prices: np.ndarray
    values: np.ndarray

    def efficient(self) -> np.ndarray:
        """Numbers `(m,)` of the options that are worth more than any that costs as much or less, cheapest first."""
        order = np.lexsort((-self.values, self.prices))
        best_before = np.concatenate([[-np.inf], np.maximum.accumulate(self.values[order])[:-1]])
        return order[self.values[order] > best_before]

    def restricted(self, options: np.ndarray) -> Group:
        """The group with these options alone."""
        return Group(self.prices[options], self.values[options])


NOTHING = Group(np.zeros(1), np.zeros(1))


def choose(groups: Sequence[Group], limit: float) -> np.ndarray:
    """The option `(groups,)` to take of every group; the cheapest ones must be within the limit.

    The best one, or, where the search had to thin its states, one near it.
    """
    numbers = [group.efficient() for group in groups]
    small = [group.restricted(own) for group, own in zip(groups, numbers, strict=True)]
    multiplier, chosen = relaxed(small, limit)
    chosen = exchanged(small, limit, chosen)
    gap = bound(small, limit, multiplier) - _value(small, chosen)
    if gap > ENOUGH * abs(_value(small, chosen)):
        found = exchanged(small, limit, searched(small, limit, multiplier, gap))
        chosen = found if _value(small, found) > _value(small, chosen) else chosen
    return np.array([own[option] for own, option in zip(numbers, chosen, strict=True)])


def bound(groups: Sequence[Group], limit: float, multiplier: float) -> float:
    """No choice within the limit is worth more, whatever the multiplier (value for a unit of price), at least 0."""
    return sum(float((g.values - multiplier * g.prices).max()) for g in groups) + multiplier * limit


def relaxed(groups: Sequence[Group], limit: float) -> tuple[float, np.ndarray]:
    """The multiplier at which the bound is lowest, and a choice within the limit near it.

    From the best options just above that multiplier towards those just below, group by group while the limit allows.
    """
    low, high = 0.0, 1.0
    if _price(groups, chosen := _at(groups, low)) <= limit:
        return low, chosen
    while _price(groups, _at(groups, high)) > limit:
        low, high = high, 4.0 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = _price(groups, _at(groups, middle)) <= limit
        low, high = (low, middle) if fits else (middle, high)
    chosen, more = _at(groups, high), _at(groups, low)
    for number in range(len(groups)):
        further = chosen.copy()
        further[number] = more[number]
        chosen = further if _price(groups, further) <= limit else chosen
    return high, chosen


def _at(groups: Sequence[Group], multiplier: float) -> np.ndarray:
    """The option of every group that is worth most when its price is charged; the cheapest of equals."""
    return np.array([int(np.argmax(g.values - multiplier * g.prices)) for g in groups])


def exchanged(groups: Sequence[Group], limit: float, chosen: np.ndarray) -> np.ndarray:
    """The choice after every change of one group, or of two at once, that makes it worth more within the limit."""
    groups, chosen = [*groups, NOTHING], np.append(chosen, 0)
    improved = True
    while improved:
        improved = False
        for pair in combinations(range(len(groups)), 2):
            one, other = (groups[number] for number in pair)
            now = [chosen[number] for number in pair]
            room = limit * (1.0 + NOISE) - _price(groups, chosen) + one.prices[now[0]] + other.prices[now[1]]
            best = _best_pair(one, other, room)
            gain = one.values[best[0]] + other.values[best[1]] - one.values[now[0]] - other.values[now[1]]
            if gain > NOISE * abs(_value(groups, chosen)):
                chosen[list(pair)], improved = best, True
    return chosen[:-1]


def _best_pair(one: Group, other: Group, room: float) -> tuple[int, int]:
    """The options of two groups that are worth most within the room; both have theirs cheapest first."""
    dearest = np.searchsorted(other.prices, room - one.prices, side="right") - 1
    together = np.where(dearest >= 0, one.values + other.values[dearest], -np.inf)
    best = int(together.argmax())
    return best, int(dearest[best])


def searched(groups: Sequence[Group], limit: float, multiplier: float, gap: float) -> np.ndarray:
    """The best choice that falls short of the bound by `gap` at most, group by group over all that may lead to it.

    The shortfall of an option is what its group's best at the multiplier is worth more; shortfalls add up.
    """
    shortfalls = [(c := g.values - multiplier * g.prices).max() - c for g in groups]
    cheapest = [float(g.prices[0]) for g in groups]
    prices = values = short = np.zeros(1)
    trail = []
    for number, (group, own) in enumerate(zip(groups, shortfalls, strict=True)):
        prices, values, short = (
            np.add.outer(so_far, more).ravel()
            for so_far, more in ((prices, group.prices), (values, group.values), (short, own))
        )
        room = limit * (1.0 + NOISE) - sum(cheapest[number + 1 :])
        open_ = np.flatnonzero((prices <= room) & (short <= gap * (1.0 + ENOUGH)))
        states = open_[Group(prices[open_], values[open_]).efficient()]
        states = _thinned(states, prices[states] / limit)
        prices, values, short = prices[states], values[states], short[states]
        trail.append(states)
    return _traced(trail, groups)


def _thinned(states: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Of states that rise in price and value, where they are too many, the last in every step of price."""
    if len(states) <= STATES:
        return states
    steps = np.floor(prices * STATES)
    return states[np.append(steps[1:] != steps[:-1], True)]


def _traced(trail: Sequence[np.ndarray], groups: Sequence[Group]) -> np.ndarray:
    """The options that led to the last state of all, which is the one worth most."""
    chosen, state = [], -1
    for states, group in zip(reversed(trail), reversed(groups), strict=True):
        state, option = divmod(int(states[state]), len(group.prices))
        chosen.append(option)
    return np.array(chosen[::-1])


def _price(groups: Sequence[Group], chosen: np.ndarray) -> float:
    return sum(float(group.prices[option]) for group, option in zip(groups, chosen, strict=True))


def _value(groups: Sequence[Group], chosen: np.ndarray) -> float:
    return sum(float(group.values[option]) for group, option in zip(groups, chosen, strict=True))
