"""Some rows of a run whose steps are timed: which, and what their seconds say of a step of average length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from secateur.run.run_data import Rows, length_multiple
from secateur.tasks.rows import length_of
from secateur.training.samplers import ByLength
from secateur.training.step import INDEX

PARTS = 3
"""Batches that are timed; the shortest time of each counts, after its shapes have been compiled or recorded."""
MOST_ROWS = 50_000
"""Rows whose lengths are enough to know the batches."""


def passes() -> int:
    """How often each batch is timed. On a GPU the second step of a shape is recorded, and the third is replayed."""
    return 3 if torch.cuda.is_available() else 2


@dataclass(frozen=True)
class Sample:
    """The rows of a few optimizer steps.

    Attributes:
        rows: of these steps, one step after the other.
        tokens: of each step, with padding.
        average: the tokens of a step of the run, with padding.
        lengths: the number of different lengths of batches of the run, as they are padded.
    """

    rows: Rows
    tokens: list[int]
    average: float
    lengths: int

    @classmethod
    def of(cls, rows: Rows, batch: int, accumulate: int, seed: int) -> Sample:
        """Steps of `accumulate` batches of rows: the longest step, and those at the middles of equal parts."""
        rows = rows[:: -(-len(rows) // MOST_ROWS)]
        lengths = [length_of(row) for row in rows]
        order = list(ByLength(min(batch, len(rows)), lengths, seed))
        parts = [order[first : first + batch] for first in range(0, len(order), batch)]
        steps = [parts[first : first + accumulate] for first in range(0, len(parts), accumulate)]
        steps = sorted(steps[: len(rows) // (batch * accumulate)] or steps[:1], key=lambda step: _tokens(step, lengths))
        middles = [steps[int((part + 0.5) / PARTS * len(steps))] for part in range(PARTS)]
        chosen = [steps[-1], *middles * passes()]
        tokens = [_tokens(step, lengths) for step in steps]
        padded = {-(-max(lengths[number] for number in part) // length_multiple()) for part in parts}
        numbers = [number for step in chosen for part in step for number in part]
        numbered = [{**rows[number], INDEX: place} for place, number in enumerate(numbers)]
        return cls(numbered, [_tokens(step, lengths) for step in chosen], sum(tokens) / len(tokens), len(padded))

    def new_shape(self, timed: Sequence[float]) -> float:
        """The seconds by which the steps of a length take longer before the last timed one; 0 if none is repeated."""
        *earlier, settled = [timed[first : first + PARTS] for first in range(1, len(timed), PARTS)] or [[]]
        extra = sum(one - other for each in earlier for one, other in zip(each, settled, strict=False))
        return max(0.0, extra) / max(1, len(settled)) if earlier else 0.0

    def seconds(self, timed: Sequence[float]) -> float:
        """The seconds of a step of average length, from those of the first steps, of which the very first is slow."""
        fastest: dict[int, float] = {}
        for place, seconds in enumerate(timed[1:]):
            fastest[place % PARTS] = min(seconds, fastest.get(place % PARTS, seconds))
        if not fastest:
            return timed[0] * self.average / self.tokens[0]
        return sum(fastest.values()) * self.average / sum(self.tokens[1 + place] for place in fastest)


def _tokens(step: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return sum(len(part) * max(lengths[number] for number in part) for part in step)
