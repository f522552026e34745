"""Schedules: a number as a function of training progress.

A schedule maps progress in [0, 1] (optimizer steps done / all optimizer steps) to a float. It is constant at `start`
until `begin`, changes to `stop` between `begin` and `end`, and is constant afterwards.

Example::

    density = cubic(1.0, 0.05, begin=0.2, end=0.4)
    density(0.1), density(0.3), density(1.0)          # 1.0, 0.16875, 0.05
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsFloat

from secateur.system.errors import UserError


def _linear(start: float, stop: float, fraction: float) -> float:
    return start + (stop - start) * fraction


def _cubic(start: float, stop: float, fraction: float) -> float:
    remaining = 1.0 - fraction
    return stop + (start - stop) * (
        remaining * remaining * remaining
    )  # a product is monotone in floats; `remaining**3` need not be


def _exponential(start: float, stop: float, fraction: float) -> float:
    return start * (stop / start) ** fraction


# `fraction` is the part of the interval from `begin` to `end` that has passed, in (0, 1).
_CURVES: dict[str, Callable[[float, float, float], float]] = {
    "linear": _linear,
    "cubic": _cubic,
    "exponential": _exponential,
}


@dataclass(frozen=True)
class Schedule:
    """A float as a function of progress. Made by `constant`, `linear`, `cubic` or `exponential`.

    Attributes:
        curve: how the value changes from `start` to `stop`: "linear", "cubic" or "exponential".
        start: the value for progress <= `begin`.
        stop: the value for progress >= `end`.
        begin: progress in [0, 1] at which the value starts to change.
        end: progress in [`begin`, 1] at which it reaches `stop`. With `end == begin` it jumps just after `begin`.

    Raises:
        UserError: an unknown curve, a value that is no finite number, or `begin` and `end` out of order.
    """

    curve: str
    start: float
    stop: float
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.curve not in _CURVES:
            raise UserError(f"expected a curve among {', '.join(_CURVES)}, got {self.curve!r}: choose one of these")
        for name in ("start", "stop", "begin", "end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, SupportsFloat):
                raise UserError(f"expected a number as {name}, got {value!r}: give one such as 0.5")
            if name in ("start", "stop") and not math.isfinite(value):
                raise UserError(f"expected a finite {name}, got {value}: give an ordinary number")
        if not 0.0 <= self.begin <= self.end <= 1.0:
            raise UserError(
                f"expected 0 <= begin <= end <= 1 (fractions of the training run), got begin={self.begin} "
                f"and end={self.end}: change one of them"
            )
        if self.curve == "exponential" and not (self.start > 0.0 and self.stop > 0.0):
            raise UserError(
                f"expected an exponential schedule between two numbers above 0, got {self.start} and "
                f"{self.stop}: raise the smaller one above 0, or use linear or cubic"
            )

    def __call__(self, progress: float) -> float:
        """The value at `progress`; outside [0, 1] that of the nearer end."""
        if progress <= self.begin:
            return self.start
        if progress >= self.end:
            return self.stop
        value = _CURVES[self.curve](self.start, self.stop, (progress - self.begin) / (self.end - self.begin))
        low, high = min(self.start, self.stop), max(self.start, self.stop)
        return min(max(value, low), high)  # rounding must not leave the interval


def constant(value: float) -> Schedule:
    """The same `value` throughout."""
    return Schedule("linear", value, value)


def linear(start: float, stop: float, *, begin: float = 0.0, end: float = 1.0) -> Schedule:
    """A straight line: `start + (stop - start) * x`, x as in `cubic`."""
    return Schedule("linear", start, stop, begin, end)


def cubic(start: float, stop: float, *, begin: float = 0.0, end: float = 1.0) -> Schedule:
    """Fast at first and slow at the end: `stop + (start - stop) * (1 - x)**3`.

    x is the fraction of the interval from `begin` to `end` that has passed.
    Source: Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878), eq. 1, with densities in place of
    sparsities.
    """
    return Schedule("cubic", start, stop, begin, end)


def exponential(start: float, stop: float, *, begin: float = 0.0, end: float = 1.0) -> Schedule:
    """The same factor in equal intervals: `start * (stop / start)**x`, x as in `cubic`.

    Raises:
        UserError: `start` or `stop` is not above 0.
    """
    return Schedule("exponential", start, stop, begin, end)
