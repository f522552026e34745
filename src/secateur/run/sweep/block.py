"""A recipe file with a block `sweep`: which keys vary, over which values, and what is searched.

model: bert-base-uncased
data: reviews.csv
sweep:
  over:
    target.density: {low: 0.03, high: 0.3, log: true}
    target.units: [[ffn, qk, vo], [ffn, head]]
  objectives: [score, speedup]
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from secateur.report.recipe_keys import dotted, grouped
from secateur.run.recipe import COMMAND_LINE, FORMAT, KEYS, SWEEP, Recipe, known, make, read_values, with_values
from secateur.run.recipe_errors import sentence
from secateur.run.recipe_schema import Strict
from secateur.run.recipe_yaml import dump
from secateur.run.sweep.dimension import Dimension, dimensions_of
from secateur.run.sweep.objectives import SCORE, check_objective
from secateur.system.errors import InRecipe, UserError

MOST = 2000
"""Combinations that are checked at most; of more, each value is checked, and a sample of that many."""
Point = Mapping[str, Any]
"""Key -> the name of its value (`Dimension.value`)."""


class Block(Strict):
    """The block `sweep`."""

    over: dict[str, Any] = Field(
        description="which keys vary: a dotted key to a list of values, or to a range `{low: 1e-4, high: 1e-3, log: "
        "true}`, where `log` and `step` can be left out"
    )
    objectives: tuple[str, ...] = Field(
        (SCORE,), min_length=1, description="what is searched: one or more of score, speedup, ms, mb, parameters"
    )
    sampler: Literal["tpe", "nsga2", "random", "grid"] = Field(
        "tpe", description="how trials are chosen: tpe, nsga2, random, or grid for all combinations"
    )
    seed: int = Field(0, ge=0, description="seed of the sampler; that of the runs is `seed` of the recipe")
    early_stopping: bool | None = Field(
        None,
        description="stop a trial that scores below the median of those before it at the same part of the recovery; "
        "by default if the one objective is the score",
    )


@dataclass(frozen=True)
class Sweep:
    """A sweep that is asked for.

    Attributes:
        values: of the recipe, by dotted keys, without those that vary.
        source: what the file is called in an error.
        options: keys whose values are not those of the file, but of the command line.
    """

    values: Mapping[str, Any]
    block: Block
    source: str
    options: frozenset[str] = frozenset()

    @cached_property
    def dimensions(self) -> list[Dimension]:
        """The keys that vary, with their values."""
        return dimensions_of(self.block.over, self.source)

    @property
    def stops_early(self) -> bool:
        """Whether hopeless trials are stopped."""
        wanted = self.block.early_stopping
        return self.block.objectives == (SCORE,) if wanted is None else wanted

    @property
    def size(self) -> int | None:
        """The number of all combinations; None if they are not countable."""
        counts = [one.all for one in self.dimensions]
        return None if None in counts else prod(len(values or ()) for values in counts)

    @property
    def grid(self) -> list[Point]:
        """All combinations; empty if they are not countable."""
        names = [one.all for one in self.dimensions]
        return [] if self.size is None else self._points(product(*(values or () for values in names)))

    def recipe(self, point: Point) -> Recipe:
        """The recipe of a trial.

        Raises:
            UserError: its values do not fit together.
        """
        changed: dict[str, Any] = {}
        for one in self.dimensions:
            value = one.value(point[one.key])
            if one.key in KEYS:
                changed[one.key] = value
            else:  # an entry of a key that holds several
                key, _, name = one.key.rpartition(".")
                changed[key] = {**(changed.get(key) or self.values.get(key) or {}), name: value}
        return make(with_values(self.values, changed), self.source, self.options - changed.keys())

    def with_tuning_rows(self, count: int) -> Sweep:
        """The sweep with that number of rows to tune by, unless its file says another."""
        return replace(self, values={"data.tuning_rows": count, **self.values})

    def points_to_check(self) -> list[Point]:
        """All combinations of the ends of the dimensions; of too many, each value once and a sample."""
        ends = [one.ends for one in self.dimensions]
        if prod(map(len, ends)) <= MOST:
            return self._points(product(*ends))
        first = [values[0] for values in ends]
        single = [[*first[:n], value, *first[n + 1 :]] for n, values in enumerate(ends) for value in values]
        draw = random.Random(0)
        return self._points([*single, *([draw.choice(values) for values in ends] for _ in range(MOST))])

    def _points(self, rows: Any) -> list[Point]:
        keys = [one.key for one in self.dimensions]
        return [dict(zip(keys, row, strict=True)) for row in rows]

    @property
    def resolved(self) -> dict[str, Any]:
        """Every key of the recipe of the first combination, and of the block, by dotted keys, as plain values."""
        block = self.block.model_dump(mode="json").items()
        first = self.recipe(self.points_to_check()[0])
        return dotted(first.to_dict()) | {f"{SWEEP}.{key}": value for key, value in block}

    def differences(self, theirs: Mapping[str, Any]) -> list[str]:
        """Keys in which another sweep differs, by what `resolved` said of that; a version may have had fewer keys."""
        return [key for key, value in self.resolved.items() if key in theirs and theirs[key] != value]

    def to_dict(self) -> dict[str, Any]:
        """The file as plain values, with every key of the block."""
        return grouped(self.values) | {SWEEP: self.block.model_dump(mode="json")}

    def to_yaml(self) -> str:
        """The file that gives this sweep."""
        return dump(FORMAT.stamped(self.to_dict()))


def read_sweep(path: Path | str, overrides: Mapping[str, Any]) -> Sweep:
    """A recipe file with a block `sweep`, and values of the command line that override those of the recipe.

    Raises:
        UserError: the file cannot be read or has no such block, or the block does not fit.
    """
    values, source = read_values(path), str(path)
    given = values.pop(SWEEP, None)
    if not isinstance(given, dict):
        raise InRecipe(f"{source} has no block {SWEEP!r}: add one with the keys that vary, as in docs/sweep.md")
    try:
        block = Block(**given)
    except ValidationError as error:
        raise InRecipe(f"{source}: {sentence(error, (SWEEP,))}") from error
    theirs = known(overrides, COMMAND_LINE)
    sweep = Sweep(with_values(known(values, source), theirs), block, source, frozenset(theirs))
    _check(sweep)
    return sweep


def _check(sweep: Sweep) -> None:
    """Refuse what does not go together in the block, and keys that are given twice."""
    block, source, countable = sweep.block, sweep.source, sweep.size is not None
    for name in block.objectives:
        check_objective(name)
    if len(set(block.objectives)) < len(block.objectives):
        raise InRecipe(f"{source}: sweep.objectives names one twice: name each once")
    if block.early_stopping and block.objectives != (SCORE,):
        raise InRecipe(
            f"{source}: sweep.early_stopping compares scores on the way, which say nothing of several objectives or of "
            f"another than the score: drop it, or search {SCORE} alone"
        )
    if block.sampler == "grid" and not countable:
        endless = [one.key for one in sweep.dimensions if one.all is None]
        raise InRecipe(f"{source}: sweep.sampler: grid needs values to count: give {endless[0]} a list, or a step")


def recipes_to_check(sweep: Sweep) -> Iterator[tuple[Point, Recipe]]:
    """The recipes of all combinations that are checked.

    Raises:
        UserError: one is not valid; the sentence names its values.
    """
    for point in sweep.points_to_check():
        try:
            recipe = sweep.recipe(point)
            if len(recipe.target.densities) > 1:
                raise InRecipe("a trial has one density: make a list of single ones")
        except UserError as error:
            raise in_trial(point, error) from error
        yield point, recipe


def in_trial(point: Point, error: UserError) -> UserError:
    """An error of a trial, with the values of that trial."""
    return InRecipe(f"the trial of {described(point)} is not possible: {error}")


def described(point: Point) -> str:
    """A combination in one line."""
    values = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in point.values())
    return ", ".join(f"{key} {value}" for key, value in zip(point, values, strict=True))
