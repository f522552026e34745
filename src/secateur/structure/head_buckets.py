"""How the heads of one attention are stored and computed: in buckets of equal width, padded with zeros, which is exact.

Heads differ in size. One attention call computes the heads of one bucket. Every head of a bucket is padded to the
widest one, and widths are rounded up to a multiple that matrix kernels are fast at. Few buckets mean more arithmetic on
padding, many buckets more calls. `cheapest_layout` weighs both by kernel costs that were measured once
(`benchmarks/inference.py prices`). The hardware that the model will run on is unknown when it is cut, so the costs are
those of a server's CPU for a batch of 8 x 128 tokens.

Heads that share a key and a value have one size and are in one bucket. What is numbered in a layout are the keys with
their values: one of each head in most families.
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


def attention_seconds(
    layout: Layout,
    qk: Sequence[int],
    vo: Sequence[int],
    hidden: int,
    costs: KernelCosts,
    heads: Sequence[int] | None = None,
) -> float:
    """Estimated seconds of an attention, all projections included, at `BATCH` x `TOKENS`.

    Args:
        qk: QK dims of each kept key.
        vo: VO dims of each kept value.
        hidden: width of the residual stream.
        heads: how many heads share each key and value; by default one.
    """
    keys = [len(bucket) for bucket in layout.buckets]
    queries = keys if heads is None else [sum(heads[key] for key in bucket) for bucket in layout.buckets]
    widths = [layout.widths(sizes) for sizes in (qk, vo)]
    (wide_q, wide_o), (wide_k, wide_v) = ([sum(map(mul, own, width)) for width in widths] for own in (queries, keys))
    columns = _round_up(wide_q + wide_k + wide_v, costs.lanes) + _round_up(wide_o, costs.lanes)
    tokens = BATCH * TOKENS
    projected = 2 * tokens * hidden * columns / costs.project
    attended = 2 * tokens * TOKENS * (wide_q + wide_o) / costs.attend
    return costs.call * len(keys) + projected + attended


def cheapest_layout(
    qk: Sequence[int],
    vo: Sequence[int],
    hidden: int,
    costs: KernelCosts | None = None,
    *,
    heads: Sequence[int] | None = None,
    multiples: Sequence[int] = MULTIPLES,
) -> Layout:
    """The layout with the lowest estimated time for heads of these sizes.

    Heads are sorted by size and split into at most `MOST_BUCKETS` consecutive buckets; all splits are compared. Of
    layouts that cost the same, the one with fewer buckets is taken, then the one with less padding.

    Args:
        heads: how many heads share each key and value; by default one.
        multiples: of which the widths of buckets may be multiples.
    """
    if not qk:
        return Layout((), multiples[0])
    costs = costs or KernelCosts()
    ranked = sorted(range(len(qk)), key=lambda head: (qk[head] + vo[head], head))
    options = [
        Layout(tuple(tuple(sorted(ranked[a:b])) for a, b in pairwise(ends)), multiple)
        for ends in _splits(len(qk))
        for multiple in multiples
    ]
    return min(
        options,
        key=lambda one: (attention_seconds(one, qk, vo, hidden, costs, heads), len(one.buckets), one.multiple),
    )


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
