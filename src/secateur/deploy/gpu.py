"""Models on an NVIDIA GPU: eager, compiled, and as a CUDA graph, which replays a forward as a whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.system.errors import UserError

RUNTIMES = ("pytorch", "compiled", "cudagraph")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CAPTURE_WARMUP = 3
"""Forwards on a side stream before a capture, in which libraries choose their kernels and allocate their memory."""


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
    copied: nn.Module = copy.deepcopy(model)
    return cast(PreTrainedModel, copied.to(device="cuda", dtype=DTYPES[dtype]).eval())


def forward(model: PreTrainedModel, runtime: str, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """A function that runs a placed model once on inputs `(batch, tokens)`, which are copied to the GPU beforehand.

    The function does not wait for the GPU. `compiled` is compiled for this one shape, and raises an error instead of
    falling back to eager code.
    """
    tensors = {name: torch.from_numpy(array).to("cuda") for name, array in inputs.items()}
    if runtime == "cudagraph":
        return _captured(model, tensors)
    run = torch.compile(model, dynamic=False, fullgraph=True) if runtime == "compiled" else model

    @torch.inference_mode()
    def call() -> object:
        return run(**tensors)

    return call


def _captured(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> Callable[[], object]:
    """The forward as a CUDA graph, which reads and writes the same memory each time."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(CAPTURE_WARMUP):
            model(**tensors)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        outputs = model(**tensors)

    def replay() -> object:
        graph.replay()
        return outputs

    return replay
