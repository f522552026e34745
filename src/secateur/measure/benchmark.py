"""Several models, in several runtimes and dtypes, timed in turn: which one should be deployed here?

All rows of one shape take turns in one process (A, B, C, A, B, C, ...), so that a slow minute of the machine slows
all. Speed-ups are told twice: against the dense model in the same runtime and dtype, which is what the pruning did, and
against the dense model in PyTorch fp32, which is what most people run. Nothing is claimed about energy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.deploy import gpu
from secateur.deploy.formats import known_format, read_facts
from secateur.deploy.graph import Batch
from secateur.deploy.runner import check_runtime, runner
from secateur.deploy.runtimes import RUNTIMES
from secateur.measure import peak_memory as memory
from secateur.measure import roofline
from secateur.measure.bench import (
    Call,
    check_counts,
    check_models,
    evaluating,
    machine,
    median_and_quartiles,
    parameter_count,
    random_inputs,
    thread_count,
    times_in_turn,
    vocabulary,
)
from secateur.surgery import checkpoint
from secateur.system.errors import UserError

SETTLE = 1
"""Untimed forwards right before each timed one; see `bench.times_in_turn`."""
DEVICES = ("cpu", "cuda")
CALIBRATED = ("openvino",)
"""Runtimes whose int8 takes its ranges from examples, always."""
BASELINE = ("pytorch", "fp32")
"""What most people run."""

Model = PreTrainedModel | Path
Shape = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """What to measure: a model by its name, in a runtime and a dtype."""

    name: str
    runtime: str
    dtype: str


@dataclass(frozen=True)
class Settings:
    """What all rows share: the protocol's counts, and what inputs are drawn from.

    `example` is the shape of random inputs that stand in for calibration where none is given.
    """

    repeats: Mapping[Shape, int]
    warmup: int
    threads: int
    device: str
    vocabulary: int
    seed: int
    calibration: Sequence[Batch] | None
    example: Shape


@dataclass(frozen=True)
class Contender:
    """A model made ready in a runtime and a dtype.

    Attributes:
        name: the model's.
        version: the runtime's, such as "pytorch 2.13.0".
        bytes: its weights as this runtime runs them.
        prepare: from inputs `(batch, tokens)` to one forward.
        exported: the folder that its runtime's files were written to; None on a GPU.
        ranges: where int8 takes the ranges of activations from.
    """

    name: str
    runtime: str
    dtype: str
    version: str
    bytes: int
    prepare: Callable[[Mapping[str, np.ndarray]], Call]
    exported: Path | None = None
    ranges: str = "none"


@dataclass(frozen=True)
class Result:
    """One model in one runtime, dtype and shape.

    Attributes:
        model: its name.
        runtime: one of `runtimes.RUNTIMES`, on a GPU of `gpu.RUNTIMES`.
        dtype: one of `runtimes.DTYPES`.
        batch: sequences in a forward.
        tokens: tokens in each of them.
        latency_ms: median time of one forward.
        quartiles_ms: its first and third quartile.
        parameters: numbers stored in the model, padding included; None for an exported file.
        bytes: its weights as this runtime runs them.
        peak: memory, see `memory`; None where not measured.
        floor: the least time that this machine needs, see `roofline`; None where not counted.
        protocol: how all of it was measured.
        speed_up: the median of the dense model in the same runtime and dtype over ours; None without one.
        speed_up_baseline: the median of the dense model in PyTorch fp32 over ours; None without one.
    """

    model: str
    runtime: str
    dtype: str
    batch: int
    tokens: int
    latency_ms: float
    quartiles_ms: tuple[float, float]
    parameters: int | None
    bytes: int
    peak: memory.Peak | None
    floor: roofline.Floor | None
    protocol: dict[str, int | str]
    speed_up: float | None = None
    speed_up_baseline: float | None = None

    @property
    def over_floor(self) -> float | None:
        """The median as a multiple of the roofline's floor: 1 is the best that the machine can do."""
        return None if self.floor is None else self.latency_ms / self.floor.floor_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, ready for JSON; `over_floor` included."""
        return asdict(self) | {"quartiles_ms": list(self.quartiles_ms), "over_floor": self.over_floor}


def contest(
    models: Mapping[str, Model],
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
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Measure every model x runtime x dtype at every shape, on random token ids without padding.

    First everything is made ready, so that what cannot run is refused before the clock counts; then the machine's own
    rates are measured, then all times, and last each one's memory in a process of its own.

    Args:
        models: by the name that the results show: text models on the CPU, and files written by `export`, which
            run once each, as they are, in the runtime that opens them.
        dense: the name of the model that speed-ups are ratios to; in PyTorch fp32 it is measured in any case.
        runtimes: of `runtimes.RUNTIMES`; on a GPU of `gpu.RUNTIMES`.
        dtypes: of `runtimes.DTYPES`; on a GPU of `gpu.DTYPES`.
        shapes: (batch, tokens) pairs.
        repeats: timed forwards of each row; or by the shape, more of the short ones.
        warmup: forwards of each row before the clock counts.
        threads: intra-op threads of every runtime; None takes PyTorch's present number.
        device: "cpu" or "cuda".
        peak_memory: whether to measure memory too: some seconds for every row, to start its process.
        calibration: inputs that int8 takes the ranges of activations from. None: ONNX Runtime takes them from each
            batch; OpenVINO, which must have some, from random ids, so that its times hold and its scores would not.
        seed: seed of the random token ids.
        say: told in a line what is being measured.

    Returns:
        A result for every row and shape, shape by shape, in the order of the turns.

    Raises:
        UserError: a number out of range, an unknown name, a combination that does not exist or is not installed,
            or a model that cannot read the shapes.
    """
    whole = {name: model for name, model in models.items() if isinstance(model, PreTrainedModel)}
    check_counts(shapes=len(shapes), runtimes=len(runtimes), dtypes=len(dtypes))
    _check(models, whole, dense, shapes)
    rows = _rows(models, dense, runtimes, dtypes, device)
    by_shape = {shape: repeats(shape) if callable(repeats) else repeats for shape in dict.fromkeys(shapes)}
    check_counts(repeats=min(by_shape.values()), warmup=warmup, threads=threads)
    with TemporaryDirectory() as work, thread_count(threads) as used, evaluating(list(whole.values())):
        settings = Settings(
            by_shape, warmup, used, device, vocabulary(list(whole.values())), seed, calibration, min(shapes)
        )
        places = (Path(work) / str(number) for number in count())
        contenders = [_contender(row, models[row.name], settings, next(places)) for row in rows]
        say("measuring the machine's own rates")
        rates = {dtype: roofline.rates(dtype, used, device) for dtype in sorted({one.dtype for one in contenders})}
        found = []
        for shape in by_shape:
            say(f"measuring {shape[0]} x {shape[1]}, {len(contenders)} rows in turn")
            found += _turns(contenders, whole, shape, settings, rates)
        if peak_memory:
            say("measuring memory")
            found = _with_memory(found, contenders, models, settings, places)
    return [_with_ratios(one, found, dense) for one in found]


