"""What a model costs: parameters and floating point operations as functions of how much is kept on each axis.

Parameters are multilinear in the kept lengths, so one function serves hard masks (exact counts), soft masks (expected
counts, differentiable) and reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import Tensor

from secateur.structure.architecture import Linear
from secateur.structure.axis_table import AxisTable, Parameter

Lengths = Mapping[str, Tensor | float]
"""Kept length of every axis (`hidden`, `3.ffn`) and of every sublayer's gate (`3.attention`: 1 open, 0 removed)."""

SCOPES = ("prunable", "layers", "model")


def counts(parameter: Parameter, scope: str) -> bool:
    """Whether a parameter is counted.

    `prunable` is what lies on an axis inside a layer (GRAIN's denominator: output biases and norms are not in it),
    `layers` all layers without embeddings, `model` everything. Of an encoder-decoder the layers are those of both, and
    a weight that several modules share (word embeddings, also the decoder's output) counts once, in `model` alone.
    """
    if scope == "model":
        return True
    return parameter.layer is not None and (scope == "layers" or parameter.inner)


def size(parameter: Parameter, lengths: Lengths) -> Tensor | float:
    """Kept entries of one parameter. Lengths on inner axes already hold the sublayer's gate; the rest is multiplied."""
    kept = prod((lengths[a] if a else n for a, n in zip(parameter.axes, parameter.shape, strict=True)), start=1.0)
    behind = parameter.row.behind
    return kept if behind is None or parameter.inner else kept * lengths[behind]


def parameters(
    table: AxisTable, lengths: Lengths, scope: str = "prunable", counted: Mapping[str, Tensor] | None = None
) -> Tensor | float:
    """Kept parameters within a scope, `()`; see `counts` for the scopes.

    `counted`: by name the entries, `()`, of those parameters of which more is gone than the lengths tell.
    """
    own = counted or {}
    return sum((own.get(p.name, size(p, lengths)) for p in table.parameters if counts(p, scope)), start=0.0)


def total(table: AxisTable, scope: str = "prunable") -> int:
    """Parameters of the unpruned model within a scope."""
    return int(parameters(table, full(table), scope))


def full(table: AxisTable) -> dict[str, float]:
    """The lengths of the unpruned model."""
    gates = {row.behind: 1.0 for row in table.rows if row.behind}
    return {**{axis: float(n) for axis, n in table.sizes.items()}, **gates}


def flops(table: AxisTable, lengths: Lengths, tokens: int) -> Tensor | float:
    """Floating point operations of the layers for one sequence (a multiply-add is two).

    2 per weight and token, and 2 x tokens x (QK dims + VO dims) per token for the attention; softmax, norms and
    activations are left out. Of an encoder-decoder for one source and one target of as many tokens, read at once.
    """
    weights = sum(
        size(p, lengths)
        for p in table.parameters
        if p.layer is not None and isinstance(p.row, Linear) and len(p.axes) == 2
    )
    mixing = sum(lengths[f"{a.block}.{axis}"] for a in table.attentions for axis in ("qk", "vo"))
    return 2.0 * tokens * weights + 2.0 * tokens * tokens * mixing
