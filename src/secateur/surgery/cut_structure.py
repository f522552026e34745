"""The structure of the model that a plan gives: how it differs from the stock model, module by module.

`cut` applies it, and it is saved as the `secateur` key of `config.json` (`schema`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from secateur.structure.architecture import Attention, Linear, Norm, Row
from secateur.structure.axis_table import AxisTable
from secateur.structure.head_buckets import Layout
from secateur.structure.plan import Plan
from secateur.structure.reading import Reading
from secateur.structure.space import UnitSpace
from secateur.surgery.factorisation import embedding_rank
from secateur.surgery.kept_indices import stays_in_place
from secateur.surgery.schema import AttentionStructure, Structure
from secateur.surgery.sentence.attach import is_of_head
from secateur.surgery.word_embeddings import shared_paths, table_paths

CALLED = ("call", "query", "key", "value", "output", "causal", "layer", "bias", "dropout", "after", "norms")
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
    for path, rows in table.modules.items():
        if is_of_head(path):  # whose sizes are in files of its own
            continue
        part, value = _module_structure(rows, gates, sizes, table)
        if part:
            parts[part][path] = value
        row = rows[0]
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


def _module_structure(
    rows: Sequence[Row], gates: Mapping[str, float], sizes: Mapping[str, int], table: AxisTable
) -> tuple[str, Any]:
    """The part of the structure that a module belongs to, and its entry there; ("", None) if it does not change.

    Args:
        rows: of the module: several if its outputs lie on several axes in turn.
    """
    row = rows[0]
    closed = row.behind is not None and gates[row.behind] == 0.0
    if isinstance(row, Linear):
        return _linear_structure([one for one in rows if isinstance(one, Linear)], closed, sizes, table)
    if isinstance(row, Norm) and closed:
        return "replaced", "identity"
    part = "norm" if isinstance(row, Norm) else "embedding"
    return (part, sizes[row.axis]) if row.axis and row.axis in sizes else ("", None)


def _linear_structure(
    rows: Sequence[Linear], closed: bool, sizes: Mapping[str, int], table: AxisTable
) -> tuple[str, Any]:
    row, (whole, into) = rows[0], table.shapes[rows[0].path]
    if row.out == "hidden" and closed:
        return "replaced", "zero"
    out = sum(sizes.get(one.out or "", whole // one.parts) for one in rows)
    if out == 0:
        return "replaced", "empty"
    if not any(axis in sizes for one in rows for axis in (one.out, one.into)):
        return "", None
    into = sizes.get(row.into or "", into)
    if into == 0 and f"{row.path}.bias" in table.tensors:
        return "bias", out
    return ("replaced", "zero") if into == 0 else ("linear", (out, into))


def _attention_structure(reading: Reading, plan: Plan, number: int) -> AttentionStructure:
    """The structure of the attention of that number in the table."""
    attention, layout = reading.table.attentions[number], plan.layouts[number]
    qk, vo = reading.head_sizes(number)
    sharing, of_each = reading.sharing(attention.block), reading.heads_of_each(number)
    heads = sharing.any(dim=1).nonzero().flatten().tolist()
    pairs = _pairs(reading, attention, layout) if attention.rotary else None
    return AttentionStructure(
        **{name: getattr(attention, name) for name in CALLED},
        heads=tuple(heads[head] for head in layout.order) if attention.takes_bias else None,
        qk=tuple(qk[head] for head in layout.order) if pairs is None else tuple(2 * len(own) for own in pairs),
        vo=tuple(vo[head] for head in layout.order),
        pairs=pairs,
        scale=float(reading.table.head_dim**-0.5 if attention.scale is None else attention.scale),
        buckets=tuple(len(bucket) for bucket in layout.buckets),
        multiple=layout.multiple,
        queries=tuple(of_each[head] for head in layout.order) if reading.table.kv_axes else None,
    )


def _pairs(reading: Reading, attention: Attention, layout: Layout) -> tuple[tuple[int, ...], ...]:
    """The pairs of QK dims that each KV head stores, in their order: dims i and i + half of the head are pair i.

    A head that is padded to its whole width stores all of them, those that are removed as zeros.
    """
    kept = reading.by_kv_head(f"{attention.block}.qk")[reading.sharing(attention.block).any(dim=1)]
    size, pairs = kept.shape[1], []
    for bucket, width in zip(layout.buckets, layout.widths(kept.sum(dim=1).tolist()), strict=True):
        for head in bucket:
            stored = kept[head, : size // 2] | stays_in_place(width, size, 2)
            pairs.append(tuple(stored.nonzero().flatten().tolist()))
    return tuple(pairs)