# Before the clock counts


def _check(
    models: Mapping[str, Model], whole: Mapping[str, PreTrainedModel], dense: str | None, shapes: Sequence[Shape]
) -> None:
    """Refuse models that cannot be told apart or read the shapes, before anything is built."""
    if dense is not None and dense not in whole:
        raise UserError(
            f"expected the dense model first among those to compare with, got {dense!r}, an exported file: "
            "put the dense model's folder first"
        )
    if not whole:
        raise UserError("expected a model folder beside exported files, got none: its config says which ids they read")
    for batch, tokens in shapes:
        check_counts(batch=batch, tokens=tokens)
        check_models(list(whole.values()), tokens)


def _rows(
    models: Mapping[str, Model], dense: str | None, runtimes: Sequence[str], dtypes: Sequence[str], device: str
) -> list[Row]:
    """What to measure, in the order of the turns: runtime by runtime, then files; a baseline not asked for first."""
    if device not in DEVICES:
        raise UserError(f"expected a device of {', '.join(DEVICES)}, got {device!r}: choose one of these")
    pairs = [(runtime, dtype) for runtime in dict.fromkeys(runtimes) for dtype in dict.fromkeys(dtypes)]
    for pair in pairs:
        (gpu.check if device == "cuda" else check_runtime)(*pair)
    rows = [Row(name, *pair) for pair in pairs for name in models if not isinstance(models[name], Path)]
    if dense is not None and (baseline := Row(dense, *BASELINE)) not in rows:
        rows.insert(0, baseline)
    for name, model in models.items():
        if isinstance(model, Path):
            if device == "cuda":
                raise UserError(f"expected model folders on a GPU, got the exported file {name}: leave it out")
            rows.append(Row(name, known_format(model).runtime, read_facts(model).dtype))
    return rows


def _contender(row: Row, model: Model, settings: Settings, folder: Path) -> Contender:
    """The model made ready; what has to be exported for it goes to `folder`."""
    if settings.device == "cuda":
        assert isinstance(model, PreTrainedModel)
        placed = gpu.placed(model, row.dtype)
        size = sum(tensor.nbytes for tensor in placed.state_dict().values())
        return Contender(
            row.name, row.runtime, row.dtype, gpu.version(), size, partial(gpu.forward, placed, row.runtime)
        )
    examples, ranges = _calibration(row, model, settings)
    options: Any = {"threads": settings.threads, "workspace": folder, "calibration": examples}
    ready = runner(model, row.runtime, row.dtype, **options)
    prepare = partial(partial, ready)
    return Contender(row.name, ready.runtime, ready.dtype, ready.version, ready.bytes, prepare, folder, ranges)


