"""The memory of this process as the operating system counts it: the present amount, and the peak since the last reset.

Resident memory is the part of a process that is in RAM: libraries, weights, activations, and the pages of mapped files
that are in use, which the system may reclaim at any time. Anonymous memory is the part of it that belongs to no file.
On Linux the peak is `VmHWM` of the process's status, which can be reset; elsewhere it is `ru_maxrss`, the peak since
the process began.

Memory that nothing uses any more is returned at the end of each stage of a run (`release`), and free pages of the
allocator within a training once they are many (`FreePages`).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from secateur.system import compiled_code

STATUS = Path("/proc/self/status")
CLEAR, CLEAR_PEAK = Path("/proc/self/clear_refs"), "5"
NOW, ANONYMOUS, PEAK = "VmRSS", "RssAnon", "VmHWM"
"""Lines of the status."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
DEFAULT_TRIM, MOST_MMAP = 128 * 2**10, 32 * 2**20  # bytes: glibc's default, and the most that it raises its own to

MOST_FREE = 256 * 2**20
"""Bytes of free pages that the allocator may keep within a training."""
MOST_CODE = 256 * 2**20
"""Bytes by which this process may grow before compiled code is removed, which takes a second."""
LOWEST: dict[str, int] = {}
"""`ANONYMOUS` -> the fewest bytes of it that a `release_heap` has left since compiled code was last removed."""


def measurable() -> bool:
    """Whether this system reports the peak of a process and can reset it: Linux, if `/proc` is writable."""
    return STATUS.exists() and CLEAR.exists()


def held(line: str) -> int:
    """Bytes that this process holds, by one line of its status: `NOW`, `ANONYMOUS` or `PEAK`."""
    entry = next(text for text in STATUS.read_text().splitlines() if text.startswith(f"{line}:"))
    return 1024 * int(entry.split()[1])


def anonymous() -> int:
    """Bytes of anonymous memory that this process holds; 0 if the system does not report it."""
    return held(ANONYMOUS) if STATUS.exists() else 0


def readings() -> dict[str, float]:
    """For a log: resident memory in MB (10^6 bytes), and its anonymous part; empty if the system does not report it."""
    if not STATUS.exists():
        return {}
    return {"resident_mb": round(held(NOW) / 1e6, 1), "anonymous_mb": round(held(ANONYMOUS) / 1e6, 1)}


def reset_peak() -> bool:
    """Set the peaks to the present amounts; returns whether the system's own peak could be reset."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    try:
        CLEAR.write_text(CLEAR_PEAK)
    except OSError:
        return False
    return True


def peaks() -> dict[str, int]:
    """The peaks since the last reset, in bytes: `resident`, and with a GPU the memory `allocated` on it by PyTorch."""
    peak = {"resident": held(PEAK) if STATUS.exists() else _peak_of_process()}
    if torch.cuda.is_initialized():
        peak["allocated"] = torch.cuda.max_memory_allocated()
    return peak


def description_of_peaks() -> str:
    """What the peaks of a stage measure, for a reader of the numbers."""
    since = "in the stage" if measurable() else "from the start of the process to the end of the stage"
    resident = f"highest resident memory of the process {since}, libraries and mapped files included"
    return f"{resident}; allocated: on the GPU, by PyTorch" if torch.cuda.is_initialized() else resident


def release() -> None:
    """Return what nothing uses any more: objects in cycles, free blocks of a GPU, compiled code and free pages.

    Trainer, its optimizer and its model are in cycles of references, which the garbage collector finds late.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    release_heap()


def release_heap() -> None:
    """Return the free pages, and remove compiled code if the process has more than `MOST_CODE` above its lowest level.

    What else has grown since then does no harm: the removal was for nothing, and the level is a new one.
    """
    release_free_pages()
    level = anonymous()
    if level > LOWEST.get(ANONYMOUS, level) + MOST_CODE:
        compiled_code.evict()
        release_free_pages()
        LOWEST[ANONYMOUS] = anonymous()
    else:
        LOWEST[ANONYMOUS] = min(level, LOWEST.get(ANONYMOUS, level))


class FreePages:
    """Keeps the free pages of the allocator few: they are returned when the process has grown by `MOST_FREE`.

    In a training the blocks of tensors are split by small objects that stay (compiled code), so that new blocks are
    taken for later tensors: after some hundred steps most of the heap is free and resident, unless it is returned. A
    large model is affected in each step, which is long; a small model in few.
    """

    def __init__(self) -> None:
        self.before = anonymous()

    def check(self) -> None:
        """Return the free pages if they may be many; to be called when little is in use, as after a step."""
        if anonymous() > self.before + MOST_FREE:
            release_free_pages()
            self.before = anonymous()


def release_free_pages() -> None:
    """Return the free pages of the allocator to the system, if the C library is glibc."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def keep_free_pages() -> Iterator[None]:
    """Within the block, the allocator keeps the pages of freed tensors for the next ones, if the C library is glibc.

    Otherwise it returns them to the system after each step, and the system must map and clear them again: some 10,000
    page faults in a step of a small model, a fifth of its time (RESULTS.md).
    """
    option = _c_function("mallopt")
    if option is None:
        yield
        return
    option(MMAP_THRESHOLD, MOST_MMAP)
    option(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        option(TRIM_THRESHOLD, DEFAULT_TRIM)
        release_free_pages()


def _c_function(name: str) -> Any:
    """A function of the C library of Linux; None if the library (such as musl) or the system does not have it."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _peak_of_process() -> int:
    """The highest resident memory since the process began, in bytes; 0 on a system that does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
