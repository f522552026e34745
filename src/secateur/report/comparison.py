"""Runs beside each other: one table, and score against density, size and speed, over runs, methods and seeds.

Runs whose recipes differ in the seed alone are one point: their mean, and the lowest and the highest. The dense
teachers are points too, and so is any model from outside that was scored on the same rows. A latency in a report is of
its own moment; the ratio to the dense model in the same turns is not, so speed-ups are what is compared, unless all
models were measured now, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean
from typing import Any

from secateur.report.report import markdown_table

SCORE = ".4f"
KINDS = TEACHER, OUTSIDE, RUN = "teacher", "outside", "run"

Shape = tuple[int, int]
"""(batch, tokens)"""


@dataclass(frozen=True)
class Time:
    """One model at one shape: its speed-up over its dense teacher in the same turns, and the median that it is of.

    `protocol` is how it was measured: threads, dtype, runtime, device, machine, repeats.
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
            row = [f"{number:2} {point.name}", str(len(point.entries)), _spread(point.values(score_of), SCORE)]
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
                "score": _statistics(point.values(score_of)),
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


def score_of(entry: Entry) -> float:
    """For `Point.values`."""
    return entry.score


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
