"""What is said of a value that does not fit a key of a recipe, in words of the field and not of a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from secateur.system.errors import UserError

EXPECTED = {
    "missing": "a value is needed",
    "greater_than": "expected a number above {gt:g}",
    "greater_than_equal": "expected a number that is at least {ge:g}",
    "less_than": "expected a number below {lt:g}",
    "less_than_equal": "expected a number that is at most {le:g}",
    "literal_error": "expected {expected}",
    "too_short": "expected at least {min_length}, separated by commas",
    "finite_number": "expected a finite number",
}
"""Kind of an error of pydantic -> what was expected, with the values of its context."""
KINDS = {
    "int": "expected a whole number",
    "float": "expected a number",
    "bool": "expected true or false",
    "string": "expected text",
    "tuple": "expected a list",
    "dict": "expected keys and values",
    "model": "expected keys and values",
}
"""How the kinds of errors of a type begin -> what was expected."""


def sentence(error: ValidationError, place: Sequence[str]) -> str:
    """The first key that does not fit: what was expected and what came; or the rule of a recipe that is broken.

    Args:
        error: of a group, or of the whole recipe.
        place: the group that was made, if it is not the whole recipe.
    """
    errors: list[dict[str, Any]] = [dict(one) for one in error.errors()]
    first = errors[0]
    if isinstance(cause := first.get("ctx", {}).get("error"), UserError):  # a rule, or a value that is no latency
        return str(cause)
    key = _key(first, place)
    alternatives = [_expected(one) for one in errors if _key(one, place) == key]
    others = [one.removeprefix("expected ") for one in alternatives[1:]]
    expected = " or ".join(dict.fromkeys([alternatives[0], *others]))
    return f"{key}: {expected}" + ("" if first["type"] == "missing" else f", not {first['input']!r}")


def _key(error: Mapping[str, Any], place: Sequence[str]) -> str:
    """The dotted key: what follows in the place of the error are alternatives of its type, and numbers of entries."""
    return ".".join(str(part) for part in (*place, *error["loc"])[:2])


def _expected(error: Mapping[str, Any]) -> str:
    """What was expected in place of a value."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in EXPECTED:
        return EXPECTED[kind].format(**context)
    words = next((words for begin, words in KINDS.items() if kind.startswith(f"{begin}_")), None)
    return words or str(error["msg"]).lower()
