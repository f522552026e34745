"""Measuring a latency table: real cut models, timed in turn with one reference.

All layers get the same attention and no feed-forward network, or the other way round; what the model then takes longer
than with neither, over the number of layers, is the cost of one sublayer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from secateur.budget.latency import LatencyTable, check_measurable, model_shape, varied_sizes
from secateur.measure.bench import measure
from secateur.measure.measurement import Measurement
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery.cut import cut

WIDTHS = (4, 2, 1)  # sizes measured: 1, and these fractions of the unpruned size
NEURONS = (16, 4, 2, 1)
STREAMS = (2, 1)
WARMUP = 3

Timer = Callable[[PreTrainedModel, PreTrainedModel], Measurement]
"""Times a model in turn with another, as `bench.measure` does: `(model, against)` to the measurement of both."""

Sizes = tuple[int, ...]
"""Heads, QK width, VO width, neurons of every layer alike: 0 heads or neurons leave the output bias, -1 nothing."""


def measure_latency(
    model: PreTrainedModel,
    *units: str,
    batch: int = 8,
    tokens: int = 128,
    repeats: int = 10,
    timer: Timer | None = None,
    **protocol: Any,
) -> LatencyTable:
    """Measure the sizes that pruning these units can lead to; takes minutes for a model of 100M parameters.

    Args:
        repeats: timed forward passes of each cut model, in turn with the reference.
        timer: in place of `bench.measure`, which otherwise gets batch, tokens, repeats and `protocol` (threads,
            runtime, dtype).
    """
    call = {"batch": batch, "tokens": tokens, **protocol}
    timer = timer or partial(measure, repeats=repeats, warmup=WARMUP, **call)
    space = UnitSpace(model, *units)
    check_measurable(space)
    return _measured(space, measured_sizes(space), timer, call)


LatencyTable.measure = staticmethod(measure_latency)  # the entry that users know, beside `load`


def measure_again(
    table: LatencyTable, model: PreTrainedModel, against: PreTrainedModel, repeats: int = 50
) -> Measurement:
    """The latency of a model that was cut for this table, by the table's protocol, in turn with the dense model."""
    call: dict[str, Any] = dict(table.call)
    return measure(model, against, repeats=repeats, **call)


def target_reached(record: Mapping[str, Any], measured: Measurement) -> dict[str, Any]:
    """What a plan asked for and predicted (`Plan.latency`), and what was measured at the end, in ms and as speed-up."""
    dense = record["unpruned_ms"]
    times: dict[str, Any] = {}
    for what in ("asked", "predicted"):
        times[f"{what}_ms"] = record[f"{what}_ms"]
        times[f"{what}_speedup"] = dense / record[f"{what}_ms"]
    return {
        **times,
        "measured_ms": measured.latency_ms,
        "measured_speedup": measured.speed_up,
        "unpruned_ms": {"predicted": dense, "measured": measured.against.latency_ms if measured.against else None},
        "protocol": dict(measured.protocol),
    }


