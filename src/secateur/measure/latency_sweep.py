"""Measuring a latency table: real cut models, timed in turn with one reference.

All layers get the same attention and no feed-forward network, or the other way round. The additional time over a model
with neither, divided by the number of layers, is the cost of one sublayer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.latency import LatencyTable, check_measurable, model_shape, varied_sizes
from secateur.measure.bench import measure
from secateur.measure.measurement import Measurement
from secateur.measure.random_inputs import tokens_read
from secateur.structure.groups import Group
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery.cut import cut

FRACTIONS = {"heads": (4, 2, 1), "qk": (4, 2, 1), "vo": (4, 2, 1), "ffn": (16, 4, 2, 1), "hidden": (2, 1)}
"""The sizes measured of each axis: 1, and the unpruned size divided by these numbers."""
WARMUP = 3
"""Untimed forwards of each model."""

Timer = Callable[[PreTrainedModel, PreTrainedModel], Measurement]
"""Times a model in turn with another, as `bench.measure` does: `(model, against)` -> the measurement of both."""

Sizes = tuple[int, ...]
"""Heads, QK width, VO width and neurons of every layer: 0 heads or neurons keep only the output bias, -1 nothing."""

ATTENTION = ("heads", "qk", "vo")
"""The sizes of an attention."""
EMPTY: Sizes = (-1, -1, -1, -1)
BARE_ATTENTION: Sizes = (0, 0, 0, -1)
BARE_MLP: Sizes = (-1, -1, -1, 0)
"""Layers without sublayers, and with only the output bias of one of them."""


def measure_latency(
    model: PreTrainedModel,
    *units: str,
    batch: int = 8,
    tokens: int = 128,
    repeats: int = 10,
    timer: Timer | None = None,
    **protocol: Any,
) -> LatencyTable:
    """Measure the sizes that pruning these units can lead to; this takes minutes for a model of 100M parameters.

    Args:
        repeats: timed forward passes of each cut model, in turn with the reference.
        timer: in place of `bench.measure`, which otherwise gets batch, tokens, repeats and `protocol` (threads,
            runtime, dtype).
    """
    call = {"batch": batch, "tokens": tokens_read([model], tokens), **protocol}
    timer = timer or partial(measure, repeats=repeats, warmup=WARMUP, **call)
    space = UnitSpace(model, *units)
    check_measurable(space)
    return _measured(space, measured_sizes(space), timer, call)


LatencyTable.measure = staticmethod(measure_latency)  # the public name, besides `load`


def measure_again(
    table: LatencyTable, model: PreTrainedModel, against: PreTrainedModel, repeats: int = 50
) -> Measurement:
    """The latency of a model that was cut by this table, with the table's protocol, in turn with the dense model."""
    call: dict[str, Any] = dict(table.call)
    return measure(model, against, repeats=repeats, **call)


def target_reached(record: Mapping[str, Any], measured: Measurement) -> dict[str, Any]:
    """The latency asked for and predicted (`Plan.latency`) and the one measured, in ms and as speed-ups."""
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
    """The sizes to measure of each axis; of an axis that pruning cannot change, only the unpruned size."""
    table = space.table
    whole = {"heads": table.heads, "qk": table.head_dim, "vo": table.head_dim}
    whole |= {"ffn": table.sizes["0.ffn"], "hidden": table.sizes["hidden"]}
    varied, least = varied_sizes(space), {"qk": 2 if table.attentions[0].rotary else 1}
    return {
        axis: _fractions(size, FRACTIONS[axis], least.get(axis, 1)) if axis in varied else [size]
        for axis, size in whole.items()
    }


