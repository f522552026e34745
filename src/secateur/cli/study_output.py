"""Shows a comparison of runs, and the sensitivity of a model."""

from __future__ import annotations

from rich import box
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from secateur.cli import output
from secateur.cli.output import show_notes, show_table, show_title
from secateur.measure.sensitivity_result import Sensitivity
from secateur.report import comparison_text, sensitivity_text
from secateur.report.comparison import Comparison
from secateur.report.sensitivity_text import ScoreTable

YELLOW, RED = 1, 3
"""Standard errors by which a score has dropped where it is shown in yellow, and in red."""


def show_comparison(comparison: Comparison) -> None:
    """A row for each point, and what the numbers mean."""
    show_table(*comparison_text.table(comparison), comparison_text.title(comparison))
    show_notes(comparison_text.notes(comparison))


def show_sensitivity(sensitivity: Sensitivity, name: str) -> None:
    """A table for each kind of group, side by side; scores are coloured by the standard errors that they dropped."""
    show_title(f"{name}: {sensitivity.metric} with one group at a time cut to a density")
    output.out().print(Columns([_coloured(sensitivity, table) for table in sensitivity_text.score_tables(sensitivity)]))
    colours = f"drop of more than {YELLOW} standard error: yellow, {RED}: red"
    show_notes((colours, *sensitivity_text.notes(sensitivity)))


def _coloured(sensitivity: Sensitivity, scores_by_layer: ScoreTable) -> Table:
    table = Table("layer", title=scores_by_layer.caption, title_justify="left", box=box.SIMPLE_HEAD)
    for name in scores_by_layer.head:
        table.add_column(name, justify="right")
    for name, scores in scores_by_layer.rows:
        table.add_row(name, *(Text(f"{score:.3f}", _colour(sensitivity, score)) for score in scores))
    return table


def _colour(sensitivity: Sensitivity, score: float) -> str:
    if sensitivity.standard_error is None:
        return ""
    yellow, red = (sensitivity.drop(score) > count * sensitivity.standard_error for count in (YELLOW, RED))
    return "bold red" if red else "yellow" if yellow else ""
