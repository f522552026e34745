"""The choice of units where the cost depends on the resulting sizes: the highest value within a limit.

Heads that run in one call are padded to the widest one, so that dims up to that width have no cost. The options of an
attention are therefore the number of heads and the widths of their QK and VO, and every head keeps its best dims up to
these widths. (Where some heads have fewer dims, `head_buckets.cheapest_layout` may store them with less padding, and
the cost is overestimated.) The options of a feed-forward network are its widths. A sublayer or layer that is a unit may
also be removed. `knapsack.solve` selects one option of each, for every width of the residual stream in turn.

Scores are per parameter (`Parameters.choose` ranks units of any size by them), so that the value of a unit is its
score, less the lowest score, times its number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from secateur.budget.knapsack import ItemClass, lagrangian, solve, total_value, upper_bound
from secateur.budget.ranking import highest
from secateur.structure.space import UnitSpace

if TYPE_CHECKING:
    from secateur.budget.space import Space

LEAST_VALUE = 1e-6  # of the lowest score, relative to the range of scores; above 0, so that remaining room is used
MAX_WIDTHS = 32  # widths of the residual stream that are tried
REMOVED, ABSENT = -1, -2  # in place of a size: the sublayer is removed; the option does not concern this sublayer


@dataclass(frozen=True)
class SizeCosts:
    """The cost of sublayers of every size at one width of the residual stream; a removed sublayer costs nothing.

    Attributes:
        rest: of everything except the sublayers.
        attention: `(heads, QK width, VO width)`, at index size - 1.
        bare_attention: of an attention of which only the output bias is left.
        mlp: `(neurons,)`, at index size - 1.
        bare_mlp: of a feed-forward network of which only the output bias is left.
    """

    rest: float
    attention: np.ndarray
    bare_attention: float
    mlp: np.ndarray
    bare_mlp: float

    def of(self, sizes: np.ndarray) -> np.ndarray:
        """`(n,)` costs of sizes `(n, 4)`: heads, QK width, VO width, neurons; with 0 of either the bias is left."""
        heads, _, _, neurons = sizes.T
        head_index, qk_index, vo_index, neuron_index = np.maximum(sizes, 1).T - 1
        attention = np.where(heads > 0, self.attention[head_index, qk_index, vo_index], self.bare_attention)
        mlp = np.where(neurons > 0, self.mlp[neuron_index], self.bare_mlp)
        return attention * (heads >= 0) + mlp * (neurons >= 0)


@dataclass(frozen=True)
class SizeOptions:
    """The sizes that a sublayer or layer may have, `(n, 4)` as in `SizeCosts.of`, and the values of these `(n,)`."""

    sizes: np.ndarray
    values: np.ndarray

    def as_items(self, costs: SizeCosts) -> ItemClass:
        """The options as items of a knapsack."""
        return ItemClass(costs.of(self.sizes), self.values)

    def efficient(self, costs: SizeCosts) -> SizeOptions:
        """The Pareto-efficient options, by rising cost."""
        best = self.as_items(costs).efficient()
        return SizeOptions(self.sizes[best], self.values[best])

    def with_gate(self, value: float, removed: list[int]) -> SizeOptions:
        """The options with the value of the gate added, and the option to remove what the gate controls."""
        return SizeOptions(np.vstack([self.sizes, removed]), np.append(self.values + value, 0.0))


def stored_sizes(space: UnitSpace, kept: Tensor) -> tuple[int, np.ndarray]:
    """The width of the residual stream, and the sizes as stored, `(layers, 4)`.

    The sizes are the number of heads, the widest QK and VO (at least 1), and the number of neurons; -1 for those of a
    removed sublayer.
    """
    reading = space.read(kept)
    alive = {axis: values.cpu().numpy() for axis, values in reading.alive.items()}
    rows = []
    for layer in space.table.layers:
        qk, vo = (alive[f"{layer}.{axis}"].reshape(space.table.heads, -1) for axis in ("qk", "vo"))
        heads = vo.any(axis=1)
        widths = [max(1, int(dims[heads].sum(axis=1).max(initial=0))) for dims in (qk, vo)]
        attention = [int(heads.sum()), *widths] if alive[f"{layer}.attention"].any() else [REMOVED] * 3
        neurons = int(alive[f"{layer}.ffn"].sum()) if alive[f"{layer}.mlp"].any() else REMOVED
        rows.append([*attention, neurons])
    return int(alive["hidden"].sum()), np.array(rows)


def best_units(
    space: Space, scores: Tensor, alive: Tensor, costs_at: Callable[[int], SizeCosts], limit: float
) -> Tensor:
    """`(N,)` bool: the alive units of the highest total value whose cost is within the limit.

    No unit is kept if the limit is out of reach.

    Args:
        costs_at: from a width of the residual stream to the costs of sizes.
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
            sizes = [option.sizes[item] for option, item in zip(options, chosen, strict=True)]
            best, best_value = allocation.kept(width, sizes), value
    return best


