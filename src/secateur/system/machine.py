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

CPUINFO, CGROUP = Path("/proc/cpuinfo"), Path("/sys/fs/cgroup")
MEMORY_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Of a container, in versions 2 and 1 of cgroups: the limit, what is used, and the key of what of it can be freed."""
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
    now = psutil.virtual_memory()
    own = _memory_of_container() or Memory(now.total, now.available)
    return Memory(min(now.total, own.total), min(now.available, own.available))


def gpus(seconds: float = 5.0) -> list[Gpu]:
    """The NVIDIA GPUs that the driver lists within some seconds."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(asked, capture_output=True, text=True, timeout=seconds, check=True)
        lines = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
        return [Gpu(*parts) for parts in lines if len(parts) == 3]
    return []


def _memory_of_container() -> Memory | None:
    """The limit of a container, and what is left of it; None without one.

    Files that are cached and not in use count as used by the container, and as free here.
    """
    for limit, used, parts, key in MEMORY_FILES:
        if (total := _number(limit)) is not None:
            return Memory(total, max(0, total - (_number(used) or 0) + (_number(parts, key) or 0)))
    return None


def _number(name: str, key: str | None = None) -> int | None:
    """The number in a file of the container, or that behind a key in it; None if there is none, or "max"."""
    with suppress(OSError, ValueError):
        words = [line.split() for line in (CGROUP / name).read_text(encoding="utf-8").splitlines()]
        return next((int(line[-1]) for line in words if key is None or line[0] == key), None)
    return None


def _usable_cores() -> int:
    """The logical cores on which this process may run, or so many whole ones as its container may use the time of."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_of_container()
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota_of_container() -> float | None:
    """How many cores a container may use the time of; None without a limit."""
    with suppress(OSError, ValueError):  # of version 1, or "max"
        quota, period = (CGROUP / "cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    older, span = _number("cpu/cpu.cfs_quota_us"), _number("cpu/cpu.cfs_period_us")
    return older / span if older and span and older > 0 else None  # -1 is no limit


def _cpuinfo() -> dict[str, str]:
    """The keys of the first processor, in lower case."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                found.setdefault(key.strip().lower(), value.strip())
    return found
