"""Arrays with one entry for each token of all rows, row after row: where a row's entries are, and padding them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def starts_of(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """`(rows + 1,)`: where the tokens of each row's column `name` start among those of all rows, and the total."""
    return np.concatenate([[0], np.cumsum([len(row[name]) for row in rows])])


def places_of(starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The places of the tokens of these rows, row after row, among those of all rows."""
    lengths = starts[numbers + 1] - starts[numbers]
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts[numbers] - before, lengths)


def padded(array: np.ndarray, starts: np.ndarray, numbers: np.ndarray, like: Tensor, firsts: np.ndarray) -> Tensor:
    """The entries of the tokens of these rows as a batch, padded with zeros.

    Args:
        array: `(tokens of all rows, ...)`.
        starts: as of `starts_of`.
        numbers: `(batch,)`, of the rows.
        like: `(batch, tokens)`, whose shape and device the result has.
        firsts: `(batch,)`, the position of each row's first token.

    Returns:
        `(batch, tokens, ...)`.
    """
    block = np.zeros((*like.shape, *array.shape[1:]), array.dtype)
    for row, (number, first) in enumerate(zip(numbers, firsts, strict=True)):
        entries = array[starts[number] : starts[number + 1]]
        block[row, first : first + len(entries)] = entries
    return torch.from_numpy(block).to(like.device)
