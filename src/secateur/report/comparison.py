"""Comparisons of runs: scores against density, size and speed, over methods and seeds.

Runs whose recipes differ only in the seed are one point, with their mean, lowest and highest values. The dense teachers
are points too, and so is any other model that was scored on the same rows. The latencies in a report depend on the
state of the machine at that time; their ratio to the dense model's, measured in turn, does not. Therefore speed-ups are
compared, unless all models are measured again, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from secateur.report.report import retention
from secateur.tasks.origin import rows_of

SCORE = "{:.4f}".format
"""A score as text."""
ORIGINS = TEACHER, OUTSIDE, BASELINE, RUN = "teacher", "outside", "baseline", "run"

Shape = tuple[int, int]
"""(batch, tokens)"""


@dataclass(frozen=True)
class Timing:
    """The median latency of one model at one shape, and its speed-up over its dense teacher, measured in turn.

    `protocol` is how it was measured: threads, dtype, runtime, device, machine, repeats.
    """

    latency_ms: float
    speed_up: float | None
    protocol: Mapping[str, Any]


@dataclass(frozen=True)
class ScoredModel:
    """One model and its score.

    Attributes:
        place: the run's folder, or the model's.
        score: on the rows that all models share.
        density: fraction kept of the teacher's prunable parameters; None where that is not defined.
        bytes: of the weights; in float32 for a dense model.
        teacher: place and score of the dense teacher; a teacher's own for a teacher, None for a model of no run.
        times: by (batch, tokens).
        constant: the score of a constant prediction, 0 if there is none.
        greater_is_better: whether a larger score is better.
        standard_error: of the score; None where it is not known.
    """

    place: str
    score: float
    density: float | None
    parameters: int
    bytes: int
    teacher: tuple[str, float] | None = None
    times: Mapping[Shape, Timing] = field(default_factory=dict)
    constant: float = 0.0
    standard_error: float | None = None
    greater_is_better: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `retention` included."""
        times = [
            {"batch": batch, "tokens": tokens, "latency_ms": time.latency_ms, "speed_up": time.speed_up}
            for (batch, tokens), time in self.times.items()
        ]
        plain = {"place": self.place, "score": self.score, "retention": self.retention, "density": self.density}
        return {**plain, "parameters": self.parameters, "bytes": self.bytes, "times": times}

    @property
    def retention(self) -> float | None:
        """The score over the teacher's; None without a teacher, or where `report.retention` is."""
        if self.teacher is None:
            return None
        return retention(self.score, self.teacher[1], self.constant, self.greater_is_better, self.standard_error)


@dataclass(frozen=True)
class Point:
    """Models that differ only in the seed: a row of the table and a dot of the pictures.

    `origin` is one of `ORIGINS`. Points of one method, or of one other origin, are a `series`.
    """

    name: str
    origin: str
    series: str
    models: tuple[ScoredModel, ...]

    def values(self, of: Callable[[ScoredModel], float | None]) -> list[float]:
        """A value of each model; empty if any model lacks it."""
        values = [value for value in map(of, self.models) if value is not None]
        return values if len(values) == len(self.models) else []

    @property
    def score(self) -> float:
        """Mean over the models."""
        return fmean(model.score for model in self.models)


@dataclass(frozen=True)
class Criterion:
    """A cost or a benefit to compare the score with.

    Attributes:
        name: its name, with the unit.
        of: model -> its value, None if the model lacks it.
        form: a value -> its text, to whose precision values are compared.
        less: whether smaller values are better.
        logarithmic: whether its values differ by orders of magnitude.
    """

    name: str
    of: Callable[[ScoredModel], float | None]
    form: Callable[[float], str]
    less: bool = True
    logarithmic: bool = False

    def value(self, point: Point) -> float | None:
        """Mean over the point's models; None if any model lacks it."""
        values = point.values(self.of)
        return fmean(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """Points that were scored on the same rows.

    Attributes:
        metric: the score's name; `greater` is whether larger scores are better.
        data: fingerprint of the scored rows, or of all data for runs of before; `rows` is the number of scored rows.
        split: the name of their split in the data; None for rows that are split off the training rows.
        measured: whether all latencies are of one benchmark, in turn; otherwise the speed-ups are from the reports.
        remarks: what was left out, and why.
    """

    metric: str
    greater: bool
    data: str
    rows: int
    points: tuple[Point, ...]
    criteria: tuple[Criterion, ...]
    measured: bool = False
    remarks: tuple[str, ...] = ()
    split: str | None = "validation"

    def front(self, criterion: Criterion) -> list[Point]:
        """The Pareto front of score and criterion, both as they are shown; the best criterion first."""
        sign, direction = (-1.0 if self.greater else 1.0), (1.0 if criterion.less else -1.0)
        values = [(criterion.value(point), point) for point in self.points]
        placed = [
            (direction * _rounded(value, criterion.form), sign * _rounded(point.score, SCORE), point)
            for value, point in values
            if value is not None
        ]
        return [
            point
            for cost, loss, point in sorted(placed, key=lambda one: one[:2])
            if not any(c <= cost and s <= loss and (c, s) != (cost, loss) for c, s, _ in placed)
        ]

    @property
    def scored_rows(self) -> str:
        """The number of scored rows and their split, such as "872 test rows"."""
        return f"{self.rows:,} {rows_of(self.split)}"

    @property
    def protocol(self) -> Mapping[str, Any] | None:
        """How the times were measured; None if there are none to compare."""
        models = (model for point in self.points for model in point.models)
        return next((time.protocol for model in models for time in model.times.values()), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "metric": self.metric,
            "greater_is_better": self.greater,
            "data": self.data,
            "rows": self.rows,
            "split": self.split,
            "measured": self.measured,
            "protocol": self.protocol and dict(self.protocol),
            "points": [self._point(point) for point in self.points],
        }

    def _point(self, point: Point) -> dict[str, Any]:
        return {
            "name": point.name,
            "kind": point.origin,
            "series": point.series,
            "n": len(point.models),
            "score": _statistics(point.values(score_of)),
            "axes": {criterion.name: _statistics(point.values(criterion.of)) for criterion in self.criteria},
            "front": [criterion.name for criterion in self.criteria if point in self.front(criterion)],
            "entries": [model.to_dict() for model in point.models],
        }


def score_of(model: ScoredModel) -> float:
    """The score, as a function for `Point.values`."""
    return model.score


def _statistics(values: Sequence[float]) -> dict[str, float] | None:
    return {"mean": fmean(values), "lowest": min(values), "highest": max(values)} if values else None


def _rounded(value: float, form: Callable[[float], str]) -> float:
    return float(form(value))
