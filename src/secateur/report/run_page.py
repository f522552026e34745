"""The page of a run: its numbers, and pictures of what was kept, of training, and of pruning over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from secateur.report import (
    baselines,
    charts,
    classes_section,
    html,
    other_densities_section,
    structure_section,
    svg,
    training_section,
    trials_section,
)
from secateur.report.html import (
    Content,
    DataTable,
    Folded,
    KeyNumbers,
    Notes,
    Picture,
    Preformatted,
    Section,
    Text,
)
from secateur.report.names import without_paths
from secateur.report.report import Report
from secateur.report.report_text import (
    score_notes,
    score_table,
    subject,
    time_notes,
    title,
    to_markdown,
)
from secateur.report.run_log import RunLog, read
from secateur.report.size_text import leading_time, megabytes, parts_note, shape, size_change
from secateur.report.verdict import result_line, verdict
from secateur.system.errors import UserError
from secateur.tasks.origin import rows_of


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
    """A standalone page: the numbers of the report, and pictures of the run's logs."""
    optional = [
        classes_section.section(report),
        baselines.section(report),
        trials_section.density(report),
        trials_section.layers(report),
        other_densities_section.section(report),
        structure_section.kept(report.structure, log.kept_heads),
        training_section.training(report, log),
        structure_section.pruning(log, report.rounds),
        _latency(report),
    ]
    load = Section("To load it", [Preformatted(LOADING)])
    sections = [_result(report), *(section for section in optional if section.contents), load, _origin(report)]
    return html.render(result_line(report), sections, f"{subject(report)}: {title(report)}")


def _result(report: Report) -> Section:
    table = DataTable("Teacher and pruned model", ("", "teacher", "pruned"), score_table(report))
    numbers = KeyNumbers(_key_numbers(report))
    contents: list[Content] = [Text(str(verdict(report))), numbers, *_sizes(report), table, Notes(score_notes(report))]
    return Section("Result", contents)


def _sizes(report: Report) -> list[Content]:
    """A picture of where the bytes of teacher and model are; none for a run that did not record it."""
    if report.bytes is None:
        return []
    rows = [(name, dict(parts), f"{megabytes(sum(parts.values()))} MB") for name, parts in report.bytes.items()]
    title = "Where the bytes of the weights are"
    return [Picture(svg.svg(charts.stacked(rows), title, " ".join(parts_note(report))), title)]


def _key_numbers(report: Report) -> list[tuple[str, str, str]]:
    """Score, density, size and speed: (name, value, note)."""
    size, teacher = report.weight_bytes["model"], f"teacher {report.teacher_scores[report.metric]:.4f}"
    kept = "" if report.retention is None else f"{report.retention:.1%} of the "
    density = report.density
    numbers = [
        (report.metric, f"{report.scores[report.metric]:.4f}", kept + teacher),
        ("density", f"{density['prunable']:.1%}", f"prunable; whole model {density['model']:.1%}"),
        ("weights", f"{megabytes(size)} MB", size_change(report.weight_bytes).replace("->", "→")),
    ]
    if (time := leading_time(report)) is not None:
        numbers.append(("speed", f"{time.speed_up:.1f}x", f"{time.ms:.1f} ms at {time.at}"))
    return numbers


def _origin(report: Report) -> Section:
    rows = [(rows_of(report.splits.get(split, split)), f"{count:,}") for split, count in report.rows.items()]
    facts = [("data fingerprint", report.data), *rows, *report.versions_in_words.items()]
    recipe = without_paths(report.recipe, report.paths)
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, default_flow_style=None)
    table = DataTable("Data and versions", ("what", "value"), facts)
    return Section("How it was made", [table, Folded("The recipe", [Preformatted(text)])])


LOADING = """\
import secateur

model = secateur.load("model")  # the folder beside this page
"""
"""How to load the model of a run, from the folder of its page."""


def _latency(report: Report) -> Section:
    """The target, if a latency was asked for, and all latencies; without contents if nothing was measured."""
    contents: list[Content] = []
    if report.target is not None:
        caption = f"Target latency, {shape(report.target)}"
        contents.append(DataTable(caption, ("", "unpruned, ms", "pruned, ms", "speed-up"), _target_rows(report.target)))
    if report.latency:
        head = ("batch x tokens", "teacher, ms", "quartiles", "pruned, ms", "quartiles", "speed-up")
        contents.append(DataTable("Median time of a forward pass", head, [_latency_row(one) for one in report.latency]))
    return Section("Latency", [*contents, Notes(time_notes(report))] if contents else [])


def _target_rows(target: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of (what, ms of the dense model, ms of the pruned model, speed-up)."""
    dense = {what: f"{ms:.2f}" for what, ms in target["unpruned_ms"].items()}
    return [
        (what, dense.get(what, ""), f"{target[f'{what}_ms']:.2f}", f"{target[f'{what}_speedup']:.1f}x")
        for what in ("asked", "predicted", "measured")
    ]


def _latency_row(measured: Mapping[str, Any]) -> tuple[str, ...]:
    """The row of one `measurement.Measurement`."""
    teacher, pruned = ((f"{one['latency_ms']:.2f}", _quartiles(one)) for one in (measured["against"], measured))
    return (shape(measured), *teacher, *pruned, f"{measured['speed_up']:.1f}x")


def _quartiles(measured: Mapping[str, Any]) -> str:
    first, third = measured["quartiles_ms"]
    return f"{first:.2f}-{third:.2f}"
