"""The baselines of compared runs as points of the comparison, and what their reports advise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.report import baselines
from secateur.report.comparison import BASELINE, Point, ScoredModel, Shape, Timing
from secateur.run.finished_run import FinishedRun

Named = Sequence[tuple[str, Sequence[FinishedRun]]]
"""The name of each recipe, and its runs, one for each seed."""


def baseline_points(named: Named, data: Mapping[Path, str]) -> list[Point]:
    """A point for each baseline, with a model for each run.

    One that depends on the teacher and the data alone is the same for all recipes; the others are of one recipe.

    Args:
        data: folder of a run -> the end of the name of what was trained on its data (`names_of_data`).
    """
    groups: dict[str, dict[tuple[str, float], ScoredModel]] = {}
    for recipe, run, row in _rows(named):
        own = len(named) > 1 and (row["trained"] or row["pruned"])
        name = row["what"] + (f" ({recipe})" if own else data[run.folder])
        model = _model(run, row)
        key = (model.place if own or row["trained"] else run.teacher, model.score)
        groups.setdefault(name, {}).setdefault(key, model)
    return [Point(name, BASELINE, BASELINE, tuple(models.values())) for name, models in groups.items()]


def baseline_remarks(named: Named) -> tuple[str, ...]:
    """How the times of baselines were measured, which were left out, and the advice of each run's report."""
    runs = [(recipe, run) for recipe, own in named for run in own]
    remarks = dict.fromkeys(note for _, run in runs if run.report.baselines for note in baselines.notes(run.report))
    advice = ((f"{recipe}, seed {run.report.recipe['seed']}", baselines.advice(run.report)) for recipe, run in runs)
    return (*remarks, *(f"{name}: {sentence}" for name, sentence in advice if sentence))


def _rows(named: Named) -> Iterable[tuple[str, FinishedRun, Mapping[str, Any]]]:
    for recipe, runs in named:
        for run in runs:
            for row in (run.report.baselines or {"rows": []})["rows"]:
                yield recipe, run, row


def _model(run: FinishedRun, row: Mapping[str, Any]) -> ScoredModel:
    report = run.report
    return ScoredModel(
        place=str(run.folder / row["place"]),
        score=row["score"],
        density=row["density"],
        parameters=int(row["parameters"] or 0),
        bytes=int(row["bytes"]),
        teacher=(run.teacher, report.teacher_scores[report.metric]),
        times=_times(run, row),
        constant=report.baseline or 0.0,
        standard_error=row.get("standard_error"),
        greater_is_better=report.greater_is_better,
    )


def _times(run: FinishedRun, row: Mapping[str, Any]) -> dict[Shape, Timing]:
    """The times of a baseline, which are of the CPU; none beside a run that was timed on another device."""
    protocol = (run.report.baselines or {})["protocol"] or {}
    if any(one["protocol"].get("device", "cpu") != protocol.get("device") for one in run.report.latency):
        return {}
    own = {"runtime": row["runtime"], "dtype": "as named"}
    return {
        (one["batch"], one["tokens"]): Timing(one["latency_ms"], one["speed_up"], protocol | own)
        for one in row["latency"]
    }
