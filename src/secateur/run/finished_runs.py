"""Finished runs, read and put beside each other: which of them are one point, and which of their times compare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from secateur.report.comparison import KINDS, OUTSIDE, RUN, TEACHER, Axis, Comparison, Entry, Point, Shape, Time
from secateur.report.recipe_keys import dotted
from secateur.report.report import Report
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
"""What two speed-ups must share to be compared."""
TOLD = (*PROTOCOL, "repeats")
"""What is kept of the protocol of a latency."""


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder and its report."""

    folder: Path
    report: Report

    @property
    def teacher(self) -> str:
        """Where the dense teacher is: as the recipe names it, or trained by this run or by the walk that it is of."""
        own = (folder / "teacher" for folder in (self.folder, self.folder.parent))
        named = self.recipe["teacher"]
        return str(named or next((place for place in own if place.is_dir()), self.recipe["model"]))

    @property
    def recipe(self) -> dict[str, Any]:
        """What decided the result but for the seed, by dotted keys; keys newer than this run have their defaults."""
        resolved = _defaults() | dotted(self.report.recipe)
        return {key: value for key, value in resolved.items() if key not in NOT_THE_RECIPE}


@cache
def _defaults() -> dict[str, Any]:
    return dotted(make({"model": "", "data": ""}).to_dict())


def read(folders: Iterable[Path | str]) -> list[Finished]:
    """The runs in these folders; a folder of runs, such as that of several densities, stands for all that are in it.

    Raises:
        UserError: one is no run, unfinished or damaged; one is given twice; or they were scored on different rows or
            by different metrics.
    """
    places = [place for folder in folders for place in _runs_in(Path(folder))]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"expected runs that differ, got {twice} twice: name each once")
    found = [_finished(place) for place in places]
    for one in found[1:]:
        _check_same(found[0], one)
    return found


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself, if it is that of a run, or those in it that are."""
    if (folder / "report.json").is_file():
        return [folder]
    if inner := [place.parent for place in sorted(folder.glob("*/recipe.yaml"))]:
        return inner
    if (folder / "recipe.yaml").is_file():
        return [folder]
    raise UserError(
        f"{folder} is no run of secateur: give the folder of a finished run, or one that holds such folders"
    )


def _finished(folder: Path) -> Finished:
    """A run whose report has what a comparison needs."""
    if not (folder / "report.json").is_file():
        raise UserError(f"the run in {folder} is not finished: repeat its command to finish it, or leave it out")
    run = Finished(folder, Report.load(folder))
    with as_user_error(f"{folder / 'report.json'} is damaged", "repeat the run, or leave it out"):
        compare([run]).to_markdown()  # what is missing or is no number shows here
    return run


def _check_same(one: Finished, other: Finished) -> None:
    """Scores compare where the rows and the metric are the same."""
    facts = [(run.report.data, run.report.rows["validation"], run.report.metric) for run in (one, other)]
    if facts[0] != facts[1]:
        told = [
            f"{run.folder} by {metric} on {rows:,} validation rows of {run.report.recipe['data']['source']} ({data})"
            for run, (data, rows, metric) in zip((one, other), facts, strict=True)
        ]
        raise UserError(
            f"these runs were not scored alike, {told[0]} and {told[1]}: compare runs of one metric and one data set, "
            "split alike (a seed that draws rows makes another one)"
        )


# Points


def compare(
    runs: Sequence[Finished],
    outside: Sequence[Entry] = (),
    measured: Mapping[str, Mapping[Shape, Time]] | None = None,
) -> Comparison:
    """Put finished runs, their dense teachers and models from outside beside each other.

    Args:
        runs: of one data set and metric, from `read`.
        outside: scored on the same rows.
        measured: place of a model (a run's folder, a teacher's, one from outside) -> its times in one contest; None
            takes the speed-ups of the reports.

    Raises:
        UserError: there is no run.
    """
    if not runs:
        raise UserError("there is nothing to compare: give the folders of finished runs")
    first = runs[0].report
    points = [*_teachers(runs), *_outsiders(outside), *_recipes(runs)]
    points, remarks = _comparable(points) if measured is None else ([_retimed(p, measured) for p in points], ())
    points.sort(key=lambda p: (KINDS.index(p.kind), -round(p.entries[0].density or 1.0, 2), -p.score))
    return Comparison(
        metric=first.metric,
        greater=TASKS.get(runs[0].recipe["data.task"]).greater_is_better,
        data=first.data,
        rows=first.rows["validation"],
        points=tuple(points),
        axes=_axes(points, measured is not None),
        measured=measured is not None,
        remarks=remarks,
    )


def _teachers(runs: Sequence[Finished]) -> list[Point]:
    """A point for each teacher that is named, and one for those that runs have trained, an entry a run."""
    entries: dict[tuple[str, float], Entry] = {}
    for one in map(_teacher_entry, runs):
        known = entries.get((one.place, one.score), one)
        entries[one.place, one.score] = replace(known, times={**one.times, **known.times})
    trained = {str(folder / "teacher") for run in runs for folder in (run.folder, run.folder.parent)}
    groups: dict[str, list[Entry]] = {}
    for entry in entries.values():
        name = "teacher" if entry.place in trained else f"teacher {_short(entry.place)}"
        groups.setdefault(name, []).append(entry)
    return [Point(name, TEACHER, TEACHER, tuple(entries)) for name, entries in groups.items()]


def _outsiders(entries: Sequence[Entry]) -> list[Point]:
    """A point each, called by its folder's own name, or by the whole place where these are the same."""
    names = [_short(one.place) for one in entries]
    return [
        Point(one.place if names.count(name) > 1 else name, OUTSIDE, OUTSIDE, (one,))
        for name, one in zip(names, entries, strict=True)
    ]


