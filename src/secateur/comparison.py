"""Runs beside each other: one table, and score against density, size and speed, over runs, methods and seeds.

Runs whose recipes differ in the seed alone are one point: their mean, and the lowest and the highest. The dense
teachers are points too, and so is any model from outside that was scored on the same rows. A latency in a report is of
its own moment; the ratio to the dense model in the same turns is not, so speed-ups are what is compared, unless all
models were measured now, in turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from secateur import page, pictures
from secateur.errors import UserError, as_user_error
from secateur.recipe import make
from secateur.report import Report, markdown_table
from secateur.tasks import task as tasks

NOT_THE_RECIPE = ("seed", "data", "shapes", "repeats", "checkpoints", "shrink", "cache", "cache_gb", "report_to")
"""Keys in which two runs of one recipe may differ: the seed, where the data lies, what is measured and stored."""
PROTOCOL = ("threads", "dtype", "runtime", "device", "machine")
"""What two speed-ups must share to be compared."""
TOLD = (*PROTOCOL, "repeats")
"""What is kept of the protocol of a latency."""
SCORE = ".4f"
KINDS = TEACHER, OUTSIDE, RUN = "teacher", "outside", "run"

Shape = tuple[int, int]
"""(batch, tokens)"""


@dataclass(frozen=True)
class Time:
    """One model at one shape: its speed-up over its dense teacher in the same turns, and the median that it is of.

    `protocol` has the keys of `TOLD`.
    """

    latency_ms: float
    speed_up: float | None
    protocol: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One model that was scored.

    Attributes:
        place: the run's folder, or the model's.
        score: on the rows that all entries share.
        teacher: the dense teacher's place and score; its own of a teacher, of a model from outside None.
        density: fraction kept of the teacher's prunable parameters; None where that means nothing.
        bytes: of the weights, in float32 for a dense model.
        times: by (batch, tokens).
    """

    place: str
    score: float
    density: float | None
    parameters: int
    bytes: int
    teacher: tuple[str, float] | None = None
    times: Mapping[Shape, Time] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `retention` included."""
        times = [
            {"batch": batch, "tokens": tokens, "latency_ms": time.latency_ms, "speed_up": time.speed_up}
            for (batch, tokens), time in self.times.items()
        ]
        plain = {"place": self.place, "score": self.score, "retention": self.retention, "density": self.density}
        return {**plain, "parameters": self.parameters, "bytes": self.bytes, "times": times}

    @property
    def retention(self) -> float | None:
        """The score over the teacher's; None without a teacher, or with one that scores 0."""
        return self.score / self.teacher[1] if self.teacher and self.teacher[1] else None


@dataclass(frozen=True)
class Point:
    """What is one row of the table and one dot: `entries` differ in the seed alone.

    `kind` is `RUN`, `TEACHER` or `OUTSIDE`; `series` is what dots of one colour share.
    """

    name: str
    kind: str
    series: str
    entries: tuple[Entry, ...]

    def values(self, of: Callable[[Entry], float | None]) -> list[float]:
        """A value of each entry; none at all where one lacks it."""
        found = [value for value in map(of, self.entries) if value is not None]
        return found if len(found) == len(self.entries) else []

    @property
    def score(self) -> float:
        """Mean over the entries."""
        return fmean(entry.score for entry in self.entries)


@dataclass(frozen=True)
class Axis:
    """Something to pay for a score: how it is called, read and written, and whether less of it is better."""

    name: str
    of: Callable[[Entry], float | None]
    form: str
    less: bool = True
    logarithmic: bool = False

    def value(self, point: Point) -> float | None:
        """Mean over the point's entries; None where one lacks it."""
        found = point.values(self.of)
        return fmean(found) if found else None


