"""The choice of units where the cost depends on the resulting sizes: the highest value within a limit.

Heads that run in one call are padded to the widest one, so that dims up to that width have no cost. The options of an
attention are therefore the number of heads and the widths of their QK and VO, and every head keeps its best dims up to
these widths. Where several heads share a key and a value, they are the number of these KV heads, the number of heads
that share each, and the widths: every KV head keeps its best heads up to that number. (Where some have fewer,
`head_buckets.cheapest_layout` may store them with less padding, and the cost is overestimated.) The options of a
feed-forward network are its widths. A sublayer or layer that is a unit may also be removed, but for the best layer of
each stack. `knapsack.solve` selects one option of each, for every width of the residual stream in turn.

Scores are per parameter (`Parameters.choose` ranks units of any size by them), so that the value of a unit is its
score, less the lowest score, times its number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import lcm
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from secateur.budget.knapsack import ItemClass, lagrangian, solve, total_value, upper_bound
from secateur.budget.ranking import highest
from secateur.budget.size_costs import ABSENT, NOTHING, REMOVED, SIZES, ModelCosts
from secateur.structure.space import UnitSpace
from secateur.structure.unit_names import stack_of

if TYPE_CHECKING:
    from secateur.budget.space import Space

LEAST_VALUE = 1e-6  # of the lowest score, relative to the range of scores; above 0, so that remaining room is used
MAX_WIDTHS = 32  # widths of the residual stream that are tried
CostsAt = Callable[[int], ModelCosts]
"""From a width of the residual stream to the costs of a model of this width."""


@dataclass(frozen=True)
class SizeOptions:
    """The sizes that a sublayer or a layer may have, and the values of these.

    Attributes:
        blocks: of the layer, `B` of them.
        sizes: `(n, B, 5)`, as `size_costs.SIZES`.
        values: `(n,)`.
    """

    blocks: tuple[str, ...]
    sizes: np.ndarray
    values: np.ndarray

    def as_items(self, costs: ModelCosts) -> ItemClass:
        """The options as items of a knapsack."""
        own = [costs.of(block, self.sizes[:, place]) for place, block in enumerate(self.blocks)]
        return ItemClass(np.sum(own, axis=0), self.values)

    def efficient(self, costs: ModelCosts) -> SizeOptions:
        """The Pareto-efficient options, by rising cost."""
        return self.at(self.as_items(costs).efficient())

    def at(self, places: np.ndarray) -> SizeOptions:
        """Some of the options."""
        return SizeOptions(self.blocks, self.sizes[places], self.values[places])

    def with_option(self, sizes: np.ndarray, value: float) -> SizeOptions:
        """The options, and one more of sizes `(B, 5)`."""
        return SizeOptions(self.blocks, np.vstack([self.sizes, sizes[None]]), np.append(self.values, value))

    def paired(self, other: SizeOptions) -> SizeOptions:
        """All pairs with the options of another sublayer of the same layer."""
        first, second = (index.ravel() for index in np.indices((len(self.values), len(other.values))))
        sizes = np.maximum(self.sizes[first], other.sizes[second])  # each is absent in what the other is about
        return SizeOptions(self.blocks, sizes, self.values[first] + other.values[second])


def stored_sizes(space: UnitSpace, kept: Tensor) -> tuple[int, dict[str, np.ndarray]]:
    """The width of the residual stream, and the sizes of every block as stored, `(5,)`.

    The widths of QK and VO are those of the widest head, and at least 1; how many heads share a key and a value is
    their mean, rounded up. The sizes of a removed sublayer are -1.
    """
    reading = space.read(kept)
    found = {}
    for block in space.table.blocks:
        sizes = np.array(NOTHING)
        if reading.alive[f"{block}.attention"].any():
            sharing = reading.sharing(block)
            keys = sharing.any(dim=1)
            dims = (reading.by_kv_head(f"{block}.{axis}")[keys].sum(dim=1).tolist() for axis in ("qk", "vo"))
            number = int(keys.sum())
            each = -(-int(sharing.sum()) // max(1, number))
            sizes[:4] = [number, max(1, each), *(max([1, *own]) for own in dims)]
        if block in space.table.layers and reading.alive[f"{block}.mlp"].any():
            sizes[4] = int(reading.alive[f"{block}.ffn"].sum())
        found[block] = sizes
    return int(reading.alive["hidden"].sum()), found


def best_units(space: Space, scores: Tensor, alive: Tensor, costs_at: CostsAt, limit: float) -> Tensor:
    """`(N,)` bool: the alive units of the highest total value whose cost is within the limit.

    No unit is kept if the limit is out of reach.
    """
    allocation = _Allocation(space, scores, alive)
    best, best_value = torch.zeros_like(alive), -np.inf
    for width, value_of_stream in allocation.stream_widths():
        costs = costs_at(width)
        options = allocation.options(costs)
        classes, room = [option.as_items(costs) for option in options], limit - costs.rest
        if not _may_beat(classes, room, best_value - value_of_stream):
            continue
        chosen = solve(classes, room)
        if (value := value_of_stream + total_value(classes, chosen)) > best_value:
            best = allocation.kept(width, [own.at(np.array([item])) for own, item in zip(options, chosen, strict=True)])
            best_value = value
    return best


def lowest_cost(space: Space, costs_at: CostsAt) -> float:
    """The lowest cost that the units of a space can lead to."""
    everything = space.ones()
    allocation = _Allocation(space, everything, everything.bool())
    costs = costs_at(allocation.stream_widths()[-1][0])
    return costs.rest + sum(float(one.as_items(costs).costs.min()) for one in allocation.options(costs))


def _may_beat(classes: list[ItemClass], room: float, value: float) -> bool:
    """Whether the cheapest choice fits and the upper bound of the total value exceeds a value."""
    cheapest = sum(float(one.costs[0]) for one in classes)
    return cheapest <= room and upper_bound(classes, room, lagrangian(classes, room)[0]) > value


class _Allocation:
    """The values of the units by group (-inf for units that are not alive), and the options of every sublayer."""

    def __init__(self, space: Space, scores: Tensor, alive: Tensor) -> None:
        self.space, self.table = space, space.table
        values = _unit_values(space, scores, alive)
        self.by_group = {name: values[rows] for name, rows in space.slices.items()}
        self.device = alive.device
        self.stay = self._layers_that_stay()
        self.layers = [self._sublayers(layer) for layer in self.table.layers]

    def _layers_that_stay(self) -> set[str]:
        """The layer of the highest value in each stack that has layers as units which are alive."""
        best: dict[str, tuple[float, str]] = {}
        for layer in self.table.layers:
            value = self.by_group.get(f"{layer}.layer")
            if value is not None and value[0] > -np.inf:
                best[stack_of(layer)] = max(best.get(stack_of(layer), (-np.inf, "")), (float(value[0]), layer))
        return {layer for _, layer in best.values()}

    def _sublayers(self, layer: str) -> list[SizeOptions]:
        """The options of each sublayer of a layer."""
        blocks = tuple(block for block in self.table.blocks if f"{block}.".startswith(f"{layer}."))
        attentions = [self._attention_options(blocks, block) for block in blocks]
        return [*attentions, self._mlp_options(blocks, layer)]

    def stream_widths(self) -> list[tuple[int, float]]:
        """The widths of the residual stream to try, in descending order, with the value of the best dims of each."""
        values, whole = self.by_group.get("hidden"), self.table.sizes["hidden"]
        if values is None:
            return [(whole, 0.0)]
        alive = int((values > -np.inf).sum())
        step = self.space.round_to * -(-whole // (MAX_WIDTHS * self.space.round_to))
        totals = np.cumsum(-np.sort(-values))
        widths = sorted({alive, min(self.space.round_to, alive), *range(step, alive, step)}, reverse=True)
        return [(width, float(totals[width - 1])) for width in widths]

    def options(self, costs: ModelCosts) -> list[SizeOptions]:
        """The Pareto-efficient options of every sublayer, or of every layer where layers are units."""
        options = []
        for layer, sublayers in zip(self.table.layers, self.layers, strict=True):
            own = [one.efficient(costs) for one in sublayers]
            if (value := self.by_group.get(f"{layer}.layer")) is not None:
                whole = reduce(lambda one, other: one.paired(other).efficient(costs), own)
                own = [_of_layer(whole, float(value[0]), removable=layer not in self.stay).efficient(costs)]
            options += own
        return options

    def _attention_options(self, blocks: tuple[str, ...], block: str) -> SizeOptions:
        values, widths = self._key_values(block)
        best = np.cumsum(-np.sort(-values, axis=0), axis=0)
        removable = any(f"{block}.{kind}" in self.by_group for kind in ("head", "kv_head", "vo"))
        keys = range(1, len(values) + 1) if removable else [len(values)]
        sizes = np.stack(np.meshgrid(keys, *widths, indexing="ij"), axis=-1).reshape(-1, 4)
        totals = best[[count - 1 for count in keys]].ravel()
        if removable:
            sizes, totals = np.vstack([sizes, np.zeros((1, 4), int)]), np.append(totals, 0.0)
        return self._gated(_options(blocks, block, sizes, slice(0, 4), totals), f"{block}.attention")

    def _key_values(self, block: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """The value of every KV head with its heads, `(KV heads, sharing, QK widths, VO widths)`; and these sizes."""
        keys, dim = self.table.kv_heads, self.table.head_dim
        most = self.table.heads // keys
        sizes, values = [np.array([most])], np.zeros((keys, 1))
        if (own := self.by_group.get(f"{block}.head")) is not None:
            rows = own.reshape(keys, most)
            sizes, values = [np.arange(1, most + 1)], _living(_best_totals(rows), rows)
        if (own := self.by_group.get(f"{block}.kv_head")) is not None:
            values = values + own[:, None]
        values = values[:, :, None, None]
        for number, axis in enumerate(("qk", "vo")):
            own = self.by_group.get(f"{block}.{axis}")
            if own is None:
                sizes.append(np.array([dim]))
                continue
            rows = own.reshape(keys, -1)
            unit = dim // rows.shape[1]
            sizes.append(self._multiples(dim, unit))
            totals = _best_totals(rows)[:, sizes[-1] // unit - 1]
            values = values + np.expand_dims(_living(totals, rows) if axis == "vo" else totals, (1, 3 - number))
        return np.broadcast_to(values, (keys, *(len(own) for own in sizes))), sizes

    def _mlp_options(self, blocks: tuple[str, ...], layer: str) -> SizeOptions:
        own, whole = self.by_group.get(f"{layer}.ffn"), self.table.sizes[f"{layer}.ffn"]
        if own is None:
            widths, values = np.array([whole]), np.zeros(1)
        else:
            widths = np.append(0, self._multiples(whole))
            values = np.append(0.0, _best_totals(own))[widths]
        return self._gated(_options(blocks, layer, widths[:, None], slice(4, 5), values), f"{layer}.mlp")

    def _multiples(self, whole: int, unit: int = 1) -> np.ndarray:
        """The sizes that `round_to` allows of an axis whose units have so many dims each, and the unpruned size."""
        step = lcm(self.space.round_to, unit)
        return np.append(np.arange(step, whole, step), whole)

    def _gated(self, options: SizeOptions, gate: str) -> SizeOptions:
        """The options with the value of the gate added, and the option to remove what the gate controls."""
        value = self.by_group.get(gate)
        if value is None:
            return options
        removed = np.where(options.sizes[0] == ABSENT, ABSENT, REMOVED)
        valued = SizeOptions(options.blocks, options.sizes, options.values + float(value[0]))
        return valued.with_option(removed, 0.0)

    def kept(self, width: int, chosen: Sequence[SizeOptions]) -> Tensor:
        """`(N,)` bool: the best units for the chosen sizes, one option each."""
        kept = {name: np.zeros(len(values), bool) for name, values in self.by_group.items()}
        if "hidden" in kept:
            kept["hidden"] = _highest_values(self.by_group["hidden"], width)
        sizes = {block: np.array(NOTHING) for block in self.table.blocks}
        for option in chosen:
            for block, block_sizes in zip(option.blocks, option.sizes[0], strict=True):
                sizes[block] = np.maximum(sizes[block], block_sizes)
        for block, block_sizes in sizes.items():
            self._keep_in_block(kept, block, block_sizes)
        for layer in self.table.layers:
            own = [sizes[block] for block in sizes if f"{block}.".startswith(f"{layer}.")]
            self._keep_alive(kept, f"{layer}.layer", np.array([bool((np.array(own)[:, [0, 4]] >= 0).any())]))
        return torch.from_numpy(np.concatenate([kept[group.name] for group in self.space.groups])).to(self.device)

    def _keep_in_block(self, kept: dict[str, np.ndarray], block: str, sizes: np.ndarray) -> None:
        keys, neurons = int(sizes[0]), int(sizes[4])
        self._keep_alive(kept, f"{block}.attention", np.array([keys >= 0]))
        self._keep_alive(kept, f"{block}.mlp", np.array([neurons >= 0]))
        if keys > 0:
            self._keep_keys(kept, block, *sizes[:4].tolist())
        if neurons > 0 and f"{block}.ffn" in kept:
            kept[f"{block}.ffn"] = _highest_values(self.by_group[f"{block}.ffn"], neurons)

    def _keep_keys(self, kept: dict[str, np.ndarray], block: str, keys: int, sharing: int, qk: int, vo: int) -> None:
        values, widths = self._key_values(block)
        place = tuple(int(np.searchsorted(own, size)) for own, size in zip(widths, (sharing, qk, vo), strict=True))
        best = _highest_values(np.array([own[place] for own in values]), keys)
        self._keep_alive(kept, f"{block}.kv_head", best)
        for axis, most, whole in (
            ("head", sharing, 1),
            ("qk", qk, self.table.head_dim),
            ("vo", vo, self.table.head_dim),
        ):
            if (own := self.by_group.get(f"{block}.{axis}")) is not None:
                rows = own.reshape(len(best), -1)
                units = most if axis == "head" else most * rows.shape[1] // whole
                kept[f"{block}.{axis}"] = (_highest_values(rows, units) & best[:, None]).ravel()

    def _keep_alive(self, kept: dict[str, np.ndarray], name: str, wanted: np.ndarray) -> None:
        if name in kept:
            kept[name] = wanted & (self.by_group[name] > -np.inf)


def _options(blocks: tuple[str, ...], block: str, sizes: np.ndarray, columns: slice, values: np.ndarray) -> SizeOptions:
    """The options of one sublayer, which say nothing about the other sublayers of its layer.

    Args:
        sizes: `(n, columns)`, those of `SIZES` that concern the sublayer.
    """
    whole = np.full((len(sizes), len(blocks), len(SIZES)), ABSENT)
    whole[:, blocks.index(block), columns] = sizes
    return SizeOptions(blocks, whole, values)


def _of_layer(options: SizeOptions, value: float, *, removable: bool) -> SizeOptions:
    """The options of a layer that keep at least one sublayer, with the value of the layer, and its removal."""
    remains = options.at(np.flatnonzero((options.sizes[:, :, [0, 4]] >= 0).any(axis=(1, 2))))
    valued = SizeOptions(remains.blocks, remains.sizes, remains.values + value)
    return valued.with_option(np.full(options.sizes.shape[1:], REMOVED), 0.0) if removable else valued


def _unit_values(space: UnitSpace, scores: Tensor, alive: Tensor) -> np.ndarray:
    """`(N,)`: the score less the lowest of alive units, times the parameters; NaN counts as the lowest score."""
    finite = scores[alive & scores.isfinite()]
    lowest, highest = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    above = scores.double().nan_to_num(nan=lowest, posinf=highest, neginf=lowest) - lowest
    least = LEAST_VALUE * (highest - lowest) or 1.0
    return ((above + least) * space.unit_cost()).masked_fill(~alive, -torch.inf).cpu().numpy()


def _best_totals(values: np.ndarray) -> np.ndarray:
    """The total value of the best 1, 2, ... along the last dimension; units that are not alive add 0."""
    ranked = -np.sort(-values, axis=-1)
    return np.cumsum(np.where(ranked > -np.inf, ranked, 0.0), axis=-1)


def _living(totals: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The totals of rows of units, -inf for a row without a unit that is alive."""
    return np.where((rows > -np.inf).any(axis=1, keepdims=True), totals, -np.inf)


def _highest_values(values: np.ndarray, count: int) -> np.ndarray:
    """Bool of the shape of `values`: `ranking.highest` for an array."""
    return highest(torch.tensor(values), count).numpy()