def _teacher_entry(run: Finished) -> Entry:
    report = run.report
    score = report.teacher_scores[report.metric]
    times = {shape: replace(time, speed_up=1.0) for shape, time in _times(report.latency).items()}
    sizes = int(report.parameters["teacher"]), int(report.weight_bytes["teacher"])
    return Entry(run.teacher, score, 1.0, *sizes, (run.teacher, score), times)


def _entry(run: Finished) -> Entry:
    report = run.report
    teacher = run.teacher, report.teacher_scores[report.metric]
    sizes = int(report.parameters["model"]), int(report.weight_bytes["model"])
    score, density = report.scores[report.metric], report.density["prunable"]
    return Entry(str(run.folder), score, density, *sizes, teacher, _times(report.latency))


def _times(latency: Iterable[Mapping[str, Any]]) -> dict[Shape, Time]:
    return {
        (one["protocol"]["batch"], one["protocol"]["tokens"]): Time(
            one["latency_ms"], one["speed_up"], {key: one["protocol"][key] for key in TOLD}
        )
        for one in latency
    }


def _recipes(runs: Sequence[Finished]) -> list[Point]:
    """A point for each recipe, an entry a seed."""
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.recipe, sort_keys=True), []).append(run)
    names = _names([members[0] for members in groups.values()])
    return [
        Point(name, RUN, members[0].recipe["method.name"], tuple(map(_entry, members)))
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _names(runs: Sequence[Finished]) -> list[str]:
    """Method and aim of each; where two share both, also what tells their recipes apart, by as few keys as will do."""
    names = [f"{run.recipe['method.name']} at {run.report.aim}" for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [number for number, other in enumerate(names) if other == name]
        recipes = [runs[number].recipe for number in alike]
        for key in sorted(_telling(recipes), key=list(recipes[0]).index):
            for number, recipe in zip(alike, recipes, strict=True):
                names[number] += f", {key} {_said(recipe[key])}"
    return names


def _telling(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys by which different recipes can be told apart: each time the one that splits them into most parts."""
    chosen: list[str] = []

    def parts(keys: Sequence[str]) -> int:
        return len({json.dumps([recipe[key] for key in keys]) for recipe in recipes})

    while parts(chosen) < len(recipes):
        chosen.append(max(recipes[0], key=lambda key: parts([*chosen, key])))
    return chosen


def _said(value: Any) -> str:
    """A value of a recipe in few characters."""
    if isinstance(value, dict):
        return " ".join(f"{key}={_said(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return "+".join(map(_said, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _short(place: str) -> str:
    """What a model is called: its folder's own name, or the run's that it is in."""
    path = Path(place)
    return (path.parent.name if path.name in ("model", "teacher") else path.name) or place


# Times


def _retimed(point: Point, measured: Mapping[str, Mapping[Shape, Time]]) -> Point:
    return replace(point, entries=tuple(replace(one, times=measured[one.place]) for one in point.entries))


def _comparable(points: Sequence[Point]) -> tuple[list[Point], tuple[str, ...]]:
    """The points with the times that compare, and what is to be said of those that do not."""
    remarks = []
    entries = [entry for point in points if point.kind == RUN for entry in point.entries]
    for shape in _shapes(points):
        here = [entry.times[shape].protocol for entry in entries if shape in entry.times]
        unlike = [key for key in PROTOCOL if len({protocol[key] for protocol in here}) > 1]
        if unlike:
            points = [_without(point, shape) for point in points]
            remarks.append(
                f"speed-up at {_named(shape)} is left out, for the runs differ in {', '.join(unlike)}: --measure "
                "measures all models now, in turn"
            )
        elif len(here) < len(entries):
            remarks.append(f"{len(entries) - len(here)} of {len(entries)} runs did not measure {_named(shape)}")
    return list(points), tuple(remarks)


def _without(point: Point, shape: Shape) -> Point:
    entries = (
        replace(one, times={other: t for other, t in one.times.items() if other != shape}) for one in point.entries
    )
    return replace(point, entries=tuple(entries))


def _shapes(points: Iterable[Point]) -> list[Shape]:
    return sorted({shape for point in points for entry in point.entries for shape in entry.times})


def _named(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]}"


def _axes(points: Sequence[Point], measured: bool) -> tuple[Axis, ...]:
    """Density, size, and the time at each shape: milliseconds where all were measured in turn, else speed-ups."""
    axes = [
        Axis("density", lambda entry: entry.density, ".4f", logarithmic=True),
        Axis("weights, MB", lambda entry: entry.bytes / 1e6, ".1f"),
    ]
    for shape in _shapes(points):
        if measured:
            of, form = partial(_time_of, shape, "latency_ms"), ".2f"
            axes.append(Axis(f"{_named(shape)}, ms", of, form, logarithmic=True))
        else:
            of = partial(_time_of, shape, "speed_up")
            axes.append(Axis(f"{_named(shape)} speed-up", of, ".2f", less=False, logarithmic=True))
    return tuple(axes)


def _time_of(shape: Shape, name: str, entry: Entry) -> float | None:
    return getattr(entry.times[shape], name) if shape in entry.times else None