def _calibration(row: Row, model: Model, settings: Settings) -> tuple[Sequence[Batch] | None, str]:
    """Examples for int8, and what to say of them; random ids, where there must be some, decide scores but no time."""
    if row.dtype != "int8":
        return None, "none"
    if isinstance(model, Path):
        return None, "as exported"
    if settings.calibration is not None:
        return settings.calibration, "given examples"
    if row.runtime not in CALIBRATED:
        return None, "each batch"
    return [_tensors(random_inputs(settings.vocabulary, *settings.example, settings.seed))], "random ids"


# In turn


def _turns(
    contenders: Sequence[Contender],
    whole: Mapping[str, PreTrainedModel],
    shape: Shape,
    settings: Settings,
    rates: Mapping[str, roofline.Rates],
) -> list[Result]:
    """Every contender at one shape."""
    inputs = random_inputs(settings.vocabulary, *shape, settings.seed)
    asked = {name: roofline.work(model, _tensors(inputs)) for name, model in whole.items()}
    if settings.device == "cuda":
        torch.compiler.reset()  # of this shape's own: PyTorch refuses to compile the same code for ever more shapes
    calls = [one.prepare(inputs) for one in contenders]
    device = torch.device(settings.device)
    times = times_in_turn(calls, settings.repeats[shape], settings.warmup, settle=SETTLE, device=device)
    found = []
    for one, own in zip(contenders, times, strict=True):
        work = asked.get(one.name)
        floor = None if work is None else roofline.floor(work, one.dtype, rates[one.dtype])
        found.append(_result(one, whole.get(one.name), shape, own, floor, settings))
    return found


def _tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def _result(
    one: Contender,
    model: PreTrainedModel | None,
    shape: Shape,
    times_ms: Sequence[float],
    floor: roofline.Floor | None,
    settings: Settings,
) -> Result:
    """The statistics of one contender's times, with the whole protocol."""
    median, quartiles = median_and_quartiles(times_ms)
    attention = "as exported" if model is None else getattr(model.config, "_attn_implementation", None) or "unknown"
    protocol: dict[str, int | str] = {
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
        "attention": attention,
        "device": settings.device,
        "machine": machine(torch.device(settings.device)),
    }
    parameters = None if model is None else parameter_count(model)
    return Result(
        one.name, one.runtime, one.dtype, *shape, median, quartiles, parameters, one.bytes, None, floor, protocol
    )


def _with_ratios(one: Result, found: Sequence[Result], dense: str | None) -> Result:
    """The result with its speed-ups; None where no such row of the dense model is among those found."""
    shape = (one.batch, one.tokens)
    medians = {(o.runtime, o.dtype): o.latency_ms for o in found if o.model == dense and (o.batch, o.tokens) == shape}
    same, baseline = medians.get((one.runtime, one.dtype)), medians.get(BASELINE)
    return replace(
        one,
        speed_up=None if same is None else same / one.latency_ms,
        speed_up_baseline=None if baseline is None else baseline / one.latency_ms,
    )


# Memory


def _with_memory(
    found: Sequence[Result],
    contenders: Sequence[Contender],
    models: Mapping[str, Model],
    settings: Settings,
    places: Iterator[Path],
) -> list[Result]:
    """The results with their peaks, measured one process after another; a model is saved to the next of `places`."""
    counted: dict[str, int | str] = {"memory": memory.COUNTED[settings.device]}
    if not memory.measurable():
        counted = {"memory": "not measured: only Linux tells it"}
        return [replace(one, protocol=one.protocol | counted) for one in found]
    shapes = tuple(dict.fromkeys((one.batch, one.tokens) for one in found))
    folders = {name: next(places) for name in models}
    peaks: dict[tuple[str, str, str, int, int], memory.Peak] = {}
    for one in contenders:
        source = _source(one, models[one.name], folders[one.name])
        job = memory.Job(
            str(source), one.runtime, one.dtype, settings.threads, settings.device, settings.vocabulary, shapes
        )
        peaks |= {(one.name, one.runtime, one.dtype, *shape): peak for shape, peak in memory.peaks(job).items()}
    return [
        replace(
            one,
            peak=peaks[one.model, one.runtime, one.dtype, one.batch, one.tokens],
            protocol=one.protocol | counted,
        )
        for one in found
    ]


def _source(one: Contender, model: Model, folder: Path) -> Path:
    """What a new process loads: the exported file, or the model's folder, saved once."""
    if isinstance(model, Path):
        return model
    runtime = RUNTIMES.all().get(one.runtime)
    if one.exported is not None and runtime is not None and runtime.packages:
        return runtime().file_in(one.exported, one.dtype)
    if not folder.exists():
        checkpoint.save(model, folder)
    return folder
