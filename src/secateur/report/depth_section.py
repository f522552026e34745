"""The section of a run's page about the number of layers that it has chosen, and the trials from which it chose."""

from __future__ import annotations

from secateur.report import charts, svg
from secateur.report.html import Content, DataTable, Gallery, Picture, Section, Text
from secateur.report.report import Report
from secateur.report.report_text import depth_sentence, trial_name


def section(report: Report) -> Section:
    """The trials as a table and, for scores in [0, 1], a picture; without contents for a run that tried none."""
    if report.depth is None:
        return Section("Number of layers", [])
    rows = [(trial_name(trial, report.depth), f"{trial['score']:.4f}") for trial in report.depth["trials"]]
    contents: list[Content] = [Text(f"{depth_sentence(report.depth, report.metric)}.")]
    if all(0 <= trial["score"] <= 1 for trial in report.depth["trials"]):
        bars = [(name, trial["score"], text) for (name, text), trial in zip(rows, report.depth["trials"], strict=True)]
        title = f"{report.metric} of each trial"
        contents.append(Gallery([Picture(svg.svg(charts.bars(bars), title), title)]))
    return Section("Number of layers", [*contents, DataTable("Trials", ("layers kept", report.metric), rows)])
