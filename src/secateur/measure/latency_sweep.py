"""Measuring a latency table: real cut models, timed in turn with one reference.

All blocks of one kind get the same attention and no feed-forward network, or the other way round, and those of other
kinds neither. The additional time over a model without any, divided by the number of these blocks, is the cost of one
sublayer.
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

from secateur.budget.block_times import BlockTimes
from secateur.budget.latency import LatencyTable, blocks_by_kind, check_measurable, model_shape, varied_sizes
from secateur.budget.size_costs import NOTHING, OF_ATTENTION, REMOVED, SIZES
from secateur.measure.bench import measure
from secateur.measure.generation import GENERATION, WHOLE, check_part
from secateur.measure.measurement import Measurement
from secateur.measure.random_inputs import tokens_read
from secateur.structure.axis_table import AxisTable
from secateur.structure.groups import Group, kinds_of
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery.cut import cut
from secateur.system.errors import UserError
from secateur.system.model_state import on_device

FRACTIONS = {"heads": (4, 2, 1), "sharing": (4, 2, 1), "qk": (4, 2, 1), "vo": (4, 2, 1), "ffn": (16, 4, 2, 1)}
OF_STREAM = (2, 1)
"""The sizes measured of each axis, and of the residual stream: 1, and the unpruned size divided by these numbers."""
REPEATS = 10
"""Timed forwards of each model; generations, which take many, are timed half as often."""
WARMUP = 3
"""Untimed forwards of each model; one generation."""

Timer = Callable[[PreTrainedModel, PreTrainedModel], Measurement]
"""Times a model in turn with another, as `bench.measure` does: `(model, against)` -> the measurement of both."""

Sizes = tuple[int, ...]
"""Sizes of a block (`SIZES`): 0 heads or neurons keep only the output bias, -1 nothing."""
BARE_ATTENTION: Sizes = (0, 0, 0, 0, REMOVED)
BARE_MLP: Sizes = (REMOVED, REMOVED, REMOVED, REMOVED, 0)


def measure_latency(
    model: PreTrainedModel,
    *units: str,
    batch: int = 8,
    tokens: int = 128,
    part: str = WHOLE,
    beams: int = 1,
    repeats: int = REPEATS,
    timer: Timer | None = None,
    **protocol: Any,
) -> LatencyTable:
    """Measure the sizes that pruning these units can lead to; this takes minutes for a model of 100M parameters.

    Args:
        part: what is timed, "whole" or "generation" (`bench.measure`).
        beams: of a generation; 1 is greedy.
        repeats: timed forward passes of each cut model, in turn with the reference; of generations half as many.
        timer: in place of `bench.measure`, which otherwise gets these and `protocol` (threads, runtime, dtype).

    Raises:
        UserError: tiles are no units of a latency, the model has no such part, the dtype is one of autocast, which a
            table does not record, or `bench.measure` refuses the protocol.
    """
    if isinstance(protocol.get("dtype"), torch.dtype):
        raise UserError(f"a latency table is of a dtype by its name, such as 'bf16', got {protocol['dtype']}: name it")
    call: dict[str, Any] = {
        "batch": batch,
        "tokens": tokens_read([model], tokens),
        "part": part,
        "beams": beams,
        **protocol,
    }
    often = (max(1, repeats // 2), 1) if part == GENERATION else (repeats, WARMUP)
    timer = timer or partial(measure, repeats=often[0], warmup=often[1], **call)
    check_part(model, part, call["tokens"], beams)
    space = UnitSpace(model, *units)
    check_measurable(space)
    return _measured(space, measured_sizes(space), timer, call)


LatencyTable.measure = staticmethod(measure_latency)  # the public name, besides `load`


def measure_again(
    table: LatencyTable, model: PreTrainedModel, against: PreTrainedModel, repeats: int = 50
) -> Measurement:
    """The latency of a model that was cut by this table, with the table's protocol, in turn with the dense model.

    Both are measured on the device of the table, also with its number of threads, and then moved back to where they
    are.

    Args:
        repeats: of forward passes; a tenth of generations.
    """
    threads = table.call.get("threads") or table.protocol["threads"]  # a call may have left them to the process
    call: dict[str, Any] = {**table.call, "threads": threads}
    call |= {"repeats": max(1, repeats // 10), "warmup": 1} if call.get("part") == GENERATION else {"repeats": repeats}
    with on_device([model, against], torch.device(str(table.protocol["device"]))):
        return measure(model, against, **call)


def target_reached(record: Mapping[str, Any], measured: Measurement) -> dict[str, Any]:
    """The latency asked for and predicted (`Plan.latency`) and the one measured, in ms and as speed-ups.

    With them the `protocol` of what is measured, and that of the `table`.
    """
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
        "table": dict(record["protocol"]),
    }


def measured_sizes(space: UnitSpace) -> dict[str, dict[str, list[int]]]:
    """Kind of block -> the sizes to measure of each axis; of one that pruning cannot change, only the unpruned size."""
    table, varied = space.table, varied_sizes(space)
    least = {"qk": 2 if table.attentions[0].rotary else 1}
    found = {}
    for kind, blocks in blocks_by_kind(table).items():
        found[kind] = {
            axis: _fractions(size, FRACTIONS[axis], least.get(axis, 1)) if axis in varied[kind] else [size]
            for axis, size in _whole_sizes(table, blocks[0]).items()
        }
    return found


def _whole_sizes(table: AxisTable, block: str) -> dict[str, int]:
    """The unpruned sizes of a block."""
    shared = table.heads // table.kv_heads
    whole = {"heads": table.kv_heads, "sharing": shared, "qk": table.head_dim, "vo": table.head_dim}
    return whole | ({"ffn": table.sizes[f"{block}.ffn"]} if block in table.layers else {})


def _fractions(size: int, parts: Sequence[int], least: int) -> list[int]:
    """Fractions of a size, and the least, of which all are multiples."""
    return sorted({least, *(max(1, size // part // least) * least for part in parts)})


def _measured(
    space: UnitSpace,
    grids: Mapping[str, Mapping[str, list[int]]],
    timer: Timer,
    call: Mapping[str, int | str | None],
) -> LatencyTable:
    """Time every point of the grids, in turn with one reference, which removes the drift of the machine."""
    whole = space.table.sizes["hidden"]
    widths = _fractions(whole, OF_STREAM, 1) if "hidden" in space.kinds else [whole]
    clock = _RelativeClock(timer, _cut_to(space, {kind: _middle(grid) for kind, grid in grids.items()}, whole))
    points = {kind: _points(grid) for kind, grid in grids.items()}
    for hidden in widths:
        clock.time((hidden, None), _cut_to(space, {}, hidden))
        for kind, own in points.items():
            for point in own:
                clock.time((hidden, kind, point), _cut_to(space, {kind: point}, hidden))
    clock.time("dense", space.model)
    ms = clock.milliseconds()
    rest = np.array([ms[hidden, None] for hidden in widths])
    blocks = {}
    for kind, of_kind in blocks_by_kind(space.table).items():
        times = np.array([[ms[hidden, kind, point] for hidden in widths] for point in points[kind]])
        blocks[kind] = _block_times(len(of_kind), grids[kind], np.maximum(times - rest, 0.0))
    return LatencyTable(
        shape=model_shape(space),
        protocol=clock.protocol,
        call=call,
        hidden=widths,
        rest=_rising(rest),
        blocks=blocks,
        dense_ms=ms["dense"],
    )


def _points(grid: Mapping[str, list[int]]) -> list[Sizes]:
    """The sizes to time of one kind of block: bare sublayers, then attentions, then feed-forward networks, if any."""
    attentions = [(*sizes, REMOVED) for sizes in product(*(grid[axis] for axis in OF_ATTENTION))]
    mlps = [(*NOTHING[:4], neurons) for neurons in grid.get("ffn", ())]
    return [BARE_ATTENTION, *([BARE_MLP] if mlps else []), *attentions, *mlps]


def _middle(grid: Mapping[str, list[int]]) -> Sizes:
    """An attention of half the sizes."""
    return (*(max(1, grid[axis][-1] // 2) for axis in OF_ATTENTION), 0)


def _block_times(count: int, grid: Mapping[str, list[int]], times: np.ndarray) -> BlockTimes:
    """The times of one block from those of `count` alike at its `_points`, `(points, hidden)`."""
    costs, hidden = times / count, times.shape[1]
    attention_shape = [len(grid[axis]) for axis in OF_ATTENTION]
    bare_attention, costs = _rising(costs[0]), costs[1:]
    bare_mlp = np.zeros(hidden)
    if "ffn" in grid:
        bare_mlp, costs = _rising(costs[0]), costs[1:]
    attentions = int(np.prod(attention_shape))
    attention, mlp = costs[:attentions].reshape(*attention_shape, hidden), costs[attentions:]
    return BlockTimes(
        count=count,
        grid=dict(grid),
        attention=np.maximum(_rising(attention), bare_attention),
        bare_attention=bare_attention,
        mlp=np.maximum(_rising(mlp), bare_mlp) if mlp.size else mlp,
        bare_mlp=bare_mlp,
    )


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


def _cut_to(space: UnitSpace, points: Mapping[str, Sizes], hidden: int) -> PreTrainedModel:
    """The model with every block of a kind cut to the first units of these sizes, and the others without sublayers."""
    whole = UnitSpace(space.model, *(kind for kind in kinds_of(space.table) if kind not in ("layer", "kv_head")))
    masks, table = whole.ones().cpu(), whole.table
    masks[whole.slices["hidden"]] = (torch.arange(table.sizes["hidden"]) < hidden).float()
    groups = {group.name: group for group in whole.groups}
    for kind, blocks in blocks_by_kind(table).items():
        sizes = dict(zip(SIZES, points.get(kind, NOTHING), strict=True))
        for block in blocks:
            for name, own in _block_masks(table, groups, block, sizes).items():
                masks[whole.slices[name]] = own.float()
    return cut(space.model, Plan.of(whole, masks, source=""))


def _block_masks(
    table: AxisTable, groups: Mapping[str, Group], block: str, sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """Group -> the units of a block that are kept, bool."""
    keys, heads = table.kv_heads, torch.arange(table.heads)
    each = table.heads // keys
    found = {
        f"{block}.attention": torch.tensor([sizes["heads"] >= 0]),
        f"{block}.head": (heads // each < sizes["heads"]) & (heads % each < sizes["sharing"]),
    }
    for axis in ("qk", "vo"):
        if (group := groups.get(f"{block}.{axis}")) is not None:
            number = torch.arange(group.size) // (group.size // keys)
            found[group.name] = (number < sizes["heads"]) & (_first_dims(group, keys) < sizes[axis])
    if block in table.layers:
        found[f"{block}.mlp"] = torch.tensor([sizes["ffn"] >= 0])
        found[f"{block}.ffn"] = torch.arange(table.sizes[f"{block}.ffn"]) < sizes["ffn"]
    return found


def _first_dims(group: Group, keys: int) -> Tensor:
    """`(units,)`: how many dims of its head the units before one have."""
    return torch.arange(group.size) % (group.size // keys) * group.axes[group.sites[0]]


def _rising(costs: np.ndarray) -> np.ndarray:
    """Costs that rise along every axis: the mean of the running maximum and the minimum of all later values."""
    for axis in range(costs.ndim):
        later = np.flip(np.minimum.accumulate(np.flip(costs, axis), axis=axis), axis)
        costs = (np.maximum.accumulate(costs, axis=axis) + later) / 2
    return costs
