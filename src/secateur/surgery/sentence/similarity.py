"""How vectors of texts are compared, by the names that sentence-transformers has for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

COSINE = "cosine"
Compare = Callable[[Tensor, Tensor], Tensor]
"""Vectors `(rows, dims)` and others `(other rows, dims)` -> `(rows, other rows)`, larger for more similar ones."""


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    return functional.normalize(one, dim=-1) @ functional.normalize(other, dim=-1).T


def _products(one: Tensor, other: Tensor) -> Tensor:
    return one @ other.T


def _nearness(one: Tensor, other: Tensor) -> Tensor:
    return -torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _nearness_in_steps(one: Tensor, other: Tensor) -> Tensor:
    return -torch.cdist(one, other, p=1.0)


SIMILARITIES: Mapping[str, Compare] = {
    COSINE: _cosines,
    "dot": _products,
    "euclidean": _nearness,
    "manhattan": _nearness_in_steps,
}
"""Name of a similarity -> what computes it; distances are negative."""


def scale(similarity: str, vectors: Tensor) -> Tensor:
    """`()`, without gradient: what divides similarities to make them those of vectors of length 1, on average.

    A temperature then means the same for every model. Cosines are so already.

    Args:
        vectors: `(rows, dims)`, whose lengths are meant; by `manhattan`, which adds the sizes of entries, theirs.
    """
    vectors = vectors.detach()
    if similarity == COSINE:
        return torch.ones((), device=vectors.device)
    if similarity == "manhattan":
        return vectors.abs().sum(-1).mean().clamp(min=1e-12)
    squared = vectors.square().sum(-1).mean().clamp(min=1e-12)
    return squared if similarity == "dot" else squared.sqrt()
