"""A sensitivity study as text: its tables of scores and its notes."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.measure.sensitivity_result import Reaction, Sensitivity
from secateur.tasks.origin import rows_of

WARNINGS = {
    "train": "these are training rows, on which the model was fitted: they rank groups, but every score is too high",
    "validation": "do not report scores on these rows for choices that this study led to",
}
"""The caveat about the rows of each split."""
REMOVED = "whole groups removed"
"""The caption of the table whose columns are groups."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores by layer: each row has a name and its scores; columns are densities, or removed groups."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


def score_tables(study: Sensitivity) -> list[ScoreTable]:
    """A table for each kind of groups, and one for the removal of all groups of a single unit, if any is removed."""
    several = {name: own for name, own in study.by_suffix().items() if own[0].size > 1}
    single = {name: own for name, own in study.by_suffix().items() if own[0].size == 1 and not min(own[0].kept)}
    head = tuple(f"{density:g}" for density in study.densities)
    tables = [
        ScoreTable(f"{name}, {own[0].size:,} units", head, tuple((_row_name(one), one.scores) for one in own))
        for name, own in several.items()
    ]
    if single:
        layers = zip(*single.values(), strict=True)
        rows = tuple((_row_name(row[0]), tuple(_score_without(one) for one in row)) for row in layers)
        tables.append(ScoreTable(REMOVED, tuple(single), rows))
    return tables


def _row_name(reaction: Reaction) -> str:
    """The layer; the groups of the residual stream belong to all layers."""
    return "all" if reaction.layer is None else str(reaction.layer)


def _score_without(reaction: Reaction) -> float:
    """The score at the fewest units kept."""
    return min(zip(reaction.kept, reaction.scores, strict=True))[1]


def notes(study: Sensitivity) -> list[str]:
    """How the scores were measured, and which differences are within the noise."""
    chosen = "no rows" if not study.evidence else f"{study.evidence:,} other training rows"
    error, rows = study.standard_error, f"{study.rows:,} {rows_of(study.split_name)}, sampled with seed {study.seed}"
    score = f"{study.metric} of the whole model {study.dense:.4f}"
    known = f"{score}, standard error {error:.4f} on {rows}: smaller drops are noise" if error is not None else ""
    return [
        known or f"{score} on {rows}; its standard error is not known",
        WARNINGS[study.split],
        f"kept units were chosen by {study.by} on {chosen}; nothing was trained, and each group was cut alone",
        *_groups_within(study),
        f"{study.forwards} cuts in {study.seconds:.0f} s",
    ]


def _groups_within(study: Sensitivity) -> list[str]:
    """How many groups may be cut to the last density within the noise; nothing where that is not known."""
    if study.standard_error is None:
        return []
    drops = [study.drop(reaction.scores[-1]) for reaction in study.reactions]
    within = sum(drop <= study.standard_error for drop in drops)
    return [f"at density {study.densities[-1]:g}, {within} of {len(drops)} groups stay within one standard error"]
