"""Texts of numbers and protocols, as messages and reports say them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any


def quantity(count: int, noun: str) -> str:
    """A number and a noun that takes an s: "1 step", "2,000 steps"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def at_least(value: float, form: str) -> str:
    """A floor in a format such as ".4f" or ".4g", rounded up, so that the number that is shown is within it.

    What a refusal names must be accepted when it is asked for; `at_most` is for ceilings. Both are used as `format` is.
    """
    return format(_rounded(value, form, ROUND_CEILING), form)


def at_most(value: float, form: str) -> str:
    """A ceiling, rounded down."""
    return format(_rounded(value, form, ROUND_FLOOR), form)


def _rounded(value: float, form: str, rounding: str) -> float:
    """A number rounded in one direction to the digits that a format shows: those after the point (f), or all (g)."""
    digits, exact = int(form[1:-1]), Decimal(repr(float(value)))
    if form.endswith("g"):
        return float(Context(digits, rounding).create_decimal(exact))
    return float(exact.quantize(Decimal(1).scaleb(-digits), rounding, Context(prec=400)))


def timed_part(protocol: Mapping[str, Any]) -> str:
    """What the protocol of a time says that was timed; empty for a whole forward."""
    part = str(protocol.get("part", "whole"))
    return "" if part == "whole" else part


def measured_dtype(protocol: Mapping[str, Any]) -> str:
    """The dtype that the protocol of a time names, and what determined the ranges of activations in int8 if it says."""
    ranges = protocol.get("int8_ranges")
    return f"{protocol['dtype']} (ranges of activations from {ranges})" if ranges else str(protocol["dtype"])
