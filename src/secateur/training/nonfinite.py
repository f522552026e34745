"""What must be finite while a model is trained: watched on the device, and looked at when it is waited for anyway."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


class Faults:
    """The first step at which each of the watched values was not finite."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}

    def watch(self, name: str, value: Tensor, step: int, device: torch.device) -> None:
        """Look at a value of any shape, without waiting for the device."""
        if name not in self._first:
            self._first[name] = torch.full((), math.inf, device=device)
        first, finite = self._first[name], value.detach().isfinite().all().to(device)
        self._first[name] = torch.where(finite, first, first.clamp(max=step))

    def earliest(self, gather: Callable[[Tensor], Tensor]) -> tuple[str, int] | None:
        """Which value was the first not to be finite, and at which step; None if all were. Waits for the device.

        Args:
            gather: joins the `(values,)` of all processes, end to end.
        """
        if not self._first:
            return None
        found = gather(torch.stack([*self._first.values()])).view(-1, len(self._first)).amin(dim=0).tolist()
        step, name = min(zip(found, self._first, strict=True), key=lambda fault: fault[0])
        return (name, round(step)) if math.isfinite(step) else None

    def clear(self) -> None:
        """Begin anew."""
        self._first.clear()
