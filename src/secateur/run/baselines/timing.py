"""The times of a run's baselines, of its teacher and of its model, all in turn on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.deploy.export import opened
from secateur.deploy.graph import with_target
from secateur.deploy.runtime import Runner
from secateur.measure.random_inputs import as_tensors, random_inputs, read_by, tokens_read
from secateur.measure.timing import Call, machine, median_and_quartiles, thread_count, times_in_turn
from secateur.run.baselines.baseline import Row
from secateur.run.context import Context
from secateur.run.models import load_teacher
from secateur.surgery.checkpoint import load
from secateur.system.model_state import evaluating

TEACHER, PRUNED = "teacher", "pruned"
WARMUP, SETTLE = 10, 1
"""Untimed forwards of each model at the start, and right before each timed one (`timing.times_in_turn`)."""

Timed = PreTrainedModel | Runner
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
    with thread_count(None) as threads:
        models = _models(context, rows, threads)
        whole = [model for model in models.values() if isinstance(model, PreTrainedModel)]
        shapes = dict.fromkeys((batch, tokens_read(whole, tokens)) for batch, tokens in measurement.shapes)
        medians = {shape: _medians(models, shape, measurement.repeats) for shape in shapes}
    for row in rows:
        for one in row.latency or ():
            medians[one["batch"], one["tokens"]][row.name] = one["latency_ms"]
    times = {name: [_time(shape, own, name) for shape, own in medians.items()] for name in [*models, *_alone(rows)]}
    protocol = {"repeats": measurement.repeats, "warmup": WARMUP, "settle": SETTLE, "threads": threads}
    return times, {**protocol, "order": "interleaved", "device": "cpu", "machine": machine(torch.device("cpu"))}


def _models(context: Context, rows: Sequence[Row], threads: int) -> dict[str, Timed]:
    """The teacher, the pruned model, and the models of the rows that have measured no time themselves."""
    models: dict[str, Timed] = {TEACHER: load_teacher(context.whole), PRUNED: load(context.model_folder)}
    for row in rows:
        if row.latency is None:
            path = context.folder / row.place
            models[row.name] = load(path) if path.is_dir() else opened(path, threads=threads)
    return models


def _alone(rows: Sequence[Row]) -> list[str]:
    return [row.name for row in rows if row.latency is not None]


def _medians(models: Mapping[str, Timed], shape: tuple[int, int], repeats: int) -> dict[str, float]:
    """Name -> the median milliseconds of a forward on random ids without padding, taken in turn."""
    torch_models = [model for model in models.values() if isinstance(model, PreTrainedModel)]
    inputs = random_inputs(read_by(torch_models), *shape)
    calls: list[Call] = []
    for model in models.values():
        if isinstance(model, PreTrainedModel):
            calls.append(partial(model, **with_target(model, as_tensors(inputs))))
        else:
            calls.append(partial(model, inputs))
    with evaluating(torch_models), torch.inference_mode():
        times = times_in_turn(calls, repeats, WARMUP, settle=SETTLE)
    return {name: median_and_quartiles(own)[0] for name, own in zip(models, times, strict=True)}


def _time(shape: tuple[int, int], medians: Mapping[str, float], name: str) -> dict[str, Any]:
    speed_up = medians[TEACHER] / medians[name]
    return {"batch": shape[0], "tokens": shape[1], "latency_ms": medians[name], "speed_up": speed_up}
