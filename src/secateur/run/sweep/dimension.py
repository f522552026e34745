"""The dimensions of a sweep: a key of the recipe, and the values that it may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import floor
from typing import Any, TypeAlias, get_type_hints

from pydantic import ValidationError

from secateur.methods import METHODS
from secateur.run.compared_recipes import brief
from secateur.run.recipe import KEYS, known
from secateur.run.recipe_errors import sentence
from secateur.run.recipe_schema import Strict, types_within
from secateur.system.errors import InRecipe

FIXED = ("model", "teacher", "seed", "data.", "measurement.", "training.teacher_", "training.report_to")
"""How keys begin that all trials share."""
ENTRY = 2
"""The number of points in a key of an entry, such as `method.options.beta`."""


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        values: what a value is called -> the value; a number, a text, a bool or null is called as it is.
    """

    key: str
    values: Mapping[Any, Any]

    @property
    def ends(self) -> list[Any]:
        """The names of the values to check: all of them."""
        return list(self.values)

    @property
    def all(self) -> list[Any] | None:
        """The names of all values."""
        return list(self.values)

    def value(self, name: Any) -> Any:
        """The value for the recipe."""
        return self.values[name]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included.

    Attributes:
        whole: whether it is a whole number.
        log: whether it is searched on a logarithmic scale.
        step: the distance of two values; None for any, of whole numbers 1.
    """

    key: str
    low: float
    high: float
    whole: bool
    log: bool = False
    step: float | None = None

    @property
    def ends(self) -> list[Any]:
        """The values to check: the lowest and the highest."""
        return [self.low, self.high]

    @property
    def all(self) -> list[Any] | None:
        """All values; None if they are not countable."""
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return None
        return [self.low + number * step for number in range(floor((self.high - self.low) / step + 1e-9) + 1)]

    def value(self, name: Any) -> Any:
        """The value for the recipe."""
        return name


Dimension: TypeAlias = Choices | Range


class _Given(Strict):
    """A range as a file has it."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None


def dimensions_of(over: Mapping[str, Any], source: str) -> list[Dimension]:
    """The dimensions that a file asks for, by dotted keys or in groups.

    Args:
        source: what the file is called in an error.

    Raises:
        UserError: a key is not known or cannot vary, or its values are no choices and no range.
    """
    entries = {key: given for key, given in over.items() if str(key).count(".") == ENTRY}
    for key in entries:
        _check_entry(str(key), source)
    keys = known({key: given for key, given in over.items() if key not in entries}, f"{source}: sweep.over") | entries
    if not keys:
        raise InRecipe(
            f"{source}: sweep.over names no key: give one with its values, such as target.density: [0.1, 0.2]"
        )
    return [_dimension(key, given, f"{source}: sweep.over: {key}") for key, given in keys.items()]


def _check_entry(key: str, source: str) -> None:
    group = key.rpartition(".")[0]
    dicts = [
        name
        for name, field in KEYS.items()
        if dict in {getattr(k, "__origin__", k) for k in types_within(field.annotation)}
    ]
    if group not in dicts:
        near = get_close_matches(group, dicts, n=1, cutoff=0.0)
        raise InRecipe(
            f"{source}: sweep.over has the unknown key {key!r}: an entry is that of {near[0]}, or another such key"
        )


def _dimension(key: str, given: Any, place: str) -> Dimension:
    if key.startswith(FIXED):
        raise InRecipe(
            f"{place} cannot vary, because all trials share the model, the teacher, the data and the measurement: set "
            "it outside of the block, and make a sweep for each value"
        )
    if isinstance(given, list):
        return _choices(key, given, place)
    if isinstance(given, dict):
        return _range(key, given, place)
    raise InRecipe(f"{place}: expected a list of values, or a range with low and high, not {given!r}")


def _choices(key: str, given: list[Any], place: str) -> Choices:
    names = [brief(value) if isinstance(value, list | dict) else value for value in given]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise InRecipe(f"{place} has the value {twice[0]!r} twice: name each once")
    if not names:
        raise InRecipe(f"{place} has no values: give some")
    return Choices(key, dict(zip(names, given, strict=True)))


def _range(key: str, given: dict[str, Any], place: str) -> Range:
    try:
        asked = _Given(**given)
    except (ValidationError, TypeError) as error:
        said = sentence(error, (key,)).removeprefix(f"{key}.") if isinstance(error, ValidationError) else str(error)
        raise InRecipe(f"{place}: {said}: give low and high, and if wanted log or step") from error
    kinds = _kinds(key) or {type(asked.low), type(asked.high)}
    if not {int, float} & kinds:
        raise InRecipe(f"{place} is no number, so that it has no range: give a list of values")
    one = Range(key, asked.low, asked.high, float not in kinds, asked.log, asked.step)
    _check_range(one, place)
    return one


def _kinds(key: str) -> set[Any]:
    """The types of a key, or those that methods have for the option of an entry; empty where nobody says them."""
    if key in KEYS:
        return types_within(KEYS[key].annotation)
    group, _, name = key.rpartition(".")
    if group != "method.options":
        return set()
    hints = [get_type_hints(method.__init__) for method in METHODS.all().values()]
    return set().union(*(types_within(hint[name]) for hint in hints if name in hint))


def _check_range(one: Range, place: str) -> None:
    if not one.low < one.high:
        raise InRecipe(f"{place}: low {one.low:g} must be below high {one.high:g}")
    if one.log and one.low <= 0:
        raise InRecipe(f"{place}: a logarithmic scale has no {one.low:g}: raise low above 0, or drop log")
    if one.log and one.step is not None:
        raise InRecipe(f"{place}: log and step exclude each other: drop one")
    if one.step is not None and not 0 < one.step <= (one.high - one.low) * (1 + 1e-9):
        raise InRecipe(f"{place}: step {one.step:g} must be above 0 and at most high - low, {one.high - one.low:g}")
    if one.whole and any(number is not None and number != int(number) for number in (one.low, one.high, one.step)):
        raise InRecipe(f"{place} is a whole number: give low, high and step as such")
