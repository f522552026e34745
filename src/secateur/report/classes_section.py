"""Shows the scores of each class, of the teacher and of the pruned model: which classes have paid for the pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.report import markdown
from secateur.report.html import Content, DataTable, Folded, Section, Text
from secateur.report.report import Report

TITLE = "Each class"
MOST = 12
"""Classes that are shown without a click, and in Markdown."""
SCORES = ("precision, teacher", "pruned", "recall, teacher", "pruned", "F1, teacher", "pruned", "change")
COUNTED = {"tokens": "entities or words"}
"""Task of a recipe -> what is counted of each class, where that is not rows."""


def section(report: Report) -> Section:
    """What has changed most, and the table, folded if it is long; without contents for a task without classes."""
    if not report.classes:
        return Section(TITLE, [])
    table = DataTable(f"Scores of each class, on {report.scored_rows}", _head(report), _rows(report), sortable=True)
    count = len(report.classes)
    shown: Content = table if count <= MOST else Folded(f"All {count:,} classes", [table])
    return Section(TITLE, [Text(sentence(report)), shown])


def markdown_lines(report: Report) -> list[str]:
    """The heading, what has changed most, and a table that is not long; none for a task without classes."""
    if not report.classes:
        return []
    table = [*markdown.table(_head(report), _rows(report)), ""] if len(report.classes) <= MOST else []
    return ["", f"## {TITLE}", "", sentence(report), "", *table][:-1]


def sentence(report: Report) -> str:
    """The classes whose F1 has fallen most, three at most."""
    known = [(change, one) for one in report.classes or () if (change := _change(one)) is not None]
    fallen = sorted((pair for pair in known if pair[0] < 0), key=lambda pair: pair[0])
    if not known:
        return "The scores of each class of the teacher were not recorded."
    if not fallen:
        return f"F1 has fallen in none of {len(known):,} classes."
    named = [f"{one['name']} {one['teacher']['f1']:.3f} to {one['model']['f1']:.3f}" for _, one in fallen[:3]]
    return f"F1 has fallen in {len(fallen):,} of {len(known):,} classes, most in: {', '.join(named)}."


def _change(one: Mapping[str, Any]) -> float | None:
    """How much the F1 of a class has risen; None where one of the two is not known."""
    teacher, model = one["teacher"], one["model"]
    return None if teacher is None or model is None else float(model["f1"] - teacher["f1"])


def _head(report: Report) -> tuple[str, ...]:
    return "class", COUNTED.get(report.recipe["data"].get("task"), "rows"), *SCORES


def _rows(report: Report) -> list[tuple[str, ...]]:
    return [_row(one) for one in report.classes or ()]


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    cells = [_cell(one[who], metric) for metric in ("precision", "recall", "f1") for who in ("teacher", "model")]
    change = _change(one)
    return str(one["name"]), f"{one['rows']:,}", *cells, "-" if change is None else f"{change:+.3f}"


def _cell(scores: Mapping[str, float] | None, metric: str) -> str:
    return "-" if scores is None else f"{scores[metric]:.3f}"
