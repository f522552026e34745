"""Models made ready to run in any runtime, and the difference between a runner's outputs and the model's.

Every runtime needs its own dense baseline, because a speed-up across runtimes depends on the runtimes as much as on the
model. Combinations that a runtime does not support, such as int8 in PyTorch or bf16 in ONNX Runtime, are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.deploy.graph import Batch, inference_copy, input_names, of_tokens, with_target
from secateur.deploy.runtime import Runner, positive_threads
from secateur.deploy.runtimes import RUNTIMES


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
    """Make a model ready to run, in evaluation mode; the model that is passed is left unchanged.

    Args:
        model: an encoder of texts or images, in PyTorch also a decoder, or a file written by `export`.
        runtime: a registered one, see `runtimes`.
        dtype: one of `runtime.DTYPES`; of a file, its own, or bf16 of one in fp32 for OpenVINO.
        threads: intra-op threads; None takes PyTorch's present number, whatever the runtime.
        workspace: folder in which exported files are kept; None uses a temporary one.
        calibration: inputs from which int8 takes the ranges of activations; OpenVINO needs them, ONNX Runtime takes
            the ranges from each batch without them.

    Raises:
        UserError: the runtime does not run that dtype or file, threads are not positive, a package is not installed,
            or the processor has no bf16.
    """
    check_runtime(runtime, dtype)
    count = positive_threads(threads)
    engine = RUNTIMES.get(runtime)()
    if isinstance(model, Path):
        return engine.of_file(model, dtype, count)
    return engine.of_model(model, dtype, count, workspace=workspace, calibration=calibration)


def check_runtime(runtime: str, dtype: str) -> None:
    """Refuse a combination that does not exist or is not installed.

    Raises:
        UserError: the combination is not available; the message names those that are.
    """
    RUNTIMES.get(runtime)().check(dtype)


def check_model(model: PreTrainedModel, runtime: str, dtype: str) -> None:
    """Refuse a model that a runtime does not run, before it is exported.

    Raises:
        UserError: as `Runtime.check_model`.
    """
    RUNTIMES.get(runtime)().check_model(model, dtype)


def difference(run: Runner, model: PreTrainedModel, batches: Iterable[Batch]) -> tuple[float, float]:
    """The largest absolute difference of any output of a runner from the model's, and the largest output.

    The reference is the model in fp32, whatever the dtype of its weights: transformers loads a checkpoint in the dtype
    in which it was saved, and the logits of a dense MiniLM in fp16 are off by 0.004. The difference is NaN if an output
    of either is. Outputs of padded positions do not count: where nothing is left to attend to, as for padding outside
    of a window, kernels differ in what they return.
    """
    differences, sizes = [0.0], [0.0]
    twin, reads = inference_copy(model, "fp32"), input_names(model)
    for batch in batches:
        inputs = {name: torch.as_tensor(batch[name]) for name in run.inputs if name in batch}
        with torch.inference_mode():
            taken = {name: value.to(twin.device) for name, value in inputs.items() if name in reads}
            outputs = twin(**with_target(twin, taken), return_dict=True)
        expected = {name: value.float().cpu().numpy() for name, value in outputs.items() if isinstance(value, Tensor)}
        for own, (name, other) in zip(run(inputs), expected.items(), strict=True):
            padded = "attention_mask" in batch and of_tokens(name, other)
            real = np.asarray(batch["attention_mask"]) > 0 if padded else slice(None)
            differences.append(np.abs(own[real] - other[real]).max())
            sizes.append(np.abs(other[real]).max())
    return float(np.max(differences)), float(np.max(sizes))
