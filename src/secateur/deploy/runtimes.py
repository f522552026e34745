"""Where a model runs, behind one callable: PyTorch, compiled PyTorch, ONNX Runtime, OpenVINO.

Every runtime has a dense baseline of its own: a speed-up across runtimes says as much of the runtimes as of the model.
What is not offered is refused: int8 in PyTorch, bf16 in ONNX Runtime (its CPU kernels have none).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.deploy.formats import (
    Batch,
    Graph,
    as_arrays,
    files_of,
    frozen,
    input_names,
    only,
    read_facts,
    require,
    silence,
    write,
)
from secateur.system.errors import UserError, as_user_error

DTYPES = ("fp32", "bf16", "fp16", "int8")

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]

SHAPES = 1024
"""Shapes of input that `compiled` keeps code for, over all models of a process."""


@dataclass(frozen=True)
class Engine:
    """A runtime: the dtypes it can run, the file it opens, and by dtype the one that the file is written in."""

    suffix: str
    stored: Mapping[str, str]
    packages: tuple[str, ...] = ()
    extra: str = ""


ENGINES = {
    "pytorch": Engine(".pt2", {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}),
    "compiled": Engine(".pt2", {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}),
    "onnxruntime": Engine(".onnx", {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}, ("onnxruntime",), "onnx"),
    "openvino": Engine(
        ".xml", {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}, ("openvino",), "openvino"
    ),
}
RUNTIMES = tuple(ENGINES)


@dataclass(frozen=True)
class Runner:
    """A model ready to run: named arrays `(batch, tokens)` in, all of its outputs as float32 arrays out.

    Attributes:
        runtime: one of `RUNTIMES`.
        dtype: one of `DTYPES`.
        version: of the runtime, such as "onnxruntime 1.31.1".
        threads: intra-op threads; PyTorch's number is the process's, set at each call and left so.
        inputs: the names that it takes, such as ("input_ids", "attention_mask").
        bytes: of the weights as it runs them: exported files on disk, or the tensors of a PyTorch model.
        run: the call itself, with int64 arrays for all of `inputs`.
    """

    runtime: str
    dtype: str
    version: str
    threads: int
    inputs: tuple[str, ...]
    bytes: int
    run: Run

    def __call__(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """A mask that is not given is all ones, token types all zeros.

        Raises:
            UserError: there are no `input_ids`, or there is something that the model does not take.
        """
        return self.run(as_arrays(inputs, self.inputs))


@torch.inference_mode(mode=False)
def runner(
    model: PreTrainedModel | Path,
    runtime: str = "pytorch",
    dtype: str = "fp32",
    *,
    threads: int | None = None,
    workspace: Path | None = None,
    calibration: Sequence[Batch] | None = None,
) -> Runner:
    """Make a model ready to run, in evaluation mode; a model that is given stays as it is.

    PyTorch runs a copy of the model in that dtype on the model's device, or a .pt2 file on the CPU; `compiled` is
    `torch.compile` with frozen, packed weights, which compiles anew, for some seconds, at the first call of each
    shape. ONNX Runtime and OpenVINO run on the CPU. OpenVINO runs bf16 from the file of fp32, and fp16 with weights of
    fp16 and arithmetic of fp32; what int8 leaves unquantised, norms and softmaxes, it runs in bf16 where the processor
    has that, as the runner's version says.

    Args:
        model: a text encoder, or a file written by `export`.
        runtime: one of `RUNTIMES`.
        dtype: one of `DTYPES`; of a file, its own, or bf16 of one in fp32 for OpenVINO.
        threads: intra-op threads; None takes PyTorch's present number, whatever the runtime.
        workspace: folder that keeps what is exported on the way; None uses a temporary one.
        calibration: inputs that int8 takes the ranges of activations from; OpenVINO needs them, ONNX Runtime takes
            ranges from each batch without them.

    Raises:
        UserError: that runtime does not run that dtype or file, threads are not positive, a package is not installed,
            or the processor has no bf16.
    """
    check_runtime(runtime, dtype)
    count = torch.get_num_threads() if threads is None else threads
    if count < 1:
        raise UserError(f"expected threads of at least 1, got {count}: raise it")
    engine = ENGINES[runtime]
    if isinstance(model, Path):
        return _of_file(model, runtime, dtype, count)
    if engine.suffix == ".pt2":
        return _of_model(model, runtime, dtype, count)
    with TemporaryDirectory() if workspace is None else nullcontext(workspace) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        stored = engine.stored[dtype]
        path = Path(folder) / f"{stored}{engine.suffix}"
        write(model, path, stored, calibration=calibration)
        return _of_file(path, runtime, dtype, count)


def check_runtime(runtime: str, dtype: str) -> None:
    """Refuse what does not exist or is not installed.

    Raises:
        UserError: naming what does.
    """
    if runtime not in ENGINES:
        raise UserError(f"expected a runtime of {', '.join(RUNTIMES)}, got {runtime!r}: choose one of these")
    engine = ENGINES[runtime]
    if dtype not in engine.stored:
        raise UserError(f"{runtime} runs {', '.join(engine.stored)}, not {dtype!r}: choose one of these")
    require(engine.packages, engine.extra)
    if (runtime, dtype) == ("openvino", "bf16") and not _openvino_has_bf16():
        raise UserError("this processor has no bf16, and OpenVINO would run fp32 in its place: choose fp32 or int8")


def difference(run: Runner, model: PreTrainedModel, batches: Iterable[Batch]) -> tuple[float, float]:
    """How far a runner is from a model: the largest absolute difference over all outputs, and the largest output.

    The model's weights, whatever their dtype, are run in fp32, as the exact answer: transformers gives a checkpoint in
    the dtype that it was saved in, and logits of a dense MiniLM in fp16 are 0.004 off. Not a number if any output of
    either is not. Padded positions count as well: they are computed in the same way.
    """
    differences, sizes = [0.0], [0.0]
    twin = frozen(model, "fp32")
    for batch in batches:
        given = {name: torch.as_tensor(batch[name]) for name in run.inputs if name in batch}
        with torch.inference_mode():
            found = twin(**{name: value.to(twin.device) for name, value in given.items()}, return_dict=True)
        theirs = [value.float().cpu().numpy() for value in found.values() if isinstance(value, Tensor)]
        for mine, other in zip(run(given), theirs, strict=True):
            differences.append(np.abs(mine - other).max())
            sizes.append(np.abs(other).max())
    return float(np.max(differences)), float(np.max(sizes))


# PyTorch


def _of_model(model: PreTrainedModel, runtime: str, dtype: str, threads: int) -> Runner:
    if runtime == "compiled":
        module: nn.Module = Graph(model, dtype)
    else:
        module = _Stock(frozen(model, dtype))
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*module.parameters(), *module.buffers())}
    return _in_pytorch(module, runtime, dtype, threads, input_names(model), sum(tensors.values()), model.device)


class _Stock(nn.Module):
    """A model as people run it: its own making of the mask, all of its outputs as float32."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        found = self.model(**dict(zip(input_names(self.model), arrays, strict=True)), return_dict=True)
        return tuple(value.float() for value in found.values() if isinstance(value, Tensor))


