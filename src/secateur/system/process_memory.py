"""How much memory this process holds, as the system counts it: now, and at the most since the count was set back.

Resident memory is what is in RAM of a process: libraries, weights, activations, and of mapped files the pages in use,
which the system may take back at any time; what is not a file's is anonymous. On Linux the peak is `VmHWM` of the
process's status, which can be set back; elsewhere it is `ru_maxrss`, the highest since the process began.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

STATUS = Path("/proc/self/status")
CLEAR, CLEAR_PEAK = Path("/proc/self/clear_refs"), "5"
NOW, ANONYMOUS, PEAK = "VmRSS", "RssAnon", "VmHWM"
"""Lines of the status."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names of what `mallopt` sets, mallopt(3)
OWN_TRIM, OWN_MMAP = 128 * 2**10, 32 * 2**20  # where glibc trims by itself, and the highest it maps from by itself


def measurable() -> bool:
    """Whether this system tells the peak of a process, and sets it back: Linux does, where `/proc` can be written."""
    return STATUS.exists() and CLEAR.exists()


def held(line: str) -> int:
    """Bytes of this process by one line of its status: `NOW`, `ANONYMOUS` or, at the highest, `PEAK`."""
    found = next(text for text in STATUS.read_text().splitlines() if text.startswith(f"{line}:"))
    return 1024 * int(found.split()[1])


def readings() -> dict[str, float]:
    """For a log: MB (10^6 bytes) resident now, and of it anonymous; nothing where the system does not tell."""
    if not STATUS.exists():
        return {}
    return {"resident_mb": round(held(NOW) / 1e6, 1), "anonymous_mb": round(held(ANONYMOUS) / 1e6, 1)}


def forget_peak() -> bool:
    """Set the peaks back to what is held now; whether the system's own could be."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    try:
        CLEAR.write_text(CLEAR_PEAK)
    except OSError:
        return False
    return True


def peaks() -> dict[str, int]:
    """Bytes at the highest since the peaks were set back: `resident`, and on a GPU what was `allocated` there."""
    found = {"resident": held(PEAK) if STATUS.exists() else _ever()}
    if torch.cuda.is_initialized():
        found["allocated"] = torch.cuda.max_memory_allocated()
    return found


def counted() -> str:
    """What the peaks of a stage are, in words."""
    since = "in the stage" if measurable() else "from the start of the process to the end of the stage"
    said = f"highest resident memory of the process {since}, libraries and mapped files included"
    return f"{said}; allocated: on the GPU, by PyTorch" if torch.cuda.is_initialized() else said


def give_back() -> None:
    """Let the allocator hand the pages that are free back to the system, where it can be asked to: in glibc."""
    trim = _of_c("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def pages_kept() -> Iterator[None]:
    """Within, the allocator keeps the pages of freed tensors for the next ones, where it can be asked to: in glibc.

    By itself it hands them back after each step, and the system must find and clear them again: some 10,000 page faults
    in a step of a small model, a fifth of its time (RESULTS.md).
    """
    option = _of_c("mallopt")
    if option is None:
        yield
        return
    option(MMAP_THRESHOLD, OWN_MMAP)
    option(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        option(TRIM_THRESHOLD, OWN_TRIM)
        give_back()


def _of_c(name: str) -> Any:
    """A function of the C library; None where it has none of the name, as musl, or is another system's."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _ever() -> int:
    """The highest resident memory since the process began, in bytes; of a system without it 0."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