@dataclass(frozen=True)
class Comparison:
    """Points that were scored on the same rows.

    Attributes:
        metric: the score's name; `greater` says whether more of it is better.
        data: fingerprint of the data; `rows` is the number of validation rows.
        measured: whether all latencies are of one contest, in turn; else speed-ups are of each run's own.
        remarks: what was left out, and why.
    """

    metric: str
    greater: bool
    data: str
    rows: int
    points: tuple[Point, ...]
    axes: tuple[Axis, ...]
    measured: bool = False
    remarks: tuple[str, ...] = ()

    def front(self, axis: Axis) -> list[Point]:
        """The points that no other one beats in score and on the axis, both as they are written; the cheapest first."""
        sign, direction = (-1.0 if self.greater else 1.0), (1.0 if axis.less else -1.0)
        values = [(axis.value(point), point) for point in self.points]
        placed = [
            (direction * _rounded(value, axis.form), sign * _rounded(point.score, SCORE), point)
            for value, point in values
            if value is not None
        ]
        return [
            point
            for cost, loss, point in sorted(placed, key=lambda one: one[:2])
            if not any(c <= cost and s <= loss and (c, s) != (cost, loss) for c, s, _ in placed)
        ]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows: every point with its means and spreads, and a star at each axis on whose front it is."""
        head = ["", "runs", self.metric, "retention", *(axis.name for axis in self.axes)]
        fronts = {axis.name: self.front(axis) for axis in self.axes}
        rows = []
        for number, point in enumerate(self.points, 1):
            retained = point.values(lambda entry: entry.retention)
            row = [f"{number:2} {point.name}", str(len(point.entries)), _spread(point.values(_score), SCORE)]
            row.append(f"{fmean(retained):.1%}" if retained else "-")
            for axis in self.axes:
                star = "*" if point in fronts[axis.name] else ""
                row.append(_spread(point.values(axis.of), axis.form, star))
            rows.append(row)
        return head, rows

    def notes(self) -> list[str]:
        """What the numbers mean."""
        notes = [
            f"{self.metric} on the same {self.rows:,} validation rows (data {self.data}); runs of one recipe but for "
            "the seed are one row: their mean (lowest-highest)",
            "*: no other row has both as good a score and as little of this, by their means as written here",
            "density: weights and inner biases kept in the layers, over the dense teacher's",
        ]
        best = max(point.score for point in self.points)
        if 0.0 < best < 1.0:
            notes.append(
                f"for scale: a share of {best:.2f} of {self.rows:,} rows has a standard error of "
                f"{sqrt(best * (1 - best) / self.rows):.4f} (binomial): rows closer than that are not told apart"
            )
        return [*notes, self._speed_told(), *self.remarks]

    @property
    def protocol(self) -> Mapping[str, Any] | None:
        """How the times were measured; None where there are none to compare."""
        entries = (entry for point in self.points for entry in point.entries)
        return next((time.protocol for entry in entries for time in entry.times.values()), None)

    def _speed_told(self) -> str:
        p, count = self.protocol, sum(len(point.entries) for point in self.points)
        if p is None:
            return "speed: nothing to compare in the reports; --measure measures all models now, in turn"
        how = "over its dense teacher, as each run measured the two in turn, at its own moment"
        if self.measured:
            how = f"median of {p['repeats']} forwards, all {count} models now, in turn"
        return f"speed: {how}; threads {p['threads']}, {p['dtype']}, {p['runtime']}, {p['machine']}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        fronts = {axis.name: self.front(axis) for axis in self.axes}
        points = [
            {
                "name": point.name,
                "kind": point.kind,
                "series": point.series,
                "n": len(point.entries),
                "score": _statistics(point.values(_score)),
                "axes": {axis.name: _statistics(point.values(axis.of)) for axis in self.axes},
                "front": [axis.name for axis in self.axes if point in fronts[axis.name]],
                "entries": [entry.to_dict() for entry in point.entries],
            }
            for point in self.points
        ]
        plain = {"metric": self.metric, "greater_is_better": self.greater, "data": self.data, "rows": self.rows}
        told = {"measured": self.measured, "protocol": self.protocol and dict(self.protocol)}
        return {**plain, **told, "points": points, "notes": self.notes()}

    def to_markdown(self) -> str:
        """The table and the notes."""
        head, rows = self.table()
        table = markdown_table(head, [[cell.replace("*", "\\*") for cell in row] for row in rows])
        return "\n".join([f"# {self.title}", "", *table, "", *(f"- {note}" for note in self.notes())]) + "\n"

    @property
    def title(self) -> str:
        """Of a page."""
        return f"{len(self.points)} models by {self.metric}"

    def to_html(self) -> str:
        """A page of its own: the pictures, the table, the notes, and where the models are."""
        drawn = page.Gallery([page.Picture(self._drawn(axis), self._caption(axis)) for axis in self.axes])
        places = [
            [f"{number} {point.name}", ", ".join(entry.place for entry in point.entries)]
            for number, point in enumerate(self.points, 1)
        ]
        sections = [
            page.Section("What a score costs", [drawn, page.Notes(self.notes())]),
            page.Section("Every model", [page.Table("Mean (lowest-highest); *: on the front", *self.table())]),
            page.Section("Where they are", [page.Table("Folders", ["", "folders"], places)]),
        ]
        return page.render(self.title, sections, f"all on the same {self.rows:,} validation rows")

    # Drawn

    def _drawn(self, axis: Axis) -> str:
        """Score against one axis: a dot a point, a line from its lowest to its highest, the front joined."""
        with pictures.style():
            figure = pictures.figure(height=300)
            axes = figure.add_subplot()
            for series, look in self._looks().items():
                self._dots(axes, axis, [point for point in self.points if point.series == series], look)
            self._joined(axes, axis)
            if axis.logarithmic:
                _logarithmic(axes)
            axes.grid(True, axis="y")
            figure.legend(loc="outside lower center", ncols=3, columnspacing=1.0, handletextpad=0.2)
            best = ", ".join(f"{point.name} {point.score:.4f}" for point in self.front(axis))
            return pictures.svg(figure, self._caption(axis), f"On the front: {best}.")

    def _caption(self, axis: Axis) -> str:
        return f"{self.metric} against {axis.name}"

    def _looks(self) -> dict[str, tuple[str, str]]:
        """Series -> colour and marker: ink for what is dense or from outside, a colour for each method."""
        series = list(dict.fromkeys(point.series for point in self.points if point.kind == RUN))
        looks = {name: (pictures.SERIES[n % len(pictures.SERIES)], "o") for n, name in enumerate(series)}
        there = {point.kind for point in self.points}
        fixed = {TEACHER: (pictures.COLOURS["ink"], "D"), OUTSIDE: (pictures.COLOURS["muted"], "s")}
        return {**{kind: look for kind, look in fixed.items() if kind in there}, **looks}

    def _dots(self, axes: Any, axis: Axis, points: Sequence[Point], look: tuple[str, str]) -> None:
        colour, marker = look
        label = points[0].series
        for point in points:
            x, scores = axis.value(point), point.values(_score)
            if x is not None:
                axes.plot([x, x], [min(scores), max(scores)], color=colour, linewidth=1.2, alpha=0.6)
                axes.plot([x], [point.score], marker, color=colour, label=label)
                label = "_"  # matplotlib leaves such names out of the legend

    def _joined(self, axes: Any, axis: Axis) -> None:
        """The front as a line, each of its points with its number in the table."""
        front = self.front(axis)
        xs, scores = [axis.value(point) for point in front], [point.score for point in front]
        axes.plot(xs, scores, color=pictures.COLOURS["muted"], linewidth=1.0, zorder=1)
        for point, x in zip(front, xs, strict=True):
            number = str(self.points.index(point) + 1)
            axes.annotate(number, (x, point.score), (0, 6), textcoords="offset points", ha="center", fontsize=9)


def _logarithmic(axes: Any) -> None:
    """A logarithmic axis whose ticks are plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _score(entry: Entry) -> float:
    return entry.score


