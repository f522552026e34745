"""A comparison as text: its table, its notes, and both as Markdown or JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from secateur.report import markdown
from secateur.report.comparison import SCORE, Comparison, ScoredModel, score_of
from secateur.system.quantities import quantity


def title(comparison: Comparison) -> str:
    """The title of a page: "3 models by accuracy"."""
    return f"{quantity(len(comparison.points), 'model')} by {comparison.metric}"


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows: every point with means and ranges, and a star at each criterion on whose Pareto front it is."""
    head = ["", "runs", comparison.metric, "retention", *(criterion.name for criterion in comparison.criteria)]
    fronts = {criterion.name: comparison.front(criterion) for criterion in comparison.criteria}
    rows = []
    for number, point in enumerate(comparison.points, 1):
        retained = point.values(lambda model: model.retention)
        row = [f"{number:2} {point.name}", str(len(point.models)), _spread(point.values(score_of), SCORE)]
        row.append(f"{fmean(retained):.1%}" if retained else "-")
        for criterion in comparison.criteria:
            star = "*" if point in fronts[criterion.name] else ""
            row.append(_spread(point.values(criterion.of), criterion.form, star))
        rows.append(row)
    return head, rows


def notes(comparison: Comparison) -> list[str]:
    """Denominators and protocol of the numbers, and what was left out."""
    lines = [
        f"{comparison.metric} on the same {comparison.scored_rows} (data {comparison.data}); runs whose "
        "recipes differ only in the seed, on the same training data, are one row: their mean (lowest-highest)",
        "*: on the Pareto front of score and this column, by the means shown: no other row is at least as good in both "
        "and better in one",
        "density: weights and inner biases kept in the layers, over those of the run's model before pruning",
    ]
    return [*lines, *_noise_note(comparison), _speed_note(comparison), *comparison.remarks]


def _noise_note(comparison: Comparison) -> list[str]:
    """The standard error of the best score that has one."""
    known = [(point, errors) for point in comparison.points if (errors := point.values(_error_of))]
    if not known:
        return []
    point, errors = (max if comparison.greater else min)(known, key=lambda one: one[0].score)
    return [
        f"noise: {comparison.metric} {SCORE(point.score)} of {point.name} has a standard error of {fmean(errors):.4f} "
        f"on {comparison.rows:,} rows; smaller differences are not significant"
    ]


def _error_of(model: ScoredModel) -> float | None:
    return model.standard_error


def _speed_note(comparison: Comparison) -> str:
    p, timed = comparison.protocol, sum(bool(model.times) for point in comparison.points for model in point.models)
    if p is None:
        return "speed: the reports have no comparable latencies; --measure measures all models now, in turn"
    how = "speed-up over the dense teacher, the two measured in turn at the end of each run"
    if comparison.measured:
        how = f"median of {p['repeats']} forwards, all {quantity(timed, 'model')} now, in turn"
    return f"speed: {how}; threads {p['threads']}, {p['dtype']}, {p['runtime']}, {p['machine']}"


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison and its notes as plain values, ready for JSON."""
    return {**comparison.to_dict(), "notes": notes(comparison)}


def to_markdown(comparison: Comparison) -> str:
    """The table and the notes."""
    head, rows = table(comparison)
    lines = markdown.table(head, [[cell.replace("*", "\\*") for cell in row] for row in rows])
    return "\n".join([f"# {title(comparison)}", "", *lines, "", *(f"- {note}" for note in notes(comparison))]) + "\n"


def _spread(values: Sequence[float], form: Callable[[float], str], star: str = "") -> str:
    """The mean followed by `star`, and the lowest and the highest value where they differ."""
    if not values:
        return "-"
    mean, lowest, highest = map(form, (fmean(values), min(values), max(values)))
    return mean + star if lowest == highest else f"{mean}{star} ({lowest}-{highest})"
