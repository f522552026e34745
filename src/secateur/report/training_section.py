"""The section of a run's page about training: density, loss, score, speed and memory over the stages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from secateur.report import charts, svg
from secateur.report.html import Content, Gallery, Notes, Picture, Section
from secateur.report.recipe_keys import dotted
from secateur.report.report import Report
from secateur.report.run_log import Curve, RunLog, Stage
from secateur.tasks.origin import rows_of

LABELS = {
    "teacher-training": "teacher",
    "share": "share of the budget",
    "resident_mb": "resident",
    "anonymous_mb": "anonymous",
}
"""Name of a stage or value in the log -> its label, where that is clearer."""

TRIALS = ("teacher-trial", "density-", "depth-")
"""How the names of stages begin that are short trials: the report has their scores elsewhere."""

Panel: TypeAlias = tuple[str, int, Mapping[str, Curve]]
"""A stage as `charts.over_stages` takes it: name, number of steps, and label -> curve."""


def training(report: Report, log: RunLog) -> Section:
    """What training logged in each stage but trials; without contents for a run without logs."""
    stages = [stage for stage in log.stages if not stage.name.startswith(TRIALS)]
    density = report.recipe["target"]["density"]
    asked = None if density is None else ("asked", density)
    densities = [_panel(stage, ["density", *stage.keys("density_"), "share"]) for stage in stages]
    gates = [_panel(stage, stage.keys("open_")) for stage in stages]
    gradients = [_panel(stage, stage.keys("gradient_")) for stage in stages]
    penalties = [_panel(stage, stage.keys("penalty_")) for stage in stages]
    memory = [_panel(stage, ["resident_mb", "anonymous_mb"]) for stage in stages]
    pictures = [
        *_lines("Density", densities, floor=0, level=asked),
        *_lines("Probability that a gate is open, by kind of unit", gates, floor=0),
        *_lines("Absolute gradient of a gate, by kind of unit, on a logarithmic scale", gradients, log=True),
        *_lines("That of the penalty alone, by kind of unit, on a logarithmic scale", penalties, log=True),
        *_terms([_panel(stage, stage.keys("loss_")) for stage in stages]),
        *_scores(report, stages),
        *_lines("Examples per second", [_rates(stage) for stage in stages], floor=0),
        *_lines("Memory of the process, MB", memory, floor=0),
    ]
    contents: list[Content] = [Gallery(pictures)] if pictures else []
    if log.unread:
        contents.append(Notes([f"damaged lines of the logs, left out: {log.unread}"]))
    return Section("Training", contents)


def _scores(report: Report, stages: Sequence[Stage]) -> list[Picture]:
    """The scores of the evaluations within the stages; beside the teacher's where these are of all validation rows."""
    keys, count = dotted(report.recipe), report.rows["validation"]
    first, selected = keys.get("training.evaluation_rows"), keys.get("training.select", 0)
    held_out = selected or keys.get("data.tuning_rows", 0)
    of, metric = rows_of(report.splits["validation"]), report.metric
    if held_out:
        count, of, metric = held_out, "rows held out of training", report.metric_of_training_rows
    part = first is not None and first < count and not selected  # all rows to select by are scored
    if part:
        rows = f"the first {first:,} of {count:,} {of}"
    else:
        rows = f"{count:,} {of}" if held_out else f"the {of}"
    level = None if held_out or part else ("teacher", report.teacher_scores[report.metric])
    return _lines(f"{metric} on {rows}", [_panel(stage, [f"eval_{metric}"]) for stage in stages], level=level)


def _panel(stage: Stage, keys: Sequence[str]) -> Panel:
    """A stage with the curves of those of the keys that it logged, by their labels."""
    curves = {re.sub("^(loss|eval|density|open|gradient)_", "", key): stage.curve(key) for key in keys}
    labelled = {LABELS.get(name, name): curve for name, curve in curves.items() if curve[0]}
    return _stage_name(stage), stage.steps, labelled


def _rates(stage: Stage) -> Panel:
    return _stage_name(stage), stage.steps, {"training": stage.rates} if stage.rates[0] else {}


def _stage_name(stage: Stage) -> str:
    return LABELS.get(stage.name, stage.name)


def _terms(panels: Sequence[Panel]) -> list[Picture]:
    """The terms of the loss; logarithmic if all are positive, since they can differ by orders of magnitude."""
    positive = all(value > 0 for _, _, curves in panels for _, values in curves.values() for value in values)
    scale = ", on a logarithmic scale" if positive else ""
    return _lines(f"Terms of the loss{scale}", panels, log=positive)


def _lines(title: str, panels: Sequence[Panel], **scale: Any) -> list[Picture]:
    """One picture of the stages that have a curve; none if no stage has one."""
    logged = [panel for panel in panels if panel[2]]
    if not logged:
        return []
    words = (f"{stage}: {charts.described(*curve)}" for stage, _, curves in logged for curve in curves.items())
    return [Picture(svg.svg(charts.over_stages(logged, **scale), title, "; ".join(words)), title)]
