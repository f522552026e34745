"""Benchmarks: how fast a model is, measured beside the model that it came from.

The models take turns (A, B, A, B, ...) in one process, so that a slow minute of the machine slows both;
medians and quartiles are reported, and every number carries its protocol.
"""

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import UserError


@dataclass(frozen=True)
class Measurement:
    """The latency of one model and, where two were measured together, of the one it is compared with.

    Attributes:
        latency_ms: median time of one full forward of one batch, in milliseconds.
        quartiles_ms: first and third quartile of that time, in milliseconds.
        parameters: numbers stored in the model's parameters, padding included; a shared one counts once.
        protocol: how it was measured: batch and tokens (the shape), repeats, warmup, threads, dtype, device,
            runtime, attention (implementation), machine, order and seed.
        against: the other model's measurement, from the same run; None when the model was measured alone.
    """

    latency_ms: float
    quartiles_ms: tuple[float, float]
    parameters: int
    protocol: dict[str, int | str]
    against: "Measurement | None" = None

    @property
    def speed_up(self) -> float | None:
        """Ratio of the medians, the other's over ours: above 1 this model is faster. None when alone."""
        return None if self.against is None else self.against.latency_ms / self.latency_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, ready for JSON; `speed_up` included."""
        other = None if self.against is None else self.against.to_dict()
        mine = asdict(self) | {"quartiles_ms": list(self.quartiles_ms)}
        return mine | {"speed_up": self.speed_up, "against": other}

    def __str__(self) -> str:
        result = f"{self._latency()}, {self.parameters:,} parameters"
        if self.against is not None:
            result += f"; {self.speed_up:.2f}x the speed of {self.against._latency()}"
            result += f", {self.against.parameters:,} parameters"
        p = self.protocol
        return (
            f"{result}\n"
            f"batch {p['batch']} x {p['tokens']} tokens, median of {p['repeats']} (quartiles) after "
            f"{p['warmup']} to warm up, {p['order']}, threads {p['threads']}, {p['dtype']}, "
            f"attention {p['attention']}, {p['device']}, {p['runtime']}, {p['machine']}"
        )

    def _latency(self) -> str:
        return f"{self.latency_ms:.2f} ms ({self.quartiles_ms[0]:.2f}-{self.quartiles_ms[1]:.2f})"


def measure(
    model: PreTrainedModel,
    against: PreTrainedModel | None = None,
    *,
    batch: int = 8,
    tokens: int = 128,
    repeats: int = 50,
    warmup: int = 10,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Measurement:
    """Time full forwards of `model`, in turn with `against`, on random token ids without padding.

    Runs in eval and inference mode on the models' own device; the training mode and the number of threads are
    put back afterwards, and PyTorch's random state is not touched.

    Args:
        model: a text encoder with `config.vocab_size`, stock or cut.
        against: the model to compare with, on the same device; usually the dense one.
        batch: sequences in a forward.
        tokens: tokens in each sequence.
        repeats: timed forwards of each model.
        warmup: forwards of each model before the clock counts.
        threads: PyTorch's intra-op threads on the CPU; None leaves the number as it is.
        dtype: None runs the weights as they are; `torch.bfloat16` or `torch.float16` runs under autocast,
            entered anew for each forward, so that casting the weights is part of the time.
        seed: seed of the random token ids.

    Returns:
        The measurement of `model`, with that of `against` inside.

    Raises:
        UserError: a number out of range, more tokens than a model has positions, a model that does not read
            tokens, models on different devices, or an unsupported dtype.
    """
    models = [model] if against is None else [model, against]
    _check(models, batch, tokens, repeats, warmup, threads, dtype)
    inputs = _random_inputs(models, batch, tokens, seed)
    with _thread_count(threads) as used, _evaluating(models), torch.inference_mode():
        times = _times_in_turn(models, inputs, repeats, warmup, dtype)
    counts = {"batch": batch, "tokens": tokens, "repeats": repeats, "warmup": warmup, "threads": used}
    order = "alone" if against is None else "interleaved"
    shared = {**counts, **_surroundings(model.device), "order": order, "seed": seed}
    other = None if against is None else _summary(against, times[1], shared, dtype)
    return _summary(model, times[0], shared, dtype, other)


def grid(
    model: PreTrainedModel,
    against: PreTrainedModel | None = None,
    shapes: Sequence[tuple[int, int]] = ((1, 32), (8, 128)),
    **protocol: Any,
) -> list[Measurement]:
    """`measure` at each (batch, tokens) shape, in the order given; `protocol` is passed on to it."""
    return [measure(model, against, batch=batch, tokens=tokens, **protocol) for batch, tokens in shapes]


def disk_bytes(folder: str | Path) -> int:
    """Bytes that the weights in `folder` take on disk: the sum over its *.safetensors files.

    Raises:
        UserError: `folder` holds no such file.
    """
    sizes = [file.stat().st_size for file in Path(folder).glob("*.safetensors")]
    if not sizes:
        raise UserError(f"expected a model folder with *.safetensors files, got {folder}: give a saved model's folder")
    return sum(sizes)


def _check(
    models: list[PreTrainedModel],
    batch: int,
    tokens: int,
    repeats: int,
    warmup: int,
    threads: int | None,
    dtype: torch.dtype | None,
) -> None:
    """Refuse what cannot be measured, before any work is done."""
    for name, number, least in (
        ("batch", batch, 1),
        ("tokens", tokens, 1),
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
        ("threads", threads, 1),
    ):
        if number is not None and number < least:
            raise UserError(f"expected {name} of at least {least}, got {number}: raise it")
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise UserError(
            f"expected dtype None, torch.bfloat16 or torch.float16 (autocast), got {dtype}: cast the model "
            "itself with model.to(dtype) and leave dtype out"
        )
    if len(devices := sorted({str(model.device) for model in models})) > 1:
        raise UserError(f"expected both models on one device, got {' and '.join(devices)}: move one with model.to()")
    for model in models:
        if getattr(model.config, "vocab_size", None) is None:
            raise UserError(
                f"expected a model that reads tokens, got {type(model).__name__}, whose config has no "
                "vocab_size: measure a text model"
            )
        if (limit := _positions(model)) is not None and tokens > limit:
            raise UserError(
                f"expected at most {limit} tokens, the positions that {type(model).__name__} has, "
                f"got {tokens}: lower tokens"
            )


def _positions(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model can read, in tokens; None where its config states no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1  # positions count from padding_idx + 1
    return limit


def _random_inputs(models: list[PreTrainedModel], batch: int, tokens: int, seed: int) -> dict[str, Tensor]:
    """Random ids within every vocabulary and a mask of ones, both (batch, tokens), on the models' device."""
    vocabulary = min(model.config.vocab_size for model in models)
    ids = torch.randint(vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    device = models[0].device
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


def _times_in_turn(
    models: list[PreTrainedModel],
    inputs: dict[str, Tensor],
    repeats: int,
    warmup: int,
    dtype: torch.dtype | None,
) -> list[list[float]]:
    """`repeats` times for each model, in milliseconds, taken in turn after `warmup` untimed turns."""
    for _ in range(warmup):
        for model in models:
            _time_forward(model, inputs, dtype)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(repeats):
        for model, own in zip(models, times, strict=True):
            own.append(_time_forward(model, inputs, dtype))
    return times


def _time_forward(model: PreTrainedModel, inputs: dict[str, Tensor], dtype: torch.dtype | None) -> float:
    """Milliseconds of one forward, the device's queue empty before and after."""
    _synchronize(model.device)
    begin = time.perf_counter()
    with _autocast(model.device, dtype):
        model(**inputs)
    _synchronize(model.device)
    return 1000.0 * (time.perf_counter() - begin)


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was asked; the CPU does its work at once."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _thread_count(threads: int | None) -> Iterator[int]:
    """Use `threads` intra-op threads inside, the former number outside; yields the number in use."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def _evaluating(models: list[PreTrainedModel]) -> Iterator[None]:
    """Every module in eval mode inside, each in its own former mode outside."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def _summary(
    model: PreTrainedModel,
    times_ms: list[float],
    shared: dict[str, int | str],
    dtype: torch.dtype | None,
    against: Measurement | None = None,
) -> Measurement:
    """Median and quartiles of one model's times; its protocol is the shared one and its own two lines."""
    first, median, third = (float(value) for value in np.percentile(times_ms, [25, 50, 75]))
    protocol = shared | {
        "dtype": _short(model.dtype) if dtype is None else f"{_short(dtype)} autocast of {_short(model.dtype)}",
        "attention": getattr(model.config, "_attn_implementation", None) or "unknown",
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Measurement(median, (first, third), parameters, protocol, against)


def _surroundings(device: torch.device) -> dict[str, int | str]:
    """What a time depends on beside the model and the counts."""
    return {"device": str(device), "runtime": f"pytorch {torch.__version__}", "machine": _machine(device)}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _machine(device: torch.device) -> str:
    """The processor's name and its logical cores; before them the name of the GPU that the models are on."""
    processor = f"{_processor()}, {os.cpu_count()} logical cores"
    return f"{torch.cuda.get_device_name(device)} with {processor}" if device.type == "cuda" else processor


def _processor() -> str:
    """The processor's name, as the kernel or else the platform tells it."""
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text().splitlines() if listing.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
