"""Random numbers that are the same on every rank and after a restart: a seed and the number of earlier draws decide."""

from __future__ import annotations

import torch

from secateur.system.errors import UserError

SEEDS = 2**32
"""Seeds are below it, as those of numpy."""


def seed_or_default(seed: int | None) -> int:
    """The seed itself, or if it is None the one that was set for torch (`transformers.set_seed`).

    Raises:
        UserError: it is no seed.
    """
    check_seed(seed)
    return torch.initial_seed() % 2**31 if seed is None else seed


def check_seed(seed: int | None) -> None:
    """Check an option that is a seed, or None.

    Raises:
        UserError: it is not a whole number in the range of seeds.
    """
    if seed is not None and (type(seed) is not int or not 0 <= seed < SEEDS):
        raise UserError(f"seed is {seed!r}: expected a whole number from 0 to {SEEDS - 1}: change it")


def generator(device: torch.device, seed: int, draw: int) -> torch.Generator:
    """The generator of one draw, on the device, so that sampling does not synchronise with the host."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + draw)
