"""The sections of a run's page about what it has chosen by short trials: its density, and its number of layers."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.report import charts, svg
from secateur.report.html import Content, DataTable, Gallery, Picture, Section, Text
from secateur.report.report import Report
from secateur.report.report_text import depth_sentence, goal_sentence, score_or_diverged, trial_name


def density(report: Report) -> Section:
    """The trials of densities; without contents for a run whose density was given."""
    if report.goal is None:
        return Section("Density", [])
    metric = report.metric_of_training_rows
    trials = [(f"{trial['density']:g}", trial["score"]) for trial in report.goal.get("trials", [])]
    return _section("Density", goal_sentence(report.goal, metric), "density", metric, trials)


def layers(report: Report) -> Section:
    """The trials of numbers of layers; without contents for a run that tried none."""
    if report.depth is None:
        return Section("Number of layers", [])
    metric = report.metric_of_training_rows
    trials = [(trial_name(trial, report.depth), trial["score"]) for trial in report.depth["trials"]]
    return _section("Number of layers", depth_sentence(report.depth, metric), "layers kept", metric, trials)


def _section(title: str, sentence: str, what: str, metric: str, trials: Sequence[tuple[str, float | None]]) -> Section:
    """What was chosen, and the trials as a table and, for scores in [0, 1], a picture."""
    rows = [(name, score_or_diverged(score)) for name, score in trials]
    contents: list[Content] = [Text(f"{sentence}.")]
    scored = [(name, score) for name, score in trials if score is not None]
    if scored and all(0 <= score <= 1 for _, score in scored):
        bars = [(name, score, score_or_diverged(score)) for name, score in scored]
        picture = f"{metric} of each trial, by {what}"
        contents.append(Gallery([Picture(svg.svg(charts.bars(bars), picture), picture)]))
    return Section(title, [*contents, DataTable("Trials", (what, metric), rows)] if rows else contents)
