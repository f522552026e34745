"""Which layers of student and teacher are compared: the teacher's layers, and the student's layer for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from secateur.system.errors import UserError


def layer_numbers(layers: str | Sequence[int], depth: int, first: int) -> list[int]:
    """The layers that are named, in their order; 0 is the embeddings' output.

    Args:
        layers: `"every N"`, `"last"`, `"quarters"`, or numbers.
        depth: the number of layers of the model.
        first: the lowest layer that may be named, 0 or 1.

    Raises:
        UserError: `layers` is none of these, or a layer does not exist.
    """
    if isinstance(layers, str):
        words = layers.split()
        if words == ["last"]:
            return [depth]
        if words == ["quarters"]:
            return quarters(depth)
        if len(words) == 2 and words[0] == "every" and words[1].isdigit() and int(words[1]) > 0:
            return list(range(first * int(words[1]), depth + 1, int(words[1])))
    elif layers and all(first <= layer <= depth for layer in layers):
        return list(layers)
    raise UserError(f'layers {layers!r} is not "every N", "last", "quarters" or numbers from {first} to {depth}')


def quarters(depth: int) -> list[int]:
    """CoFi's layers of a teacher, the last of each quarter, `ceil(depth / 4) k`: 3, 6, 9, 12 of 12 and 2, 4, 6 of 6."""
    size = -(-depth // 4)
    return list(range(size, depth + 1, size))


def sampled(depth: int) -> list[int]:
    """As many layers as `quarters`, sampled from its first layer on, in rising order (CoFi, v5).

    The published code samples from all layers and then raises the lowest one only, which can put it above the next.
    """
    first, *others = quarters(depth)
    return sorted((first + torch.randperm(depth - first + 1)[: 1 + len(others)]).tolist())


def windows(depth: int) -> list[int]:
    """One layer sampled from each quarter, but the last one of the first (CoFi, v6; Haidar et al., RAIL-KD, 2022)."""
    ends = quarters(depth)
    size = ends[0]
    return [ends[0], *(end - int(torch.randint(size, ())) for end in ends[1:])]


def nearest(costs: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the teacher's layers the student's with the least error, in any order, removed or not (CoFi, v3).

    Arguments and result are those of `nearest_ordered`.
    """
    return costs.argmin(dim=1), torch.ones(len(costs), dtype=torch.bool, device=costs.device)


def nearest_ordered(costs: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """From the top down the layer with the least error among those below the one before that exist (CoFi, v4).

    Where none exists below, the layer before is matched again; where no layer exists, nothing is matched.

    Args:
        costs: `(teacher's layers, student's layers)` errors, the teacher's layers in rising order.
        exists: `(student's layers,)` bool.

    Returns:
        The student's layer for each of the teacher's, and whether there is one, `(teacher's layers,)` each.
    """
    numbers = torch.arange(costs.shape[1], device=costs.device)
    bound = torch.full((), costs.shape[1], device=costs.device)
    matched: list[Tensor] = []
    for row in costs.flip(0):
        allowed = exists & (numbers < bound)
        best = row.masked_fill(~allowed, torch.inf).argmin()
        bound = torch.where(allowed.any(), best, bound)
        matched.insert(0, bound)
    layers = torch.stack(matched)
    return layers.clamp(max=costs.shape[1] - 1), layers < costs.shape[1]


def at_same_depth(layer: int, depth: int, teachers: int) -> int:
    """The layer of a model of `depth` layers at the relative depth of a layer of its teacher, which has `teachers`.

    It is the layer of the same number where both are equally deep. The embeddings, 0, are those of the teacher's
    embeddings alone.
    """
    nearest = (2 * layer * depth + teachers) // (2 * teachers)
    return max(1, nearest) if layer else 0


SAME = "same"
"""Matches layers of the same relative depth: of the same number, where student and teacher have equally many."""
MATCHES: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "nearest": nearest,
    "nearest-ordered": nearest_ordered,
    "sampled": nearest_ordered,
    "windows": nearest_ordered,
}
"""Ways to match layers again in each batch."""
SAMPLES: Mapping[str, Callable[[int], list[int]]] = {"sampled": sampled, "windows": windows}
"""The ways that sample the teacher's layers in each batch."""
