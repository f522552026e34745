"""How much memory a model takes: the peak of a process in which it alone is loaded, while it runs.

The process is a child, started anew for every model, runtime and dtype. On the CPU its peak is Linux's `VmHWM`, the
highest resident set (`resident`). It is set back once the model is loaded and warm, so that what loading and compiling
needed for a moment does not count; what they keep does. (`ru_maxrss` would not do: it cannot be set back, and a child
inherits its parent's.) On a GPU it is what PyTorch's allocator took there.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from secateur.deploy import gpu
from secateur.deploy.runner import runner
from secateur.measure.random_inputs import random_inputs
from secateur.measure.timing import Call, thread_count
from secateur.surgery import checkpoint, compact
from secateur.system import process_memory
from secateur.system.errors import UserError
from secateur.system.process_memory import measurable

__all__ = ["COUNTED", "Job", "Peak", "measurable", "peaks"]
COUNTED = {
    "cpu": "peak resident memory of a process in which this model alone is loaded, libraries included, while it runs",
    "cuda": "GPU memory that PyTorch reserved in a process in which this model alone is loaded, while it runs",
}
FORWARDS = 3
"""Of each shape, and as many before them that do not count: a first one may compile."""


@dataclass(frozen=True)
class Peak:
    """Bytes: of the whole process, and of it the model's own, above what was there before it was loaded."""

    process: int
    model: int


@dataclass(frozen=True)
class Job:
    """What the child does: load `model`, a folder or an exported file, and run it at each shape, small ones first."""

    model: str
    runtime: str
    dtype: str
    threads: int
    device: str
    vocabulary: int
    shapes: tuple[tuple[int, int], ...]


def peaks(job: Job) -> dict[tuple[int, int], Peak]:
    """The peak at each shape, in a child that has run the smaller ones before.

    Raises:
        UserError: the child failed, most likely for want of memory; its last words are told.
    """
    ordered = sorted(job.shapes, key=lambda shape: (shape[0] * shape[1], shape))
    described = json.dumps(asdict(job) | {"shapes": ordered})
    command = [sys.executable, "-m", "secateur.measure.peak_memory", described]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"the memory of {job.model} in {job.runtime} could not be measured ({last}): try --no-memory")
    found = json.loads(done.stdout.splitlines()[-1])
    return {shape: Peak(*pair) for shape, pair in zip(ordered, found, strict=True)}


# In the child


def _measured(job: Job) -> list[tuple[int, int]]:
    """Peaks in bytes, of the process and of the model, at each shape in turn."""
    before = process_memory.held(process_memory.NOW)
    with thread_count(job.threads):
        prepare = _prepared(job)
        found = []
        for batch, tokens in job.shapes:
            call = prepare(batch, tokens)
            _repeat(call)
            gc.collect()
            process_memory.reset_peak()
            _repeat(call)
            found.append(_on_gpu() if job.device == "cuda" else _on_cpu(before))
    return found


def _repeat(call: Call) -> None:
    for _ in range(FORWARDS):
        call()


def _prepared(job: Job) -> Callable[[int, int], Call]:
    """The model, loaded: from a shape to one forward."""
    place, draw = Path(job.model), partial(random_inputs, job.vocabulary)
    if job.device == "cuda":
        placed = gpu.placed(_opened(place), job.dtype)
        return lambda batch, tokens: gpu.forward(placed, job.runtime, draw(batch, tokens))
    ready = runner(_opened(place) if place.is_dir() else place, job.runtime, job.dtype, threads=job.threads)
    return lambda batch, tokens: partial(ready, draw(batch, tokens))


def _opened(folder: Path) -> PreTrainedModel:
    """A dense or compact model that this package has saved, with its own head."""
    checkpoint.register()
    name = str((AutoConfig.from_pretrained(folder).architectures or [""])[0])
    kind: Any = getattr(transformers, name, None) or getattr(transformers, compact.auto_class(name))
    return kind.from_pretrained(folder).eval()


def _on_cpu(before: int) -> tuple[int, int]:
    peak = process_memory.held(process_memory.PEAK)
    return peak, peak - before


def _on_gpu() -> tuple[int, int]:
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(_measured(Job(**asked))))
