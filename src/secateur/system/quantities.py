"""Texts of numbers and protocols, as messages and reports say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def quantity(count: int, noun: str) -> str:
    """A number and a noun that takes an s: "1 step", "2,000 steps"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def timed_part(protocol: Mapping[str, Any]) -> str:
    """What the protocol of a time says that was timed; empty for a whole forward."""
    part = str(protocol.get("part", "whole"))
    return "" if part == "whole" else part


def measured_dtype(protocol: Mapping[str, Any]) -> str:
    """The dtype that the protocol of a time names, and what determined the ranges of activations in int8 if it says."""
    ranges = protocol.get("int8_ranges")
    return f"{protocol['dtype']} (ranges of activations from {ranges})" if ranges else str(protocol["dtype"])
