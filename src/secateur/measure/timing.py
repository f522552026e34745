"""Timing calls in turn, and the number of threads meanwhile."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

Call = Callable[[], object]
"""One forward of one model, ready to be timed."""


def times_in_turn(
    calls: Sequence[Call],
    repeats: int,
    warmup: int,
    *,
    settle: int = 0,
    device: torch.device | None = None,
) -> list[list[float]]:
    """`repeats` times of each call, in milliseconds, taken in turn (A, B, C, A, B, C, ...) after `warmup` turns.

    Before each timed call the same call is made `settle` times untimed: after another model's turn the caches hold its
    weights and another runtime's threads still spin, which does not happen on a server that runs one model. `device` is
    synchronised before and after each timed call; None is the CPU.
    """
    device = device or torch.device("cpu")
    for _ in range(warmup):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, own in zip(calls, times, strict=True):
            for _ in range(settle):
                call()
            own.append(time_ms(call, device))
    return times


def time_ms(call: Call, device: torch.device) -> float:
    """Milliseconds of one call; the device's queue is empty before and after."""
    _synchronize(device)
    begin = time.perf_counter()
    call()
    _synchronize(device)
    return 1000.0 * (time.perf_counter() - begin)


def _synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished; calls on the CPU return when they are done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def median_and_quartiles(times_ms: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The median of the times, and their first and third quartile."""
    first, median, third = (float(value) for value in np.percentile(times_ms, [25, 50, 75]))
    return median, (first, third)


@contextmanager
def thread_count(threads: int | None) -> Iterator[int]:
    """Inside, PyTorch uses that many intra-op threads, or the present number for None; yields the number in use."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def machine(device: torch.device) -> str:
    """The name of the processor and its number of logical cores; for a GPU also the GPU's name."""
    processor = f"{_processor()}, {os.cpu_count()} logical cores"
    return f"{torch.cuda.get_device_name(device)} with {processor}" if device.type == "cuda" else processor


def _processor() -> str:
    """The name of the processor, from the kernel or else from the platform."""
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text().splitlines() if listing.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
