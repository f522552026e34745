"""Amounts as people write them: a fraction, a speed-up, a time, a size, a shape. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from secateur.system.errors import UserError

MULTIPLES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
"""Units of a size in text; a megabyte is 10^6 bytes, as in the reports."""

Number = TypeVar("Number", int, float)


def fraction(text: str | float, name: str = "density", whole: str = "the parameters", like: float = 0.05) -> float:
    """`0.05`, `5%` or a number in [0, 1].

    Args:
        text: what was written.
        name: of the amount, for the message.
        whole: what it is a fraction of.
        like: an example.

    Raises:
        UserError: it is none of these; a bare number above 1, such as 5 or 50, is not guessed to be percent.
    """
    words = str(text).strip()
    percent = words.endswith("%")
    number = _number(words.removesuffix("%").strip(), float)
    if number is None:
        raise UserError(f"{name} {text!r} is no fraction of {whole}: write it like {like:g}, or like {100 * like:g}%")
    value = number / 100 if percent else number
    if not 0 <= value <= 1:
        raise not_a_fraction(number, words, name, whole, like)
    return value


def not_a_fraction(
    number: float, words: str, name: str = "density", whole: str = "the parameters", like: float = 0.05
) -> UserError:
    """The error for a number beyond (0, 1], which says what was probably meant; see `fraction`."""
    percent = f"for {number:g} percent write {number / 100:g} or {number:g}%"
    hint = percent if 1 < number <= 100 else f"write {like:g}"
    return UserError(f"{name} {words} is not in (0, 1], the fraction of {whole} to keep: {hint}")


def fractions(text: str, name: str = "density") -> tuple[float, ...]:
    """Several of these with commas between them.

    Raises:
        UserError: one of them is none, or the text is one number with a decimal comma.
    """
    parts = text.split(",")
    if len(parts) == 2 and parts[0].strip() == "0" and parts[1].strip().rstrip("%").isdecimal():
        raise UserError(f"{name} {text} has a decimal comma: write 0.{parts[1].strip()}; commas stand between several")
    return tuple(fraction(part, name) for part in parts)


def multiple(text: str | float) -> float:
    """A speed-up: `2`, or `2x`.

    Raises:
        UserError: it is none.
    """
    number = _number(str(text).strip().lower().removesuffix("x").strip(), float)
    if number is None:
        raise UserError(f"speed-up {text!r} is not a number: write it like 2 or 2x")
    return number


def milliseconds(text: str | float) -> float:
    """`5ms`, `0.005 s`, or a bare number of milliseconds.

    Raises:
        UserError: it is none of these.
    """
    words = str(text).strip().lower()
    units = {"ms": 1.0, "s": 1000.0, "": 1.0}
    unit = next(unit for unit in units if words.endswith(unit))
    number = _number(words.removesuffix(unit), float)
    if number is None:
        raise UserError(f"latency {text!r} is not a time: write it like 5ms, 0.005s or 5, which are milliseconds")
    return units[unit] * number


def byte_count(text: str | float) -> int:
    """`5MB`, `5 MB`, `800kB`, `1.2GB`, or a bare number of bytes.

    Raises:
        UserError: it is none of these.
    """
    words = str(text).strip().lower()
    number = words.rstrip("kmgb").rstrip()
    unit = words.removeprefix(number).strip() or "b"
    try:
        return round(float(number) * MULTIPLES[unit])
    except (ValueError, KeyError, OverflowError):
        raise UserError(f"size {text!r} is not a size: write it like 5MB, 800kB, 1.2GB or a number of bytes") from None


def batch_and_tokens(text: str) -> tuple[int, int]:
    """The shape of an input: `8x128` is 8 rows of 128 tokens.

    Raises:
        UserError: it is none.
    """
    batch, _, tokens = (part.strip() for part in text.lower().partition("x"))
    rows, length = _number(batch, int), _number(tokens, int)
    if rows is None or length is None:
        raise UserError(f"shape {text!r} is not batch x tokens: write it like 8x128")
    return rows, length


def _number(text: str, kind: Callable[[str], Number]) -> Number | None:
    """The number that a text is; None if it is none."""
    try:
        return kind(text)
    except ValueError:
        return None
