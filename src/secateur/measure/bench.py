"""Benchmarks: how fast a model is, measured beside the model that it came from.

The models take turns (A, B, A, B, ...) in one process, so that a slow minute of the machine slows both;
medians and quartiles are reported, and every number carries its protocol.
"""

import copy
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from secateur.deploy.runner import check_runtime, runner
from secateur.deploy.runtime import DTYPES
from secateur.system.errors import UserError

Call = Callable[[], object]
"""One forward of one model, ready to be timed."""
PARTS = ("whole", "encoding", "decoding")
"""What of an encoder-decoder is timed: one forward of source and target, the encoder's, or writing a text."""
BEAMS = 5
"""Texts that are followed at once where writing is timed, as in the usual beam search of translation."""


@dataclass(frozen=True)
class Measurement:
    """The latency of one model and, where two were measured together, of the one it is compared with.

    Attributes:
        latency_ms: median time of one full forward of one batch, in milliseconds.
        quartiles_ms: first and third quartile of that time, in milliseconds.
        parameters: numbers stored in the model's parameters, padding included; a shared one counts once.
        protocol: how it was measured: batch and tokens (the shape), repeats, warmup, threads, dtype, device,
            runtime, attention (implementation), machine, order and seed; of an encoder-decoder the part.
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
        part = f"{p['part']}, " if p.get("part", "whole") != "whole" else ""
        return (
            f"{result}\n"
            f"{part}batch {p['batch']} x {p['tokens']} tokens, median of {p['repeats']} (quartiles) after "
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
    runtime: str = "pytorch",
    dtype: torch.dtype | str | None = None,
    part: str = "whole",
    seed: int = 0,
) -> Measurement:
    """Time full forwards of `model`, in turn with `against`, on random token ids without padding.

    Runs in eval and inference mode on the models' own device; the training mode and the number of threads are
    put back afterwards, and PyTorch's random state is not touched. More models, runtimes or dtypes in turn are
    `contest.contest`'s.

    Args:
        model: a text encoder with `config.vocab_size`, stock or cut.
        against: the model to compare with, on the same device; usually the dense one.
        batch: sequences in a forward.
        tokens: tokens in each sequence, and in its target where there is a decoder.
        repeats: timed forwards of each model.
        warmup: forwards of each model before the clock counts.
        threads: intra-op threads on the CPU; None takes PyTorch's present number.
        runtime: a registered runtime, for both models.
        dtype: None runs the weights as they are (in another runtime than PyTorch: as fp32); a name of
            `runtimes.DTYPES` runs both models in that type, cast or quantised before the clock counts;
            `torch.bfloat16` or `torch.float16` runs PyTorch under autocast, entered anew for each forward, so that
            casting the weights is part of the time.
        part: of an encoder-decoder in PyTorch what is timed: "whole", one forward of source and target; "encoding",
            that of its encoder; "decoding", writing `tokens` tokens, one after the other by beam search with the
            cache, from a source that is encoded already.
        seed: seed of the random token ids.

    Returns:
        The measurement of `model`, with that of `against` inside.

    Raises:
        UserError: a number out of range, more tokens than a model has positions, a model that does not read
            tokens, models on different devices, an unsupported dtype, a runtime that is unknown or not installed, or a
            part that a model does not have.
    """
    models = [model] if against is None else [model, against]
    check_counts(batch=batch, tokens=tokens, repeats=repeats, warmup=warmup, threads=threads)
    check_models(models, tokens)
    _check_dtype(models, runtime, dtype)
    _check_part(models, runtime, dtype, part)
    inputs = random_inputs(vocabulary(models), batch, tokens, seed)
    with thread_count(threads) as used, evaluating(models):
        calls = [_call(one, inputs, runtime, dtype, used, part) for one in models]
        with torch.inference_mode():
            times = times_in_turn([call for call, _ in calls], repeats, warmup, device=model.device)
    counts: dict[str, int | str] = {
        "batch": batch,
        "tokens": tokens,
        "repeats": repeats,
        "warmup": warmup,
        "threads": used,
    }
    order = "alone" if against is None else "interleaved"
    around: dict[str, int | str] = {
        "device": str(model.device),
        "machine": machine(model.device),
        "order": order,
        "seed": seed,
    }
    own: list[dict[str, int | str]] = [{**counts, **around, **described} for _, described in calls]
    other = None if against is None else _summary(against, times[1], own[1])
    return _summary(model, times[0], own[0], other)


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


def check_counts(*, warmup: int = 0, **counts: int | None) -> None:
    """Refuse numbers that are out of range: `warmup` below 0, any other below 1; None is one left out.

    Raises:
        UserError: names the number.
    """
    for name, number, least in (*((name, number, 1) for name, number in counts.items()), ("warmup", warmup, 0)):
        if number is not None and number < least:
            raise UserError(f"expected {name} of at least {least}, got {number}: raise it")


def check_models(models: Sequence[PreTrainedModel], tokens: int) -> None:
    """Refuse models that cannot be given the same random tokens.

    Raises:
        UserError: models on different devices, one that does not read tokens, or one with too few positions.
    """
    if len(devices := sorted({str(model.device) for model in models})) > 1:
        raise UserError(f"expected all models on one device, got {' and '.join(devices)}: move them with model.to()")
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


def _check_dtype(models: Sequence[PreTrainedModel], runtime: str, dtype: torch.dtype | str | None) -> None:
    """Refuse a runtime, or a dtype, that cannot be had this way."""
    if dtype not in (None, torch.bfloat16, torch.float16, *DTYPES):
        raise UserError(
            f"expected dtype None, {', '.join(DTYPES)}, or torch.bfloat16 or torch.float16 (autocast), got {dtype}: "
            "cast the model itself with model.to(dtype) and leave dtype out"
        )
    if isinstance(dtype, torch.dtype) and runtime != "pytorch":
        raise UserError(f"expected a dtype of {', '.join(DTYPES)} in {runtime}, got {dtype}: autocast is PyTorch's own")
    check_runtime(runtime, dtype if isinstance(dtype, str) else "fp32")
    if _converted(runtime, dtype) and (place := models[0].device.type) != "cpu":
        raise UserError(f"expected models on the CPU for {runtime} in {dtype}, got them on {place}: move them there")


def _check_part(models: Sequence[PreTrainedModel], runtime: str, dtype: torch.dtype | str | None, part: str) -> None:
    """Refuse a part that there is not, or that is not run by itself."""
    if part not in PARTS:
        raise UserError(f"expected part {', '.join(PARTS)}, got {part!r}: choose one of these")
    if part == "whole":
        return
    if _converted(runtime, dtype):
        raise UserError(f"{part} is measured in PyTorch, with the weights as they are: leave runtime and dtype out")
    for model in models:
        if not _two_stacks(model):
            raise UserError(f"{part} is a part of an encoder-decoder, {type(model).__name__} is none: leave part out")


def _two_stacks(model: PreTrainedModel) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _positions(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model can read, in tokens; None where its config states no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1  # positions count from padding_idx + 1
    return limit


def vocabulary(models: Sequence[PreTrainedModel]) -> int:
    """The number of token ids that every one of the models knows."""
    return min(model.config.vocab_size for model in models)


def random_inputs(vocabulary: int, batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids below `vocabulary` and a mask of ones, both `(batch, tokens)`."""
    ids = torch.randint(vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()}


