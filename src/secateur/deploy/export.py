"""Export: a model, dense or compact, as a file for another runtime, compared with its source before it is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.deploy.export_facts import ExportFacts
from secateur.deploy.formats import files_of, known_format, read_facts, write
from secateur.deploy.graph import Batch, example_images, rows_of
from secateur.deploy.graph_masks import windows_of
from secateur.deploy.runner import difference, runner
from secateur.deploy.runtime import Runner
from secateur.structure.images import PIXELS, image_shape
from secateur.system.errors import UserError

TOLERANCE = 1e-4
"""Of the largest output, for fp32: rounding differences of another order of summation."""
SHAPES = ((1, 1), (1, 7), (3, 24), (5, 13))
"""batch x tokens of the inputs that an export is compared on; none is the shape that was traced."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared with its source.

    Attributes:
        path: the file; an IR (.xml) has its weights in a .bin of the same name.
        facts: the description of the file, which it also contains.
        bytes: the size of the files.
        difference: largest absolute difference of any output from the source's, over random inputs of several shapes,
            padded and not, in the file's own runtime.
        scale: largest absolute output of the source, to which the difference is relative.
        examples: number of inputs.
    """

    path: Path
    facts: ExportFacts
    bytes: int
    difference: float
    scale: float
    examples: int

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "tolerance": tolerance(self.facts.dtype)}


def export(
    model: PreTrainedModel,
    path: Path | str,
    *,
    dtype: str = "fp32",
    calibration: Sequence[Batch] | None = None,
    opset: int | None = None,
    inputs: Sequence[str] | None = None,
) -> Exported:
    """Write a model for another runtime; batch and length stay free, outputs are float32.

    The file is opened in its own runtime and compared with the model before it replaces an older one, so that a failure
    leaves that unchanged. There is no bf16 file for OpenVINO, which runs a file in fp32 as bf16.

    Args:
        model: an encoder of texts or images with any head, dense or cut; it is left unchanged.
        path: ends in .onnx, .xml (OpenVINO's IR, with its weights in a .bin) or .pt2 (torch.export).
        dtype: fp32; fp16; bf16 (.pt2 only); or int8 (.onnx, .xml), in which weights have a scale per channel.
        calibration: inputs from which int8 takes the ranges of activations, a few hundred rows of the training data.
            OpenVINO needs them. Without them ONNX Runtime takes the ranges from each batch, so that its outputs
            depend on the other rows of a batch.
        opset: version of ONNX's operators, 17 to 20; None takes 17.
        inputs: names of the tokenizer's outputs, `tokenizer.model_input_names`, which the file takes as they are: token
            types that the model does not read, and none where the tokenizer gives none. None takes those that the
            model reads.

    Raises:
        UserError: before any work: the format does not have the dtype, the model is an encoder-decoder or more than a
            file of ONNX holds, a package is not installed, the path is a folder. After it: the path cannot be written,
            or the file differs from its source: an output is not finite, or fp32 differs by more than 1e-4 of the
            largest output.
    """
    path = Path(path)
    with _replacing(path) as partial:
        facts = write(model, partial, dtype, calibration=calibration, opset=opset, inputs=inputs)
        batches = probes(model)
        largest, scale = difference(opened(partial), model, batches)
        _check(largest, scale, dtype, path)
        size = sum(file.stat().st_size for file in files_of(partial))
    return Exported(path, facts, size, largest, scale, sum(map(rows_of, batches)))


def opened(path: Path | str, *, dtype: str | None = None, threads: int | None = None) -> Runner:
    """An exported file in the runtime that opens it; in its own dtype by default.

    Raises:
        UserError: as `runtimes.runner`.
    """
    path = Path(path)
    dtype = dtype or read_facts(path).dtype
    return runner(path, known_format(path).runtime, dtype, threads=threads)


def tolerance(dtype: str) -> float | None:
    """The largest allowed difference, relative to the largest output; None for a dtype that only scores can judge."""
    return TOLERANCE if dtype == "fp32" else None


def within(largest: float, scale: float, dtype: str) -> bool:
    """Whether the largest difference is allowed: finite, and for fp32 within the tolerance."""
    relative = tolerance(dtype)
    return math.isfinite(largest) and (relative is None or largest <= relative * max(1.0, scale))


def probes(model: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    """Random ids at each of `SHAPES`, and longer than a window; all rows but the first of a batch are padded.

    For a model that reads images, random pixels in as many rows.
    """
    if (shape := image_shape(model)) is not None:
        return [{PIXELS: torch.from_numpy(example_images(shape, rows, tokens))} for rows, tokens in SHAPES]
    noise = torch.Generator().manual_seed(0)
    longest = getattr(model.config, "max_position_embeddings", 512) - 2  # a family may count positions from 2
    batches = []
    for rows, tokens in (*SHAPES, *((2, 2 * distance + 3) for distance in windows_of(model))):
        width = min(tokens, longest)
        ids = torch.randint(model.config.vocab_size, (rows, width), generator=noise)
        lengths = torch.randint(1, width + 1, (rows, 1), generator=noise)
        lengths[0] = width
        mask = (torch.arange(width) < lengths).long()
        batches.append(
            {"input_ids": torch.where(mask > 0, ids, model.config.pad_token_id or 0), "attention_mask": mask}
        )
    return batches


def _check(largest: float, scale: float, dtype: str, path: Path) -> None:
    if not within(largest, scale, dtype):
        raise UserError(
            f"{path.name} would differ from its model by {largest:.2g}, where the largest output is {scale:.2g}: "
            "nothing was written; choose another format or dtype"
        )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path in a temporary folder; if the block succeeds, the files written there replace those of `path`.

    Raises:
        UserError: `path` cannot be written; nothing is left behind.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            yield Path(folder) / path.name
            for file in files_of(path):
                (Path(folder) / file.name).replace(file)
    except OSError as error:
        raise UserError(
            f"writing {path} failed ({error.strerror or error}): nothing was written; choose another place"
        ) from error
