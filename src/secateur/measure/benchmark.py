"""Benchmark: several models, in several runtimes and dtypes, timed in turn.

All rows of one shape take turns in one process (A, B, C, A, B, C, ...), so that a slow period of the machine slows all
of them. There are two speed-ups: over the dense model in the same runtime and dtype, which is the effect of pruning,
and over the dense model in PyTorch fp32, the usual baseline. Energy is not measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel

from secateur.deploy.export_facts import ExportFacts
from secateur.deploy.graph import Batch
from secateur.measure import peak_memory as memory
from secateur.measure import roofline
from secateur.measure.benchmark_result import BenchmarkResult, with_speed_ups
from secateur.measure.deprecated_say import accepts_say
from secateur.measure.model_size import parameter_count
from secateur.measure.prepared_models import (
    Configuration,
    Model,
    PreparedModel,
    Settings,
    Shape,
    configurations,
    exported_files,
    file_or_folder,
    prepared,
    with_paths,
)
from secateur.measure.random_inputs import (
    as_tensors,
    check_counts,
    check_models,
    check_positions,
    random_inputs,
    read_by,
    tokens_read,
)
from secateur.measure.timing import machine, median_and_quartiles, thread_count, times_in_turn
from secateur.system.compat import attention_of
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating

log = logging.getLogger(__name__)

SETTLE = 1
"""Untimed forwards right before each timed one; see `timing.times_in_turn`."""


@accepts_say
def benchmark(
    models: Mapping[str, PreTrainedModel | Path | str],
    *,
    dense: str | None = None,
    runtimes: Sequence[str] = ("pytorch",),
    dtypes: Sequence[str] = ("fp32",),
    shapes: Sequence[Shape] = ((1, 32), (8, 128)),
    repeats: int | Callable[[Shape], int] = 50,
    warmup: int = 10,
    threads: int | None = None,
    device: str = "cpu",
    peak_memory: bool = True,
    calibration: Sequence[Batch] | None = None,
    seed: int = 0,
) -> list[BenchmarkResult]:
    """Measure every model x runtime x dtype at every shape, on random token ids without padding.

    First all models are prepared, so that a model that cannot run is refused before anything is timed. Then the peak
    rates of the machine are measured, then all times, and last the memory of each row in a process of its own.

    Args:
        models: name in the results -> a model of texts or images on the CPU, or a file written by `export`, which runs
            in its own dtype and in the runtime of its format.
        dense: the name of the model that speed-ups are relative to; it is always measured in PyTorch fp32 too.
        runtimes: registered runtimes; on a GPU of `gpu.RUNTIMES`.
        dtypes: of `runtime.DTYPES`; on a GPU of `gpu.DTYPES`.
        shapes: (batch, tokens) pairs; an image has the tokens that its model makes of it.
        repeats: timed forwards of each row; or a function of the shape, to time short ones more often.
        warmup: untimed forwards of each row at the start.
        threads: intra-op threads of every runtime; None takes PyTorch's present number.
        device: "cpu" or "cuda".
        peak_memory: whether to measure memory too, in a process for each row, which takes some seconds to start.
        calibration: inputs that determine the ranges of activations in int8. If None, ONNX Runtime determines them for
            each batch, and OpenVINO, which needs inputs, from random ids; that changes its scores but not its times.
        seed: seed of the random token ids.

    Returns:
        A result for every row and shape, shape by shape, in the order of the turns.

    Raises:
        UserError: a number out of range, an unknown name, a combination that does not exist or is not installed,
            or a shape with more tokens than a model has positions.
    """
    given = with_paths(models)
    dense_or_cut = {name: model for name, model in given.items() if isinstance(model, PreTrainedModel)}
    check_counts(shapes=len(shapes), runtimes=len(runtimes), dtypes=len(dtypes))
    files = exported_files(given)
    _check(dense_or_cut, files, dense, shapes)
    shapes = [(batch, tokens_read(list(dense_or_cut.values()), tokens)) for batch, tokens in shapes]
    asked = configurations(given, files, dense, runtimes, dtypes, device)
    by_shape = {shape: repeats(shape) if callable(repeats) else repeats for shape in dict.fromkeys(shapes)}
    check_counts(repeats=min(by_shape.values()), warmup=warmup, threads=threads)
    whole = list(dense_or_cut.values())
    with TemporaryDirectory() as work, thread_count(threads) as used, evaluating(whole):
        reads = read_by(whole, files.values())
        settings = Settings(by_shape, warmup, used, device, reads, seed, calibration, min(shapes))
        places = (Path(work) / str(number) for number in count())
        ready = [prepared(one, given[one.name], settings, next(places)) for one in asked]
        log.info("measuring the peak rates of the machine")
        rates = {dtype: roofline.rates(dtype, used, device) for dtype in sorted({one.dtype for one in ready})}
        results = []
        for shape in by_shape:
            log.info("measuring %d x %d, %d rows in turn", *shape, len(ready))
            results += _at_shape(ready, dense_or_cut, shape, settings, rates)
        if peak_memory:
            log.info("measuring memory")
            results = _with_memory(results, ready, given, settings, places)
    return with_speed_ups(results, dense)


def _check(
    models: Mapping[str, PreTrainedModel], files: Mapping[str, ExportFacts], dense: str | None, shapes: Sequence[Shape]
) -> None:
    """Refuse models and files that cannot be compared or have too few positions, before anything is built."""
    if dense is not None and dense not in models:
        raise UserError(
            f"expected the dense model first among those to compare with, got {dense!r}, an exported file: "
            "put the dense model's folder first"
        )
    if not models:
        raise UserError(
            "expected a model folder besides the exported files, got none: add one, whose config gives the vocabulary"
        )
    for batch, tokens in shapes:
        check_counts(batch=batch, tokens=tokens)
        check_models(list(models.values()), batch, tokens)
        for name, facts in files.items():
            check_positions(name, facts.positions, tokens)


def _at_shape(
    ready: Sequence[PreparedModel],
    models: Mapping[str, PreTrainedModel],
    shape: Shape,
    settings: Settings,
    rates: Mapping[str, roofline.Rates],
) -> list[BenchmarkResult]:
    """The results of every prepared model, timed in turn at one shape."""
    inputs = random_inputs(settings.reads, *shape, settings.seed)
    work = {name: roofline.work(model, as_tensors(inputs)) for name, model in models.items()}
    if settings.device == "cuda":
        torch.compiler.reset()  # PyTorch limits the number of shapes that the same code is compiled for
    calls = [one.prepare(inputs) for one in ready]
    device = torch.device(settings.device)
    times = times_in_turn(calls, settings.repeats[shape], settings.warmup, settle=SETTLE, device=device)
    results = []
    for one, own in zip(ready, times, strict=True):
        counted = work.get(one.name)
        floor = None if counted is None else roofline.floor(counted, one.dtype, rates[one.dtype])
        results.append(_result(one, models.get(one.name), shape, own, floor, settings))
    return results


def _result(
    one: PreparedModel,
    model: PreTrainedModel | None,
    shape: Shape,
    times_ms: Sequence[float],
    floor: roofline.Floor | None,
    settings: Settings,
) -> BenchmarkResult:
    """The statistics of one prepared model's times; `model` is None for an exported file."""
    median, quartiles = median_and_quartiles(times_ms)
    attention = "as exported" if model is None else attention_of(model.config) or "unknown"
    parameters = None if model is None else parameter_count(model)
    protocol = _protocol(one, shape, settings) | {"attention": attention}
    return BenchmarkResult(
        one.name, one.runtime, one.dtype, *shape, median, quartiles, parameters, one.bytes, None, floor, protocol
    )