def with_target(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs of a model; where there is a decoder and nothing for it to read, its target is the source."""
    if not _two_stacks(model) or "decoder_input_ids" in inputs:
        return dict(inputs)
    return {**inputs, "decoder_input_ids": inputs["input_ids"]}


def times_in_turn(
    calls: Sequence[Call],
    repeats: int,
    warmup: int,
    *,
    settle: int = 0,
    device: torch.device | None = None,
) -> list[list[float]]:
    """`repeats` times for each call, in milliseconds, taken in turn (A, B, C, A, B, C, ...) after `warmup` turns.

    Before each timed call the same one is made `settle` times untimed: in a turn of several, a call finds the caches
    full of another model's weights and another runtime's threads still spinning, which no server that runs one model
    sees. `device` is waited for before and after; None is the CPU.
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
    """Milliseconds of one call, the device's queue empty before and after."""
    _synchronize(device)
    begin = time.perf_counter()
    call()
    _synchronize(device)
    return 1000.0 * (time.perf_counter() - begin)


def _converted(runtime: str, dtype: torch.dtype | str | None) -> bool:
    """Whether the models are run by a `Runner`, not as they are."""
    return runtime != "pytorch" or isinstance(dtype, str)


def _call(
    model: PreTrainedModel,
    inputs: Mapping[str, np.ndarray],
    runtime: str,
    dtype: torch.dtype | str | None,
    threads: int,
    part: str = "whole",
) -> tuple[Call, dict[str, str]]:
    """One forward of the model, or of its part, and the protocol's lines about how it runs."""
    attention = getattr(model.config, "_attn_implementation", None) or "unknown"
    if _converted(runtime, dtype):
        ready = runner(model, runtime, str(dtype or "fp32"), threads=threads)
        return partial(ready, inputs), {"dtype": ready.dtype, "runtime": ready.version, "attention": attention}
    tensors = {name: torch.from_numpy(array).to(model.device) for name, array in inputs.items()}
    own, cast = _short(model.dtype), dtype if isinstance(dtype, torch.dtype) else None
    run = _of_part(model, tensors, part)

    def forward() -> None:
        with _autocast(model.device, cast):
            run()

    described = {"dtype": own if cast is None else f"{_short(cast)} autocast of {own}", "attention": attention}
    if _two_stacks(model):
        described["part"] = f"decoding, {BEAMS} beams" if part == "decoding" else part
    return forward, {**described, "runtime": f"pytorch {torch.__version__}"}


def _of_part(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], part: str) -> Call:
    """One forward of the model, or of a part of it (`PARTS`)."""
    if part == "whole":
        return partial(model, **with_target(model, tensors))
    encoder: Any = model.get_encoder()
    if part == "encoding":
        return partial(encoder, **tensors)
    writer: Any = model  # its `generate` has no type of its own
    tokens = tensors["input_ids"].shape[1]
    with torch.inference_mode():
        read = encoder(**tensors)

    def write() -> None:
        writer.generate(
            encoder_outputs=copy.copy(read),  # beams are written into it
            attention_mask=tensors["attention_mask"],
            num_beams=BEAMS,
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
        )

    return write


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was asked; the CPU does its work at once."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def thread_count(threads: int | None) -> Iterator[int]:
    """Use `threads` intra-op threads inside, the former number outside; yields the number in use."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluating(models: Sequence[PreTrainedModel]) -> Iterator[None]:
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
    times_ms: Sequence[float],
    protocol: dict[str, int | str],
    against: Measurement | None = None,
) -> Measurement:
    """Median and quartiles of one model's times, with its protocol."""
    median, quartiles = median_and_quartiles(times_ms)
    return Measurement(median, quartiles, parameter_count(model), protocol, against)


def median_and_quartiles(times_ms: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The median of some times, and their first and third quartile."""
    first, median, third = (float(value) for value in np.percentile(times_ms, [25, 50, 75]))
    return median, (first, third)


def parameter_count(model: PreTrainedModel) -> int:
    """Numbers stored in the model's parameters, padding included; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def machine(device: torch.device) -> str:
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
