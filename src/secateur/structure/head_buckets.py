"""How the heads of one attention are stored and run: in buckets of one width each, padded with zeros (exact).

Heads differ in size. One attention call serves the heads of one bucket; every head of a bucket is padded to the
bucket's widest, and widths are rounded up to a multiple that matrix kernels are fast at. Few buckets waste arithmetic,
many buckets waste calls: `cheapest_layout` weighs both by kernel costs measured once (`benchmarks/inference.py
prices`). The hardware that the model will run on is not known when it is cut, so the costs are those of a server's CPU
at a batch of 8 x 128 tokens.
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
class KernelCosts:
    """What the kernels of an attention cost.

    Attributes:
        call: seconds of one attention call, whatever its size.
        project: floating point operations per second of the projections.
        mix: floating point operations per second of scores and contexts.
        lanes: the columns of a projection are rounded up to a multiple of this.
    """

    call: float = 5.8e-5
    project: float = 1.3e11
    mix: float = 2.8e11
    lanes: int = 16


@dataclass(frozen=True)
class Layout:
    """The buckets of an attention: indices of its kept heads, each once; widths are multiples of `multiple`."""

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


def attention_seconds(layout: Layout, qk: Sequence[int], vo: Sequence[int], hidden: int, costs: KernelCosts) -> float:
    """Estimated seconds of an attention, all projections included, at `BATCH` x `TOKENS`.

    Args:
        qk: QK dims of each kept head.
        vo: VO dims of each kept head.
        hidden: width of the residual stream.
    """
    heads = [len(bucket) for bucket in layout.buckets]
    wide_qk, wide_vo = (sum(map(mul, heads, layout.widths(sizes))) for sizes in (qk, vo))
    columns = _up(2 * wide_qk + wide_vo, costs.lanes) + _up(wide_vo, costs.lanes)
    tokens = BATCH * TOKENS
    projected = 2 * tokens * hidden * columns / costs.project
    mixed = 2 * tokens * TOKENS * (wide_qk + wide_vo) / costs.mix
    return costs.call * len(heads) + projected + mixed


def cheapest_layout(qk: Sequence[int], vo: Sequence[int], hidden: int, costs: KernelCosts | None = None) -> Layout:
    """The cheapest layout for heads of these sizes, of all splits of the heads, sorted by size, into few buckets.

    Of layouts that cost the same, the one with fewer buckets, then the one with less padding.
    """
    if not qk:
        return Layout.single(0)
    costs = costs or KernelCosts()
    ranked = sorted(range(len(qk)), key=lambda head: (qk[head] + vo[head], head))
    options = [
        Layout(tuple(tuple(sorted(ranked[a:b])) for a, b in pairwise(ends)), multiple)
        for ends in _splits(len(qk))
        for multiple in MULTIPLES
    ]
    return min(options, key=lambda one: (attention_seconds(one, qk, vo, hidden, costs), len(one.buckets), one.multiple))


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
