"""What a sensitivity study shows: its tables, its notes, and its page of heat maps."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.measure.sensitivity_result import Reaction, Sensitivity
from secateur.report import html, svg

WARNINGS = {
    "train": "these are training rows, which the model was fitted to: they rank groups, but every score is too high",
    "validation": "these are validation rows: do not report scores on them for choices that this study led to",
}
"""The caveat about the rows of each split."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores by layer: each row has a name and its scores; columns are densities, or removed groups."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


def score_tables(study: Sensitivity) -> list[ScoreTable]:
    """A table for each kind of groups, and one for all groups of a single unit, which is kept or removed."""
    several = {name: own for name, own in study.by_suffix().items() if own[0].size > 1}
    single = {name: own for name, own in study.by_suffix().items() if own[0].size == 1}
    head = tuple(f"{density:g}" for density in study.densities)
    tables = [
        ScoreTable(f"{name}, {own[0].size:,} units", head, tuple((_row_name(one), one.scores) for one in own))
        for name, own in several.items()
    ]
    if single:
        layers = zip(*single.values(), strict=True)
        rows = tuple((_row_name(row[0]), tuple(_score_without(one) for one in row)) for row in layers)
        tables.append(ScoreTable("whole groups removed", tuple(single), rows))
    return tables


def _row_name(reaction: Reaction) -> str:
    return "all" if reaction.layer is None else str(reaction.layer)


def _score_without(reaction: Reaction) -> float:
    """The score at the fewest units kept."""
    return min(zip(reaction.kept, reaction.scores, strict=True))[1]


def notes(study: Sensitivity) -> list[str]:
    """How the scores were measured, and which differences are within the noise."""
    chosen = "no rows" if not study.evidence else f"{study.evidence:,} other training rows"
    drops = [study.drop(reaction.scores[-1]) for reaction in study.reactions]
    within = sum(drop <= study.standard_error for drop in drops)
    return [
        f"{study.metric} of the whole model {study.dense:.4f}, standard error {study.standard_error:.4f} (bootstrap) "
        f"on {study.rows:,} rows of the {study.split} split sampled with seed {study.seed}: a smaller drop is noise",
        WARNINGS[study.split],
        f"units were kept by {study.by}, chosen on {chosen}; nothing was trained, and each group was cut alone",
        f"at density {study.densities[-1]:g}, {within} of {len(drops)} groups stay within one standard error",
        f"{study.forwards} cuts in {study.seconds:.0f} s",
    ]


def to_html(study: Sensitivity, name: str) -> str:
    """A standalone page about the model `name`: a heat map for each table, and the notes."""
    worst = max(study.drop(score) for reaction in study.reactions for score in reaction.scores)
    maps = html.Gallery([html.Picture(_heat_map(study, table, worst), table.caption) for table in score_tables(study)])
    legend = (
        f"Rows are layers; columns are the fraction of a group's units kept. The redder a cell, the larger the drop of "
        f"the {study.metric}: from 0 to {max(worst, 0.0):.3f} below the whole model's."
    )
    section = html.Section("One group cut at a time", [html.Text(legend), maps, html.Notes(notes(study))])
    lead = f"{study.metric} of the whole model {study.dense:.4f} on {study.rows:,} rows of the {study.split} split"
    return html.render(f"Sensitivity of {name}", [section], lead)


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