def _may_beat(classes: list[ItemClass], room: float, value: float) -> bool:
    """Whether the cheapest choice fits and the upper bound of the total value exceeds a value."""
    cheapest = sum(float(one.costs[0]) for one in classes)
    return cheapest <= room and upper_bound(classes, room, lagrangian(classes, room)[0]) > value


class _Allocation:
    """The values of the units by group (-inf for units that are not alive), and the options of every sublayer."""

    def __init__(self, space: Space, scores: Tensor, alive: Tensor) -> None:
        self.space = space
        values = _unit_values(space, scores, alive)
        self.by_group = {name: values[rows] for name, rows in space.slices.items()}
        self.device = alive.device
        layers = range(len(space.table.layers))
        self.sublayers = [(self._attention_options(layer), self._mlp_options(layer)) for layer in layers]

    def stream_widths(self) -> list[tuple[int, float]]:
        """The widths of the residual stream to try, in descending order, with the value of the best dims of each."""
        values, whole = self.by_group.get("hidden"), self.space.table.sizes["hidden"]
        if values is None:
            return [(whole, 0.0)]
        alive = int((values > -np.inf).sum())
        step = self.space.round_to * -(-whole // (MAX_WIDTHS * self.space.round_to))
        totals = np.cumsum(-np.sort(-values))
        widths = sorted({alive, min(self.space.round_to, alive), *range(step, alive, step)}, reverse=True)
        return [(width, float(totals[width - 1])) for width in widths]

    def options(self, costs: SizeCosts) -> list[SizeOptions]:
        """The Pareto-efficient options of every sublayer, or of every layer where layers are units."""
        options = []
        for layer, sublayers in enumerate(self.sublayers):
            own = [one.efficient(costs) for one in sublayers]
            if (value := self.by_group.get(f"{layer}.layer")) is not None:
                own = [_joined(own[0], own[1], float(value[0])).efficient(costs)]
            options += own
        return options

    def _attention_options(self, layer: int) -> SizeOptions:
        values, widths = self._head_values(layer)
        best = np.cumsum(-np.sort(-values, axis=0), axis=0)
        removable = {"head", "vo"} & set(self.space.kinds)
        heads = range(1, len(values) + 1) if removable else [len(values)]
        sizes = np.stack(np.meshgrid(heads, *widths, indexing="ij"), axis=-1).reshape(-1, 3)
        totals = best[[count - 1 for count in heads]].ravel()
        if removable:
            sizes, totals = np.vstack([sizes, np.zeros((1, 3), int)]), np.append(totals, 0.0)
        sizes = np.hstack([sizes, np.full((len(sizes), 1), ABSENT)])
        return self._gated(SizeOptions(sizes, totals), f"{layer}.attention", [REMOVED] * 3 + [ABSENT])

    def _head_values(self, layer: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The value of every head at each width of QK and VO, `(heads, QK widths, VO widths)`; and the widths."""
        heads, dim = self.space.table.heads, self.space.table.head_dim
        values = self.by_group.get(f"{layer}.head", np.zeros(heads))[:, None, None]
        widths = []
        for number, axis in enumerate(("qk", "vo")):
            own = self.by_group.get(f"{layer}.{axis}")
            if own is None:
                widths.append(np.array([dim]))
                continue
            rows = own.reshape(heads, -1)
            unit = dim // rows.shape[1]
            widths.append(self._multiples(dim, unit))
            values = values + np.expand_dims(_best_totals(rows)[:, widths[-1] // unit - 1], 2 - number)
            if axis == "vo":
                has_vo = (rows > -np.inf).any(axis=1, keepdims=True)
                values = np.where(np.expand_dims(has_vo, 2), values, -np.inf)
        return np.broadcast_to(values, (heads, *(len(own) for own in widths))), widths

    def _mlp_options(self, layer: int) -> SizeOptions:
        own, whole = self.by_group.get(f"{layer}.ffn"), self.space.table.sizes[f"{layer}.ffn"]
        if own is None:
            widths, values = np.array([whole]), np.zeros(1)
        else:
            widths = np.append(0, self._multiples(whole))
            values = np.append(0.0, _best_totals(own))[widths]
        sizes = np.hstack([np.full((len(widths), 3), ABSENT), widths[:, None]])
        return self._gated(SizeOptions(sizes, values), f"{layer}.mlp", [ABSENT] * 3 + [REMOVED])

    def _multiples(self, whole: int, unit: int = 1) -> np.ndarray:
        """The sizes that `round_to` allows of an axis whose units have so many dims each, and the unpruned size."""
        step = lcm(self.space.round_to, unit)
        return np.append(np.arange(step, whole, step), whole)

    def _gated(self, options: SizeOptions, gate: str, removed: list[int]) -> SizeOptions:
        value = self.by_group.get(gate)
        return options if value is None else options.with_gate(float(value[0]), removed)

    def kept(self, width: int, chosen: list[np.ndarray]) -> Tensor:
        """`(N,)` bool: the best units for the chosen sizes."""
        kept = {name: np.zeros(len(values), bool) for name, values in self.by_group.items()}
        if "hidden" in kept:
            kept["hidden"] = _highest_values(self.by_group["hidden"], width)
        layers = np.array(chosen).reshape(len(self.space.table.layers), -1, 4).max(axis=1)
        for layer, sizes in enumerate(layers.tolist()):
            self._keep_in_layer(kept, layer, *sizes)
        return torch.from_numpy(np.concatenate([kept[group.name] for group in self.space.groups])).to(self.device)

    def _keep_in_layer(
        self, kept: dict[str, np.ndarray], layer: int, heads: int, qk: int, vo: int, neurons: int
    ) -> None:
        gates = {"attention": heads >= 0, "mlp": neurons >= 0, "layer": heads >= 0 or neurons >= 0}
        for name, is_open in gates.items():
            self._keep_alive(kept, f"{layer}.{name}", np.array([is_open]))
        if heads > 0:
            self._keep_heads(kept, layer, heads, qk, vo)
        if neurons > 0 and f"{layer}.ffn" in kept:
            kept[f"{layer}.ffn"] = _highest_values(self.by_group[f"{layer}.ffn"], neurons)

    def _keep_heads(self, kept: dict[str, np.ndarray], layer: int, heads: int, qk: int, vo: int) -> None:
        values, widths = self._head_values(layer)
        at_sizes: np.ndarray = values[:, int(np.searchsorted(widths[0], qk)), int(np.searchsorted(widths[1], vo))]
        best = _highest_values(at_sizes, heads)
        self._keep_alive(kept, f"{layer}.head", best)
        for axis, dims in (("qk", qk), ("vo", vo)):
            if (own := self.by_group.get(f"{layer}.{axis}")) is not None:
                rows = own.reshape(len(best), -1)
                units = dims * rows.shape[1] // self.space.table.head_dim
                kept[f"{layer}.{axis}"] = (_highest_values(rows, units) & best[:, None]).ravel()

    def _keep_alive(self, kept: dict[str, np.ndarray], name: str, wanted: np.ndarray) -> None:
        if name in kept:
            kept[name] = wanted & (self.by_group[name] > -np.inf)


def _unit_values(space: UnitSpace, scores: Tensor, alive: Tensor) -> np.ndarray:
    """`(N,)`: the score less the lowest of alive units, times the parameters; NaN counts as the lowest score."""
    finite = scores[alive & scores.isfinite()]
    lowest, highest = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    above = scores.double().nan_to_num(nan=lowest, posinf=highest, neginf=lowest) - lowest
    least = LEAST_VALUE * (highest - lowest) or 1.0
    return ((above + least) * space.unit_cost()).masked_fill(~alive, -torch.inf).cpu().numpy()


def _joined(attention: SizeOptions, mlp: SizeOptions, value: float) -> SizeOptions:
    """The options of a layer: all pairs of options of its sublayers that keep at least one, and its removal."""
    first, second = (index.ravel() for index in np.indices((len(attention.values), len(mlp.values))))
    sizes = np.hstack([attention.sizes[first, :3], mlp.sizes[second, 3:]])
    values = attention.values[first] + mlp.values[second] + value
    remains = (sizes[:, [0, 3]] != REMOVED).any(axis=1)
    return SizeOptions(np.vstack([sizes[remains], [REMOVED] * 4]), np.append(values[remains], 0.0))


def _best_totals(values: np.ndarray) -> np.ndarray:
    """The total value of the best 1, 2, ... along the last dimension; units that are not alive add 0."""
    ranked = -np.sort(-values, axis=-1)
    return np.cumsum(np.where(ranked > -np.inf, ranked, 0.0), axis=-1)


def _highest_values(values: np.ndarray, count: int) -> np.ndarray:
    """Bool of the shape of `values`: `ranking.highest` for an array."""
    return highest(torch.tensor(values), count).numpy()
