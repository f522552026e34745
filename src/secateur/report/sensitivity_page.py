"""The page of a sensitivity study: heat maps of the scores, and the notes."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.measure.sensitivity_result import Sensitivity
from secateur.report import html, svg
from secateur.report.sensitivity_text import REMOVED, ScoreTable, notes, score_tables
from secateur.tasks.origin import rows_of


def to_html(study: Sensitivity, name: str) -> str:
    """A standalone page about the model `name`: a heat map for each table, and the notes."""
    worst = max(study.drop(score) for reaction in study.reactions for score in reaction.scores)
    tables = score_tables(study)
    maps = html.Gallery([html.Picture(_heat_map(study, table, worst), table.caption) for table in tables])
    legend = (
        f"Rows are layers; columns are {_columns(tables)}. The redder a cell, the worse its {study.metric} than the "
        f"whole model's, by up to {max(worst, 0.0):.3f}."
    )
    section = html.Section("One group cut at a time", [html.Text(legend), maps, html.Notes(notes(study))])
    lead = f"{study.metric} of the whole model {study.dense:.4f} on {study.rows:,} {rows_of(study.split_name)}"
    return html.render(f"Sensitivity of {name}", [section], lead)


def _columns(tables: Sequence[ScoreTable]) -> str:
    """What the columns of the maps are; those of groups that were removed whole are the groups."""
    kept = ["the fraction of a group's units kept"] if any(table.caption != REMOVED for table in tables) else []
    removed = ["the groups that were removed whole"] if any(table.caption == REMOVED for table in tables) else []
    return ", or ".join(kept + removed)


def _heat_map(study: Sensitivity, table: ScoreTable, worst: float) -> str:
    """A cell for each score: the deeper its colour, the larger the drop, up to the worst of the study."""
    from matplotlib.patches import Rectangle

    with svg.style():
        figure = svg.figure(height=30 + 22 * len(table.rows))
        axes = figure.add_subplot(xlim=(0, len(table.head)), ylim=(len(table.rows), 0))
        for y, (_, scores) in enumerate(table.rows):
            for x, score in enumerate(scores):
                drop = max(study.drop(score), 0.0) / worst if worst > 0 else 0.0
                cell = Rectangle((x + 0.03, y + 0.05), 0.94, 0.9, color=svg.SERIES[1], alpha=0.75 * drop)
                axes.add_patch(cell)
                axes.text(x + 0.5, y + 0.5, f"{score:.3f}", ha="center", va="center", fontsize=10)
        axes.set_xticks([x + 0.5 for x in range(len(table.head))], table.head)
        axes.set_yticks([y + 0.5 for y in range(len(table.rows))], [name for name, _ in table.rows])
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        return svg.svg(figure, table.caption, f"Scores of {study.metric}, whole model {study.dense:.4f}.")
