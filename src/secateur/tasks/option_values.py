"""Checks of the values of a task's options, by the types that its functions state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from secateur.system.errors import UserError

WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", NoneType: "null"}
"""Type -> what is asked for in messages."""


def check_options(values: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Refuse options of another type than the parameters of a function to which they are passed.

    Only parameters that are numbers, texts, truth values, or one of these and None, are checked.

    Raises:
        UserError: a value has another type, or is a number that is not finite.
    """
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):  # of a task of one's own, whose types exist for a type checker alone
        return
    for name, value in values.items():
        check_option(name, value, hints.get(name, Any))


def check_option(name: str, value: object, kind: Any) -> None:
    """Refuse the value of an option that is not of a type, such as `int | None`.

    Raises:
        UserError: it has another type, or is a number that is not finite.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if set(kinds) <= WORDS.keys() and not any(_is(value, one) for one in kinds):
        raise UserError(f"{name} is {value!r}: give {' or '.join(WORDS[one] for one in kinds)}")


def _is(value: object, kind: type) -> bool:
    """Whether a value is of a type: a whole number is also a decimal, and a truth value is no number."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
