"""What the groups of a recipe are made of: strict models of keys, and the mark of a key that is an option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class Flag:
    """Marks a key that has an option of its own on the command line.

    Attributes:
        name: the option, such as `--density`.
        text: whether the option takes any text, which the recipe converts.
        switch: whether the option takes no value, and sets the key to true or false, which the recipe converts.
    """

    name: str
    text: bool = False
    switch: bool = False


class Strict(BaseModel):
    """An immutable group of keys that refuses unknown keys, numbers that are not finite, and bools for numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse True for 1, which pydantic accepts: in a recipe it is a mistake."""
        if _bool_for_number(value, cls.model_fields[info.field_name or ""].annotation):
            raise PydanticCustomError("number", "expected a number")
        return value


def _bool_for_number(value: Any, kind: Any) -> bool:
    """Whether `value` is or contains a bool where the type `kind`, or a type within it, is a number."""
    if isinstance(value, list | tuple):
        return any(_bool_for_number(item, part) for item in value for part in get_args(kind))
    return isinstance(value, bool) and not {int, float}.isdisjoint(types_within(kind))


def types_within(kind: Any) -> set[Any]:
    """A type, and all types within it, such as those of a union or of an annotated type."""
    return {kind}.union(*map(types_within, get_args(kind)))
