"""The measured milliseconds of one kind of block of a model, and of the sizes between those measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secateur.budget.size_costs import OF_ATTENTION, SIZES, SizeCosts


@dataclass(frozen=True, eq=False)
class BlockTimes:
    """Milliseconds of one block at the sizes and the widths of the residual stream that were measured.

    Attributes:
        count: how many of these blocks the unpruned model has.
        grid: the measured sizes of `SIZES`, each in ascending order up to the unpruned size, which is the only one
            where a size was not varied; no `ffn` in blocks without a feed-forward network.
        attention: `(heads, sharing, qk, vo, hidden)`.
        bare_attention: `(hidden,)` of an attention of which only the output bias is left.
        mlp: `(ffn, hidden)`, empty in blocks without a feed-forward network.
        bare_mlp: `(hidden,)` of a feed-forward network of which only the output bias is left.

    Raises:
        ValueError: an array does not fit the grid, or holds what is no number.
    """

    count: int
    grid: Mapping[str, list[int]]
    attention: np.ndarray
    bare_attention: np.ndarray
    mlp: np.ndarray
    bare_mlp: np.ndarray

    def __post_init__(self) -> None:
        widths = len(self.bare_attention)
        counts = {name: len(self.grid.get(name, ())) for name in SIZES}
        expected = {
            "attention": (*(counts[name] for name in OF_ATTENTION), widths),
            "bare_attention": (widths,),
            "mlp": (counts["ffn"], widths),
            "bare_mlp": (widths,),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name} does not fit its grid")

    @staticmethod
    def of(values: Mapping[str, Any]) -> BlockTimes:
        """Those that `to_dict` wrote.

        Raises:
            KeyError, ValueError: they are damaged.
        """
        widths = len(values["bare_attention"])
        arrays = {name: np.array(values[name], dtype=float) for name in ("attention", "bare_attention", "bare_mlp")}
        arrays["mlp"] = np.array(values["mlp"], dtype=float).reshape(-1, widths)
        return BlockTimes(count=values["count"], grid=values["grid"], **arrays)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        arrays = ("attention", "bare_attention", "mlp", "bare_mlp")
        return {"count": self.count, "grid": dict(self.grid), **{name: getattr(self, name).tolist() for name in arrays}}

    def in_proportion(self, hidden: list[int]) -> BlockTimes:
        """The times with sizes that were not varied taken to cost in proportion, which is less than they do.

        Args:
            hidden: the measured widths of the residual stream.
        """
        attention, mlp, grid = self.attention, self.mlp, dict(self.grid)
        for axis, name in enumerate(OF_ATTENTION):
            attention, grid[name] = down_to_one(attention, axis, grid[name], self.bare_attention)
        if mlp.size:
            mlp, grid["ffn"] = down_to_one(mlp, 0, grid["ffn"], self.bare_mlp)
        times = {"attention": attention, "bare_attention": self.bare_attention, "mlp": mlp, "bare_mlp": self.bare_mlp}
        narrower: dict[str, Any] = {name: down_to_one(own, -1, hidden)[0] for name, own in times.items()}
        return replace(self, grid=grid, **narrower)

    def costs(self, stream: np.ndarray) -> SizeCosts:
        """The costs of all sizes, interpolated multilinearly.

        Args:
            stream: `(hidden,)` the weights of the measured widths of the residual stream.
        """
        weights = [size_weights(self.grid[name]) for name in OF_ATTENTION]
        mlp = self.mlp @ stream
        return SizeCosts(
            attention=np.einsum("ai,bj,ck,dl,ijkl->abcd", *weights, self.attention @ stream, optimize=True),
            bare_attention=float(self.bare_attention @ stream),
            mlp=size_weights(self.grid["ffn"]) @ mlp if mlp.size else mlp,
            bare_mlp=float(self.bare_mlp @ stream),
        )


def down_to_one(
    times: np.ndarray, axis: int, grid: list[int], bare: np.ndarray | float = 0.0
) -> tuple[np.ndarray, list[int]]:
    """Times and the sizes on an axis of them, with a size of 1 in front if there is but one, which is larger.

    Args:
        bare: what a size of 0 costs.
    """
    if len(grid) > 1 or grid[0] == 1:
        return times, grid
    return np.concatenate([bare + (times - bare) / grid[0], times], axis), [1, *grid]


def size_weights(grid: list[int]) -> np.ndarray:
    """`(unpruned size, points)`: the interpolation weights of the measured points for sizes 1, 2, ... ."""
    whole = np.arange(1, grid[-1] + 1)
    return np.stack([np.interp(whole, grid, point) for point in np.eye(len(grid))], axis=1)
