"""A number with what it counts, as messages and reports say it."""

from __future__ import annotations


def quantity(count: int, noun: str) -> str:
    """A number and a noun that takes an s: "1 step", "2,000 steps"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
