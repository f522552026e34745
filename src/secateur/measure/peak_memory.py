"""Peak memory of a model: of a process in which only this model is loaded, while it runs.

Every model, runtime and dtype has a child process of its own. On the CPU the peak is Linux's `VmHWM`, the largest
resident set. It is reset after the model is loaded and has run, so that memory which loading and compiling needed only
temporarily does not count. (`ru_maxrss` cannot be reset, and a child inherits it from its parent.) On a GPU the peak is
what PyTorch's allocator reserved.
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
from secateur.measure.random_inputs import Reads, random_inputs
from secateur.measure.timing import Call, thread_count
from secateur.surgery.auto_classes import auto_class_of
from secateur.system import process_memory
from secateur.system.errors import UserError
from secateur.system.process_memory import measurable

__all__ = ["COUNTED", "OWN", "Job", "Peak", "measurable", "peaks"]
COUNTED = {
    "cpu": "peak resident memory of a process with only this model, libraries included, while it runs",
    "cuda": "GPU memory that PyTorch reserved in a process with only this model, while it runs",
}
"""Device -> what is measured there."""
OWN = {
    "cpu": "the model's is above that of the process before it was loaded",
    "cuda": "the model's is what its weights and the tensors of its forward took of that",
}
"""Device -> what of that counts as the model's."""
FORWARDS = 3
"""Forwards of each shape, after the same number that do not count, since the first may compile."""


@dataclass(frozen=True)
class Peak:
    """Bytes, at the highest.

    Attributes:
        process: on the CPU of the whole process; on a GPU what PyTorch reserved there.
        model: on the CPU the increase since before it was loaded; on a GPU what its tensors took of what is reserved.
    """

    process: int
    model: int


@dataclass(frozen=True)
class Job:
    """What a child process does: load `model`, a folder or an exported file, and run it at each shape in turn."""

    model: str
    runtime: str
    dtype: str
    threads: int
    device: str
    reads: Reads
    shapes: tuple[tuple[int, int], ...]


def peaks(job: Job) -> dict[tuple[int, int], Peak]:
    """The peak at each shape, in a child process that runs the smaller shapes first.

    Raises:
        UserError: the child process failed, most likely out of memory; the last line of its output is quoted.
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


# In the child process


def _measured(job: Job) -> list[tuple[int, int]]:
    """Peaks in bytes, of the process and of the model, at each shape in turn."""
    before = process_memory.held(process_memory.NOW)
    with thread_count(job.threads):
        prepare = _prepared(job)
        peaks_by_shape = []
        for batch, tokens in job.shapes:
            call = prepare(batch, tokens)
            _repeat(call)
            gc.collect()
            process_memory.reset_peak()
            _repeat(call)
            peaks_by_shape.append(_on_gpu() if job.device == "cuda" else _on_cpu(before))
    return peaks_by_shape


def _repeat(call: Call) -> None:
    for _ in range(FORWARDS):
        call()


def _prepared(job: Job) -> Callable[[int, int], Call]:
    """Load the model; the result returns one forward for a shape."""
    place, inputs = Path(job.model), partial(random_inputs, job.reads)
    if job.device == "cuda":
        placed = gpu.placed(_opened(place), job.dtype)
        return lambda batch, tokens: gpu.forward(placed, job.runtime, inputs(batch, tokens))
    ready = runner(_opened(place) if place.is_dir() else place, job.runtime, job.dtype, threads=job.threads)
    return lambda batch, tokens: partial(ready, inputs(batch, tokens))


def _opened(folder: Path) -> PreTrainedModel:
    """A model that the parent process has saved, of its own class, which may be any class of transformers.

    `surgery.opening` opens only models that can be pruned, and a model to compare with need not be one.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind: Any = getattr(transformers, config.architectures[0], None) or getattr(transformers, auto_class_of(config))
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
