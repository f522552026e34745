"""The cost of a model: parameters and floating point operations as functions of how much of each axis is kept.

Parameters are multilinear in the kept lengths, so one function serves hard masks (exact counts), soft masks (expected
counts, differentiable) and reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from math import prod

from torch import Tensor

from secateur.structure.architecture import VOCABULARIES, Linear
from secateur.structure.axis_table import AxisTable, Parameter

Lengths = Mapping[str, Tensor | float]
"""Kept length of every axis (`hidden`, `3.ffn`) and of every sublayer's gate (`3.attention`: 1 open, 0 removed)."""

SCOPES = ("prunable", "layers", "model")


def in_scope(parameter: Parameter, scope: str) -> bool:
    """Whether a parameter is counted.

    `prunable` are the parameters with an axis inside a layer (GRAIN's denominator, without output biases and norms),
    `layers` all parameters of layers, `model` all parameters. For an encoder-decoder the layers of both stacks count. A
    weight that several modules share (word embeddings, also in the output layer) counts once, and only in `model`.
    """
    if scope == "model":
        return True
    return parameter.layer is not None and (scope == "layers" or parameter.inner)


def kept_entries(parameter: Parameter, lengths: Lengths) -> Tensor | float:
    """Kept entries of one parameter. Lengths of inner axes include the sublayer's gate; others are multiplied by it."""
    axes, fixed = _product(parameter)
    return prod((lengths[axis] for axis in axes), start=float(fixed))


def _product(parameter: Parameter) -> tuple[tuple[str, ...], int]:
    """The axes and gates whose lengths are multiplied to count a parameter, and the size of its other dimensions."""
    axes = [axis for axis in parameter.axes if axis and axis not in VOCABULARIES]
    fixed = prod(n for axis, n in zip(parameter.axes, parameter.shape, strict=True) if axis not in axes)
    if (gate := parameter.row.behind) is not None and not parameter.inner:
        axes.append(gate)
    return tuple(axes), fixed


@lru_cache(maxsize=64)
def _polynomial(table: AxisTable, scope: str, left_out: frozenset[str]) -> Mapping[tuple[str, ...], int]:
    """Axes and gates -> the factor of the product of their lengths, in the number of parameters within a scope."""
    factors: Counter[tuple[str, ...]] = Counter()
    for parameter in table.parameters:
        if in_scope(parameter, scope) and parameter.label not in left_out:
            axes, fixed = _product(parameter)
            factors[axes] += fixed
    return factors


def parameters(
    table: AxisTable, lengths: Lengths, scope: str = "prunable", counted: Mapping[str, Tensor | float] | None = None
) -> Tensor | float:
    """Kept parameters within a scope, `()`; see `in_scope` for the scopes.

    Args:
        counted: label of a tiled weight -> its kept entries, `()`, which do not follow from the lengths. They are in
            every scope.
    """
    tiled = counted or {}
    factors = _polynomial(table, scope, frozenset(tiled))
    products = (prod((lengths[axis] for axis in axes), start=float(factor)) for axes, factor in factors.items())
    return sum(products, start=sum(tiled.values(), start=0.0))


@lru_cache(maxsize=64)
def total(table: AxisTable, scope: str = "prunable") -> int:
    """Parameters of the unpruned model within a scope."""
    return int(parameters(table, full(table), scope))


def full(table: AxisTable) -> dict[str, float]:
    """The lengths of the unpruned model."""
    gates = {row.behind: 1.0 for row in table.rows if row.behind}
    return {**{axis: float(n) for axis, n in table.sizes.items()}, **gates}


def flops(table: AxisTable, lengths: Lengths, tokens: int) -> Tensor | float:
    """Floating point operations of the layers for one sequence (a multiply-add is two).

    2 per weight and token, and 2 x tokens x (QK dims + VO dims) per token for attention scores and contexts; softmax,
    norms, activations and scores of relative positions are left out, and so are the projections of relative positions,
    which all sequences of a batch share. For an encoder-decoder, source and target have `tokens` tokens each, and the
    target is processed in one forward pass, not generated.
    """
    left_out = _of_positions(table)
    weights = sum(
        kept_entries(p, lengths)
        for p in table.parameters
        if p.layer is not None and isinstance(p.row, Linear) and len(p.axes) == 2 and p.row.path not in left_out
    )
    attended = sum(lengths[f"{a.block}.{axis}"] for a in table.attentions for axis in ("qk", "vo"))
    return 2.0 * tokens * weights + 2.0 * tokens * tokens * attended


@lru_cache(maxsize=64)
def _of_positions(table: AxisTable) -> frozenset[str]:
    """The paths of the Linears that make queries and keys of relative positions, beside those of contents."""
    axes = [f"{attention.block}.qk" for attention in table.attentions]
    return frozenset(row.path for axis in axes for row in (*table.queries(axis)[1:], *table.keys(axis)[1:]))
