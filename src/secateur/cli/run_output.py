"""Shows the report of a run, and those of a density sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.cli.output import show_lines, show_notes, show_table
from secateur.report.report import Report
from secateur.report.report_text import footnotes, score_table, score_text, subject, target_text, title


def show_report(report: Report, folder: Path) -> None:
    """The scores, sizes and latencies of a run, how they were measured, and how to load the model."""
    show_table(("", "teacher", "pruned"), score_table(report), f"{subject(report)}: {title(report)}")
    show_notes(footnotes(report))
    show_lines("", f"The model is in {folder / 'model'}, the report in {folder / 'report.html'}. To load it:", "")
    show_lines("    import secateur", f'    model = secateur.load("{folder / "model"}")')


def show_sweep(reports: Sequence[Report], folder: Path) -> None:
    """The teacher and a row for each density, and how the last was measured."""
    first = reports[0]
    recipe, metric = first.recipe, first.metric
    shapes = [f"{one['protocol']['batch']} x {one['protocol']['tokens']}" for one in first.latency]
    columns = ("", metric, "retention", "parameters", *(f"speed-up {shape}" for shape in shapes), "model")
    teacher = ("teacher", score_text(first.teacher_scores[metric]), "100%", f"{first.parameters['teacher']:,}")
    rows = [teacher, *(_density_row(report, folder) for report in reports)]
    show_table(columns, rows, f"{recipe['model']} on {recipe['data']['source']}: {recipe['method']['name']}")
    show_notes(footnotes(reports[-1]))
    show_lines("", "To compare them:", "", f"    secateur compare {folder} --output comparison")


def _density_row(report: Report, folder: Path) -> tuple[str, ...]:
    return (
        target_text(report),
        score_text(report.scores[report.metric]),
        "-" if report.retention is None else f"{report.retention:.1%}",
        f"{report.parameters['model']:,}",
        *(f"{one['speed_up']:.1f}x" for one in report.latency),
        str(folder / str(report.recipe["target"]["density"]) / "model"),
    )
