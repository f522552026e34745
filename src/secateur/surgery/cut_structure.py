"""The structure of the model that a plan gives: how it differs from the stock model, module by module.

`cut` applies it, and it is saved as the `secateur` key of `config.json` (`schema`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from secateur.structure.architecture import Linear, Norm, Row
from secateur.structure.axis_table import AxisTable
from secateur.structure.plan import Plan
from secateur.structure.reading import Reading
from secateur.structure.space import UnitSpace
from secateur.surgery.factorisation import embedding_rank
from secateur.surgery.schema import AttentionStructure, Structure
from secateur.surgery.sentence.attach import is_of_head
from secateur.surgery.word_embeddings import shared_paths, table_paths

CALLED = ("call", "query", "key", "value", "output", "causal", "layer", "bias")
"""Attributes of an attention that its structure takes from the table unchanged."""


def structure_of(space: UnitSpace, plan: Plan, reading: Reading, kept: Mapping[str, Tensor]) -> Structure:
    """How the model that the plan gives differs from the stock model.

    Args:
        reading: of the plan's masks.
        kept: axis -> kept indices in storage order (`kept_indices`).
    """
    table = space.table
    gates = {sublayer.gate: float(reading.effective[sublayer.gate]) for sublayer in table.sublayers}
    sizes = {axis: len(indices) for axis, indices in kept.items()}
    parts: dict[str, dict[str, Any]] = {one.name: {} for one in fields(Structure)}
    for row in (row for row in table.rows if not is_of_head(row.path)):  # whose sizes are in files of its own
        part, value = _row_structure(row, gates, sizes, table)
        if part:
            parts[part][row.path] = value
        if value == "zero" and isinstance(row, Linear) and row.adds and gates[str(row.behind)] == 0.0:
            parts["replaced"][row.adds] = "skip"
    _thin(parts, space, plan)
    for number, attention in enumerate(table.attentions):
        if f"{attention.block}.vo" in kept:
            parts["attention"][attention.path] = _attention_structure(reading, plan, number)
    return Structure(**parts)


def _thin(parts: dict[str, dict[str, Any]], space: UnitSpace, plan: Plan) -> None:
    """Enter the word embeddings that are factorised or quantised; what shares their table has no size of its own."""
    rank, owners = embedding_rank(space), table_paths(space.table)
    if rank:
        parts["factorised"] = dict.fromkeys(owners, rank)
    if plan.embedding_rows:
        parts["quantised"] = dict.fromkeys(owners, plan.embedding_rows)
    if rank or plan.embedding_rows:
        parts["shared"] = shared_paths(space.model, owners)
    for path in parts["shared"]:
        parts["linear"].pop(path, None)
        parts["embedding"].pop(path, None)


def _row_structure(row: Row, gates: Mapping[str, float], sizes: Mapping[str, int], table: AxisTable) -> tuple[str, Any]:
    """The part of the structure that a row belongs to, and its entry there; ("", None) if the row does not change."""
    closed = row.behind is not None and gates[row.behind] == 0.0
    if isinstance(row, Linear):
        return _linear_structure(row, closed, sizes, table)
    if isinstance(row, Norm) and closed:
        return "replaced", "identity"
    part = "norm" if isinstance(row, Norm) else "embedding"
    return (part, sizes[row.axis]) if row.axis and row.axis in sizes else ("", None)


def _linear_structure(row: Linear, closed: bool, sizes: Mapping[str, int], table: AxisTable) -> tuple[str, Any]:
    out, into = sizes.get(row.out or "", -1), sizes.get(row.into or "", -1)
    if row.out == "hidden" and closed:
        return "replaced", "zero"
    if out == 0:
        return "replaced", "empty"
    if out < 0 and into < 0:
        return "", None
    shape = table.shapes[row.path]
    if into == 0 and any(parameter.name == f"{row.path}.bias" for parameter in table.parameters):
        return "bias", out if out > 0 else shape[0]
    if into == 0:
        return "replaced", "zero"
    return "linear", (out if out > 0 else shape[0], into if into > 0 else shape[1])


def _attention_structure(reading: Reading, plan: Plan, number: int) -> AttentionStructure:
    """The structure of the attention of that number in the table."""
    attention, layout = reading.table.attentions[number], plan.layouts[number]
    qk, vo = reading.head_sizes(number)
    heads = reading.heads(attention.block).nonzero().flatten().tolist()
    return AttentionStructure(
        **{name: getattr(attention, name) for name in CALLED},
        heads=tuple(heads[head] for head in layout.order) if attention.takes_bias else None,
        qk=tuple(qk[head] for head in layout.order),
        vo=tuple(vo[head] for head in layout.order),
        scale=float(reading.table.head_dim**-0.5 if attention.scale is None else attention.scale),
        buckets=tuple(len(bucket) for bucket in layout.buckets),
        multiple=layout.multiple,
    )
