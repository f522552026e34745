"""Measured latencies of the sizes that a model's sublayers may have, and the units to keep for a latency.

A table is measured on real cut models: all layers get the same attention and no network, or the other way round, and
what they take longer than with neither, over the number of layers, is the price of one. Between the sizes measured
prices are interpolated, multilinear, and made to rise with every size: more never costs less.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.allocation import SizeCosts, best_units, stored_sizes
from secateur.measure.bench import Measurement, measure
from secateur.structure.plan import Plan
from secateur.structure.space import UNITS, Space
from secateur.surgery.cut import cut
from secateur.system.errors import UserError

VERSION = 1
WIDTHS = (4, 2, 1)  # sizes measured: 1, and these parts of the whole
NEURONS = (16, 4, 2, 1)
STREAMS = (2, 1)
WARMUP = 3

Timer = Callable[[PreTrainedModel, PreTrainedModel], Measurement]
"""Times a model in turn with another, as `bench.measure` does: `(model, against)` to the measurement of both."""

Sizes = tuple[int, ...]
"""Heads, QK width, VO width, neurons of every layer alike: 0 heads or neurons leave the output bias, -1 nothing."""


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Milliseconds of one forward by the sizes that are kept, for one model shape and one protocol; a space's `cost`.

    Attributes:
        shape: of the unpruned model: `model_type`, layers, heads, head_dim, ffn, hidden.
        protocol: how it was measured: batch, tokens, runtime, dtype, threads, device, machine, ...
        call: the arguments of `bench.measure` that measure in this way again.
        grid: the sizes measured: heads, qk, vo, ffn, hidden, each rising to the whole; the whole alone is not varied.
        rest: `(hidden,)` ms of all but the sublayers.
        attention: `(heads, qk, vo, hidden)` ms of one layer's.
        bare_attention: `(hidden,)` ms of one of which the output bias is left.
        mlp: `(ffn, hidden)` ms of one layer's.
        bare_mlp: `(hidden,)` ms of one of which the output bias is left.
        dense_ms: of the unpruned model itself, measured: what shares and speed-ups are of.

    Example:
        >>> table = LatencyTable.measure(model, "ffn", "qk", "vo", batch=8, tokens=128)
        >>> space = Space(model, "ffn", "qk", "vo", cost=table)
        >>> plan = Magnitude(space).plan(table.share_of(latency=5.0))
    """

    shape: Mapping[str, int | str]
    protocol: Mapping[str, int | str]
    call: Mapping[str, int | str | None]
    grid: Mapping[str, list[int]]
    rest: np.ndarray
    attention: np.ndarray
    bare_attention: np.ndarray
    mlp: np.ndarray
    bare_mlp: np.ndarray
    dense_ms: float
    _prices: dict[int, SizeCosts] = field(default_factory=dict, repr=False)

    @staticmethod
    def measure(
        model: PreTrainedModel,
        *units: str,
        batch: int = 8,
        tokens: int = 128,
        repeats: int = 10,
        timer: Timer | None = None,
        **protocol: Any,
    ) -> LatencyTable:
        """Measure the sizes that pruning these units can give the model; minutes for a model of 100M.

        Args:
            repeats: timed forwards of each cut model, in turn with one of them.
            timer: in place of `bench.measure`, to which batch, tokens, repeats and `protocol` (threads, runtime,
                dtype) go otherwise.
        """
        call = {"batch": batch, "tokens": tokens, **protocol}
        timer = timer or partial(measure, repeats=repeats, warmup=WARMUP, **call)
        space = Space(model, *units)
        _refuse(space)
        return _measured(space, _grid(space), timer, call)

    def measure_again(self, model: PreTrainedModel, against: PreTrainedModel, repeats: int = 50) -> Measurement:
        """The latency of a model that was cut for this table, in the way of the table, in turn with the dense one."""
        call: dict[str, Any] = dict(self.call)
        return measure(model, against, repeats=repeats, **call)

    # Saved and loaded

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        plain = {
            "shape": dict(self.shape),
            "protocol": dict(self.protocol),
            "call": dict(self.call),
            "grid": dict(self.grid),
        }
        return {"version": VERSION, **plain, "dense_ms": self.dense_ms, **arrays}

    def save(self, path: Path | str) -> None:
        """Write the table as JSON."""
        partial_ = Path(f"{path}.partial")
        partial_.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        partial_.replace(path)

    @staticmethod
    def load(path: Path | str, **protocol: int | str | None) -> LatencyTable:
        """A table that `save` wrote.

        Args:
            protocol: what it must have been measured with, such as batch=8, tokens=128; None asks for nothing.

        Raises:
            UserError: it cannot be read, is of another version, or of another protocol.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            version = data.pop("version")
            table = LatencyTable(**data | {name: np.array(data[name], dtype=float) for name in _ARRAYS})
            table._check_arrays()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is not a latency table ({error}): give what `secateur latency` writes") from error
        if version != VERSION:
            raise UserError(f"the latency table {path} has version {version!r}, this secateur reads {VERSION}")
        for name, wanted in protocol.items():
            if wanted is not None and table.protocol.get(name) != wanted:
                raise UserError(
                    f"the latency table {path} was measured with {name} {table.protocol.get(name)}, not {wanted}: "
                    "measure another one with `secateur latency`, or ask for this one's"
                )
        return table

    def _check_arrays(self) -> None:
        counts = {name: len(values) for name, values in self.grid.items()}
        for name, axes in _ARRAYS.items():
            array = getattr(self, name)
            if array.shape != tuple(counts[axis] for axis in axes) or not np.isfinite(array).all():
                raise ValueError(f"{name} does not fit its grid")

    # What sizes cost

    def prices(self, hidden: int) -> SizeCosts:
        """What every size costs at a width of the stream."""
        if hidden not in self._prices:
            self._prices[hidden] = self._interpolated(hidden)
        return self._prices[hidden]

    def _interpolated(self, hidden: int) -> SizeCosts:
        stream = _weights(self.grid["hidden"])[hidden - 1]
        heads, qk, vo, ffn = (_weights(self.grid[axis]) for axis in ("heads", "qk", "vo", "ffn"))
        return SizeCosts(
            rest=float(self.rest @ stream),
            attention=np.einsum("ai,bj,ck,ijk->abc", heads, qk, vo, self.attention @ stream, optimize=True),
            bare_attention=float(self.bare_attention @ stream),
            mlp=ffn @ (self.mlp @ stream),
            bare_mlp=float(self.bare_mlp @ stream),
        )

    def predict(self, space: Space, masks: Tensor) -> float:
        """Milliseconds of one forward of the model cut by `masks` `(N,)`: the sum of its prices, at most `dense_ms`.

        Raises:
            UserError: the table is of another shape of model, or was measured for other units.
        """
        self._check_space(space)
        hidden, kept = stored_sizes(space, masks > 0)
        prices = self.prices(hidden)
        return min(prices.rest + float(prices.of(kept).sum()), self.dense_ms)

    def share_of(self, latency: float | None = None, speedup: float | None = None) -> float:
        """The share of the unpruned model's time that `latency` ms are, or that a `speedup` leaves."""
        if latency is not None and speedup is None:
            return latency / self.dense_ms
        if speedup is not None and speedup > 0 and latency is None:
            return 1.0 / speedup
        raise UserError(f"expected a latency in ms or a speedup above 0, got {latency} and {speedup}: name one of them")

    def _check_space(self, space: Space) -> None:
        if (theirs := _shape(space)) != self.shape:
            odd = [
                f"{key} {value}, not {self.shape.get(key)}"
                for key, value in theirs.items()
                if value != self.shape.get(key)
            ]
            raise UserError(
                f"the latency table is for another model: this one has {', '.join(odd)}; measure one for it"
            )
        if fixed := [axis for axis in _varied(space) if len(self.grid[axis]) == 1 and self.grid[axis][0] > 1]:
            raise UserError(
                f"the latency table was measured without varying {', '.join(fixed)}: measure one with the units "
                f"{', '.join(space.units)}"
            )

    # What a space asks of its cost (`space.Cost`)

    def share(self, space: Space, kept: Tensor) -> float:
        """The predicted time over the unpruned model's."""
        return self.predict(space, kept) / self.dense_ms

    def check(self, space: Space, share: float) -> None:
        """Refuse a share that is none or that the space cannot reach, and tiles."""
        _refuse(space)
        whole = self.dense_ms
        if not 0.0 < share <= 1.0 + 1e-9:
            raise UserError(
                f"{share * whole:.4g} ms is no target: the unpruned model takes {whole:.4g} ms ({self._words()}); "
                "ask for less than that, and more than 0"
            )
        floor = self.predict(space, self._cheapest(space))
        if share * whole < floor * (1.0 - 1e-9):
            others = [name for name in UNITS if name not in space.units]
            raise UserError(
                f"{share * whole:.4g} ms is out of reach: pruning only {', '.join(space.units)} leaves at "
                f"least {floor:.4g} ms ({self._words()}); ask for more time or add units from "
                f"{', '.join(others)}"
            )

    def _cheapest(self, space: Space) -> Tensor:
        """`(N,)` bool: all removed that may be; of the stream as few dims as rounding leaves."""
        kept = torch.zeros(len(space), dtype=torch.bool)
        if "hidden" in space.slices:
            start = space.slices["hidden"].start
            kept[start : start + min(space.round_to, space.table.sizes["hidden"])] = True
        return kept

    def keep(self, space: Space, scores: Tensor, share: float, alive: Tensor) -> Tensor:
        """`(N,)` bool: of the units `alive` those that are worth most within a share."""
        limit = share * self.dense_ms
        return space.closure(best_units(space, scores, alive, self.prices, limit)) & alive

    def verdict(self, space: Space, kept: Tensor, share: float | None) -> dict[str, Any]:
        """What a plan says of it: ms asked and predicted, of the unpruned model too, and the protocol."""
        asked = None if share is None else share * self.dense_ms
        times = {"asked_ms": asked, "predicted_ms": self.predict(space, kept), "unpruned_ms": self.dense_ms}
        return {**times, "protocol": dict(self.protocol)}

    def _words(self) -> str:
        p = self.protocol
        return f"{p.get('batch')} x {p.get('tokens')} tokens, {p.get('runtime')}, {p.get('threads')} threads"


