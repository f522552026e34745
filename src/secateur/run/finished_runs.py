"""FinishedRun runs, read and compared: which of them are one point, and which of their times are comparable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from secateur.report import comparison_text
from secateur.report.comparison import (
    ORIGINS,
    OUTSIDE,
    RUN,
    TEACHER,
    Comparison,
    Criterion,
    Point,
    ScoredModel,
    Shape,
    Timing,
)
from secateur.report.recipe_keys import dotted
from secateur.report.report import Report
from secateur.report.report_text import target_text
from secateur.run.recipe import make
from secateur.system.errors import UserError, as_user_error
from secateur.tasks import TASKS

NOT_THE_RECIPE = (
    "seed",
    "data.source",
    "method.shrink",
    "distillation.cache",
    "distillation.cache_gb",
    "training.checkpoints",
    "training.report_to",
    "measurement.shapes",
    "measurement.repeats",
)
"""Dotted keys in which two runs of one recipe may differ: seed, place of the data, what is measured and stored."""
PROTOCOL = ("threads", "dtype", "runtime", "device", "machine")
"""Keys of the protocol that two speed-ups must share to be comparable."""
KEPT_PROTOCOL = (*PROTOCOL, "repeats")
"""Keys of the protocol that a comparison keeps of a latency."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder and its report."""

    folder: Path
    report: Report

    @property
    def teacher(self) -> str:
        """The dense teacher's place: as the recipe names it, or trained by this run or by its density sweep."""
        own = (folder / "teacher" for folder in (self.folder, self.folder.parent))
        named = self.recipe["teacher"]
        return str(named or next((place for place in own if place.is_dir()), self.recipe["model"]))

    @property
    def recipe(self) -> dict[str, Any]:
        """What the result depends on besides the seed, by dotted keys; keys newer than the run have their defaults."""
        resolved = _defaults() | dotted(self.report.recipe)
        return {key: value for key, value in resolved.items() if key not in NOT_THE_RECIPE}


@cache
def _defaults() -> dict[str, Any]:
    return dotted(make({"model": "", "data": ""}).to_dict())


