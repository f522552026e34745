"""The page of a run: its numbers, and in pictures what was kept, how training went, and what was pruned when."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from secateur.report import charts, html, svg
from secateur.report.html import (
    Content,
    DataTable,
    Folded,
    Gallery,
    KeyNumbers,
    Notes,
    Picture,
    Preformatted,
    Section,
    Text,
)
from secateur.report.report import Report
from secateur.report.report_text import (
    COLUMNS,
    score_notes,
    score_table,
    shape,
    subject,
    time_notes,
    title,
    to_markdown,
)
from secateur.report.run_log import Curve, RunLog, Stage, Survivors, read
from secateur.system.errors import UserError

UNITS = {
    "ffn": "FFN neurons",
    "qk": "QK dims",
    "vo": "VO dims",
    "head": "Heads",
    "attention": "Attention sublayers",
    "mlp": "Feed-forward sublayers",
    "layer": "Layers",
    "hidden": "Dims of the residual stream",
}
"""What the units of a group are called, by the last part of the group's name."""
SHORT = {
    "teacher-training": "teacher",
    "share": "share of the time",
    "resident_mb": "resident",
    "anonymous_mb": "not of files",
}
"""Clearer labels for some names of the log."""

Panel: TypeAlias = tuple[str, int, Mapping[str, Curve]]
"""A stage as `charts.over_stages` takes it: its name, its steps, and name -> curve."""


