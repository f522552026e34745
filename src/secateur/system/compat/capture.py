"""Capturing a CUDA graph, and where tensors are created meanwhile, since it cannot record a copy from the CPU.

Models of transformers create some tensors on the CPU and move them (the positions of MPNet), and copy numbers to the
GPU (`torch.tensor(0.0, device=...)`, for a mask), in some of its versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

Outputs = TypeVar("Outputs")


def captured(compute: Callable[[], Outputs], pool: Any = None) -> tuple[Callable[[], None], Outputs]:
    """Record a computation as a CUDA graph without running it: a function that replays it, and what this overwrites.

    The graph does not keep the tensors that the computation reads.

    Args:
        pool: of temporary memory, which several graphs may share.
    """
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        creating_on(torch.device("cuda")),
    ):
        outputs = compute()
    return graph.replay, outputs


@contextmanager
def creating_on(device: torch.device) -> Iterator[None]:
    """Within the block, tensors are created on the device unless another is named, and numbers are not copied to it."""
    with device, _FilledNumbers():
        yield


class _FilledNumbers(TorchFunctionMode):
    """`torch.tensor` of a number fills a tensor where it is wanted, in place of a copy from the CPU."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.tensor and args and isinstance(args[0], bool | int | float):
            return torch.full((), args[0], **(kwargs or {}))
        return func(*args, **(kwargs or {}))
