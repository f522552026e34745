"""What this machine is: its processor, memory and GPUs. Nothing that takes long to import is imported.

What cannot be read on an operating system is None or empty: nothing here raises an error.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

CPUINFO, MEMORY_LIMIT = Path("/proc/cpuinfo"), Path("/sys/fs/cgroup/memory.max")
NAMES, FLAGS = ("model name", "hardware", "cpu part"), ("flags", "features")
"""Keys of /proc/cpuinfo, on x86 and ARM."""


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: such as "AMD EPYC 9B14".
        cores: physical ones; None if they cannot be counted.
        usable: logical ones on which this process may run.
        features: sets of instructions, by their names in /proc/cpuinfo; None if they cannot be read.
    """

    name: str
    cores: int | None
    usable: int
    features: frozenset[str] | None


@dataclass(frozen=True)
class Memory:
    """Bytes of memory: what this process may use of the machine, and what is free of it now."""

    total: int
    available: int


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, as its driver describes it."""

    name: str
    memory: str
    driver: str


def processor() -> Processor:
    """The processor of this machine."""
    described = _cpuinfo()
    name = next((described[key] for key in NAMES if key in described), platform.processor() or platform.machine())
    flags = next((frozenset(described[key].split()) for key in FLAGS if key in described), None)
    return Processor(name, psutil.cpu_count(logical=False), _usable_cores(), flags)


def has(features: Collection[str] | None, *names: str) -> list[str]:
    """Those of the sets of instructions that a processor has."""
    return [name for name in names if features is not None and name in features]


def memory() -> Memory:
    """The memory of the machine, or of the container if that has less."""
    now, limit = psutil.virtual_memory(), None
    with suppress(OSError, ValueError):  # there is no limit, or it is "max"
        limit = int(MEMORY_LIMIT.read_text(encoding="utf-8"))
    return Memory(min(now.total, limit or now.total), min(now.available, limit or now.available))


def gpus(seconds: float = 5.0) -> list[Gpu]:
    """The NVIDIA GPUs that the driver lists within some seconds."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(asked, capture_output=True, text=True, timeout=seconds, check=True)
        lines = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
        return [Gpu(*parts) for parts in lines if len(parts) == 3]
    return []


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """The keys of the first processor, in lower case."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                found.setdefault(key.strip().lower(), value.strip())
    return found