def measured_sizes(space: UnitSpace) -> dict[str, list[int]]:
    """The sizes to measure; of one that pruning cannot change, only the unpruned size."""
    table = space.table
    whole = {"heads": table.heads, "qk": table.head_dim, "vo": table.head_dim}
    whole |= {"ffn": table.sizes["0.ffn"], "hidden": table.sizes["hidden"]}
    parts = {"heads": WIDTHS, "qk": WIDTHS, "vo": WIDTHS, "ffn": NEURONS, "hidden": STREAMS}
    varied = varied_sizes(space)
    return {
        axis: sorted({1, *(max(1, size // part) for part in parts[axis])}) if axis in varied else [size]
        for axis, size in whole.items()
    }


def _measured(
    space: UnitSpace, grid: Mapping[str, list[int]], timer: Timer, call: Mapping[str, int | str | None]
) -> LatencyTable:
    """Every point of the grid, timed in turn with one reference, which takes the drift of the machine out."""
    names = ("heads", "qk", "vo")
    middle = tuple(max(1, grid[name][-1] // 2) for name in names)
    clock = _Clock(timer, _cut_to(space, (*middle, 0), grid["hidden"][-1]))
    empty, bare = (-1, -1, -1, -1), ((0, 0, 0, -1), (-1, -1, -1, 0))
    attentions = [(*point, -1) for point in product(*(grid[name] for name in names))]
    mlps = [(-1, -1, -1, neurons) for neurons in grid["ffn"]]
    points = [empty, *bare, *attentions, *mlps]
    for hidden, point in product(grid["hidden"], points):
        clock.time((hidden, point), _cut_to(space, point, hidden))
    clock.time("dense", space.model)
    ms = clock.milliseconds()
    times = np.array([[ms[hidden, point] for hidden in grid["hidden"]] for point in points])
    rest, costs = times[0], np.maximum(times[1:] - times[0], 0.0) / len(space.table.layers)
    shape = [len(grid[name]) for name in (*names, "hidden")]
    attention, mlp = costs[2 : 2 + len(attentions)].reshape(shape), costs[2 + len(attentions) :]
    bare_attention, bare_mlp = _rising(costs[0]), _rising(costs[1])
    return LatencyTable(
        shape=model_shape(space),
        protocol=clock.protocol,
        call=call,
        grid=dict(grid),
        rest=_rising(rest),
        attention=np.maximum(_rising(attention), bare_attention),
        bare_attention=bare_attention,
        mlp=np.maximum(_rising(mlp), bare_mlp),
        bare_mlp=bare_mlp,
        dense_ms=ms["dense"],
    )


class _Clock:
    """Times of models, each as a multiple of the reference's time in the same minute."""

    def __init__(self, timer: Timer, reference: PreTrainedModel) -> None:
        self.timer, self.reference = timer, reference
        self.multiples: dict[Any, float] = {}
        self.references: list[float] = []
        self.protocol: dict[str, int | str] = {}

    def time(self, name: Any, model: PreTrainedModel) -> None:
        """Time a model in turn with the reference, under a name."""
        both = self.timer(model, self.reference)
        if both.against is None:
            raise ValueError("the timer must time both models, in turn")
        self.multiples[name] = both.latency_ms / both.against.latency_ms
        self.references.append(both.against.latency_ms)
        self.protocol = dict(both.protocol)

    def milliseconds(self) -> dict[Any, float]:
        """What each model takes while the reference takes its median time."""
        return {name: multiple * float(np.median(self.references)) for name, multiple in self.multiples.items()}


def _cut_to(space: UnitSpace, point: Sizes, hidden: int) -> PreTrainedModel:
    """The model cut to the first units of these sizes, in every layer alike."""
    whole = UnitSpace(space.model, "sublayer", "qk", "vo", "ffn", "hidden")
    masks, table = whole.ones().cpu(), whole.table
    heads, qk, vo, neurons = point
    masks[whole.slices["hidden"]] = (torch.arange(table.sizes["hidden"]) < hidden).float()
    index = torch.arange(table.heads * table.head_dim)
    number, dim = index // table.head_dim, index % table.head_dim
    for layer in table.layers:
        masks[whole.slices[f"{layer}.attention"]] = float(heads >= 0)
        masks[whole.slices[f"{layer}.mlp"]] = float(neurons >= 0)
        for axis, width in (("qk", qk), ("vo", vo)):
            masks[whole.slices[f"{layer}.{axis}"]] = ((number < heads) & (dim < width)).float()
        masks[whole.slices[f"{layer}.ffn"]] = (torch.arange(table.sizes[f"{layer}.ffn"]) < neurons).float()
    return cut(space.model, Plan.of(whole, masks, source=""))


def _rising(costs: np.ndarray) -> np.ndarray:
    """The costs made to rise along every axis: the mean of the running maximum and the minimum still to come."""
    for axis in range(costs.ndim):
        later = np.flip(np.minimum.accumulate(np.flip(costs, axis), axis=axis), axis)
        costs = (np.maximum.accumulate(costs, axis=axis) + later) / 2
    return costs
