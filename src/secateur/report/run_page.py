"""What the page of a run tells in pictures: what survived, how training went, what was pruned when, what it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from secateur.report import charts, svg
from secateur.report.html import Folded, Gallery, Notes, Part, Picture, Section, Table, Text
from secateur.report.run_log import Curve, Record, Stage, Survivors

COLUMNS = ("layer", "heads", "qk", "vo", "ffn", "hidden")
"""Of what survived, as `Reading.summary` names them."""
UNITS = {
    "ffn": "FFN neurons",
    "qk": "QK dims",
    "vo": "VO dims",
    "head": "Heads",
    "attention": "Attentions",
    "mlp": "Feed-forward networks",
    "layer": "Layers",
    "hidden": "Dims of the stream",
}
"""What the units of a group are, by the last part of its name."""
SHORT = {
    "teacher-training": "teacher",
    "share": "share of the time",
    "resident_mb": "resident",
    "anonymous_mb": "not of files",
}
"""What stands for a name of the log, where that says too much or too little."""

Panel: TypeAlias = tuple[str, int, Mapping[str, Curve]]
"""A stage as `charts.over_stages` takes it: its name, its steps, and name -> curve."""


def survived(structure: Sequence[Mapping[str, Any]], survivors: Survivors | None) -> Section:
    """Layer by layer, kept / total, and head by head where the model is there to tell.

    Args:
        structure: the rows of `Reading.summary`.
        survivors: what each head kept, None for a run without its model.
    """
    drawn = [] if survivors is None else _heads(survivors)
    drawn += _bars("FFN neurons of each layer", _counts(structure, "ffn"))
    drawn += _bars("Dims of the stream", _counts(structure, "hidden"))
    layers = [tuple(str(row.get(name, "")) for name in COLUMNS[:-1]) for row in structure if "hidden" not in row]
    stream = [f"dims of the stream, kept / total: {row['hidden']}" for row in structure if "hidden" in row]
    how = Text("A row is a layer, and the filled part of a box is the part that is kept.")
    parts: list[Part] = [how, Gallery(drawn)] if drawn else []
    parts += [Table("Kept / total in each layer", COLUMNS[:-1], layers)]
    parts += [Notes(stream)] if stream else []
    parts += [Folded("Head by head, in numbers", _head_tables(survivors))] if survivors is not None else []
    return Section("What survived", parts)


def course(record: Record, metric: str, teacher: float, density: float | None, held_out: int) -> Section:
    """What training logged over the run, as far as it did; a section without parts for a run without logs.

    Args:
        metric, teacher: the main score, and the teacher's.
        density: that was asked for, None where a time was.
        held_out: rows of the training set that stages were scored on; 0 for the validation rows.
    """
    stages = record.stages
    rows = f"{held_out:,} rows held out of training" if held_out else "the validation rows"
    asked = None if density is None else ("asked", density)
    drawn = [
        *_lines(
            "Density", [_panel(s, ["density", *s.keys("density_"), "share"]) for s in stages], floor=0, level=asked
        ),
        *_terms([_panel(stage, stage.keys("loss_")) for stage in stages]),
        *_lines(f"{metric} on {rows}", [_panel(s, [f"eval_{metric}"]) for s in stages], level=("teacher", teacher)),
        *_lines("Examples per second", [_rates(stage) for stage in stages], floor=0),
        *_lines("Memory of the process, MB", [_panel(s, ["resident_mb", "anonymous_mb"]) for s in stages], floor=0),
    ]
    parts: list[Part] = [Gallery(drawn)] if drawn else []
    if record.unread:
        parts.append(Notes([f"lines of the logs that cannot be read and are left out: {record.unread}"]))
    return Section("Over the run", parts)


def pruned_when(record: Record) -> Section:
    """A picture for each kind of unit; a section without parts for a run that did not count them."""
    if record.pruned is None or record.survivors is None:
        return Section("What was pruned when", [])
    kinds: dict[str, list[tuple[str, Curve, int]]] = {}
    for group, curve in record.pruned.kept.items():
        layer, _, kind = group.rpartition(".")
        kinds.setdefault(UNITS.get(kind, kind), []).append((layer or "stream", curve, record.survivors.units[group]))
    drawn = [_bands(name, bands, record.pruned.steps) for name, bands in kinds.items()]
    how = Text("A row is a layer over the steps of the prune stage, as high as the part that is kept.")
    return Section("What was pruned when", [how, Gallery(drawn)])


def times(latency: Sequence[Mapping[str, Any]], target: Mapping[str, Any] | None, notes: Sequence[str]) -> Section:
    """The latency table, and before it what was asked for, if a time was; a section without parts if neither."""
    parts: list[Part] = []
    if target is not None:
        caption = f"The time that was asked for, {shape(target)}"
        parts.append(Table(caption, ("", "unpruned, ms", "pruned, ms", "speed-up"), _aims(target)))
    if latency:
        head = ("batch x tokens", "teacher, ms", "quartiles", "pruned, ms", "quartiles", "speed-up")
        parts.append(Table("Median of a forward", head, [_timed(found) for found in latency]))
    return Section("Latency", [*parts, Notes(notes)] if parts else [])


def shape(measured: Mapping[str, Any]) -> str:
    """Batch x tokens of something with a protocol."""
    return f"{measured['protocol']['batch']} x {measured['protocol']['tokens']}"


# What survived


def _heads(survivors: Survivors) -> list[Picture]:
    """The dims that each head kept; one picture where QK and VO live and die together."""
    qk, vo, size = survivors.heads["qk"], survivors.heads["vo"], survivors.head_size
    titled = {f"{name} dims of each head, of {size}": kept for name, kept in (("QK", qk), ("VO", vo))}
    if qk == vo:
        titled = {f"QK and VO dims of each head, of {size}": qk}
    words = "Rows are layers, columns are heads; the numbers are in a table below."
    return [
        Picture(svg.svg(charts.by_head(list(kept.values()), size, list(kept)), name, words), name)
        for name, kept in titled.items()
    ]


def _bars(title: str, rows: Sequence[tuple[str, int, int]]) -> list[Picture]:
    """A picture, unless all is kept."""
    whole = all(kept == total for _, kept, total in rows)
    return [] if whole else [Picture(svg.svg(charts.by_layer(rows), title), title)]


def _counts(structure: Sequence[Mapping[str, Any]], axis: str) -> list[tuple[str, int, int]]:
    """(layer, kept, total) of the rows that have that axis."""
    counts = [(str(row["layer"]), row[axis].split("/")) for row in structure if axis in row]
    return [(layer, int(kept), int(total)) for layer, (kept, total) in counts]


def _head_tables(survivors: Survivors) -> list[Table]:
    return [
        Table(
            f"{axis.upper()} dims kept of {survivors.head_size}, by layer and head",
            ("layer", *(f"head {head}" for head in range(max(map(len, layers.values()))))),
            [(layer, *map(str, kept)) for layer, kept in layers.items()],
        )
        for axis, layers in survivors.heads.items()
    ]


# The course of the run


def _bands(name: str, bands: Sequence[tuple[str, Curve, int]], steps: int) -> Picture:
    words = "; ".join(f"{_ends(layer, curve)} of {total}" for layer, curve, total in bands)
    return Picture(svg.svg(charts.by_time(bands, steps), f"{name} kept over the prune stage", words), name)


def _panel(stage: Stage, keys: Sequence[str]) -> Panel:
    """A stage with those of the keys that it logged, under shorter names."""
    curves = {re.sub("^(loss|eval|density)_", "", key): stage.curve(key) for key in keys}
    return _named(stage), stage.steps, {SHORT.get(name, name): curve for name, curve in curves.items() if curve[0]}


def _rates(stage: Stage) -> Panel:
    return _named(stage), stage.steps, {"training": stage.rates} if stage.rates[0] else {}


def _named(stage: Stage) -> str:
    return SHORT.get(stage.name, stage.name)


def _terms(panels: Sequence[Panel]) -> list[Picture]:
    """The terms of the loss, which may differ by factors of thousands: by their logarithms, if they have them."""
    positive = all(value > 0 for _, _, curves in panels for _, values in curves.values() for value in values)
    scale = ", on a logarithmic scale" if positive else ""
    return _lines(f"Terms of the loss{scale}", panels, log=positive)


def _lines(title: str, panels: Sequence[Panel], **scale: Any) -> list[Picture]:
    """One picture of the stages that have a line, or none."""
    there = [panel for panel in panels if panel[2]]
    if not there:
        return []
    ends = (f"{stage}: {_ends(name, curve)}" for stage, _, curves in there for name, curve in curves.items())
    return [Picture(svg.svg(charts.over_stages(there, **scale), title, "; ".join(ends)), title)]


def _ends(name: str, curve: Curve) -> str:
    """A line in words, for those who do not see it."""
    return f"{name} from {curve[1][0]:.6g} to {curve[1][-1]:.6g}"


# Latency


def _aims(target: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of `latency_sweep.target_reached`: (what, the dense model's ms, ours, speed-up)."""
    dense = {what: f"{ms:.2f}" for what, ms in target["unpruned_ms"].items()}
    return [
        (what, dense.get(what, ""), f"{target[f'{what}_ms']:.2f}", f"{target[f'{what}_speedup']:.1f}x")
        for what in ("asked", "predicted", "measured")
    ]


def _timed(found: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of one `bench.Measurement`."""
    teacher, pruned = ((f"{one['latency_ms']:.2f}", _quartiles(one)) for one in (found["against"], found))
    return (shape(found), *teacher, *pruned, f"{found['speed_up']:.1f}x")


def _quartiles(measured: Mapping[str, Any]) -> str:
    first, third = measured["quartiles_ms"]
    return f"{first:.2f}-{third:.2f}"
