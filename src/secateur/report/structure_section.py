"""Sections of a run's page about its structure: what was kept of each layer, and when the rest was pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.report import charts, svg
from secateur.report.html import Content, DataTable, Folded, Gallery, Notes, Picture, Section, Text
from secateur.report.inspection_text import kinds_text
from secateur.report.kept_heads import KeptHeads
from secateur.report.report_text import COLUMNS
from secateur.report.run_log import Curve, KeptUnits, RunLog

UNIT_NAMES = {
    "ffn": "FFN neurons",
    "qk": "QK dims",
    "vo": "VO dims",
    "head": "Heads",
    "kv_head": "Keys and values with their heads",
    "attention": "Attention sublayers",
    "mlp": "Feed-forward sublayers",
    "layer": "Layers",
    "hidden": "Dims of the residual stream",
}
"""The last part of a group's name -> the name of its units."""


def kept(structure: Sequence[Mapping[str, Any]], heads: KeptHeads | None) -> Section:
    """Kept / total of each layer, and the dims of each head if the run's model exists.

    Args:
        structure: the rows of `Reading.summary`.
        heads: what each head kept; None if the model is missing.
    """
    pictures = [] if heads is None else _heads(heads)
    pictures += _bars("FFN neurons of each layer", _counts(structure, "ffn"))
    pictures += _bars("Dims of the residual stream", _counts(structure, "hidden"))
    layers = [tuple(str(row.get(name, "")) for name in COLUMNS[:-1]) for row in structure if "hidden" not in row]
    hidden = [f"dims of the residual stream, kept / total: {row['hidden']}" for row in structure if "hidden" in row]
    legend = Text("A row is a layer; the filled part of a box is the part that was kept.")
    contents: list[Content] = [legend, Gallery(pictures)] if pictures else []
    contents += [DataTable("Kept / total in each layer", COLUMNS[:-1], layers)]
    notes = hidden + (kinds_text(heads.kinds) if heads is not None else [])
    contents += [Notes(notes)] if notes else []
    contents += [Folded("Dims of each head", _head_tables(heads))] if heads is not None else []
    return Section("What was kept", contents)


def _heads(kept: KeptHeads) -> list[Picture]:
    """The dims that each head kept; a single picture if QK and VO are pruned together."""
    qk, vo, size = kept.dims["qk"], kept.dims["vo"], kept.head_dim
    by_title = {f"{name} dims of each head, of {size}": dims for name, dims in (("QK", qk), ("VO", vo))}
    if qk == vo:
        by_title = {f"QK and VO dims of each head, of {size}": qk}
    words = "Rows are layers, columns are heads; a table below has the numbers."
    return [
        Picture(svg.svg(charts.by_head(list(dims.values()), size, list(dims)), name, words), name)
        for name, dims in by_title.items()
    ]


def _bars(title: str, rows: Sequence[tuple[str, int, int]]) -> list[Picture]:
    """A picture; none if everything is kept."""
    all_kept = all(kept == total for _, kept, total in rows)
    return [] if all_kept else [Picture(svg.svg(charts.by_layer(rows), title), title)]


def _counts(structure: Sequence[Mapping[str, Any]], axis: str) -> list[tuple[str, int, int]]:
    """(layer, kept, total) of the rows that have that axis."""
    counts = [(str(row["layer"]), row[axis].split("/")) for row in structure if axis in row]
    return [(layer, int(kept), int(total)) for layer, (kept, total) in counts]


def _head_tables(kept: KeptHeads) -> list[DataTable]:
    return [
        DataTable(
            f"{axis.upper()} dims kept of {kept.head_dim}, by layer and head",
            ("layer", *(f"head {head}" for head in range(max(map(len, layers.values()))))),
            [(layer, *map(str, dims)) for layer, dims in layers.items()],
        )
        for axis, layers in kept.dims.items()
    ]


def pruning(log: RunLog, rounds: Mapping[str, Any] | None) -> Section:
    """A picture for each kind of units; without contents for a run that did not log the kept units.

    Args:
        rounds: of the run (`Report.rounds`), whose borders are in the pictures.
    """
    if log.kept_units is None or log.kept_heads is None:
        return Section("Pruning over time", [])
    kinds: dict[str, list[tuple[str, Curve, int]]] = {}
    for group, curve in log.kept_units.curves.items():
        layer, _, kind = group.rpartition(".")
        band = (layer or "stream", curve, log.kept_heads.group_sizes[group])
        kinds.setdefault(UNIT_NAMES.get(kind, kind), []).append(band)
    borders = _borders(log.kept_units, rounds)
    pictures = [_bands(name, bands, log.kept_units.steps, borders) for name, bands in kinds.items()]
    legend = "A row is a layer over the steps of the prune stage; its height is the part that is kept."
    if borders:
        legend += f" Dashed lines: {_described(borders)}."
    return Section("Pruning over time", [Text(legend), Gallery(pictures)])


def _borders(kept: KeptUnits, rounds: Mapping[str, Any] | None) -> dict[str, float]:
    """What ends or begins with a round -> its step, of those within the prune stage."""
    if rounds is None or kept.of_run is None:
        return {}
    steps = {
        "the last layer is removed": rounds["removed"] * kept.of_run,
        "the round of finer units begins": rounds["recovered"] * kept.of_run,
    }
    return {what: step for what, step in steps.items() if step < kept.steps}


def _described(borders: Mapping[str, float]) -> str:
    return ", ".join(f"{what} at step {step:,.0f}" for what, step in borders.items())


def _bands(name: str, bands: Sequence[tuple[str, Curve, int]], steps: int, borders: Mapping[str, float]) -> Picture:
    words = "; ".join(f"{charts.described(layer, curve)} of {total}" for layer, curve, total in bands)
    words = f"{words}; {_described(borders)}" if borders else words
    picture = charts.by_time(bands, steps, list(borders.values()))
    return Picture(svg.svg(picture, f"{name} kept over the prune stage", words), name)