# Reading runs


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
        """What decided the result but for the seed: keys that came after this run have their defaults."""
        return {key: value for key, value in {**_defaults(), **self.report.recipe}.items() if key not in NOT_THE_RECIPE}


@cache
def _defaults() -> dict[str, Any]:
    return make({"model": "", "data": ""}).model_dump(mode="json")


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
            f"{run.folder} by {metric} on {rows:,} validation rows of {run.report.recipe['data']} ({data})"
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
        greater=tasks.get(runs[0].recipe["task"]).greater_is_better,
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
        Point(name, RUN, members[0].recipe["method"], tuple(map(_entry, members)))
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _names(runs: Sequence[Finished]) -> list[str]:
    """Method and aim of each; where two share both, also what tells their recipes apart, by as few keys as will do."""
    names = [f"{run.recipe['method']} at {run.report.aim}" for run in runs]
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


# Written


def _statistics(values: Sequence[float]) -> dict[str, float] | None:
    return {"mean": fmean(values), "lowest": min(values), "highest": max(values)} if values else None


def _spread(values: Sequence[float], form: str, star: str = "") -> str:
    """The mean, starred or not, and the lowest and the highest where they differ."""
    if not values:
        return "-"
    mean, lowest, highest = (format(value, form) for value in (fmean(values), min(values), max(values)))
    return mean + star if lowest == highest else f"{mean}{star} ({lowest}-{highest})"


def _rounded(value: float, form: str) -> float:
    return float(format(value, form))
