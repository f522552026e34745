"""Gates that hold a density exactly: all of them are shifted by one number until it is the density asked for.

After an optimizer step has moved log alpha of the gates to a, the projection returns

    a_i <- a_i + s,  s the number at which the expected density is its target.

A gate that rises therefore lowers all others: gates compete for a fixed density in every step.

The shift is the same for every gate, whatever the cost of its unit: a price in log odds. It is fair where the odds say
what units are worth over what they cost, which is what the prior by evidence is for (`prior.py`). A shift in proportion
to the cost (the derivative of the expected density by each probability) would close all sublayers, which cost hundreds
of times as much as a neuron, before it moved a neuron.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CLOSE = 5e-8
"""The search aims at this much below the target, and ends this close to its aim: the target is never exceeded."""
SECANTS, HALVINGS = 20, 28
"""The most steps of a search in its bracket; it takes three as a rule."""


def projected(
    density: Callable[[Tensor], float],
    log_alpha: Tensor,
    alive: Tensor,
    target: float,
    bounds: tuple[float, float],
    first: float,
) -> Tensor:
    """`(N,)` log alpha, shifted by the number at which its density, once clamped, is the target, and never above it.

    Where clamped gates cannot have that density, they come as near to it as they can: all alive gates are then at a
    bound, or beyond it. With the paper's bounds and units of all kinds that is a density of 0.993 at the most, and
    0.0001 at the least. Gates of a training that has diverged have no density: where an alive one is not finite, all
    stay as they are.

    Args:
        density: the expected density of log alpha `(N,)` on the CPU, minus infinity where a unit is not alive. It grows
            with every gate.
        log_alpha: `(N,)`.
        alive: `(N,)` bool; other gates count as closed.
        bounds: the lowest and the highest log alpha, to which the caller clamps where it is read.
        first: the first shift to try, above 0, such as the distance that a gate moves in one step.
    """
    lowest, highest = bounds
    gates, living = log_alpha.detach().cpu(), alive.cpu()  # hundreds of operations on few numbers
    if not bool(gates[living].isfinite().all()):
        return log_alpha.detach()

    def shifted(shift: float) -> Tensor:
        return (gates.double() + shift).to(gates.dtype)

    def excess(shift: float) -> float:
        return density(shifted(shift).clamp(lowest, highest).masked_fill(~living, -torch.inf)) - (target - CLOSE)

    least, most = gates[living].min(), gates[living].max()
    shift = root(excess, min(lowest - float(most), 0.0), max(highest - float(least), 0.0), first)
    return shifted(shift).to(log_alpha.device)


def root(excess: Callable[[float], float], lowest: float, highest: float, first: float) -> float:
    """A number in an interval at which a growing function is 0 to within `CLOSE`, or just below 0 where it jumps.

    Zero is bracketed by steps that grow, then found by secants (the Illinois method), and at last by bisection. If the
    function has one sign throughout, it is the end of the interval that is nearest to 0.

    Args:
        first: the first step from 0, above 0.
    """
    (low, below), (high, above) = _bracket(excess, lowest, highest, first)
    rising = None
    for step in range(SECANTS + HALVINGS):
        secant = low + (high - low) * below / (below - above) if below < above else low
        middle = secant if step < SECANTS else (low + high) / 2
        if not low < middle < high:
            break
        if abs(value := excess(middle)) <= CLOSE:
            return middle
        if value < 0.0:
            above = above / 2 if rising is True else above  # an end must not stay in place for long
            low, below, rising = middle, value, True
        else:
            below = below / 2 if rising is False else below
            high, above, rising = middle, value, False
    return low


def _bracket(
    excess: Callable[[float], float], lowest: float, highest: float, first: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two numbers with their values, the first at most 0 and the second above; or twice an end of the interval."""
    here, step = (0.0, excess(0.0)), first
    sign = -1.0 if here[1] > 0.0 else 1.0
    while True:
        number = min(max(sign * step, lowest), highest)
        there = (number, excess(number))
        if (there[1] > 0.0) != (here[1] > 0.0):
            return (there, here) if sign < 0.0 else (here, there)
        if not lowest < number < highest:
            return there, there
        here, step = there, 4 * step
