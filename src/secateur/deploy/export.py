"""Export: a model, dense or compact, as a file for another runtime, checked against its source before it is there."""

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

from secateur.deploy.formats import Batch, Facts, files_of, read_facts, write
from secateur.deploy.runtimes import ENGINES, Runner, difference, runner
from secateur.system.errors import UserError

TOLERANCE = 1e-4  # of the largest output, for fp32: float noise of another order of summing
SHAPES = ((1, 1), (1, 7), (3, 24), (5, 13))  # batch x tokens; none is the one that was traced


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared with its source.

    Attributes:
        path: of the file; an IR (.xml) keeps its weights beside it, in a .bin.
        facts: what the file is; they stand in it too.
        bytes: of the files.
        difference: largest absolute difference of any output from the source's, over random inputs of several shapes,
            padded and not, in the file's own runtime.
        scale: largest absolute output of the source, to judge the difference by.
        examples: how many inputs.
    """

    path: Path
    facts: Facts
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
) -> Exported:
    """Write a model for another runtime; batch and length stay free, outputs are float32.

    The file is opened in its own runtime and compared with the model before it takes its place, so that a failure
    leaves what was there. A bf16 file for OpenVINO does not exist: it runs one in fp32 as bf16.

    Args:
        model: a text encoder with any head, dense or cut; it stays as it is.
        path: ends in .onnx, .xml (OpenVINO's IR, its weights beside it in .bin) or .pt2 (torch.export).
        dtype: fp32; fp16; bf16 (.pt2 alone); or int8 (.onnx, .xml), in which weights have a scale per channel.
        calibration: inputs that int8 takes the ranges of activations from, a few hundred rows of the training data.
            OpenVINO needs them; ONNX Runtime without them takes the ranges of each batch anew, so that its outputs
            depend on what else is in a batch.
        opset: version of ONNX's operators, 17 to 20; None takes 17.

    Raises:
        UserError: such a file does not exist, the model is an encoder-decoder, a package is not installed, the place
            cannot be written, or what was written is not its source: an output is not finite, or fp32 differs by more
            than 1e-4 of the largest.
    """
    path = Path(path)
    with _replacing(path) as partial:
        facts = write(model, partial, dtype, calibration=calibration, opset=opset)
        inputs = probes(model)
        found, scale = difference(opened(partial), model, inputs)
        _check(found, scale, dtype, path)
        size = sum(file.stat().st_size for file in files_of(partial))
    return Exported(path, facts, size, found, scale, sum(len(batch["input_ids"]) for batch in inputs))


def opened(path: Path, *, dtype: str | None = None, threads: int | None = None) -> Runner:
    """An exported file in its own runtime: PyTorch, ONNX Runtime or OpenVINO; in its own dtype unless told.

    Raises:
        UserError: as `runtimes.runner`.
    """
    held = read_facts(path).dtype
    runtime = next(name for name, engine in ENGINES.items() if engine.suffix == path.suffix)
    return runner(path, runtime, dtype or held, threads=threads)


def tolerance(dtype: str) -> float | None:
    """How far an export may be from its source, as a part of the largest output; None where scores are what tells."""
    return TOLERANCE if dtype == "fp32" else None


def within(found: float, scale: float, dtype: str) -> bool:
    """Whether a difference is none: finite, and for fp32 within the tolerance."""
    share = tolerance(dtype)
    return math.isfinite(found) and (share is None or found <= share * max(1.0, scale))


def probes(model: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    """Random ids at each of `SHAPES`, all rows but the first of a batch padded."""
    noise = torch.Generator().manual_seed(0)
    longest = getattr(model.config, "max_position_embeddings", 512) - 2  # a family may count positions from 2
    batches = []
    for rows, tokens in SHAPES:
        width = min(tokens, longest)
        ids = torch.randint(model.config.vocab_size, (rows, width), generator=noise)
        lengths = torch.randint(1, width + 1, (rows, 1), generator=noise)
        lengths[0] = width
        mask = (torch.arange(width) < lengths).long()
        batches.append(
            {"input_ids": torch.where(mask > 0, ids, model.config.pad_token_id or 0), "attention_mask": mask}
        )
    return batches


def _check(found: float, scale: float, dtype: str, path: Path) -> None:
    if not within(found, scale, dtype):
        raise UserError(
            f"{path.name} would differ from its model by {found:.2g}, where the largest output is {scale:.2g}: "
            "nothing was written; choose another format or dtype"
        )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path in a temporary folder beside; what is there when the block ends well takes the place of `path`.

    Raises:
        UserError: the place cannot be written; nothing is left behind.
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