_ARRAYS = {
    "rest": ("hidden",),
    "attention": ("heads", "qk", "vo", "hidden"),
    "bare_attention": ("hidden",),
    "mlp": ("ffn", "hidden"),
    "bare_mlp": ("hidden",),
}


def milliseconds(text: str | float) -> float:
    """`5ms`, `0.005 s`, or a bare number of milliseconds.

    Raises:
        UserError: it is none of these.
    """
    words = str(text).strip().lower()
    for unit, factor in (("ms", 1.0), ("s", 1000.0), ("", 1.0)):
        if words.endswith(unit):
            try:
                return factor * float(words.removesuffix(unit))
            except ValueError:
                break
    raise UserError(f"latency {text!r} is not a time: write it like 5ms, 0.005s or 5, which are milliseconds")


def beside(verdict: Mapping[str, Any], measured: Measurement) -> dict[str, Any]:
    """What a plan asked and predicted (`Plan.latency`), and what was measured at the end, in ms and as speed-up."""
    dense = verdict["unpruned_ms"]
    found: dict[str, Any] = {}
    for what in ("asked", "predicted"):
        found[f"{what}_ms"] = verdict[f"{what}_ms"]
        found[f"{what}_speedup"] = dense / verdict[f"{what}_ms"]
    return {
        **found,
        "measured_ms": measured.latency_ms,
        "measured_speedup": measured.speed_up,
        "unpruned_ms": {"predicted": dense, "measured": measured.against.latency_ms if measured.against else None},
        "protocol": dict(measured.protocol),
    }