def _in_pytorch(
    module: Any, runtime: str, dtype: str, threads: int, names: tuple[str, ...], size: int, device: torch.device
) -> Runner:
    call = _compiled(module) if runtime == "compiled" else module

    def run(inputs: Arrays) -> list[np.ndarray]:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        # What is compiled and frozen is guarded by these modes: they are the same whatever the caller's are.
        with torch.inference_mode(runtime != "compiled"), torch.no_grad():
            found = call(*(torch.from_numpy(inputs[name]).to(device) for name in names))
        return [value.cpu().numpy() for value in found]

    return Runner(runtime, dtype, f"pytorch {torch.__version__}", threads, names, size, run)


def _compiled(module: nn.Module) -> Callable[..., Any]:
    """The module compiled for each shape that comes, its weights frozen and packed; never left uncompiled."""
    fast = torch.compile(module, fullgraph=True, dynamic=False, options={"freezing": True})
    limits = {"recompile_limit": SHAPES, "accumulated_recompile_limit": SHAPES}
    known: set[torch.Size] = set()

    def call(*arrays: Tensor) -> Any:
        if arrays[0].shape in known:
            return fast(*arrays)
        advice = "install a C++ compiler (g++), or choose the runtime pytorch"
        with as_user_error("compiling failed", advice), silence(), torch._dynamo.config.patch(limits):
            found = fast(*arrays)
        known.add(arrays[0].shape)
        return found

    return call


# Files


def _of_file(path: Path, runtime: str, dtype: str, threads: int) -> Runner:
    engine, facts = ENGINES[runtime], read_facts(path)
    if path.suffix != engine.suffix:
        raise UserError(f"{runtime} opens {engine.suffix} files, not {path.name!r}: export the model as such a file")
    if engine.stored[dtype] != facts.dtype:
        raise UserError(f"{path} holds {facts.dtype}, not what {dtype} runs from: ask for {facts.dtype}")
    size = sum(file.stat().st_size for file in files_of(path))
    with as_user_error(f"{path} cannot be opened", "export the model again"):
        if engine.suffix == ".pt2":
            module = torch.export.load(path).module()
            return _in_pytorch(module, runtime, dtype, threads, facts.inputs, size, torch.device("cpu"))
        run = _in_onnxruntime(path, threads) if runtime == "onnxruntime" else _in_openvino(path, dtype, threads)
    version = f"{runtime} {metadata.version(runtime)}"
    if (runtime, dtype) == ("openvino", "int8"):
        version += f", {_openvino_precision(dtype)} beside int8"
    return Runner(runtime, dtype, version, threads, facts.inputs, size, run)


def _in_onnxruntime(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors alone
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads would slow whoever runs next
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    taken = {port.name for port in session.get_inputs()}
    return lambda inputs: session.run(None, only(taken, inputs))


def _openvino_has_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _openvino_precision(dtype: str) -> str:
    """Of what is not quantised: the time of an int8 model is mostly there, and in fp32 it would be the slower one."""
    return "bf16" if dtype == "bf16" or (dtype == "int8" and _openvino_has_bf16()) else "f32"


def _in_openvino(path: Path, dtype: str, threads: int) -> Run:
    """Precision is always said: OpenVINO's own choice on a processor with bf16 is bf16, also for a model in fp32."""
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": _openvino_precision(dtype),
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(path, "CPU", hints)
    outputs = [compiled.output(index) for index in range(len(compiled.outputs))]
    taken = {name for port in compiled.inputs for name in port.names}

    def run(inputs: Arrays) -> list[np.ndarray]:
        found = compiled(only(taken, inputs))
        return [found[output] for output in outputs]

    return run
