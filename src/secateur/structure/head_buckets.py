"""How the heads of one attention are stored and run: in buckets of one width each, padded with zeros, which is exact.

Heads differ in size. One attention call serves as many heads as lie in one bucket; every head of a bucket is padded
to the bucket's widest, and widths are rounded up to what matrix kernels like. Few buckets waste arithmetic, many waste
calls: `choose` weighs both by prices measured once (`benchmarks/inference.py prices`). Which prices hold where the
model will run is not known when it is cut, so they are those of a server's CPU at 8 x 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import mul
from typing import Any

BATCH, TOKENS = 8, 128
MULTIPLES = (1, 4, 8, 16)
MOST_BUCKETS = 4


@dataclass(frozen=True)
class Prices:
    """What an attention costs.

    Attributes:
        call: seconds of one attention call, whatever its size.
        project: floating point operations per second of the projections.
        mix: the same of scores and contexts.
        lanes: a projection costs as much as one whose columns are the next multiple of this.
    """

    call: float = 5.8e-5
    project: float = 1.3e11
    mix: float = 2.8e11
    lanes: int = 16


@dataclass(frozen=True)
class Layout:
    """The buckets of an attention: numbers of its kept heads, each once; widths are multiples of `multiple`."""

    buckets: tuple[tuple[int, ...], ...]
    multiple: int = 1

    @classmethod
    def single(cls, heads: int) -> Layout:
        """All heads in one bucket, padded to the widest and no further."""
        return cls((tuple(range(heads)),) if heads else ())

    @property
    def order(self) -> tuple[int, ...]:
        """The heads as they are stored, bucket after bucket."""
        return tuple(head for bucket in self.buckets for head in bucket)

    def widths(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The width of each bucket, of heads with these sizes: at least 1."""
        return tuple(_up(max(1, *(sizes[head] for head in bucket)), self.multiple) for bucket in self.buckets)

    def to_dict(self) -> dict[str, Any]:
        return {"buckets": [list(bucket) for bucket in self.buckets], "multiple": self.multiple}


def cost(layout: Layout, qk: Sequence[int], vo: Sequence[int], hidden: int, prices: Prices) -> float:
    """Seconds of an attention over a stream of `hidden` dims, at `BATCH` x `TOKENS`; all projections are in it."""
    heads = [len(bucket) for bucket in layout.buckets]
    wide_qk, wide_vo = (sum(map(mul, heads, layout.widths(sizes))) for sizes in (qk, vo))
    columns = _up(2 * wide_qk + wide_vo, prices.lanes) + _up(wide_vo, prices.lanes)
    tokens = BATCH * TOKENS
    projected = 2 * tokens * hidden * columns / prices.project
    mixed = 2 * tokens * TOKENS * (wide_qk + wide_vo) / prices.mix
    return prices.call * len(heads) + projected + mixed


def choose(qk: Sequence[int], vo: Sequence[int], hidden: int, prices: Prices | None = None) -> Layout:
    """The cheapest layout for heads of these sizes: of all splits of the heads, in order of size, into few buckets.

    Of layouts that cost the same, the one with fewer buckets, then the one with less padding.
    """
    if not qk:
        return Layout.single(0)
    prices = prices or Prices()
    ranked = sorted(range(len(qk)), key=lambda head: (qk[head] + vo[head], head))
    options = [
        Layout(tuple(tuple(sorted(ranked[a:b])) for a, b in pairwise(ends)), multiple)
        for ends in _splits(len(qk))
        for multiple in MULTIPLES
    ]
    return min(options, key=lambda one: (cost(one, qk, vo, hidden, prices), len(one.buckets), one.multiple))


def _splits(heads: int) -> list[tuple[int, ...]]:
    """Ends of consecutive buckets, `(0, ..., heads)`: every split into at most `MOST_BUCKETS`."""
    splits: list[tuple[int, ...]] = [(0,)]
    done: list[tuple[int, ...]] = []
    for left in reversed(range(MOST_BUCKETS)):
        done += [(*ends, heads) for ends in splits]
        splits = [(*ends, end) for ends in splits for end in range(ends[-1] + 1, heads)] if left else []
    return done


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
