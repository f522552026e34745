"""Checks of the options of methods and of loss terms, before anything is made of them; nothing here needs torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import SupportsFloat

from secateur.system.errors import UserError

SEEDS = 2**32
"""Seeds are below it, as those of numpy."""


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """The number that an option has.

    Args:
        name: of the option.
        above: the number exceeds it.
        least: the number may be equal to it, as to `most`.
        below: the number is less.

    Raises:
        UserError: it is no number, as a text or a truth value, it is not finite, or it is out of the range.
    """
    found = float(value) if isinstance(value, SupportsFloat) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(found) and above < found < below and least <= found <= most):
        limits = [("above {:g}", above), ("from {:g} on", least), ("up to {:g}", most), ("below {:g}", below)]
        known = " and ".join(text.format(limit) for text, limit in limits if math.isfinite(limit))
        raise UserError(f"{name} is {value!r}: expected a number {known or 'that is finite'}: change it")
    return found


def truth(name: str, value: object) -> bool:
    """The truth value that an option has.

    Raises:
        UserError: it is none, as a text, which would count as true whatever it says, or a number.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}: expected true or false: change it")
    return value


def name_of(option: str, value: object, known: Collection[str]) -> str:
    """The name that an option has.

    Raises:
        UserError: it is none of those that are known.
    """
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{option} {value!r} is not known: choose from {', '.join(known)}")
    return value


def pair(name: str, value: object) -> tuple[float, float]:
    """The first and the last number that an option has.

    Raises:
        UserError: it is not a sequence of two finite numbers.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise UserError(f"{name} {value!r} is no pair: expected the first and the last {name}, as [1, 0.1]")
    first, last = (number(f"a part of {name}", part) for part in value)
    return first, last


def check_seed(seed: int | None) -> None:
    """Check an option that is a seed, or None.

    Raises:
        UserError: it is not a whole number in the range of seeds.
    """
    if seed is not None and (type(seed) is not int or not 0 <= seed < SEEDS):
        raise UserError(f"seed is {seed!r}: expected a whole number from 0 to {SEEDS - 1}: change it")
