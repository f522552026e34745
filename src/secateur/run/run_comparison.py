"""Comparing finished runs: the points of the comparison, and what they are called (see `compared_recipes`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from secateur.report.comparison import ORIGINS, OUTSIDE, RUN, TEACHER, Comparison, Point, ScoredModel, Shape, Timing
from secateur.report.names import told_apart
from secateur.run.comparable_times import comparable, criteria, measured_times, times_of
from secateur.run.compared_baselines import Named, baseline_points, baseline_remarks
from secateur.run.compared_recipes import by_recipe, names_of_data
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
    named, data = by_recipe(runs), names_of_data(runs)
    points = [*_teachers(runs, data), *_outsiders(outside), *_recipes(named)]
    points += baseline_points(named, data) if baselines else []
    points, remarks = comparable(points) if measured is None else ([measured_times(p, measured) for p in points], ())
    sign = -1.0 if first.greater_is_better else 1.0
    points.sort(key=lambda p: (ORIGINS.index(p.origin), -round(p.models[0].density or 1.0, 2), sign * p.score))
    return Comparison(
        metric=first.metric,
        greater=first.greater_is_better,
        data=first.data if any(run.report.scored is None for run in runs) else first.scored or "",
        rows=first.rows["validation"],
        split=first.splits["validation"],
        points=tuple(points),
        criteria=criteria(points, measured is not None),
        measured=measured is not None,
        remarks=(*remarks, *(baseline_remarks(named) if baselines else ())),
    )


def _teachers(runs: Sequence[FinishedRun], data: Mapping[Path, str]) -> list[Point]:
    """A point for each named teacher, and one for all teachers that runs have trained, with a model for each run.

    Args:
        data: folder of a run -> the end of the name of what was trained on its data (`names_of_data`).
    """
    models: dict[tuple[str, float], ScoredModel] = {}
    for one in map(_teacher, runs):
        earlier = models.get((one.place, one.score), one)
        models[one.place, one.score] = replace(earlier, times={**one.times, **earlier.times})
    own = [run for run in runs if run.teacher not in (run.recipe["teacher"], run.recipe["model"])]
    trained = {run.teacher: f"teacher{data[run.folder]}" for run in own}
    by_name: dict[str, list[ScoredModel]] = {}
    for model in models.values():
        by_name.setdefault(trained.get(model.place, f"teacher {_short(model.place)}"), []).append(model)
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


def _recipes(named: Named) -> list[Point]:
    """A point for each recipe, with a model for each seed."""
    return [Point(name, RUN, members[0].recipe["method.name"], tuple(map(_pruned, members))) for name, members in named]


def _short(place: str) -> str:
    """A model's name: that of its own folder, or of the run that it belongs to."""
    path = Path(place)
    return (path.parent.name if path.name in ("model", "teacher") else path.name) or place
