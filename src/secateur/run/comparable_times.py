"""The times of compared models: which of them were measured under the same protocol, and the criteria made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from secateur.report.comparison import RUN, Criterion, Point, ScoredModel, Shape, Timing
from secateur.report.size_text import MEGABYTE, megabytes

PROTOCOL = ("threads", "dtype", "runtime", "device", "machine")
"""Keys of the protocol that two speed-ups must share to be comparable."""
KEPT_PROTOCOL = (*PROTOCOL, "repeats")
"""Keys of the protocol that a comparison keeps of a latency."""


def times_of(latency: Iterable[Mapping[str, Any]]) -> dict[Shape, Timing]:
    """The latencies of a report by their shape."""
    return {
        (one["protocol"]["batch"], one["protocol"]["tokens"]): Timing(
            one["latency_ms"], one["speed_up"], {key: one["protocol"][key] for key in KEPT_PROTOCOL}
        )
        for one in latency
    }


def measured_times(point: Point, measured: Mapping[str, Mapping[Shape, Timing]]) -> Point:
    """A point with the times that were measured in one benchmark, by the place of a model; a baseline has none."""
    return replace(point, models=tuple(replace(one, times=measured.get(one.place, {})) for one in point.models))


def comparable(points: Sequence[Point]) -> tuple[list[Point], tuple[str, ...]]:
    """The points with the times that are comparable, and remarks about those that are not."""
    remarks = []
    models = [model for point in points if point.origin == RUN for model in point.models]
    for shape in _shapes(points):
        protocols = [model.times[shape].protocol for model in models if shape in model.times]
        differing = [key for key in PROTOCOL if len({protocol[key] for protocol in protocols}) > 1]
        if differing:
            points = [_without(point, shape) for point in points]
            remarks.append(
                f"speed-up at {_shape_text(shape)} is left out because the runs differ in {', '.join(differing)}: "
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


def criteria(points: Sequence[Point], measured: bool) -> tuple[Criterion, ...]:
    """Density, size, and the time at each shape: milliseconds if all were measured in turn, otherwise speed-ups."""
    chosen = [
        Criterion("density", lambda model: model.density, "{:.4f}".format, logarithmic=True),
        Criterion("weights, MB", lambda model: model.bytes / MEGABYTE, _megabytes, logarithmic=True),
    ]
    for shape in _shapes(points):
        if measured:
            of, name = partial(_time_of, shape, "latency_ms"), f"{_shape_text(shape)}, ms"
            chosen.append(Criterion(name, of, "{:.2f}".format, logarithmic=True))
        else:
            of, name = partial(_time_of, shape, "speed_up"), f"{_shape_text(shape)} speed-up"
            chosen.append(Criterion(name, of, "{:.2f}".format, less=False, logarithmic=True))
    return tuple(chosen)


def _megabytes(size: float) -> str:
    return megabytes(size * MEGABYTE)


def _time_of(shape: Shape, name: str, model: ScoredModel) -> float | None:
    return getattr(model.times[shape], name) if shape in model.times else None
