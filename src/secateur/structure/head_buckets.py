"""How the heads of one attention are stored and computed: in buckets of equal width, padded with zeros, which is exact.

Heads differ in size. One attention call computes the heads of one bucket. Every head of a bucket is padded to the
widest one, and widths are rounded up to a multiple that matrix kernels are fast at. Few buckets mean more arithmetic on
padding, many buckets more calls. `cheapest_layout` weighs both by kernel costs that were measured once
(`benchmarks/inference.py prices`). The hardware that the model will run on is unknown when it is cut, so the costs are
those of a server's CPU for a batch of 8 x 128 tokens.
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
    """Speeds of the kernels that compute an attention.

    Attributes:
        call: seconds that one attention call takes in addition, independent of its size.
        project: floating point operations per second of the projections.
        attend: floating point operations per second of scores and contexts.
        lanes: the columns of a projection are rounded up to a multiple of this.
    """

    call: float = 5.8e-5
    project: float = 1.3e11
    attend: float = 2.8e11
    lanes: int = 16


@dataclass(frozen=True)
class Layout:
    """The buckets of an attention: numbers of its kept heads, each once; widths are multiples of `multiple`."""

    buckets: tuple[tuple[int, ...], ...]
    multiple: int = 1

    @classmethod
    def single(cls, heads: int) -> Layout:
        """All heads in one bucket, padded to the widest one."""
        return cls((tuple(range(heads)),) if heads else ())

    @property
    def order(self) -> tuple[int, ...]:
        """The heads as they are stored, bucket after bucket."""
        return tuple(head for bucket in self.buckets for head in bucket)

    def widths(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The width of each bucket, at least 1, where heads have these sizes."""
        return tuple(_round_up(max(1, *(sizes[head] for head in bucket)), self.multiple) for bucket in self.buckets)

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
    columns = _round_up(2 * wide_qk + wide_vo, costs.lanes) + _round_up(wide_vo, costs.lanes)
    tokens = BATCH * TOKENS
    projected = 2 * tokens * hidden * columns / costs.project
    attended = 2 * tokens * TOKENS * (wide_qk + wide_vo) / costs.attend
    return costs.call * len(heads) + projected + attended


def cheapest_layout(
    qk: Sequence[int], vo: Sequence[int], hidden: int, costs: KernelCosts | None = None, *, pairs: bool = False
) -> Layout:
    """The layout with the lowest estimated time for heads of these sizes.

    Heads are sorted by size and split into at most `MOST_BUCKETS` consecutive buckets; all splits are compared. Of
    layouts that cost the same, the one with fewer buckets is taken, then the one with less padding.

    Args:
        pairs: whether the width of every bucket must be even, as for dims that rotary positions rotate two by two.
    """
    multiples = [2 * -(-multiple // 2) for multiple in MULTIPLES] if pairs else MULTIPLES
    if not qk:
        return Layout((), multiples[0])
    costs = costs or KernelCosts()
    ranked = sorted(range(len(qk)), key=lambda head: (qk[head] + vo[head], head))
    options = [
        Layout(tuple(tuple(sorted(ranked[a:b])) for a, b in pairwise(ends)), multiple)
        for ends in _splits(len(qk))
        for multiple in multiples
    ]
    return min(options, key=lambda one: (attention_seconds(one, qk, vo, hidden, costs), len(one.buckets), one.multiple))


def _splits(heads: int) -> list[tuple[int, ...]]:
    """Every split into at most `MOST_BUCKETS` consecutive buckets, as the boundaries `(0, ..., heads)`."""
    splits: list[tuple[int, ...]] = [(0,)]
    finished: list[tuple[int, ...]] = []
    for left in reversed(range(MOST_BUCKETS)):
        finished += [(*ends, heads) for ends in splits]
        splits = [(*ends, end) for ends in splits for end in range(ends[-1] + 1, heads)] if left else []
    return finished


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
