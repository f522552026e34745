"""Gradients that stay in place from step to step, as recorded computations need them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

ALIGNED = 64
"""Elements, of which the place of every gradient is a multiple."""


class GradientBuffers:
    """Memory for the gradients of those parameters that have one. A parameter without a gradient is left without."""

    def __init__(self) -> None:
        self._held: list[nn.Parameter] = []
        self._gradients: list[Tensor] = []
        self._memory: list[Tensor] = []

    def include(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add those of the parameters that have a gradient now.

        The memory of earlier ones stays where it is, because recorded computations refer to it.
        """
        known = {id(parameter) for parameter in self._held}
        new = [parameter for parameter in parameters if parameter.grad is not None and id(parameter) not in known]
        for dtype in dict.fromkeys(parameter.dtype for parameter in new):
            self._allocate([parameter for parameter in new if parameter.dtype == dtype])

    def attach(self) -> None:
        """Make these buffers the gradients of their parameters; the gradients that some have already are kept in them.

        Gradients that are None count as 0. Parameters that were frozen since are left without.
        """
        if all(parameter.grad is None for parameter in self._held):
            for memory in self._memory:
                memory.zero_()
        else:
            for parameter, buffer in zip(self._held, self._gradients, strict=True):
                if parameter.grad is None:
                    buffer.zero_()
                elif parameter.grad is not buffer:
                    buffer.copy_(parameter.grad)
        for parameter, buffer in zip(self._held, self._gradients, strict=True):
            if parameter.requires_grad:
                parameter.grad = buffer

    def _allocate(self, parameters: list[nn.Parameter]) -> None:
        """One block of memory for parameters of one dtype, so that one call fills it with zeros."""
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + -(-parameter.numel() // ALIGNED) * ALIGNED)
        memory = torch.zeros(starts[-1], dtype=parameters[0].dtype, device=parameters[0].device)
        for parameter, (start, _) in zip(parameters, pairwise(starts), strict=True):
            self._gradients.append(memory[start : start + parameter.numel()].view(parameter.shape))
        self._held += parameters
        self._memory.append(memory)
