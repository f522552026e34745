"""The cost of a model by the sizes of its blocks.

A block is an attention with the feed-forward network behind it, or a further attention of the same layer, such as that
of a decoder to its encoder. Its sizes are five numbers (`SIZES`); a size of 0 keys or neurons leaves only the output
bias of the sublayer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secateur.structure.unit_names import kind_of_block

SIZES = ("heads", "sharing", "qk", "vo", "ffn")
"""The sizes of a block: heads, or the KV heads where several share one; how many heads share each, 1 where they share
none; the widths of QK and VO in each; neurons."""
OF_ATTENTION = SIZES[:4]
REMOVED, ABSENT = -1, -2
"""In place of a size: the sublayer is removed; the sizes say nothing about it."""
NOTHING = (REMOVED,) * len(SIZES)
"""The sizes of a block without sublayers."""


@dataclass(frozen=True)
class SizeCosts:
    """The cost of blocks of one kind at one width of the residual stream, by their sizes; removed sublayers are free.

    Attributes:
        attention: `(heads, sharing, QK width, VO width)`, at index size - 1.
        bare_attention: of an attention of which only the output bias is left.
        mlp: `(neurons,)`, at index size - 1; empty if these blocks have no feed-forward network.
        bare_mlp: of a feed-forward network of which only the output bias is left.
    """

    attention: np.ndarray
    bare_attention: float
    mlp: np.ndarray
    bare_mlp: float

    def of(self, sizes: np.ndarray) -> np.ndarray:
        """`(n,)` costs of sizes `(n, 5)`."""
        heads, neurons = sizes[:, 0], sizes[:, 4]
        places = tuple((np.maximum(sizes, 1) - 1).T)
        attention = np.where(heads > 0, self.attention[places[:4]], self.bare_attention) * (heads >= 0)
        if not self.mlp.size:
            return attention
        return attention + np.where(neurons > 0, self.mlp[places[4]], self.bare_mlp) * (neurons >= 0)


@dataclass(frozen=True)
class ModelCosts:
    """The cost of a model at one width of the residual stream.

    Attributes:
        rest: of everything except the blocks.
        kinds: kind of block (`unit_names.kind_of_block`) -> the costs of one.
    """

    rest: float
    kinds: Mapping[str, SizeCosts]

    def of(self, block: str, sizes: np.ndarray) -> np.ndarray:
        """`(n,)` costs of a block, such as `decoder.0.cross`, with sizes `(n, 5)`."""
        return self.kinds[kind_of_block(block)].of(sizes)

    def total(self, sizes: Mapping[str, np.ndarray]) -> float:
        """The cost of a model whose blocks have these sizes `(5,)`."""
        return self.rest + sum(float(self.of(block, own[None])[0]) for block, own in sizes.items())
