"""Sorted indices as ranges, as files hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from secateur.system.errors import UserError


def ranges_of(indices: Iterable[int]) -> list[list[int]]:
    """Ascending indices as [first, last] pairs, both included."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


def indices_in(ranges: Iterable[Any], size: int, owner: str) -> list[int]:
    """The indices within ranges that were read from a file.

    Args:
        size: every index must be less than this.
        owner: what has the ranges, the beginning of an error's sentence.

    Raises:
        UserError: an entry is not a pair of whole numbers, or the pairs are not in ascending order and apart.
    """
    indices: list[int] = []
    for pair in ranges:
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair)
        if not whole or not (indices[-1] if indices else -1) < pair[0] <= pair[1] < size:
            raise UserError(f"{owner} has the range {pair!r}: expected ascending [first, last] within it")
        indices.extend(range(pair[0], pair[1] + 1))
    return indices
