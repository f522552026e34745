"""The latency of a model, measured in turn with the dense model that it was cut from.

The models take turns (A, B, A, B, ...) in one process, so that a slow period of the machine slows both. Medians and
quartiles are reported, with the protocol of the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from secateur.deploy.graph import is_encoder_decoder
from secateur.deploy.runner import check_model, check_runtime, runner
from secateur.deploy.runtime import DTYPES
from secateur.measure.generation import BEAMS, WHOLE, call_of_part, check_part, part_text
from secateur.measure.measurement import Measurement, Protocol, summary
from secateur.measure.prepared_models import random_calibration
from secateur.measure.random_inputs import (
    as_tensors,
    check_counts,
    check_models,
    random_inputs,
    read_by,
    tokens_read,
)
from secateur.measure.timing import Call, machine, thread_count, times_in_turn
from secateur.system.compat import attention_of
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating


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
    part: str = WHOLE,
    beams: int = BEAMS,
    seed: int = 0,
) -> Measurement:
    """Time full forwards or generations of `model`, in turn with `against`, on random token ids without padding.

    The models run in evaluation and inference mode on their own device. Their modes and the number of threads are
    restored afterwards, and PyTorch's random state is not used. `benchmark.benchmark` measures more models, runtimes or
    dtypes in turn.

    Args:
        model: an encoder of texts with `config.vocab_size`, or of images, stock or cut.
        against: the model to compare with, on the same device; usually the dense one.
        batch: sequences in a forward.
        tokens: tokens in each sequence, and in its target where there is a decoder; an image has those that its model
            makes of it, whatever is asked for.
        repeats: timed forwards of each model.
        warmup: untimed forwards of each model at the start.
        threads: intra-op threads on the CPU; None takes PyTorch's present number.
        runtime: a registered runtime, for both models.
        dtype: None runs the weights as they are (in another runtime than PyTorch: as fp32); a name of
            `runtime.DTYPES` runs both models in that dtype, cast or quantised before anything is timed (int8 of
            OpenVINO with ranges of activations from the random inputs, which does not change its times);
            `torch.bfloat16` or `torch.float16` runs PyTorch under autocast, which is entered for each forward, so that
            casting the weights is part of the time.
        part: what is timed in PyTorch (`generation.PARTS`): "whole", one forward, of source and target where there is
            a decoder to an encoder; "generation", that of `tokens` tokens with the cache, from as many of its source or
            of its beginning; of an encoder-decoder also "encoding", one forward of its encoder, and "decoding", the
            generation from an encoded source.
        beams: of the search by which text is generated; 1 is greedy.
        seed: seed of the random token ids.

    Returns:
        The measurement of `model`, with that of `against` inside.

    Raises:
        UserError: a number out of range, more tokens than a model has positions, a model whose inputs are not
            tokens or that has no padding token for its batch, models on different devices, an unsupported dtype, a
            runtime that is unknown or not installed, or a part that a model does not have (`generation.check_part`).
    """
    models = [model] if against is None else [model, against]
    check_counts(batch=batch, tokens=tokens, repeats=repeats, warmup=warmup, threads=threads)
    check_models(models, batch, tokens)
    tokens = tokens_read(models, tokens)
    _check_dtype(models, runtime, dtype)
    if part != WHOLE and _needs_runner(runtime, dtype):
        raise UserError(f"{part} is measured in PyTorch in the dtype of the weights: leave runtime and dtype out")
    for one in models:
        check_part(one, part, tokens, beams)
    inputs = random_inputs(read_by(models), batch, tokens, seed)
    with thread_count(threads) as used, evaluating(models):
        forwards = [_forward(one, inputs, runtime, dtype, used, (part, beams)) for one in models]
        with torch.inference_mode():
            times = times_in_turn([call for call, _ in forwards], repeats, warmup, device=model.device)
    shared: Protocol = {
        "batch": batch,
        "tokens": tokens,
        "repeats": repeats,
        "warmup": warmup,
        "threads": used,
        "device": str(model.device),
        "machine": machine(model.device),
        "order": "alone" if against is None else "interleaved",
        "seed": seed,
    }
    own = [{**shared, **protocol} for _, protocol in forwards]
    other = None if against is None else summary(against, times[1], own[1])
    return summary(model, times[0], own[0], other)


def grid(
    model: PreTrainedModel,
    against: PreTrainedModel | None = None,
    shapes: Sequence[tuple[int, int]] = ((1, 32), (8, 128)),
    **protocol: Any,
) -> list[Measurement]:
    """The measurement at each (batch, tokens) shape, in that order; `protocol` is passed on to `measure`."""
    own = dict.fromkeys((batch, tokens_read([model], tokens)) for batch, tokens in shapes)
    return [measure(model, against, batch=batch, tokens=tokens, **protocol) for batch, tokens in own]


def _check_dtype(models: Sequence[PreTrainedModel], runtime: str, dtype: torch.dtype | str | None) -> None:
    """Refuse a runtime or a dtype in which these models cannot run."""
    if dtype not in (None, torch.bfloat16, torch.float16, *DTYPES):
        raise UserError(
            f"expected dtype None, {', '.join(DTYPES)}, or torch.bfloat16 or torch.float16 (autocast), got {dtype}: "
            "cast the model itself with model.to(dtype) and leave dtype out"
        )
    if isinstance(dtype, torch.dtype) and runtime != "pytorch":
        raise UserError(f"expected a dtype of {', '.join(DTYPES)} in {runtime}, got {dtype}: only PyTorch has autocast")
    check_runtime(runtime, dtype if isinstance(dtype, str) else "fp32")
    if _needs_runner(runtime, dtype) and (place := models[0].device.type) != "cpu":
        raise UserError(f"expected models on the CPU for {runtime} in {dtype}, got them on {place}: move them there")
    for model in models if _needs_runner(runtime, dtype) else ():
        check_model(model, runtime, str(dtype or "fp32"))


def _needs_runner(runtime: str, dtype: torch.dtype | str | None) -> bool:
    """Whether a `Runner` runs the models, not the models themselves."""
    return runtime != "pytorch" or isinstance(dtype, str)


def _forward(
    model: PreTrainedModel,
    inputs: Mapping[str, np.ndarray],
    runtime: str,
    dtype: torch.dtype | str | None,
    threads: int,
    part: tuple[str, int] = (WHOLE, 1),
) -> tuple[Call, Protocol]:
    """One forward of the model, or of a part of it, and how it runs."""
    shared: Protocol = {"attention": attention_of(model.config) or "unknown"}
    if is_encoder_decoder(model) or part[0] != WHOLE:
        shared["part"] = part_text(*part)
    if _needs_runner(runtime, dtype):
        name = str(dtype or "fp32")
        examples, ranges = random_calibration(runtime, name, inputs)
        if name == "int8":
            shared["int8_ranges"] = ranges
        ready = runner(model, runtime, name, threads=threads, calibration=examples)
        return partial(ready, inputs), {"dtype": ready.dtype, **shared, "runtime": ready.version}
    tensors = {name: tensor.to(model.device) for name, tensor in as_tensors(inputs).items()}
    own, cast = _short(model.dtype), dtype if isinstance(dtype, torch.dtype) else None
    run = call_of_part(model, tensors, *part)

    def forward() -> None:
        with _autocast(model.device, cast):
            run()

    mixed = own if cast is None else f"{_short(cast)} autocast of {own}"
    return forward, {"dtype": mixed, **shared, "runtime": f"pytorch {torch.__version__}"}


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
