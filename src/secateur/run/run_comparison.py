"""Comparing finished runs: which of them are seeds of one point, and what the points are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.report.comparison import ORIGINS, OUTSIDE, RUN, TEACHER, Comparison, Point, ScoredModel, Shape, Timing
from secateur.report.names import told_apart
from secateur.report.report_text import target_text
from secateur.run.comparable_times import comparable, criteria, measured_times, times_of
from secateur.run.compared_baselines import Named, baseline_points, baseline_remarks
from secateur.run.finished_run import FinishedRun
from secateur.system.errors import UserError


def compare(
    runs: Sequence[FinishedRun],
    outside: Sequence[ScoredModel] = (),
    measured: Mapping[str, Mapping[Shape, Timing]] | None = None,
    *,
    baselines: bool = False,
) -> Comparison:
    """Compare finished runs, their dense teachers and other models.

    Args:
        runs: of one data set and metric, from `finished_runs.read`.
        outside: other models, scored on the same rows.
        measured: place of a model (its folder, or its name on the hub) -> its times in one benchmark; None takes the
            speed-ups of the reports.
        baselines: whether the baselines of the runs are points too.

    Raises:
        UserError: there is no run.
    """
    if not runs:
        raise UserError("there is nothing to compare: give the folders of finished runs")
    first = runs[0].report
    named = _named(runs)
    points = [*_teachers(runs), *_outsiders(outside), *_recipes(named), *(baseline_points(named) if baselines else [])]
    points, remarks = comparable(points) if measured is None else ([measured_times(p, measured) for p in points], ())
    sign = -1.0 if first.greater_is_better else 1.0
    points.sort(key=lambda p: (ORIGINS.index(p.origin), -round(p.models[0].density or 1.0, 2), sign * p.score))
    return Comparison(
        metric=first.metric,
        greater=first.greater_is_better,
        data=first.data,
        rows=first.rows["validation"],
        split=first.splits["validation"],
        points=tuple(points),
        criteria=criteria(points, measured is not None),
        measured=measured is not None,
        remarks=(*remarks, *(baseline_remarks(named) if baselines else ())),
    )


def _teachers(runs: Sequence[FinishedRun]) -> list[Point]:
    """A point for each named teacher, and one for all teachers that runs have trained, with a model for each run."""
    models: dict[tuple[str, float], ScoredModel] = {}
    for one in map(_teacher, runs):
        earlier = models.get((one.place, one.score), one)
        models[one.place, one.score] = replace(earlier, times={**one.times, **earlier.times})
    trained = {run.teacher for run in runs if run.teacher not in (run.recipe["teacher"], run.recipe["model"])}
    by_name: dict[str, list[ScoredModel]] = {}
    for model in models.values():
        name = "teacher" if model.place in trained else f"teacher {_short(model.place)}"
        by_name.setdefault(name, []).append(model)
    return [Point(name, TEACHER, TEACHER, tuple(own)) for name, own in by_name.items()]


def _outsiders(models: Sequence[ScoredModel]) -> list[Point]:
    """A point for each model, named after its folder, or by more of the path where folders share a name."""
    names = [_short(one.place) for one in models]
    longer = told_apart([one.place for one in models])
    return [
        Point(more if names.count(name) > 1 else name, OUTSIDE, OUTSIDE, (one,))
        for name, more, one in zip(names, longer, models, strict=True)
    ]


def _teacher(run: FinishedRun) -> ScoredModel:
    report = run.report
    score = report.teacher_scores[report.metric]
    times = {shape: replace(time, speed_up=1.0) for shape, time in times_of(report.latency).items()}
    sizes = int(report.parameters["teacher"]), int(report.weight_bytes["teacher"])
    constant, greater = report.baseline or 0.0, report.greater_is_better
    own = run.teacher, score
    return ScoredModel(*own, 1.0, *sizes, own, times, constant, greater_is_better=greater)


def _pruned(run: FinishedRun) -> ScoredModel:
    report = run.report
    teacher = run.teacher, report.teacher_scores[report.metric]
    sizes = int(report.parameters["model"]), int(report.weight_bytes["model"])
    score, density = report.scores[report.metric], report.density["prunable"]
    times = times_of(report.latency)
    constant, error = report.baseline or 0.0, report.standard_error
    greater = report.greater_is_better
    return ScoredModel(str(run.folder), score, density, *sizes, teacher, times, constant, error, greater)


def _named(runs: Sequence[FinishedRun]) -> list[tuple[str, list[FinishedRun]]]:
    """The runs by the names of their recipes, each with its seeds."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.recipe, sort_keys=True), []).append(run)
    names = _names([members[0] for members in groups.values()])
    return list(zip(names, groups.values(), strict=True))


def _recipes(named: Named) -> list[Point]:
    """A point for each recipe, with a model for each seed."""
    return [Point(name, RUN, members[0].recipe["method.name"], tuple(map(_pruned, members))) for name, members in named]


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """Method and target of each run; if several have both in common, also the keys that distinguish their recipes."""
    names = [f"{run.recipe['method.name']} at {_target(run)}" for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        sharing = [number for number, other in enumerate(names) if other == name]
        recipes = [runs[number].recipe for number in sharing]
        for key in sorted(_distinguishing(recipes), key=list(recipes[0]).index):
            for number, value in zip(sharing, _values([recipe[key] for recipe in recipes]), strict=True):
                names[number] += f", {key} {value}"
    return names


def _values(values: Sequence[Any]) -> list[str]:
    """Values of a key in few characters, of paths as many as tell them apart."""
    shortened = told_apart([value for value in values if isinstance(value, str)])
    return [shortened.pop(0) if isinstance(value, str) else brief(value) for value in values]


def _target(run: FinishedRun) -> str:
    """What the recipe asks for; of a density that the run has chosen the part of the score that it was to keep."""
    part = run.recipe["target.keep_score"]
    return target_text(run.report) if part is None else f"{100 * part:g}% of the score"


def _distinguishing(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that distinguish different recipes, chosen greedily: each splits the recipes into the most classes."""
    chosen: list[str] = []

    def classes(keys: Sequence[str]) -> int:
        return len({json.dumps([recipe[key] for key in keys]) for recipe in recipes})

    while classes(chosen) < len(recipes):
        chosen.append(max(recipes[0], key=lambda key: classes([*chosen, key])))
    return chosen


def brief(value: Any) -> str:
    """A value of a recipe in few characters."""
    if isinstance(value, dict):
        return " ".join(f"{key}={brief(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return "+".join(map(brief, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _short(place: str) -> str:
    """A model's name: that of its own folder, or of the run that it belongs to."""
    path = Path(place)
    return (path.parent.name if path.name in ("model", "teacher") else path.name) or place
