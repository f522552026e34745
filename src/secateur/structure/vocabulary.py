"""The rows of a vocabulary that are kept, and the numbers that they get."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from secateur.structure.ranges import indices_in, ranges_of
from secateur.system.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """Which rows of a table of word embeddings are kept. They keep their order.

    Attributes:
        size: rows of the table before.
        kept: the numbers of the kept rows before, ascending. The number of a row afterwards is its position here.

    Raises:
        UserError: no row is kept, or the numbers are not ascending numbers of rows.

    Examples:
        >>> vocabulary = Vocabulary(6, (0, 1, 4))
        >>> vocabulary.renumbered([4, 0])
        [2, 0]
        >>> vocabulary.to_dict()
        {'size': 6, 'kept': [[0, 1], [4, 4]]}
    """

    size: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.kept:
            raise UserError("a vocabulary must keep at least one piece, got none: add texts, or lower min_count")
        ascending = all(low < high for low, high in pairwise(self.kept))
        if not ascending or not 0 <= self.kept[0] <= self.kept[-1] < self.size:
            raise UserError(f"the kept pieces of a vocabulary must be ascending numbers from 0 to {self.size - 1}")

    def __len__(self) -> int:
        """The number of kept rows."""
        return len(self.kept)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """The number of a kept row before -> its number afterwards."""
        return {old: new for new, old in enumerate(self.kept)}

    def renumbered(self, ids: Iterable[int]) -> list[int]:
        """The numbers of kept rows afterwards.

        Raises:
            UserError: the row of a number is not kept.
        """
        try:
            return [self.numbers[number] for number in ids]
        except KeyError as error:
            raise UserError(f"the vocabulary does not keep piece {error}, which is needed: keep it as well") from None

    def ranges(self) -> list[list[int]]:
        """The kept rows as ascending [first, last] pairs, both included."""
        return ranges_of(self.kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the size, and the kept rows as ranges."""
        return {"size": self.size, "kept": self.ranges()}

    @classmethod
    def from_dict(cls, data: Any) -> Vocabulary:
        """The vocabulary of plain values, which are checked like any input.

        Raises:
            UserError: a key is missing or unknown, or a range is not an ascending pair of numbers of rows.
        """
        keys = isinstance(data, dict) and set(data) == {"size", "kept"}
        if not keys or type(data["size"]) is not int or not isinstance(data["kept"], list):
            raise UserError("a vocabulary must have exactly the keys size, a whole number, and kept, a list of ranges")
        return cls(data["size"], tuple(indices_in(data["kept"], data["size"], "the vocabulary")))
