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
from secateur.deploy.export_facts import ExportFacts
from secateur.deploy.formats import known_format, read_facts
from secateur.deploy.graph import Batch
from secateur.deploy.runner import check_model, check_runtime, runner
from secateur.deploy.runtime import Runner
from secateur.deploy.runtimes import RUNTIMES
from secateur.measure.random_inputs import Reads, as_tensors, random_inputs
from secateur.measure.timing import Call
from secateur.surgery import checkpoint
from secateur.system.errors import UserError, as_user_error
from secateur.system.model_state import held_bytes

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


def with_paths(models: Mapping[str, PreTrainedModel | Path | str]) -> dict[str, Model]:
    """The models, those that are given as the text of a path by their path.

    Raises:
        UserError: something is neither a model nor a path.
    """
    found: dict[str, Model] = {}
    for name, model in models.items():
        if not isinstance(model, PreTrainedModel | Path | str):
            raise UserError(
                f"{name} is a {type(model).__name__}: give a model of transformers, or the path of an exported file"
            )
        found[name] = Path(model) if isinstance(model, str) else model
    return found


def exported_files(models: Mapping[str, Model]) -> dict[str, ExportFacts]:
    """Name -> what each exported file among the models says of itself.

    Raises:
        UserError: a file cannot be read.
    """
    return {name: read_facts(path) for name, path in models.items() if isinstance(path, Path)}


def configurations(
    models: Mapping[str, Model],
    files: Mapping[str, ExportFacts],
    dense: str | None,
    runtimes: Sequence[str],
    dtypes: Sequence[str],
    device: str,
) -> list[Configuration]:
    """Every configuration in the order of the turns: runtime by runtime, then exported files.

    The dense model's baseline comes first if it is not among those requested.

    Args:
        files: the facts of those that are exported files (`exported_files`).

    Raises:
        UserError: an unknown device, a combination that the device does not run, or a model that a runtime does not.
    """
    if device not in DEVICES:
        raise UserError(f"expected a device of {', '.join(DEVICES)}, got {device!r}: choose one of these")
    pairs = [(runtime, dtype) for runtime in dict.fromkeys(runtimes) for dtype in dict.fromkeys(dtypes)]
    for pair in pairs:
        (gpu.check if device == "cuda" else check_runtime)(*pair)
    asked = [Configuration(name, *pair) for pair in pairs for name in models if name not in files]
    if dense is not None and (baseline := Configuration(dense, *BASELINE)) not in asked:
        asked.insert(0, baseline)
    if files and device == "cuda":
        raise UserError(f"expected model folders on a GPU, got the exported file {next(iter(files))}: leave it out")
    for one in asked if device == "cpu" else ():
        model = models[one.name]
        assert isinstance(model, PreTrainedModel)
        check_model(model, one.runtime, one.dtype)
    return asked + [_of_file(name, models[name], facts) for name, facts in files.items()]


def _of_file(name: str, path: Model, facts: ExportFacts) -> Configuration:
    """An exported file in its own dtype, in the runtime that opens it."""
    assert isinstance(path, Path)
    return Configuration(name, known_format(path).runtime, facts.dtype)


def prepared(configuration: Configuration, model: Model, settings: Settings, folder: Path) -> PreparedModel:
    """Prepare a model; files that its runtime needs are written to `folder`.

    Raises:
        UserError: it cannot be prepared, or an exported file does not run on the inputs of a shape.
    """
    name, runtime, dtype = configuration.name, configuration.runtime, configuration.dtype
    if settings.device == "cuda":
        assert isinstance(model, PreTrainedModel)
        placed = gpu.placed(model, dtype)
        forward = partial(gpu.forward, placed, runtime)
        return PreparedModel(name, runtime, dtype, gpu.version(), held_bytes(placed), forward)
    examples, ranges = _calibration(configuration, model, settings)
    options: Any = {"threads": settings.threads, "workspace": folder, "calibration": examples}
    ready = runner(model, runtime, dtype, **options)
    if isinstance(model, Path):
        _check_shapes(ready, model, settings)
    prepare = partial(partial, ready)
    return PreparedModel(name, ready.runtime, ready.dtype, ready.version, ready.bytes, prepare, folder, ranges)


def _check_shapes(ready: Runner, path: Path, settings: Settings) -> None:
    """Run an exported file once at each shape: one of an older version records neither vocabulary nor positions."""
    for batch, tokens in settings.repeats:
        ids = f" of ids below {settings.reads}" if isinstance(settings.reads, int) else ""
        advice = "compare it with models of no larger vocabulary, ask for fewer tokens, or export it again"
        with as_user_error(f"{path} cannot run {batch} x {tokens} tokens{ids}", advice):
            ready(random_inputs(settings.reads, batch, tokens, settings.seed))


def _calibration(configuration: Configuration, model: Model, settings: Settings) -> tuple[Sequence[Batch] | None, str]:
    """Calibration inputs for int8, and the name of their origin."""
    runtime, dtype = configuration.runtime, configuration.dtype
    if dtype == "int8" and isinstance(model, Path):
        return None, "as exported"
    if dtype == "int8" and settings.calibration is not None:
        return settings.calibration, "given examples"
    return random_calibration(runtime, dtype, random_inputs(settings.reads, *settings.example, settings.seed))


def random_calibration(
    runtime: str, dtype: str, inputs: Mapping[str, np.ndarray]
) -> tuple[Sequence[Batch] | None, str]:
    """Calibration inputs where none are given, and the name of what determines the ranges of activations.

    Random inputs take their place where int8 of a runtime needs some: they change its scores, not its times.
    """
    if dtype != "int8":
        return None, "none"
    if runtime not in CALIBRATED:
        return None, "each batch"
    return [as_tensors(inputs)], "random ids" if "input_ids" in inputs else "random images"


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
