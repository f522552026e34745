"""Latency as the budget: measured milliseconds of the sizes that the sublayers of a model may have.

A `LatencyTable` holds the costs of the sizes that `measure.latency_sweep` has measured on cut models. Other sizes are
interpolated multilinearly. Costs never fall when a size grows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from secateur.budget.allocation import SizeCosts, best_units, stored_sizes
from secateur.budget.budget import Budget
from secateur.structure.groups import kinds_of
from secateur.structure.space import UnitSpace
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat, NewerVersion

if TYPE_CHECKING:
    from secateur.budget.space import Space

FORMAT = FileFormat()
"""Of a file with a table."""


@dataclass(frozen=True, eq=False)
class LatencyTable(Budget):
    """Milliseconds of one forward pass by the sizes that are kept, for one model shape and one protocol.

    A share is the predicted latency over that of the unpruned model.

    Attributes:
        shape: of the unpruned model: `model_type`, layers, heads, head_dim, ffn, hidden.
        protocol: how it was measured: batch, tokens, runtime, dtype, threads, device, machine, ...
        call: the arguments of `bench.measure` with this protocol.
        grid: the measured sizes of heads, qk, vo, ffn and hidden, each in ascending order up to the unpruned size,
            which is the only one where a size was not varied.
        rest: `(hidden,)` ms of everything except the sublayers.
        attention: `(heads, qk, vo, hidden)` ms of the attention of one layer.
        bare_attention: `(hidden,)` ms of an attention of which only the output bias is left.
        mlp: `(ffn, hidden)` ms of the feed-forward network of one layer.
        bare_mlp: `(hidden,)` ms of a feed-forward network of which only the output bias is left.
        dense_ms: the measured latency of the unpruned model, to which shares and speed-ups refer.

    Examples:
        >>> table = LatencyTable.measure(model, "ffn", "qk", "vo", batch=8, tokens=128)
        >>> space = Space(model, "ffn", "qk", "vo", budget=table)
        >>> plan = Magnitude(space).plan(table.share_of(latency=5.0))
    """

    name: ClassVar[str] = "latency"
    measure: ClassVar[Callable[..., LatencyTable]]
    """Set by `measure.latency_sweep` to its `measure_latency`: measuring cuts models, which this room cannot import."""

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
    _costs: dict[int, SizeCosts] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        plain = {
            "shape": dict(self.shape),
            "protocol": dict(self.protocol),
            "call": dict(self.call),
            "grid": dict(self.grid),
        }
        return FORMAT.stamped({**plain, "dense_ms": self.dense_ms, **arrays})

    def save(self, path: Path | str) -> None:
        """Write the table as JSON."""
        FORMAT.write(path, self.to_dict())

    @staticmethod
    def load(path: Path | str, **protocol: int | str | None) -> LatencyTable:
        """A table that `save` wrote.

        Args:
            protocol: required values of its protocol, such as batch=8, tokens=128; None accepts any value.

        Raises:
            UserError: the file cannot be read, or has another version or protocol.
        """
        wrong = partial("{} is not a latency table ({}): give what `secateur latency` writes".format, path)
        try:
            data = FORMAT.read(path)
            table = LatencyTable(**data | {name: np.array(data[name], dtype=float) for name in _ARRAYS})
            table._check_arrays()
        except NewerVersion:
            raise
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(wrong(error)) from error
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

    # Prediction

    def costs(self, hidden: int) -> SizeCosts:
        """The costs of all sizes at one width of the residual stream, in milliseconds."""
        if hidden not in self._costs:
            self._costs[hidden] = self._interpolated(hidden)
        return self._costs[hidden]

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

    def predict(self, space: UnitSpace, masks: Tensor) -> float:
        """Milliseconds of one forward pass of the model cut by `masks` `(N,)`: its total cost, at most `dense_ms`.

        Raises:
            UserError: the table is for a model of another shape, or was measured for other units.
        """
        self._check_space(space)
        hidden, sizes = stored_sizes(space, masks > 0)
        costs = self.costs(hidden)
        return min(costs.rest + float(costs.of(sizes).sum()), self.dense_ms)

    def share_of(self, latency: float | None = None, speedup: float | None = None) -> float:
        """The share that corresponds to a `latency` in ms, or to a `speedup` over the unpruned model."""
        if latency is not None and speedup is None:
            return latency / self.dense_ms
        if speedup is not None and speedup > 0 and latency is None:
            return 1.0 / speedup
        raise UserError(f"expected a latency in ms or a speedup above 0, got {latency} and {speedup}: name one of them")

    def _check_space(self, space: UnitSpace) -> None:
        if (shape := model_shape(space)) != self.shape:
            differences = [
                f"{key} {value}, not {self.shape.get(key)}"
                for key, value in shape.items()
                if value != self.shape.get(key)
            ]
            raise UserError(
                f"the latency table is for another model: this one has {', '.join(differences)}; measure one for it"
            )
        if fixed := [axis for axis in varied_sizes(space) if len(self.grid[axis]) == 1 and self.grid[axis][0] > 1]:
            raise UserError(
                f"the latency table was measured without varying {', '.join(fixed)}: measure one with the units "
                f"{', '.join(space.units)}"
            )

    # The contract of a budget

    def share(self, space: Space, masks: Tensor) -> float:
        return self.predict(space, masks) / self.dense_ms

    def floor(self, space: Space) -> float:
        return self.share(space, _cheapest(space))

    def check(self, space: Space, share: float) -> None:
        """Check that a share is a fraction in reach, and that a table can hold the latency of the space.

        Raises:
            UserError: it is not, or cannot; the message names the floor in milliseconds.
        """
        check_measurable(space)
        if not 0.0 < share <= 1.0 + 1e-9:
            raise UserError(
                f"{share * self.dense_ms:.4g} ms cannot be the target: the unpruned model takes {self.dense_ms:.4g} ms "
                f"({self._protocol_text()}); ask for less than that, and more than 0"
            )
        if share < (floor := self.floor(space)) * (1.0 - 1e-9):
            others = [name for name in kinds_of(space.table) if name not in space.kinds]
            raise UserError(
                f"{share * self.dense_ms:.4g} ms is out of reach: pruning only {', '.join(space.units)} leaves at "
                f"least {floor * self.dense_ms:.4g} ms ({self._protocol_text()}); ask for more time or add units from "
                f"{', '.join(others)}"
            )

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor, last: float) -> Tensor:
        """The units of the highest total value within a share, by `allocation.best_units`."""
        limit = share * self.dense_ms
        return space.closure(best_units(space, scores.double(), alive, self.costs, limit)) & alive

    def record(self, space: Space, masks: Tensor, share: float | None) -> dict[str, Any]:
        """The milliseconds requested and predicted, those of the unpruned model, and the protocol."""
        asked = None if share is None else share * self.dense_ms
        times = {"asked_ms": asked, "predicted_ms": self.predict(space, masks), "unpruned_ms": self.dense_ms}
        return {**times, "protocol": dict(self.protocol)}

    def _protocol_text(self) -> str:
        p = self.protocol
        return f"{p.get('batch')} x {p.get('tokens')} tokens, {p.get('runtime')}, {p.get('threads')} threads"


_ARRAYS = {
    "rest": ("hidden",),
    "attention": ("heads", "qk", "vo", "hidden"),
    "bare_attention": ("hidden",),
    "mlp": ("ffn", "hidden"),
    "bare_mlp": ("hidden",),
}


def model_shape(space: UnitSpace) -> dict[str, int | str]:
    """The sizes in which a table and a model must agree."""
    table = space.table
    whole = {"heads": table.heads, "head_dim": table.head_dim, "ffn": table.sizes["0.ffn"]}
    return {"model_type": table.model_type, "layers": len(table.layers), **whole, "hidden": table.sizes["hidden"]}


def varied_sizes(space: UnitSpace) -> list[str]:
    """The sizes that pruning these units can change."""
    causes = {"heads": {"head", "vo"}, "qk": {"qk"}, "vo": {"vo"}, "ffn": {"ffn"}, "hidden": {"hidden"}}
    return [axis for axis, units in causes.items() if units & set(space.kinds)]


def check_measurable(space: UnitSpace) -> None:
    """Check that a table can hold the latency of a space.

    Raises:
        UserError: the space has tiles, heads of the model share keys and values, or it is an encoder-decoder.
    """
    space.table.one_stack("a table of times")
    space.table.own_keys("a table of times")
    if space.tiled:
        raise UserError(
            f"a latency does not depend on tiles ({', '.join(space.units)}): their zeros take as long as the weights "
            "that they lie in; ask for a density, or for a latency with other units"
        )


def _cheapest(space: Space) -> Tensor:
    """`(N,)` bool: all units removed that may be; of the residual stream the smallest width that `round_to` allows."""
    kept = torch.zeros(len(space), dtype=torch.bool)
    if "hidden" in space.slices:
        start = space.slices["hidden"].start
        kept[start : start + min(space.round_to, space.table.sizes["hidden"])] = True
    return kept


def _weights(grid: list[int]) -> np.ndarray:
    """`(unpruned size, points)`: the interpolation weights of the measured points for sizes 1, 2, ... ."""
    whole = np.arange(1, grid[-1] + 1)
    return np.stack([np.interp(whole, grid, point) for point in np.eye(len(grid))], axis=1)
