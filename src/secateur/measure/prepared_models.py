"""Models prepared for timing: the configurations of a benchmark, and each model in its runtime and dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from transformers import PreTrainedModel

from secateur.deploy import gpu
from secateur.deploy.formats import known_format, read_facts
from secateur.deploy.graph import Batch
from secateur.deploy.runner import check_runtime, runner
from secateur.deploy.runtimes import RUNTIMES
from secateur.measure.random_inputs import Reads, as_tensors, random_inputs
from secateur.measure.timing import Call
from secateur.surgery import checkpoint
from secateur.system.errors import UserError

DEVICES = ("cpu", "cuda")
BASELINE = ("pytorch", "fp32")
"""The usual runtime and dtype."""
CALIBRATED = ("openvino",)
"""Runtimes whose int8 needs inputs to determine the ranges of activations."""

Model: TypeAlias = PreTrainedModel | Path
Shape: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Configuration:
    """What to measure: a model by its name, in a runtime and a dtype."""

    name: str
    runtime: str
    dtype: str


@dataclass(frozen=True)
class Settings:
    """What all configurations share: the protocol, and how inputs are made.

    `repeats` is by shape; `example` is the shape of the random inputs that replace missing calibration inputs.
    """

    repeats: Mapping[Shape, int]
    warmup: int
    threads: int
    device: str
    reads: Reads
    seed: int
    calibration: Sequence[Batch] | None
    example: Shape


@dataclass(frozen=True)
class PreparedModel:
    """A model prepared in a runtime and a dtype.

    Attributes:
        name: the model's.
        version: of the runtime, such as "pytorch 2.13.0".
        bytes: size of the weights as this runtime stores them.
        prepare: returns one forward for inputs `(batch, tokens)`.
        exported: the folder that its runtime's files were written to; None on a GPU.
        ranges: what determines the ranges of activations in int8.
    """

    name: str
    runtime: str
    dtype: str
    version: str
    bytes: int
    prepare: Callable[[Mapping[str, np.ndarray]], Call]
    exported: Path | None = None
    ranges: str = "none"

    @property
    def configuration(self) -> Configuration:
        return Configuration(self.name, self.runtime, self.dtype)


def configurations(
    models: Mapping[str, Model], dense: str | None, runtimes: Sequence[str], dtypes: Sequence[str], device: str
) -> list[Configuration]:
    """Every configuration in the order of the turns: runtime by runtime, then exported files.

    The dense model's baseline comes first if it is not among those requested.

    Raises:
        UserError: an unknown device, or a combination that the device does not run.
    """
    if device not in DEVICES:
        raise UserError(f"expected a device of {', '.join(DEVICES)}, got {device!r}: choose one of these")
    pairs = [(runtime, dtype) for runtime in dict.fromkeys(runtimes) for dtype in dict.fromkeys(dtypes)]
    for pair in pairs:
        (gpu.check if device == "cuda" else check_runtime)(*pair)
    asked = [Configuration(name, *pair) for pair in pairs for name in models if not isinstance(models[name], Path)]
    if dense is not None and (baseline := Configuration(dense, *BASELINE)) not in asked:
        asked.insert(0, baseline)
    files = {name: model for name, model in models.items() if isinstance(model, Path)}
    if files and device == "cuda":
        raise UserError(f"expected model folders on a GPU, got the exported file {next(iter(files))}: leave it out")
    return asked + [_of_file(name, path) for name, path in files.items()]


def _of_file(name: str, path: Path) -> Configuration:
    """An exported file in its own dtype, in the runtime that opens it."""
    return Configuration(name, known_format(path).runtime, read_facts(path).dtype)


def prepared(configuration: Configuration, model: Model, settings: Settings, folder: Path) -> PreparedModel:
    """Prepare a model; files that its runtime needs are written to `folder`."""
    name, runtime, dtype = configuration.name, configuration.runtime, configuration.dtype
    if settings.device == "cuda":
        assert isinstance(model, PreTrainedModel)
        placed = gpu.placed(model, dtype)
        size = sum(tensor.nbytes for tensor in placed.state_dict().values())
        return PreparedModel(name, runtime, dtype, gpu.version(), size, partial(gpu.forward, placed, runtime))
    examples, ranges = _calibration(configuration, model, settings)
    options: Any = {"threads": settings.threads, "workspace": folder, "calibration": examples}
    ready = runner(model, runtime, dtype, **options)
    prepare = partial(partial, ready)
    return PreparedModel(name, ready.runtime, ready.dtype, ready.version, ready.bytes, prepare, folder, ranges)


def _calibration(configuration: Configuration, model: Model, settings: Settings) -> tuple[Sequence[Batch] | None, str]:
    """Calibration inputs for int8, and the name of their origin.

    Random ids replace missing inputs where a runtime needs some: they change the scores of int8, not its times.
    """
    if configuration.dtype != "int8":
        return None, "none"
    if isinstance(model, Path):
        return None, "as exported"
    if settings.calibration is not None:
        return settings.calibration, "given examples"
    if configuration.runtime not in CALIBRATED:
        return None, "each batch"
    return [as_tensors(random_inputs(settings.reads, *settings.example, settings.seed))], "random ids"


def file_or_folder(one: PreparedModel, model: Model, folder: Path) -> Path:
    """Where another process loads the model from: the exported file, or `folder`, to which the model is saved once."""
    if isinstance(model, Path):
        return model
    runtime = RUNTIMES.all().get(one.runtime)
    if one.exported is not None and runtime is not None and runtime.packages:
        return runtime().file_in(one.exported, one.dtype)
    if not folder.exists():
        checkpoint.save(model, folder)
    return folder
