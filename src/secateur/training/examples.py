"""Which training rows are of the same example of the data, for terms of the loss that compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.structure.encoded_rows import EXAMPLE
from secateur.system.errors import UserError
from secateur.training.step import INDEX, Term


class Examples:
    """The examples of rows.

    Args:
        rows: with `index`, the number by which a batch names them, and `example`, that of their example.

    Attributes:
        groups: the places of the rows of each example, in the order of the first ones.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        by_example: dict[Any, list[int]] = {}
        for place, row in enumerate(rows):
            by_example.setdefault(row[EXAMPLE], []).append(place)
        self.groups = list(by_example.values())
        index = torch.tensor([int(row[INDEX]) for row in rows])
        ranks = {place: rank for group in self.groups for rank, place in enumerate(group)}
        self._numbers = torch.zeros(int(index.max()) + 1, 2, dtype=torch.long)
        self._numbers[index, 0] = torch.tensor([int(row[EXAMPLE]) for row in rows])
        self._numbers[index, 1] = torch.tensor([ranks[place] for place in range(len(rows))])

    def of(self, index: Tensor) -> Tensor:
        """The number of the example of each of the rows `(batch,)`, and its place in that, `(batch, 2)`.

        On the device of `index`. Places are counted from 0, in the order of the rows.
        """
        self._numbers = self._numbers.to(index.device)
        return self._numbers[index]


def examples_for(terms: Sequence[Term], rows: Any) -> Examples | None:
    """The examples of rows, if a term compares rows of the same example.

    Raises:
        UserError: it does, and the rows do not say of which example they are.
    """
    names = [term.name for term in terms if term.needs_examples]
    if not names:
        return None
    if rows is None or not len(rows) or not {INDEX, EXAMPLE} <= rows[0].keys():
        raise UserError(
            f"the term {names[0]!r} compares rows of the same example, which rows of this data do not name: leave the "
            f"term out, or give rows with {INDEX!r} and {EXAMPLE!r}"
        )
    return Examples(rows)
