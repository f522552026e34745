"""Models on an NVIDIA GPU: eager, compiled, and as a CUDA graph, which replays a forward as a whole."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.deploy.graph import TORCH_DTYPES, with_target
from secateur.deploy.silence import silence
from secateur.system.casting import cast
from secateur.system.compat.capture import captured, creating_on
from secateur.system.errors import UserError, as_user_error

RUNTIMES = ("pytorch", "compiled", "cudagraph")
DTYPES = TORCH_DTYPES

CAPTURE_WARMUP = 3
"""Forwards on a side stream before a capture, in which libraries choose their kernels and allocate their memory."""

TENSOR_FLOAT_32 = "TensorFloat32 tensor cores"
"""How a compiler's advice begins to multiply fp32 in a lower precision, which a model in fp32 is not asked to do."""


def check(runtime: str, dtype: str) -> None:
    """Refuse a combination that does not run on a GPU.

    Raises:
        UserError: PyTorch finds no GPU, or an unknown runtime or dtype.
    """
    if not torch.cuda.is_available():
        raise UserError("expected an NVIDIA GPU for --device cuda, got a machine on which PyTorch finds none: use cpu")
    if runtime not in RUNTIMES or dtype not in DTYPES:
        raise UserError(
            f"expected {', '.join(RUNTIMES)} in {', '.join(DTYPES)} on a GPU, got {runtime} in {dtype}: leave it out"
        )


def version() -> str:
    """PyTorch and the CUDA that it was built for."""
    return f"pytorch {torch.__version__}, CUDA {torch.version.cuda}"


def placed(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """A copy of the model on the GPU in `dtype`, in evaluation mode."""
    copied = copy.deepcopy(model).eval()
    cast(copied, DTYPES[dtype], "cuda")
    return copied


def forward(model: PreTrainedModel, runtime: str, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """A function that runs a placed model once on inputs `(batch, tokens)`, which are copied to the GPU beforehand.

    An encoder-decoder gets its source as the target too, as in every measurement.
    The function does not wait for the GPU. `compiled` is compiled here for this one shape, and raises an error instead
    of falling back to eager code.

    Raises:
        UserError: the model cannot be compiled, or captured as a CUDA graph.
    """
    tensors = with_target(model, {name: torch.from_numpy(array).to("cuda") for name, array in inputs.items()})
    if runtime == "pytorch":
        return _eager(model, tensors)
    others = ", ".join(one for one in RUNTIMES if one != runtime)
    with as_user_error(f"{type(model).__name__} cannot be run as {runtime}", f"choose one of {others}"):
        return _compiled(model, tensors) if runtime == "compiled" else _captured(model, tensors)


def _eager(run: Callable[..., object], tensors: Mapping[str, Tensor]) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> object:
        return run(**tensors)

    return call


def _compiled(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> Callable[[], object]:
    """The forward as compiled code for these shapes, which its first call makes."""
    call = _eager(torch.compile(model, dynamic=False, fullgraph=True), tensors)
    with silence(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", TENSOR_FLOAT_32, UserWarning)
        call()
    return call


def _captured(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> Callable[[], object]:
    """The forward as a CUDA graph, which reads and writes the same memory each time."""
    side, device = torch.cuda.Stream(), torch.device("cuda")
    side.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(side), creating_on(device):
        for _ in range(CAPTURE_WARMUP):
            model(**tensors)
    torch.cuda.current_stream().wait_stream(side)
    with torch.inference_mode():
        run, outputs = captured(lambda: model(**tensors))

    def replay(inputs: Mapping[str, Tensor] = tensors) -> object:  # which the graph reads, but does not keep
        run()
        return outputs

    return replay