def read(folders: Iterable[Path | str]) -> list[FinishedRun]:
    """The runs in these folders; a folder of runs, such as that of several densities, stands for all runs in it.

    Raises:
        UserError: a folder is no run, or its run is unfinished, damaged or named twice; or the runs were scored on
            different rows or by different metrics.
    """
    places = [place for folder in folders for place in _runs_in(Path(folder))]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"expected runs that differ, got {twice} twice: name each once")
    found = [_finished(place) for place in places]
    for one in found[1:]:
        _check_same(found[0], one)
    return found


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself if it is that of a run, or the folders of runs in it."""
    if (folder / "report.json").is_file():
        return [folder]
    if inner := [place.parent for place in sorted(folder.glob("*/recipe.yaml"))]:
        return inner
    if (folder / "recipe.yaml").is_file():
        return [folder]
    raise UserError(
        f"{folder} is no run of secateur: give the folder of a finished run, or one that holds such folders"
    )


def _finished(folder: Path) -> FinishedRun:
    """A run whose report has what a comparison needs."""
    if not (folder / "report.json").is_file():
        raise UserError(f"the run in {folder} is not finished: repeat its command to finish it, or leave it out")
    run = FinishedRun(folder, Report.load(folder))
    with as_user_error(f"{folder / 'report.json'} is damaged", "repeat the run, or leave it out"):
        comparison_text.to_markdown(compare([run]))  # fails on missing values, and on values that are no numbers
    return run


def _check_same(one: FinishedRun, other: FinishedRun) -> None:
    """Refuse to compare scores on different rows or by different metrics."""
    facts = [(run.report.data, run.report.rows["validation"], run.report.metric) for run in (one, other)]
    if facts[0] != facts[1]:
        described = [
            f"{run.folder} by {metric} on {rows:,} validation rows of {run.report.recipe['data']['source']} ({data})"
            for run, (data, rows, metric) in zip((one, other), facts, strict=True)
        ]
        raise UserError(
            f"these runs were not scored alike, {described[0]} and {described[1]}: compare runs of one metric and one "
            "data set with the same validation rows (where rows are sampled, they depend on the seed)"
        )


# Points


def compare(
    runs: Sequence[FinishedRun],
    outside: Sequence[ScoredModel] = (),
    measured: Mapping[str, Mapping[Shape, Timing]] | None = None,
) -> Comparison:
    """Compare finished runs, their dense teachers and models from outside.

    Args:
        runs: of one data set and metric, from `read`.
        outside: scored on the same rows.
        measured: place of a model (a run's folder, a teacher's, one from outside) -> its times in one benchmark; None
            takes the speed-ups of the reports.

    Raises:
        UserError: there is no run.
    """
    if not runs:
        raise UserError("there is nothing to compare: give the folders of finished runs")
    first = runs[0].report
    points = [*_teachers(runs), *_outsiders(outside), *_recipes(runs)]
    points, remarks = _comparable(points) if measured is None else ([_retimed(p, measured) for p in points], ())
    points.sort(key=lambda p: (ORIGINS.index(p.origin), -round(p.models[0].density or 1.0, 2), -p.score))
    return Comparison(
        metric=first.metric,
        greater=TASKS.get(runs[0].recipe["data.task"]).greater_is_better,
        data=first.data,
        rows=first.rows["validation"],
        points=tuple(points),
        criteria=_criteria(points, measured is not None),
        measured=measured is not None,
        remarks=remarks,
    )


def _teachers(runs: Sequence[FinishedRun]) -> list[Point]:
    """A point for each named teacher, and one for all teachers that runs have trained, with a model for each run."""
    models: dict[tuple[str, float], ScoredModel] = {}
    for one in map(_teacher, runs):
        earlier = models.get((one.place, one.score), one)
        models[one.place, one.score] = replace(earlier, times={**one.times, **earlier.times})
    trained = {str(folder / "teacher") for run in runs for folder in (run.folder, run.folder.parent)}
    by_name: dict[str, list[ScoredModel]] = {}
    for model in models.values():
        name = "teacher" if model.place in trained else f"teacher {_short(model.place)}"
        by_name.setdefault(name, []).append(model)
    return [Point(name, TEACHER, TEACHER, tuple(own)) for name, own in by_name.items()]


def _outsiders(models: Sequence[ScoredModel]) -> list[Point]:
    """A point for each model, named after its folder, or by the whole path where folders share a name."""
    names = [_short(one.place) for one in models]
    return [
        Point(one.place if names.count(name) > 1 else name, OUTSIDE, OUTSIDE, (one,))
        for name, one in zip(names, models, strict=True)
    ]


def _teacher(run: FinishedRun) -> ScoredModel:
    report = run.report
    score = report.teacher_scores[report.metric]
    times = {shape: replace(time, speed_up=1.0) for shape, time in _times(report.latency).items()}
    sizes = int(report.parameters["teacher"]), int(report.weight_bytes["teacher"])
    return ScoredModel(run.teacher, score, 1.0, *sizes, (run.teacher, score), times)


def _pruned(run: FinishedRun) -> ScoredModel:
    report = run.report
    teacher = run.teacher, report.teacher_scores[report.metric]
    sizes = int(report.parameters["model"]), int(report.weight_bytes["model"])
    score, density = report.scores[report.metric], report.density["prunable"]
    return ScoredModel(str(run.folder), score, density, *sizes, teacher, _times(report.latency))


def _times(latency: Iterable[Mapping[str, Any]]) -> dict[Shape, Timing]:
    return {
        (one["protocol"]["batch"], one["protocol"]["tokens"]): Timing(
            one["latency_ms"], one["speed_up"], {key: one["protocol"][key] for key in KEPT_PROTOCOL}
        )
        for one in latency
    }


def _recipes(runs: Sequence[FinishedRun]) -> list[Point]:
    """A point for each recipe, with a model for each seed."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.recipe, sort_keys=True), []).append(run)
    names = _names([members[0] for members in groups.values()])
    return [
        Point(name, RUN, members[0].recipe["method.name"], tuple(map(_pruned, members)))
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """Method and aim of each run; where several share both, also the few keys by which their recipes differ."""
    names = [f"{run.recipe['method.name']} at {target_text(run.report)}" for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [number for number, other in enumerate(names) if other == name]
        recipes = [runs[number].recipe for number in alike]
        for key in sorted(_distinguishing(recipes), key=list(recipes[0]).index):
            for number, recipe in zip(alike, recipes, strict=True):
                names[number] += f", {key} {_in_short(recipe[key])}"
    return names


def _distinguishing(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that distinguish different recipes, chosen greedily: each splits the recipes into the most classes."""
    chosen: list[str] = []

    def classes(keys: Sequence[str]) -> int:
        return len({json.dumps([recipe[key] for key in keys]) for recipe in recipes})

    while classes(chosen) < len(recipes):
        chosen.append(max(recipes[0], key=lambda key: classes([*chosen, key])))
    return chosen


def _in_short(value: Any) -> str:
    """A value of a recipe in few characters."""
    if isinstance(value, dict):
        return " ".join(f"{key}={_in_short(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return "+".join(map(_in_short, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _short(place: str) -> str:
    """A model's name: that of its own folder, or of the run that it belongs to."""
    path = Path(place)
    return (path.parent.name if path.name in ("model", "teacher") else path.name) or place


# Times


def _retimed(point: Point, measured: Mapping[str, Mapping[Shape, Timing]]) -> Point:
    return replace(point, models=tuple(replace(one, times=measured[one.place]) for one in point.models))


def _comparable(points: Sequence[Point]) -> tuple[list[Point], tuple[str, ...]]:
    """The points with the times that are comparable, and remarks about those that are not."""
    remarks = []
    models = [model for point in points if point.origin == RUN for model in point.models]
    for shape in _shapes(points):
        protocols = [model.times[shape].protocol for model in models if shape in model.times]
        unlike = [key for key in PROTOCOL if len({protocol[key] for protocol in protocols}) > 1]
        if unlike:
            points = [_without(point, shape) for point in points]
            remarks.append(
                f"speed-up at {_shape_text(shape)} is left out because the runs differ in {', '.join(unlike)}: "
                "--measure measures all models now, in turn"
            )
        elif len(protocols) < len(models):
            missing = len(models) - len(protocols)
            remarks.append(f"{missing} of {len(models)} runs did not measure {_shape_text(shape)}")
    return list(points), tuple(remarks)


def _without(point: Point, shape: Shape) -> Point:
    models = (
        replace(one, times={other: time for other, time in one.times.items() if other != shape}) for one in point.models
    )
    return replace(point, models=tuple(models))


def _shapes(points: Iterable[Point]) -> list[Shape]:
    return sorted({shape for point in points for model in point.models for shape in model.times})


def _shape_text(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]}"


def _criteria(points: Sequence[Point], measured: bool) -> tuple[Criterion, ...]:
    """Density, size, and the time at each shape: milliseconds if all were measured in turn, otherwise speed-ups."""
    criteria = [
        Criterion("density", lambda model: model.density, ".4f", logarithmic=True),
        Criterion("weights, MB", lambda model: model.bytes / 1e6, ".1f"),
    ]
    for shape in _shapes(points):
        if measured:
            of, form = partial(_time_of, shape, "latency_ms"), ".2f"
            criteria.append(Criterion(f"{_shape_text(shape)}, ms", of, form, logarithmic=True))
        else:
            of = partial(_time_of, shape, "speed_up")
            criteria.append(Criterion(f"{_shape_text(shape)} speed-up", of, ".2f", less=False, logarithmic=True))
    return tuple(criteria)


def _time_of(shape: Shape, name: str, model: ScoredModel) -> float | None:
    return getattr(model.times[shape], name) if shape in model.times else None
