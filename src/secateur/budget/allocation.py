"""Which units to keep for a price that depends on sizes: the most score within a limit.

Heads that run in one call are padded to the widest, so dims below the widest are free: an attention's options are how
many heads, how wide their QK and how wide their VO, and each of its heads takes its best dims up to there. (Where some
have fewer left, `layout.choose` may store them tighter: the price is then too high.) A network's are its widths. Where
a sublayer or a layer is a unit, it may also go as a whole. One option of each is chosen by `knapsack.choose`, for every
width of the stream in turn.

A score orders units that cost equally many parameters (`Space.keep` ranks by it whatever the size of a unit), so what a
unit is worth is its score, above the lowest, times its parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.budget.knapsack import Group, bound, choose, relaxed
from secateur.structure.space import Space

LEAST = 1e-6  # what the lowest score is worth, of the way to the highest: room that is left is used
STREAMS = 32  # widths of the stream that are tried, besides those that `round_to` leaves out
REMOVED, ABSENT = -1, -2


@dataclass(frozen=True)
class Prices:
    """What sizes cost at one width of the stream; a removed sublayer costs nothing.

    Attributes:
        rest: of all but the sublayers.
        attention: `(heads, QK width, VO width)`, of one more head and one more dim each than the index says.
        bare_attention: of an attention of which only the output bias is left.
        mlp: `(neurons,)`, of one neuron more than the index says.
        bare_mlp: of a network of which only the output bias is left.
    """

    rest: float
    attention: np.ndarray
    bare_attention: float
    mlp: np.ndarray
    bare_mlp: float

    def of(self, sizes: np.ndarray) -> np.ndarray:
        """`(n,)` for sizes `(n, 4)`: heads, QK width, VO width, neurons; 0 heads or neurons are the bias alone."""
        heads, _, _, neurons = sizes.T
        one, two, three, four = np.maximum(sizes, 1).T - 1
        attention = np.where(heads > 0, self.attention[one, two, three], self.bare_attention)
        mlp = np.where(neurons > 0, self.mlp[four], self.bare_mlp)
        return attention * (heads >= 0) + mlp * (neurons >= 0)


@dataclass(frozen=True)
class Part:
    """What a sublayer, or a layer, may become: sizes `(n, 4)` as in `Prices.of`, and what is worth what `(n,)`."""

    sizes: np.ndarray
    values: np.ndarray

    def efficient(self, prices: Prices) -> tuple[Part, Group]:
        """The options that none beats in price and worth, and their prices."""
        group = Group(prices.of(self.sizes), self.values)
        best = group.efficient()
        return Part(self.sizes[best], self.values[best]), group.restricted(best)


def sizes(space: Space, kept: Tensor) -> tuple[int, np.ndarray]:
    """Width of the stream, and `(layers, 4)` sizes as they are stored: heads, widest QK and VO (1 at least), neurons.

    -1 for a removed sublayer.
    """
    alive = {axis: values.cpu().numpy() for axis, values in space.read(kept).alive.items()}
    rows = []
    for layer in space.table.layers:
        qk, vo = (alive[f"{layer}.{axis}"].reshape(space.table.heads, -1) for axis in ("qk", "vo"))
        heads = vo.any(axis=1)
        widths = [max(1, int(dims[heads].sum(axis=1).max(initial=0))) for dims in (qk, vo)]
        attention = [int(heads.sum()), *widths] if alive[f"{layer}.attention"].any() else [REMOVED] * 3
        neurons = int(alive[f"{layer}.ffn"].sum()) if alive[f"{layer}.mlp"].any() else REMOVED
        rows.append([*attention, neurons])
    return int(alive["hidden"].sum()), np.array(rows)


def best_units(space: Space, scores: Tensor, alive: Tensor, prices: Callable[[int], Prices], limit: float) -> Tensor:
    """`(N,)` bool: of the units `alive`, those worth most whose price is within the limit; it must not be below all.

    Args:
        prices: what sizes cost, for a width of the stream.
    """
    worth = _Worth(space, scores, alive)
    best, most = torch.zeros_like(alive), -np.inf
    for width, of_stream in worth.streams():
        own = prices(width)
        groups, parts = worth.priced(own)
        room = limit - own.rest
        if sum(float(group.prices[0]) for group in groups) > room:
            continue
        if most >= of_stream + bound(groups, room, relaxed(groups, room)[0]):
            continue
        chosen = choose(groups, room)
        value = of_stream + sum(float(group.values[n]) for group, n in zip(groups, chosen, strict=True))
        if value > most:
            best, most = worth.kept(width, [part.sizes[n] for part, n in zip(parts, chosen, strict=True)]), value
    return best


class _Worth:
    """What the units of a space are worth, `(units,)` by group: -inf for those that may not be kept."""

    def __init__(self, space: Space, scores: Tensor, alive: Tensor) -> None:
        self.space = space
        worth = _worth(space, scores, alive)
        self.by_group = {name: worth[rows] for name, rows in space.slices.items()}
        self.device = alive.device
        layers = range(len(space.table.layers))
        self.sublayers = [(self._attention(layer), self._mlp(layer)) for layer in layers]

    def streams(self) -> list[tuple[int, float]]:
        """The widths of the stream to try, the widest first, and what their best dims are worth."""
        worth, whole = self.by_group.get("hidden"), self.space.table.sizes["hidden"]
        if worth is None:
            return [(whole, 0.0)]
        alive = int((worth > -np.inf).sum())
        step = self.space.round_to * -(-whole // (STREAMS * self.space.round_to))
        totals = np.cumsum(-np.sort(-worth))
        widths = sorted({alive, min(self.space.round_to, alive), *range(step, alive, step)}, reverse=True)
        return [(width, float(totals[width - 1])) for width in widths]

    def priced(self, prices: Prices) -> tuple[list[Group], list[Part]]:
        """The groups to choose from, and what their options are: a sublayer each, or a layer where it is a unit."""
        groups, parts = [], []
        for layer, sublayers in enumerate(self.sublayers):
            own = [part.efficient(prices)[0] for part in sublayers]
            if (worth := self.by_group.get(f"{layer}.layer")) is not None:
                own = [_joined(own[0], own[1], float(worth[0]))]
            for part in own:
                part, group = part.efficient(prices)
                groups.append(group)
                parts.append(part)
        return groups, parts

    def _attention(self, layer: int) -> Part:
        each, widths = self._by_head(layer)
        best = np.cumsum(-np.sort(-each, axis=0), axis=0)
        removable = {"head", "vo"} & set(self.space.units)
        heads = range(1, len(each) + 1) if removable else [len(each)]
        shape = np.stack(np.meshgrid(heads, *widths, indexing="ij"), axis=-1).reshape(-1, 3)
        values = best[[count - 1 for count in heads]].ravel()
        if removable:
            shape, values = np.vstack([shape, np.zeros((1, 3), int)]), np.append(values, 0.0)
        shape = np.hstack([shape, np.full((len(shape), 1), ABSENT)])
        return self._gated(Part(shape, values), f"{layer}.attention", [REMOVED] * 3 + [ABSENT])

    def _by_head(self, layer: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """What each head is worth at each width of QK and VO, `(heads, QK widths, VO widths)`, and those widths."""
        heads, dim = self.space.table.heads, self.space.table.head_dim
        each = self.by_group.get(f"{layer}.head", np.zeros(heads))[:, None, None]
        widths = []
        for number, axis in enumerate(("qk", "vo")):
            worth = self.by_group.get(f"{layer}.{axis}")
            widths.append(np.array([dim]) if worth is None else self._multiples(dim))
            if worth is not None:
                rows = worth.reshape(heads, dim)
                dims = _running(rows)[:, widths[-1] - 1]
                each = each + np.expand_dims(dims, 2 - number)
                if axis == "vo":
                    lives = (rows > -np.inf).any(axis=1, keepdims=True)
                    each = np.where(np.expand_dims(lives, 2), each, -np.inf)
        return np.broadcast_to(each, (heads, *(len(own) for own in widths))), widths

    def _mlp(self, layer: int) -> Part:
        worth, whole = self.by_group.get(f"{layer}.ffn"), self.space.table.sizes[f"{layer}.ffn"]
        if worth is None:
            widths, values = np.array([whole]), np.zeros(1)
        else:
            widths = np.append(0, self._multiples(whole))
            values = np.append(0.0, _running(worth))[widths]
        shape = np.hstack([np.full((len(widths), 3), ABSENT), widths[:, None]])
        return self._gated(Part(shape, values), f"{layer}.mlp", [ABSENT] * 3 + [REMOVED])

    def _multiples(self, whole: int) -> np.ndarray:
        step = self.space.round_to
        return np.append(np.arange(step, whole, step), whole)

    def _gated(self, part: Part, gate: str, removed: list[int]) -> Part:
        """With what the gate is worth, and the option to remove what is behind it, where it is a unit."""
        if (worth := self.by_group.get(gate)) is None:
            return part
        return Part(np.vstack([part.sizes, removed]), np.append(part.values + worth, 0.0))

    def kept(self, width: int, chosen: list[np.ndarray]) -> Tensor:
        """`(N,)` bool: the best units that a choice of sizes has room for."""
        marks = {name: np.zeros(len(worth), bool) for name, worth in self.by_group.items()}
        if "hidden" in marks:
            marks["hidden"] = _highest(self.by_group["hidden"][None], width)[0]
        layers = np.array(chosen).reshape(len(self.space.table.layers), -1, 4).max(axis=1)
        for layer, (heads, qk, vo, neurons) in enumerate(layers.tolist()):
            open_ = {"attention": heads >= 0, "mlp": neurons >= 0}
            for name, on in {**open_, "layer": any(open_.values())}.items():
                self._mark(marks, f"{layer}.{name}", np.array([on]))
            if heads > 0:
                self._mark_heads(marks, layer, heads, qk, vo)
            if neurons > 0 and f"{layer}.ffn" in marks:
                marks[f"{layer}.ffn"] = _highest(self.by_group[f"{layer}.ffn"][None], neurons)[0]
        return torch.from_numpy(np.concatenate([marks[group.name] for group in self.space.groups])).to(self.device)

    def _mark_heads(self, marks: dict[str, np.ndarray], layer: int, heads: int, qk: int, vo: int) -> None:
        each, widths = self._by_head(layer)
        of_each: np.ndarray = each[:, int(np.searchsorted(widths[0], qk)), int(np.searchsorted(widths[1], vo))]
        on: np.ndarray = np.zeros(len(of_each), bool)
        on[np.argsort(-of_each, kind="stable")[:heads]] = True
        self._mark(marks, f"{layer}.head", on)
        for axis, dims in (("qk", qk), ("vo", vo)):
            if (worth := self.by_group.get(f"{layer}.{axis}")) is not None:
                marks[f"{layer}.{axis}"] = (_highest(worth.reshape(len(on), -1), dims) & on[:, None]).ravel()

    def _mark(self, marks: dict[str, np.ndarray], name: str, on: np.ndarray) -> None:
        if name in marks:
            marks[name] = on & (self.by_group[name] > -np.inf)


def _worth(space: Space, scores: Tensor, alive: Tensor) -> np.ndarray:
    """`(N,)`: score above the lowest of those alive, times the unit's parameters; one that is no number is lowest."""
    known = scores[alive & scores.isfinite()]
    lowest, highest = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    above = scores.double().nan_to_num(nan=lowest, posinf=highest, neginf=lowest) - lowest
    least = LEAST * (highest - lowest) or 1.0
    return ((above + least) * space.unit_cost()).masked_fill(~alive, -torch.inf).cpu().numpy()


def _joined(attention: Part, mlp: Part, worth: float) -> Part:
    """A layer's options: every pair of its sublayers' that leaves one of them, or nothing."""
    one, other = (index.ravel() for index in np.indices((len(attention.values), len(mlp.values))))
    shape = np.hstack([attention.sizes[one, :3], mlp.sizes[other, 3:]])
    values = attention.values[one] + mlp.values[other] + worth
    left = (shape[:, [0, 3]] != REMOVED).any(axis=1)
    return Part(np.vstack([shape[left], [REMOVED] * 4]), np.append(values[left], 0.0))


def _running(worth: np.ndarray) -> np.ndarray:
    """What the best 1, 2, ... of the last dimension are worth; those that may not be kept add nothing."""
    ranked = -np.sort(-worth, axis=-1)
    return np.cumsum(np.where(ranked > -np.inf, ranked, 0.0), axis=-1)


def _highest(worth: np.ndarray, count: int) -> np.ndarray:
    """`(rows, n)` bool: the `count` highest of each row, without those at -inf."""
    rank = np.argsort(np.argsort(-worth, axis=1, kind="stable"), axis=1, kind="stable")
    return (rank < count) & (worth > -np.inf)
