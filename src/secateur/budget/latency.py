"""Latency as the budget: measured milliseconds of the sizes that the blocks of a model may have.

A `LatencyTable` holds the costs of the sizes that `measure.latency_sweep` has measured on cut models, for each kind of
block (`size_costs`): one in most models, three in an encoder-decoder. Other sizes are interpolated multilinearly. Costs
never fall when a size grows. What is timed is one forward pass, or the generation of a text, with its cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from secateur.budget.allocation import best_units, lowest_cost, stored_sizes
from secateur.budget.block_times import BlockTimes, down_to_one, size_weights
from secateur.budget.budget import Budget
from secateur.budget.size_costs import ModelCosts
from secateur.budget.wider import lowering_units, or_units_from
from secateur.structure.architecture import VOCABULARIES, Linear
from secateur.structure.axis_table import AxisTable
from secateur.structure.groups import kinds_of
from secateur.structure.space import UnitSpace
from secateur.structure.unit_names import block_of, kind_of_block, stack_of
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat, NewerVersion
from secateur.system.quantities import at_least, at_most, timed_part

if TYPE_CHECKING:
    from secateur.budget.space import Space


def _with_blocks(values: dict[str, Any]) -> dict[str, Any]:
    """The values of version 1, of models with one kind of block and no shared keys, as version 2 has them."""
    grid = dict(values["grid"])
    hidden = grid.pop("hidden")
    own = {name: values[name] for name in ("bare_attention", "mlp", "bare_mlp")}
    own |= {"count": values["shape"]["layers"], "grid": {**grid, "sharing": [1]}}
    blocks = {"layers": own | {"attention": [[sizes] for sizes in values["attention"]]}}
    kept = {name: values[name] for name in ("shape", "protocol", "call", "rest", "dense_ms")}
    return {**kept, "hidden": hidden, "blocks": blocks}


FORMAT = FileFormat(2, {1: _with_blocks})
"""Of a file with a table."""
UNSAID = {"part": "whole", "beams": 1}
"""What was timed, where the call of a table does not say it."""
CAUSES = {
    "heads": {"head", "kv_head", "vo"},
    "sharing": {"head"},
    "qk": {"qk"},
    "vo": {"vo"},
    "ffn": {"ffn"},
}
"""The sizes of a block, and the kinds of units that change each when they are pruned."""
OF_OUTPUT = ("vocabulary", "embedding_rank")
"""The sizes of an output layer over the pieces, which takes long where a text is generated."""


@dataclass(frozen=True, eq=False)
class LatencyTable(Budget):
    """Milliseconds of one forward pass or one generation by the sizes that are kept, for one model and one protocol.

    A share is the predicted latency over that of the unpruned model.

    Attributes:
        shape: of the unpruned model: `model_type`, heads, head_dim, hidden, the layers and the neurons of each stack,
            the KV heads where several heads share one, and of a model with an output layer over the pieces their
            number, and the rank of its word embeddings if they are factorised.
        protocol: how it was measured: batch, tokens, runtime, dtype, threads, device, machine, ...
        call: the arguments of `bench.measure` with this protocol.
        hidden: the measured widths of the residual stream, in ascending order.
        rest: `(hidden,)` ms of everything except the blocks.
        blocks: kind of block -> the times of one.
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
    hidden: list[int]
    rest: np.ndarray
    blocks: Mapping[str, BlockTimes]
    dense_ms: float
    _costs: dict[int, ModelCosts] = field(default_factory=dict, repr=False)
    _floors: WeakKeyDictionary[UnitSpace, float] = field(default_factory=WeakKeyDictionary, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        plain = {"shape": dict(self.shape), "protocol": dict(self.protocol), "call": dict(self.call)}
        blocks = {kind: own.to_dict() for kind, own in self.blocks.items()}
        times = {"hidden": list(self.hidden), "rest": self.rest.tolist(), "blocks": blocks}
        return FORMAT.stamped({**plain, "dense_ms": self.dense_ms, **times})

    def save(self, path: Path | str) -> None:
        """Write the table as JSON."""
        FORMAT.write(path, self.to_dict())

    @staticmethod
    def load(path: Path | str, **call: int | str | None) -> LatencyTable:
        """A table that `save` wrote.

        Args:
            call: required arguments of its call, such as batch=8, tokens=128, part="generation"; None accepts any
                value. What the call left open, such as threads, is what its protocol says.

        Raises:
            UserError: the file cannot be read, has another version, or was measured by another call.
        """
        wrong = partial("{} is not a latency table ({}): give what `secateur latency` writes".format, path)
        try:
            table = LatencyTable._of(FORMAT.read(path))
        except NewerVersion:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise UserError(wrong(error)) from error
        known = {**UNSAID, **table.protocol, **{name: own for name, own in table.call.items() if own is not None}}
        for name, wanted in call.items():
            measured = known.get(name)
            if wanted is not None and measured != wanted:
                raise UserError(
                    f"the latency table {path} was measured with {name} {measured}, not {wanted}: "
                    "measure another one with `secateur latency`, or ask for this one's"
                )
        return table

    @staticmethod
    def _of(values: dict[str, Any]) -> LatencyTable:
        blocks = {kind: BlockTimes.of(own) for kind, own in values["blocks"].items()}
        table = LatencyTable(**values | {"rest": np.array(values["rest"], dtype=float), "blocks": blocks})
        widths = {len(own.bare_attention) for own in blocks.values()} | {len(table.rest)}
        if widths != {len(table.hidden)} or not np.isfinite(table.rest).all():
            raise ValueError("rest does not fit the widths of the residual stream")
        return table

    # Prediction

    def costs(self, hidden: int) -> ModelCosts:
        """The costs of all sizes at one width of the residual stream, in milliseconds."""
        if hidden not in self._costs:
            stream = size_weights(self.hidden)[hidden - 1]
            kinds = {kind: own.costs(stream) for kind, own in self.blocks.items()}
            self._costs[hidden] = ModelCosts(float(self.rest @ stream), kinds)
        return self._costs[hidden]

    def predict(self, space: UnitSpace, masks: Tensor) -> float:
        """Milliseconds of the model cut by `masks` `(N,)`: its total cost, at most `dense_ms`.

        Raises:
            UserError: the table is for a model of another shape, or was measured for other units.
        """
        self._check_space(space)
        hidden, sizes = stored_sizes(space, masks > 0)
        return min(self.costs(hidden).total(sizes), self.dense_ms)

    def share_of(self, latency: float | None = None, speedup: float | None = None) -> float:
        """The share that corresponds to a `latency` in ms, or to a `speedup` over the unpruned model."""
        if latency is not None and speedup is None:
            return latency / self.dense_ms
        if speedup is not None and speedup > 0 and latency is None:
            return 1.0 / speedup
        raise UserError(f"expected a latency in ms or a speedup above 0, got {latency} and {speedup}: name one of them")

    def _check_space(self, space: UnitSpace) -> None:
        shape = model_shape(space)
        if "vocabulary" not in self.shape:  # a table of before, which does not say over how many pieces it was measured
            shape = {key: value for key, value in shape.items() if key not in OF_OUTPUT}
        if shape != self.shape:
            differences = [
                f"{key} {shape.get(key, 'none')}, not {self.shape.get(key, 'none')}"
                for key in {**shape, **self.shape}
                if shape.get(key) != self.shape.get(key)
            ]
            raise UserError(
                f"the latency table is for another model: this one has {', '.join(differences)}; measure one for it, "
                "as a run without target.latency_table does"
            )
        needed = [(size, self.blocks[kind].grid[size]) for kind, own in varied_sizes(space).items() for size in own]
        needed += [("hidden", self.hidden)] if "hidden" in space.kinds else []
        if fixed := dict.fromkeys(size for size, grid in needed if len(grid) == 1 and grid[0] > 1):
            raise UserError(
                f"the latency table was measured without varying {', '.join(fixed)}: measure one with the units "
                f"{', '.join(space.units)}"
            )

    # The contract of a budget

    def share(self, space: Space, masks: Tensor) -> float:
        return self.predict(space, masks) / self.dense_ms

    def floor(self, space: Space) -> float:
        self._check_space(space)
        if space not in self._floors:
            self._floors[space] = min(lowest_cost(space, self.costs), self.dense_ms) / self.dense_ms
        return self._floors[space]

    def check(self, space: Space, share: float) -> None:
        """Check that a share is a fraction in reach, and that a table can hold the latency of the space.

        Raises:
            UserError: it is not, or cannot; the message names the floor in milliseconds.
        """
        check_measurable(space)
        if not 0.0 < share <= 1.0 + 1e-9:
            most = at_most(self.dense_ms, ".4g")
            raise UserError(
                f"{share * self.dense_ms:.6g} ms cannot be the target: the unpruned model takes {most} ms "
                f"({self.protocol_text()}); ask for less than that, and more than 0"
            )
        if share < (floor := self.floor(space)) * (1.0 - 1e-9):
            others = or_units_from(lowering_units(space, kinds_of(space.table), self._least_ms))
            raise UserError(
                f"{share * self.dense_ms:.6g} ms is out of reach: pruning only {', '.join(space.units)} leaves at "
                f"least {at_least(floor * self.dense_ms, '.4g')} ms ({self.protocol_text()}); ask for more time{others}"
            )

    def _least_ms(self, space: Space) -> float:
        """The floor in milliseconds, also of units whose sizes were not measured, which are taken to cost little."""
        rest, hidden = down_to_one(self.rest, 0, self.hidden)
        blocks = {kind: own.in_proportion(self.hidden) for kind, own in self.blocks.items()}
        return lowest_cost(space, replace(self, hidden=hidden, rest=rest, blocks=blocks, _costs={}).costs)

    def choose(self, space: Space, scores: Tensor, share: float, alive: Tensor, last: float) -> Tensor:
        """The units of the highest total value within a share, by `allocation.best_units`."""
        limit = share * self.dense_ms
        return space.closure(best_units(space, scores.double(), alive, self.costs, limit)) & alive

    def record(self, space: Space, masks: Tensor, share: float | None) -> dict[str, Any]:
        """The milliseconds requested and predicted, those of the unpruned model, and the protocol."""
        asked = None if share is None else share * self.dense_ms
        times = {"asked_ms": asked, "predicted_ms": self.predict(space, masks), "unpruned_ms": self.dense_ms}
        return {**times, "protocol": dict(self.protocol)}

    def protocol_text(self) -> str:
        """How it was measured, in a few words."""
        p = self.protocol
        part = f"{own}, " if (own := timed_part(p)) else ""
        return f"{p.get('batch')} x {p.get('tokens')} tokens, {part}{p.get('runtime')}, {p.get('threads')} threads"


def model_shape(space: UnitSpace) -> dict[str, int | str]:
    """The sizes in which a table and a model must agree."""
    table = space.table
    shape: dict[str, int | str] = {"model_type": table.model_type}
    for stack in dict.fromkeys(map(stack_of, table.layers)):
        own = [layer for layer in table.layers if stack_of(layer) == stack]
        prefix = f"{stack}." if stack else ""
        shape |= {f"{prefix}layers": len(own), f"{prefix}ffn": table.sizes[f"{own[0]}.ffn"]}
    shape |= {"heads": table.heads, "head_dim": table.head_dim, "hidden": table.sizes["hidden"]}
    return shape | ({"kv_heads": table.kv_heads} if table.kv_axes else {}) | _output_shape(table)


def _output_shape(table: AxisTable) -> dict[str, int | str]:
    """The sizes in `OF_OUTPUT`, of a model that has an output layer over the pieces."""
    pieces = [row.out for row in table.rows if isinstance(row, Linear) and row.out in VOCABULARIES]
    if not pieces:
        return {}
    own: dict[str, int | str] = {"vocabulary": table.vocabularies[pieces[0]]}
    if (factor := table.tensors.get(f"{table.embeddings}.table.weight")) is not None:
        own["embedding_rank"] = factor[0].shape[1]
    return own


def blocks_by_kind(table: AxisTable) -> dict[str, list[str]]:
    """Kind of block -> the blocks of it."""
    found: dict[str, list[str]] = {}
    for block in table.blocks:
        found.setdefault(kind_of_block(block), []).append(block)
    return found


def varied_sizes(space: UnitSpace) -> dict[str, list[str]]:
    """Kind of block -> the sizes that pruning these units can change in it."""
    causes = {size: units for size, units in CAUSES.items() if size != "sharing" or space.table.kv_axes}
    found = {}
    for kind, blocks in blocks_by_kind(space.table).items():
        units = {group.kind for group in space.groups if block_of(group.name) == blocks[0]}
        found[kind] = [size for size, own in causes.items() if own & units]
    return found


def check_measurable(space: UnitSpace) -> None:
    """Check that a table can hold the latency of a space.

    Raises:
        UserError: the space has tiles.
    """
    if space.tiled:
        raise UserError(
            f"a latency does not depend on tiles ({', '.join(space.units)}): their zeros take as long as the weights "
            "that they lie in; ask for a density, or for a latency with other units"
        )
