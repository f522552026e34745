"""The tables of an inspection, as text for a terminal: a character for each head, a bar for each FFN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TypeAlias

from secateur.measure.inspected_model import Count, Inspection, Layer, State
from secateur.report.size_text import megabytes, parts_text
from secateur.system.quantities import at_least

BLOCKS = "·▁▂▃▄▅▆▇█"
DIGITS = ".12345678"
"""The characters of a head by the eighths of its dims that are kept, rounded up; digits for ASCII."""
BAR = 10
"""Characters of a bar."""
REMOVED: dict[State | None, str] = {"bias": "only bias", "gone": "removed"}
"""What the table shows in place of the sizes of a sublayer without units."""
SAVED = {"attention": "attention", "qk": "QK only", "mlp": "FFN"}
"""The last part of the names of the groups whose savings are shown -> the heading of their column."""

TextTable: TypeAlias = tuple[list[str], list[list[str]]]
"""The head and the rows of a table."""


def title(inspection: Inspection) -> str:
    """The class of the model, and whether it was cut."""
    kind = f"compact, by {inspection.method}" if inspection.compact else "dense"
    return f"{inspection.model_class}, {kind}"


def layer_table(inspection: Inspection, ascii_only: bool = False) -> TextTable:
    """A row for each layer: what its heads and its FFN have kept."""
    first = inspection.layers[0]
    dims = len(first.qk) * inspection.head_dim
    neurons = [] if first.ffn is None else [f"FFN of {first.ffn.total:,}"]
    head = ["layer", "heads", f"QK of {dims:,}", f"VO of {dims:,}", *neurons]
    return head, [_layer_row(layer, inspection.head_dim, ascii_only) for layer in inspection.layers]


def _layer_row(layer: Layer, head_dim: int, ascii_only: bool) -> list[str]:
    attention = REMOVED.get(layer.attention)
    ffn = "" if layer.ffn is None else f"{bar(layer.ffn, ascii_only)} {layer.ffn.kept:6,}"
    return [
        str(layer.name),
        f"{layer.heads.kept}/{layer.heads.total}",
        *(attention or f"{_heads(dims, head_dim, ascii_only)} {sum(dims):5,}" for dims in (layer.qk, layer.vo)),
        REMOVED.get(layer.mlp, ffn),
    ]


def _heads(sizes: Sequence[int], head_dim: int, ascii_only: bool) -> str:
    """A character for each head, as high as the part of its dims that is kept."""
    return "".join((DIGITS if ascii_only else BLOCKS)[-(-8 * size // head_dim)] for size in sizes)


def bar(count: Count, ascii_only: bool = False) -> str:
    """`BAR` characters, of which the part that is kept is full, rounded up."""
    full = -(-BAR * count.kept // count.total)
    return ("#" if ascii_only else "█") * full + ("." if ascii_only else "·") * (BAR - full)


def captions(inspection: Inspection, ascii_only: bool = False) -> list[str]:
    """The residual stream, which all layers share, the kinds of their attentions, and a legend of the characters."""
    hidden, levels = inspection.hidden, DIGITS if ascii_only else BLOCKS
    return [
        f"residual stream {bar(hidden, ascii_only)} {hidden.kept:,} of {hidden.total:,} dims",
        *kinds_text({kind: (count.kept, count.total) for kind, count in inspection.kinds.items()}),
        f"QK, VO: one character per head, {levels[1]} to {levels[-1]} by the eighths of its {inspection.head_dim} dims "
        f"that are kept, {levels[0]} if none is",
    ]


def kinds_text(kinds: Mapping[str, tuple[int, int]]) -> list[str]:
    """How many layers of each kind of attention are left; nothing where all layers are of one kind."""
    left = ", ".join(f"{kind.replace('_', ' ')} in {kept} of {total} layers" for kind, (kept, total) in kinds.items())
    return [left] if left else []


def count_table(inspection: Inspection) -> TextTable:
    """Parameters by scope, and operations: kept, total and their ratio."""
    flops = inspection.flops
    rows = [
        [f"parameters, {scope}", f"{count.kept:,}", f"{count.total:,}", f"{count.density:.4f}"]
        for scope, count in inspection.parameters.items()
    ]
    operations = [f"{flops.kept / 1e6:,.1f}", f"{flops.total / 1e6:,.1f}", f"{flops.kept / flops.total:.4f}"]
    return ["", "kept", "total", "density"], [*rows, [f"MFLOP, {flops.tokens} tokens", *operations]]


def storage(inspection: Inspection) -> str:
    """How many numbers are stored, and which of them are no parameters of the pruned model."""
    zeros = f", {inspection.zeros:,} zeros of removed tiles" if inspection.zeros else ""
    return f"stored parameters: {inspection.stored:,}, among them {inspection.padding:,} of padding{zeros}"


def sizes(inspection: Inspection) -> str:
    """The megabytes of the weights, and where they are."""
    return f"weights, MB: {megabytes(sum(inspection.bytes.values()))} ({parts_text(inspection.bytes)})"


def saving_table(inspection: Inspection) -> TextTable:
    """What removing a group would save; equal layers in succession share a row."""
    by_layer: dict[int | str, dict[str, str]] = {}
    for saving in inspection.savings:
        shares = f"{100 * saving.parameters_share:.1f} / {100 * saving.flops_share:.1f}"
        by_layer.setdefault(saving.layer, {})[saving.group.rpartition(".")[2]] = shares
    rows = []
    for _, equal in groupby(by_layer.items(), key=lambda item: item[1]):
        layers = list(equal)
        (first, cells), (last, _) = layers[0], layers[-1]
        name = str(first) if first == last else f"each of {first}-{last}"
        rows.append([name, *(cells.get(part, "") for part in SAVED)])
    return ["layer", *SAVED.values()], rows


SAVINGS_TITLE = "Saved by removing one more group: % of the kept prunable parameters / % of FLOPs"


def unit_table(inspection: Inspection) -> TextTable:
    """The kinds of units that a dense model can be pruned by."""
    rows = [
        [kind.unit, f"{kind.units:,}", f"{kind.parameters_each:,}", at_least(kind.floor, ".4f")]
        for kind in inspection.units
    ]
    return ["unit", "units", "parameters each", "lowest density alone"], rows