def _protocol(one: PreparedModel, shape: Shape, settings: Settings) -> dict[str, int | str]:
    return {
        "batch": shape[0],
        "tokens": shape[1],
        "repeats": settings.repeats[shape],
        "warmup": settings.warmup,
        "settle": SETTLE,
        "threads": settings.threads,
        "seed": settings.seed,
        "order": "interleaved",
        "dtype": one.dtype,
        "int8_ranges": one.ranges,
        "runtime": one.version,
        "device": settings.device,
        "machine": machine(torch.device(settings.device)),
    }


def _with_memory(
    results: Sequence[BenchmarkResult],
    ready: Sequence[PreparedModel],
    models: Mapping[str, Model],
    settings: Settings,
    places: Iterator[Path],
) -> list[BenchmarkResult]:
    """The results with their peaks, measured in one process after another; models are saved to the next `places`."""
    if not memory.measurable():
        unmeasured: dict[str, int | str] = {"memory": "not measured: only Linux reports it"}
        return [replace(one, protocol=one.protocol | unmeasured) for one in results]
    counted: dict[str, int | str] = {"memory": memory.COUNTED[settings.device]}
    shapes = tuple(dict.fromkeys((one.batch, one.tokens) for one in results))
    folders = {name: next(places) for name in models}
    peaks: dict[Configuration, dict[Shape, memory.Peak]] = {}
    for one in ready:
        source = str(file_or_folder(one, models[one.name], folders[one.name]))
        job = memory.Job(source, one.runtime, one.dtype, settings.threads, settings.device, settings.reads, shapes)
        peaks[one.configuration] = memory.peaks(job)
    return [
        replace(
            one,
            peak=peaks[Configuration(one.model, one.runtime, one.dtype)][one.batch, one.tokens],
            protocol=one.protocol | counted,
        )
        for one in results
    ]