# Measuring


def _shape(space: Space) -> dict[str, int | str]:
    table = space.table
    whole = {"heads": table.heads, "head_dim": table.head_dim, "ffn": table.sizes["0.ffn"]}
    return {"model_type": table.model_type, "layers": len(table.layers), **whole, "hidden": table.sizes["hidden"]}


def _refuse(space: Space) -> None:
    """Refuse what a table of times cannot tell: tiles, and encoder-decoders."""
    space.table.one_stack("a table of times")
    if space.tiled:
        raise UserError(
            f"a time says nothing of tiles ({', '.join(space.units)}): their zeros take as long as the weights "
            "that they lie in; ask for a density, or for a time with other units"
        )


def _varied(space: Space) -> list[str]:
    """The sizes that pruning these units can change."""
    causes = {"heads": {"head", "vo"}, "qk": {"qk"}, "vo": {"vo"}, "ffn": {"ffn"}, "hidden": {"hidden"}}
    return [axis for axis, units in causes.items() if units & set(space.units)]


def _grid(space: Space) -> dict[str, list[int]]:
    """The sizes to measure: of one that cannot change the whole alone."""
    table = space.table
    whole = {"heads": table.heads, "qk": table.head_dim, "vo": table.head_dim}
    whole |= {"ffn": table.sizes["0.ffn"], "hidden": table.sizes["hidden"]}
    parts = {"heads": WIDTHS, "qk": WIDTHS, "vo": WIDTHS, "ffn": NEURONS, "hidden": STREAMS}
    varied = _varied(space)
    return {
        axis: sorted({1, *(max(1, size // part) for part in parts[axis])}) if axis in varied else [size]
        for axis, size in whole.items()
    }


def _weights(grid: list[int]) -> np.ndarray:
    """`(whole, points)`: how much of each point's price a size of 1, 2, ... up to the whole has: linear between two."""
    whole = np.arange(1, grid[-1] + 1)
    return np.stack([np.interp(whole, grid, point) for point in np.eye(len(grid))], axis=1)


def _measured(
    space: Space, grid: Mapping[str, list[int]], timer: Timer, call: Mapping[str, int | str | None]
) -> LatencyTable:
    """Every point of the grid, timed in turn with one reference, whose speed at the time is taken out."""
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
    found = clock.milliseconds()
    times = np.array([[found[hidden, point] for hidden in grid["hidden"]] for point in points])
    rest, prices = times[0], np.maximum(times[1:] - times[0], 0.0) / len(space.table.layers)
    shape = [len(grid[name]) for name in (*names, "hidden")]
    attention, mlp = prices[2 : 2 + len(attentions)].reshape(shape), prices[2 + len(attentions) :]
    bare_attention, bare_mlp = _rising(prices[0]), _rising(prices[1])
    return LatencyTable(
        shape=_shape(space),
        protocol=clock.protocol,
        call=call,
        grid=dict(grid),
        rest=_rising(rest),
        attention=np.maximum(_rising(attention), bare_attention),
        bare_attention=bare_attention,
        mlp=np.maximum(_rising(mlp), bare_mlp),
        bare_mlp=bare_mlp,
        dense_ms=found["dense"],
    )


class _Clock:
    """Times of models, each as a multiple of one reference's in the same minute."""

    def __init__(self, timer: Timer, reference: PreTrainedModel) -> None:
        self.timer, self.reference = timer, reference
        self.multiples: dict[Any, float] = {}
        self.references: list[float] = []
        self.protocol: dict[str, int | str] = {}

    def time(self, name: Any, model: PreTrainedModel) -> None:
        found = self.timer(model, self.reference)
        if found.against is None:
            raise ValueError("the timer must time both models, in turn")
        self.multiples[name] = found.latency_ms / found.against.latency_ms
        self.references.append(found.against.latency_ms)
        self.protocol = dict(found.protocol)

    def milliseconds(self) -> dict[Any, float]:
        """What each model takes where the reference takes its median."""
        return {name: multiple * float(np.median(self.references)) for name, multiple in self.multiples.items()}


def _cut_to(space: Space, point: Sizes, hidden: int) -> PreTrainedModel:
    """The model cut to the first units of these sizes, in every layer alike."""
    whole = Space(space.model, "sublayer", "qk", "vo", "ffn", "hidden")
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


def _rising(prices: np.ndarray) -> np.ndarray:
    """The prices made to rise along every axis: halfway between the running highest and the lowest still to come."""
    for axis in range(prices.ndim):
        later = np.flip(np.minimum.accumulate(np.flip(prices, axis), axis=axis), axis)
        prices = (np.maximum.accumulate(prices, axis=axis) + later) / 2
    return prices