def write(report: Report, folder: Path) -> None:
    """Write `report.md` and `report.html` of the run in a folder.

    Raises:
        UserError: the folder cannot be written, or its model is damaged.
    """
    for name, text in {"report.md": to_markdown(report), "report.html": to_html(report, read(folder))}.items():
        try:
            (folder / name).write_text(text, encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(
                f"cannot write {folder / name} ({error.strerror}): free space, or make the folder writable"
            ) from error


def to_html(report: Report, log: RunLog) -> str:
    """A standalone page: the numbers of the report, and pictures of what the run's folder has logged."""
    optional = [
        _survived(report.structure, log.survivors),
        _training(report, log),
        _pruned_when(log),
        _latency(report),
    ]
    sections = [_result(report), *(section for section in optional if section.contents), _origin(report)]
    return html.render(title(report), sections, subject(report))


# The numbers


def _result(report: Report) -> Section:
    table = DataTable("Teacher and pruned model", ("", "teacher", "pruned"), score_table(report))
    return Section("Result", [KeyNumbers(_key_numbers(report)), table, Notes(score_notes(report))])


def _key_numbers(report: Report) -> list[tuple[str, str, str]]:
    """Score, density, size and speed: (what, value, a note)."""
    size, teacher = report.weight_bytes, f"teacher {report.teacher_scores[report.metric]:.4f}"
    kept = "" if report.retention is None else f"{report.retention:.1%} of the "
    density = report.density
    numbers = [
        (report.metric, f"{report.scores[report.metric]:.4f}", kept + teacher),
        ("density", f"{density['prunable']:.1%}", f"prunable; whole model {density['model']:.1%}"),
        ("weights", f"{size['model'] / 1e6:.1f} MB", f"teacher {size['teacher'] / 1e6:.1f} MB"),
    ]
    if report.target is not None:
        t = report.target
        numbers.append(("speed", f"{t['measured_speedup']:.1f}x", f"{t['measured_ms']:.1f} ms at {shape(t)}"))
    elif report.latency:
        largest = max(report.latency, key=lambda one: one["protocol"]["batch"] * one["protocol"]["tokens"])
        note = f"{largest['latency_ms']:.1f} ms at {shape(largest)}"
        numbers.append(("speed", f"{largest['speed_up']:.1f}x", note))
    return numbers


def _origin(report: Report) -> Section:
    rows = [(f"{split} rows", f"{count:,}") for split, count in report.rows.items()]
    facts = [("data fingerprint", report.data), *rows, *report.versions.items()]
    recipe = yaml.safe_dump(dict(report.recipe), sort_keys=False, allow_unicode=True, default_flow_style=None)
    return Section("How it was made", [DataTable("Data and versions", ("what", "value"), facts), Preformatted(recipe)])


# What was kept


def _survived(structure: Sequence[Mapping[str, Any]], survivors: Survivors | None) -> Section:
    """Kept / total of each layer, and of each head if the run's model exists.

    Args:
        structure: the rows of `Reading.summary`.
        survivors: what each head kept, None for a run without its model.
    """
    pictures = [] if survivors is None else _heads(survivors)
    pictures += _bars("FFN neurons of each layer", _counts(structure, "ffn"))
    pictures += _bars("Dims of the residual stream", _counts(structure, "hidden"))
    layers = [tuple(str(row.get(name, "")) for name in COLUMNS[:-1]) for row in structure if "hidden" not in row]
    stream = [f"dims of the residual stream, kept / total: {row['hidden']}" for row in structure if "hidden" in row]
    legend = Text("A row is a layer, and the filled part of a box is the part that is kept.")
    contents: list[Content] = [legend, Gallery(pictures)] if pictures else []
    contents += [DataTable("Kept / total in each layer", COLUMNS[:-1], layers)]
    contents += [Notes(stream)] if stream else []
    contents += [Folded("Head by head, in numbers", _head_tables(survivors))] if survivors is not None else []
    return Section("What survived", contents)


def _heads(survivors: Survivors) -> list[Picture]:
    """The dims that each head kept; a single picture if QK and VO are pruned together."""
    qk, vo, size = survivors.heads["qk"], survivors.heads["vo"], survivors.head_size
    by_title = {f"{name} dims of each head, of {size}": kept for name, kept in (("QK", qk), ("VO", vo))}
    if qk == vo:
        by_title = {f"QK and VO dims of each head, of {size}": qk}
    words = "Rows are layers, columns are heads; the numbers are in a table below."
    return [
        Picture(svg.svg(charts.by_head(list(kept.values()), size, list(kept)), name, words), name)
        for name, kept in by_title.items()
    ]


def _bars(title: str, rows: Sequence[tuple[str, int, int]]) -> list[Picture]:
    """A picture, unless everything is kept."""
    whole = all(kept == total for _, kept, total in rows)
    return [] if whole else [Picture(svg.svg(charts.by_layer(rows), title), title)]


def _counts(structure: Sequence[Mapping[str, Any]], axis: str) -> list[tuple[str, int, int]]:
    """(layer, kept, total) of the rows that have that axis."""
    counts = [(str(row["layer"]), row[axis].split("/")) for row in structure if axis in row]
    return [(layer, int(kept), int(total)) for layer, (kept, total) in counts]


def _head_tables(survivors: Survivors) -> list[DataTable]:
    return [
        DataTable(
            f"{axis.upper()} dims kept of {survivors.head_size}, by layer and head",
            ("layer", *(f"head {head}" for head in range(max(map(len, layers.values()))))),
            [(layer, *map(str, kept)) for layer, kept in layers.items()],
        )
        for axis, layers in survivors.heads.items()
    ]


# Training


def _training(report: Report, log: RunLog) -> Section:
    """What training logged over the stages of the run; without contents for a run without logs."""
    stages, held_out = log.stages, report.recipe.get("training", {}).get("select", 0)
    density, teacher = report.recipe["target"]["density"], report.teacher_scores[report.metric]
    rows = f"{held_out:,} rows held out of training" if held_out else "the validation rows"
    asked = None if density is None else ("asked", density)
    score = [_panel(stage, [f"eval_{report.metric}"]) for stage in stages]
    densities = [_panel(stage, ["density", *stage.keys("density_"), "share"]) for stage in stages]
    memory = [_panel(stage, ["resident_mb", "anonymous_mb"]) for stage in stages]
    pictures = [
        *_lines("Density", densities, floor=0, level=asked),
        *_terms([_panel(stage, stage.keys("loss_")) for stage in stages]),
        *_lines(f"{report.metric} on {rows}", score, level=("teacher", teacher)),
        *_lines("Examples per second", [_rates(stage) for stage in stages], floor=0),
        *_lines("Memory of the process, MB", memory, floor=0),
    ]
    contents: list[Content] = [Gallery(pictures)] if pictures else []
    if log.unread:
        contents.append(Notes([f"lines of the logs that cannot be read and are left out: {log.unread}"]))
    return Section("Over the run", contents)


def _pruned_when(log: RunLog) -> Section:
    """A picture for each kind of unit; without contents for a run that did not log the kept units."""
    if log.kept_units is None or log.survivors is None:
        return Section("What was pruned when", [])
    kinds: dict[str, list[tuple[str, Curve, int]]] = {}
    for group, curve in log.kept_units.curves.items():
        layer, _, kind = group.rpartition(".")
        kinds.setdefault(UNITS.get(kind, kind), []).append((layer or "stream", curve, log.survivors.units[group]))
    pictures = [_bands(name, bands, log.kept_units.steps) for name, bands in kinds.items()]
    legend = Text("A row is a layer over the steps of the prune stage; its height is the part that is kept.")
    return Section("What was pruned when", [legend, Gallery(pictures)])


def _bands(name: str, bands: Sequence[tuple[str, Curve, int]], steps: int) -> Picture:
    words = "; ".join(f"{_ends(layer, curve)} of {total}" for layer, curve, total in bands)
    return Picture(svg.svg(charts.by_time(bands, steps), f"{name} kept over the prune stage", words), name)


def _panel(stage: Stage, keys: Sequence[str]) -> Panel:
    """A stage with the curves of those keys that it logged, under shorter names."""
    curves = {re.sub("^(loss|eval|density)_", "", key): stage.curve(key) for key in keys}
    return _stage_name(stage), stage.steps, {SHORT.get(name, name): curve for name, curve in curves.items() if curve[0]}


def _rates(stage: Stage) -> Panel:
    return _stage_name(stage), stage.steps, {"training": stage.rates} if stage.rates[0] else {}


def _stage_name(stage: Stage) -> str:
    return SHORT.get(stage.name, stage.name)


def _terms(panels: Sequence[Panel]) -> list[Picture]:
    """The terms of the loss, which may differ by factors of thousands: on a logarithmic scale if all are positive."""
    positive = all(value > 0 for _, _, curves in panels for _, values in curves.values() for value in values)
    scale = ", on a logarithmic scale" if positive else ""
    return _lines(f"Terms of the loss{scale}", panels, log=positive)


def _lines(title: str, panels: Sequence[Panel], **scale: Any) -> list[Picture]:
    """One picture of the stages that have a curve; none if no stage has."""
    logged = [panel for panel in panels if panel[2]]
    if not logged:
        return []
    ends = (f"{stage}: {_ends(name, curve)}" for stage, _, curves in logged for name, curve in curves.items())
    return [Picture(svg.svg(charts.over_stages(logged, **scale), title, "; ".join(ends)), title)]


def _ends(name: str, curve: Curve) -> str:
    """A curve in words, for screen readers."""
    return f"{name} from {curve[1][0]:.6g} to {curve[1][-1]:.6g}"


# Latency


def _latency(report: Report) -> Section:
    """The table of the target, if a time was asked for, and the table of latencies; without contents if neither."""
    contents: list[Content] = []
    if report.target is not None:
        caption = f"The time that was asked for, {shape(report.target)}"
        contents.append(DataTable(caption, ("", "unpruned, ms", "pruned, ms", "speed-up"), _target_rows(report.target)))
    if report.latency:
        head = ("batch x tokens", "teacher, ms", "quartiles", "pruned, ms", "quartiles", "speed-up")
        contents.append(DataTable("Median of a forward", head, [_latency_row(one) for one in report.latency]))
    return Section("Latency", [*contents, Notes(time_notes(report))] if contents else [])


def _target_rows(target: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of (what, the dense model's ms, the pruned one's, its speed-up)."""
    dense = {what: f"{ms:.2f}" for what, ms in target["unpruned_ms"].items()}
    return [
        (what, dense.get(what, ""), f"{target[f'{what}_ms']:.2f}", f"{target[f'{what}_speedup']:.1f}x")
        for what in ("asked", "predicted", "measured")
    ]


def _latency_row(measured: Mapping[str, Any]) -> tuple[str, ...]:
    """The row of one `bench.Measurement`."""
    teacher, pruned = ((f"{one['latency_ms']:.2f}", _quartiles(one)) for one in (measured["against"], measured))
    return (shape(measured), *teacher, *pruned, f"{measured['speed_up']:.1f}x")


def _quartiles(measured: Mapping[str, Any]) -> str:
    first, third = measured["quartiles_ms"]
    return f"{first:.2f}-{third:.2f}"