def _fractions(size: int, parts: Sequence[int], least: int) -> list[int]:
    """Fractions of a size, and the least, of which all are multiples."""
    return sorted({least, *(max(1, size // part // least) * least for part in parts)})


def _measured(
    space: UnitSpace, grid: Mapping[str, list[int]], timer: Timer, call: Mapping[str, int | str | None]
) -> LatencyTable:
    """Time every point of the grid, in turn with one reference, which removes the drift of the machine."""
    attentions = [(*sizes, -1) for sizes in product(*(grid[name] for name in ATTENTION))]
    mlps = [(-1, -1, -1, neurons) for neurons in grid["ffn"]]
    times, clock = _times(space, grid, timer, [EMPTY, BARE_ATTENTION, BARE_MLP, *attentions, *mlps])
    rest = times[0]
    bare_attention, bare_mlp, *costs = np.maximum(times[1:] - rest, 0.0) / len(space.table.layers)
    shape = [len(grid[name]) for name in (*ATTENTION, "hidden")]
    attention, mlp = np.array(costs[: len(attentions)]).reshape(shape), np.array(costs[len(attentions) :])
    bare_attention, bare_mlp = _rising(bare_attention), _rising(bare_mlp)
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
        dense_ms=clock.milliseconds()["dense"],
    )


def _times(
    space: UnitSpace, grid: Mapping[str, list[int]], timer: Timer, points: Sequence[Sizes]
) -> tuple[np.ndarray, _RelativeClock]:
    """Milliseconds `(points, hidden sizes)`, and the clock, which has also timed the unpruned model as `dense`."""
    middle = (*(max(1, grid[name][-1] // 2) for name in ATTENTION), 0)
    clock = _RelativeClock(timer, _cut_to(space, middle, grid["hidden"][-1]))
    for hidden, point in product(grid["hidden"], points):
        clock.time((hidden, point), _cut_to(space, point, hidden))
    clock.time("dense", space.model)
    ms = clock.milliseconds()
    return np.array([[ms[hidden, point] for hidden in grid["hidden"]] for point in points]), clock


class _RelativeClock:
    """Times of models, each as a multiple of the reference's time, which is measured in turn with it."""

    def __init__(self, timer: Timer, reference: PreTrainedModel) -> None:
        self.timer, self.reference = timer, reference
        self.multiples: dict[Any, float] = {}
        self.references: list[float] = []
        self.protocol: dict[str, int | str] = {}

    def time(self, name: Any, model: PreTrainedModel) -> None:
        """Time a model in turn with the reference, and record it under a name."""
        both = self.timer(model, self.reference)
        if both.against is None:
            raise ValueError("expected a timer that times both models in turn, got the time of one: use bench.measure")
        self.multiples[name] = both.latency_ms / both.against.latency_ms
        self.references.append(both.against.latency_ms)
        self.protocol = dict(both.protocol)

    def milliseconds(self) -> dict[Any, float]:
        """The time of each model while the reference takes its median time."""
        return {name: multiple * float(np.median(self.references)) for name, multiple in self.multiples.items()}


def _cut_to(space: UnitSpace, point: Sizes, hidden: int) -> PreTrainedModel:
    """The model with every layer cut to the first units of these sizes."""
    whole = UnitSpace(space.model, "sublayer", "qk", "vo", "ffn", "hidden")
    masks, table = whole.ones().cpu(), whole.table
    heads, qk, vo, neurons = point
    masks[whole.slices["hidden"]] = (torch.arange(table.sizes["hidden"]) < hidden).float()
    groups = {group.name: group for group in whole.groups}
    for layer in table.layers:
        masks[whole.slices[f"{layer}.attention"]] = float(heads >= 0)
        masks[whole.slices[f"{layer}.mlp"]] = float(neurons >= 0)
        for axis, width in (("qk", qk), ("vo", vo)):
            group = groups[f"{layer}.{axis}"]
            number, first = torch.arange(group.size) // (group.size // table.heads), _first_dims(group, table.heads)
            masks[whole.slices[group.name]] = ((number < heads) & (first < width)).float()
        masks[whole.slices[f"{layer}.ffn"]] = (torch.arange(table.sizes[f"{layer}.ffn"]) < neurons).float()
    return cut(space.model, Plan.of(whole, masks, source=""))


def _first_dims(group: Group, heads: int) -> Tensor:
    """`(units,)`: how many dims of its head the units before one have."""
    return torch.arange(group.size) % (group.size // heads) * group.axes[group.sites[0]]


def _rising(costs: np.ndarray) -> np.ndarray:
    """Costs that rise along every axis: the mean of the running maximum and the minimum of all later values."""
    for axis in range(costs.ndim):
        later = np.flip(np.minimum.accumulate(np.flip(costs, axis), axis=axis), axis)
        costs = (np.maximum.accumulate(costs, axis=axis) + later) / 2
    return costs
