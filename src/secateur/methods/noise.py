"""Random numbers that are the same on every rank and after a restart: a seed and the number of earlier draws decide."""

from __future__ import annotations

import torch

from secateur.methods.options import check_seed


def seed_or_default(seed: int | None) -> int:
    """The seed itself, or if it is None the one that was set for torch (`transformers.set_seed`).

    Raises:
        UserError: it is no seed.
    """
    check_seed(seed)
    return torch.initial_seed() % 2**31 if seed is None else seed


def generator(device: torch.device, seed: int, draw: int) -> torch.Generator:
    """The generator of one draw, on the device, so that sampling does not synchronise with the host."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + draw)
