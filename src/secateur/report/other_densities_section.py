"""Shows the scores expected at other densities: as a section of a run's page, in Markdown, and in a sentence."""

from __future__ import annotations

from secateur.report import charts, markdown, svg
from secateur.report.html import Content, DataTable, Gallery, Notes, Picture, Section
from secateur.report.other_densities import Expected, Walk, layer_bytes, predict, walk_of
from secateur.report.report import Report
from secateur.report.size_text import megabytes
from secateur.system.quantities import quantity

TITLE = "Other densities"


def section(report: Report) -> Section:
    """The picture, the table and the assumptions; without contents for a run from which nothing can be predicted."""
    if (walk := walk_of(report)) is None:
        return Section(TITLE, [])
    table = DataTable(f"Expected {report.metric} of a run at another density", _head(report), _rows(report, walk))
    contents: list[Content] = [Gallery([_picture(report, walk)]), table, Notes(_notes(report))]
    return Section(TITLE, contents)


def markdown_lines(report: Report) -> list[str]:
    """The heading, the table and the assumptions; none for a run from which nothing can be predicted."""
    if (walk := walk_of(report)) is None:
        return []
    table = markdown.table(_head(report), _rows(report, walk))
    return ["", f"## {TITLE}", "", *table, "", *(f"- {note}" for note in _notes(report))]


def sentence(report: Report) -> str | None:
    """What to expect at the nearest densities, such as 0.1 and 0.03 for a run at 0.05; None if nothing is predicted."""
    if (walk := walk_of(report)) is None:
        return None
    expected = predict(walk)
    nearest = [one for one in expected if not one.extrapolated][-1:] + [one for one in expected if one.extrapolated]
    parts = [f"at {one.density:g} about {one.score:.3f}" for one in nearest]
    return f"At other densities expect {report.metric} {', '.join(parts)}; the report has more of them."


def _head(report: Report) -> tuple[str, ...]:
    return "density", f"expected {report.metric}", "interval", "layers, MB"


def _rows(report: Report, walk: Walk) -> list[tuple[str, ...]]:
    """A row for each density, the largest first, and one for the run itself among them."""
    rows = [(one.density, _row(report, one)) for one in predict(walk)]
    own = (f"{walk.density:.3g}, this run", f"{walk.score:.4f}, measured", "", _megabytes(report, walk.density))
    return [row for _, row in sorted([*rows, (walk.density, own)], reverse=True)]


def _row(report: Report, one: Expected) -> tuple[str, ...]:
    name = f"{one.density:g}" + (", extrapolated" if one.extrapolated else "")
    return name, f"{one.score:.3f}", f"{one.low:.3f} to {one.high:.3f}", _megabytes(report, one.density)


def _megabytes(report: Report, density: float) -> str:
    size = layer_bytes(report, density)
    return "-" if size is None else megabytes(size)


def _notes(report: Report) -> list[str]:
    """What is predicted, from what, and what is assumed."""
    ramp, layers = report.ramp or {}, (report.depth or report.recipe.get("target", {})).get("layers")
    recipe = "this recipe" if layers is None else f"this recipe and {quantity(layers, 'layer')}"
    return [
        f"expected: {report.metric} on {report.scored_rows} of a run with {recipe} at another density, without "
        "having run it",
        f"from what the {ramp['metric']} of {ramp['rows']:,} held-out training rows lost at {len(ramp['points'])} "
        "densities while pruning, and from the part of it that this run's recovery left at its own density",
        "assumed: that part is 0 at density 1 and grows with the logarithm of the density; the interval spans a part "
        "that is the same at every density and one that grows with the square of the logarithm, and two standard "
        "errors on either side",
    ]


def _picture(report: Report, walk: Walk) -> Picture:
    expected = [(one.density, one.score, one.low, one.high) for one in predict(walk)]
    words = "; ".join(f"{density:g}: {score:.3f} ({low:.3f} to {high:.3f})" for density, score, low, high in expected)
    title = f"Expected {report.metric} against density"
    own, teacher = (walk.density, walk.score), ("teacher", walk.teacher)
    return Picture(svg.svg(charts.expected(expected, own, teacher), title, words), title)
