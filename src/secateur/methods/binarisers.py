"""Rules that turn the learned scores of one group into a hard mask (block movement pruning, section 3).

Each takes the scores, of any shape, a number (a threshold, or the fraction to keep) and the fraction that is kept in
any case, and returns a bool tensor of the shape of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from secateur.budget.ranking import highest


def top_k(scores: Tensor, fraction: float, minimum: float = 0.0) -> Tensor:
    """Keep the `int(fraction * n)` highest of n scores; of equal scores the first."""
    return _highest_of_all(scores, int(max(fraction, minimum) * scores.numel()))


def above(scores: Tensor, threshold: float, minimum: float = 0.0) -> Tensor:
    """Keep the scores above the threshold, or the `int(minimum * n) + 1` highest if that is more."""
    kept = scores > threshold
    least = int(minimum * scores.numel()) + 1 if minimum else 0
    return kept if int(kept.sum()) >= least else _highest_of_all(scores, least)


def sigmoid_above(scores: Tensor, threshold: float, minimum: float = 0.0) -> Tensor:
    """Keep the scores whose sigmoid is above the threshold, and at least as many as `above` does."""
    return (torch.sigmoid(scores) > threshold) | above(scores, math.inf, minimum)


def _highest_of_all(scores: Tensor, count: int) -> Tensor:
    return highest(scores.flatten(), count).view(scores.shape)


BINARISERS: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": sigmoid_above,
    "threshold": above,
    "topk": top_k,
}
RAMPS: Mapping[str, tuple[float, float] | None] = {"sigmoid": (0.0, 0.1), "threshold": None, "topk": (1.0, 0.5)}
"""The start and the end of the number in the published runs; None where every run sets its own."""
