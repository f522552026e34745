"""PyTorch as a runtime: eager, or compiled by `torch.compile`; models on their device, .pt2 files on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.deploy import pt2_format
from secateur.deploy.formats import is_exportable
from secateur.deploy.graph import Batch, graph_of, inference_copy, input_names, with_target
from secateur.deploy.runtime import Arrays, Run, Runner, Runtime
from secateur.deploy.runtimes import register
from secateur.deploy.silence import silence
from secateur.system import compat
from secateur.system.errors import as_user_error
from secateur.system.model_state import held_bytes

COMPILED_SHAPES = 1024
"""Shapes of input that `compiled` keeps code for, over all models of a process."""


@register("pytorch")
class PyTorch(Runtime):
    """Eager PyTorch: a copy of the model in the dtype."""

    suffix = ".pt2"
    stored = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}

    def version(self, dtype: str) -> str:
        return f"pytorch {torch.__version__}"

    def of_model(
        self,
        model: PreTrainedModel,
        dtype: str,
        threads: int,
        *,
        workspace: Path | None = None,
        calibration: Sequence[Batch] | None = None,
    ) -> Runner:
        module, names = self._module(model, dtype), input_names(model)
        run = self._run(module, threads, names, model.device)
        return Runner(self.name, dtype, self.version(dtype), threads, names, held_bytes(module), run)

    def open(self, path: Path, dtype: str, threads: int, inputs: tuple[str, ...]) -> Run:
        return self._run(pt2_format.load(path), threads, inputs, torch.device("cpu"))

    def _module(self, model: PreTrainedModel, dtype: str) -> nn.Module:
        return _Stock(inference_copy(model, dtype))

    def _run(self, module: nn.Module, threads: int, names: tuple[str, ...], device: torch.device) -> Run:
        return _run(module, threads, names, device, inference_mode=True)


@register("compiled")
class Compiled(PyTorch):
    """`torch.compile` with frozen, packed weights; the first call of each shape compiles, for some seconds."""

    def _module(self, model: PreTrainedModel, dtype: str) -> nn.Module:
        # The graph makes masks of padding alone: a model that it does not describe makes its own.
        return graph_of(model, dtype) if is_exportable(model) else super()._module(model, dtype)

    def _run(self, module: nn.Module, threads: int, names: tuple[str, ...], device: torch.device) -> Run:
        # Compiled and frozen code is guarded by the grad and inference modes, which must be the same at each call.
        return _run(_compiled(module), threads, names, device, inference_mode=False)


class _Stock(nn.Module):
    """A model as it is usually run: transformers builds its masks. All of its outputs are float32.

    An encoder-decoder gets its source as the target too.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(input_names(self.model), arrays, strict=True))
        outputs = self.model(**with_target(self.model, inputs), return_dict=True)
        return tuple(value.float() for value in outputs.values() if isinstance(value, Tensor))


def _run(
    call: Callable[..., Any], threads: int, names: tuple[str, ...], device: torch.device, *, inference_mode: bool
) -> Run:
    def run(inputs: Arrays) -> list[np.ndarray]:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode(inference_mode), torch.no_grad():
            outputs = call(*(torch.from_numpy(inputs[name]).to(device) for name in names))
        return [value.cpu().numpy() for value in outputs]

    return run


def _compiled(module: nn.Module) -> Callable[..., Any]:
    """The module compiled for each shape that occurs; it never falls back to eager code."""
    fast = torch.compile(module, fullgraph=True, dynamic=False, options={"freezing": True})
    compiled: set[torch.Size] = set()

    def call(*arrays: Tensor) -> Any:
        if arrays[0].shape in compiled:
            return fast(*arrays)
        advice = "install a C++ compiler (g++), or choose the runtime pytorch"
        with as_user_error("compiling failed", advice), silence(), compat.compiled_shapes(COMPILED_SHAPES):
            outputs = fast(*arrays)
        compiled.add(arrays[0].shape)
        return outputs

    return call
