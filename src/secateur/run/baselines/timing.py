"""The times of a run's baselines, of its teacher and of its model, all in turn on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.measure.benchmark import benchmark
from secateur.measure.benchmark_result import BenchmarkResult
from secateur.run.baselines.baseline import Row
from secateur.run.context import Context
from secateur.run.models import load_teacher
from secateur.surgery.checkpoint import load

TEACHER, PRUNED = "teacher", "pruned"
SHARED = ("repeats", "warmup", "settle", "threads", "order", "device", "machine")
"""What the protocols of all times have in common."""

Times = Mapping[str, list[dict[str, Any]]]
"""Name of a model -> its time at each shape: `batch`, `tokens`, `latency_ms`, and the `speed_up` over the teacher in
PyTorch in fp32."""


def timed(context: Context, rows: Sequence[Row]) -> tuple[Times, dict[str, Any] | None]:
    """The times of the teacher, of the pruned model and of all rows, and how they were measured.

    There are none for a recipe that measures no latency. Only the main process may call it.
    """
    measurement = context.recipe.measurement
    if not measurement.shapes:
        return {}, None
    models: dict[str, Any] = {TEACHER: load_teacher(context.whole), PRUNED: load(context.model_folder)}
    for row in rows:
        if row.latency is None:
            path = context.folder / row.place
            models[row.name] = load(path) if path.is_dir() else path
    options: dict[str, Any] = {"shapes": measurement.shapes, "repeats": measurement.repeats, "peak_memory": False}
    results = benchmark(models, dense=TEACHER, **options)
    dense = {(one.batch, one.tokens): one.latency_ms for one in results if one.model == TEACHER}
    times = {name: [_time(one) for one in results if one.model == name] for name in models}
    own = {row.name: [_own_time(one, dense) for one in row.latency] for row in rows if row.latency is not None}
    return times | own, {key: results[0].protocol[key] for key in SHARED}


def _time(one: BenchmarkResult) -> dict[str, Any]:
    shape = {"batch": one.batch, "tokens": one.tokens}
    return shape | {"latency_ms": one.latency_ms, "speed_up": one.speed_up_baseline}


def _own_time(one: Mapping[str, Any], dense: Mapping[tuple[int, int], float]) -> dict[str, Any]:
    return {**one, "speed_up": dense[one["batch"], one["tokens"]] / one["latency_ms"]}
