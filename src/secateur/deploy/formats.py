"""Files that other runtimes open: ONNX, OpenVINO's IR or torch.export's, in fp32, bf16, fp16 or int8.

This module writes files without checking them; `export` compares them with their source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from transformers import PreTrainedModel

from secateur.deploy import onnx_format, onnx_limit, openvino_format, pt2_format
from secateur.deploy.export_facts import ExportFacts
from secateur.deploy.graph import (
    Batch,
    Signature,
    as_arrays,
    graph_of,
    rows_of,
    tokenizer_inputs,
    weights_hash,
)
from secateur.deploy.onnx_format import OPSETS
from secateur.deploy.onnx_limit import before_quantisation
from secateur.deploy.silence import silence
from secateur.structure.images import PIXELS, image_shape
from secateur.structure.positions import positions
from secateur.system.errors import UserError, as_user_error
from secateur.system.packages import require


@dataclass(frozen=True)
class Format:
    """A kind of file: the dtypes that it can hold, the packages that write it, and the extra that installs them.

    `runtime` is the one that opens such a file unless another is named, `quantisers` are packages that int8 needs
    besides, and `calibrated` is whether int8 needs calibration batches.
    """

    name: str
    dtypes: tuple[str, ...]
    runtime: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    quantisers: tuple[str, ...] = ()
    calibrated: bool = False

    def packages_for(self, dtype: str) -> tuple[str, ...]:
        """The packages that write this dtype."""
        return (*self.packages, *(self.quantisers if dtype == "int8" else ()))


EXPORTABLE = (
    "a text encoder that reads (batch, tokens), without a head or with one for sequence or token classification, "
    "question answering, masked words or next sentences, or an encoder of images"
)
"""What can be exported, for messages."""
FORMATS = {
    ".onnx": Format("ONNX", ("fp32", "fp16", "int8"), "onnxruntime", packages=("onnx", "onnxruntime"), extra="onnx"),
    ".xml": Format(
        "OpenVINO IR",
        ("fp32", "fp16", "int8"),
        "openvino",
        packages=("onnx", "openvino"),
        extra="openvino",
        quantisers=("nncf",),
        calibrated=True,
    ),
    ".pt2": Format("torch.export", ("fp32", "bf16", "fp16"), "pytorch"),
}


def known_format(path: Path) -> Format:
    """The kind of file that a path's suffix names.

    Raises:
        UserError: it names none.
    """
    if path.suffix not in FORMATS:
        kinds = ", ".join(f"{suffix} ({kind.name})" for suffix, kind in FORMATS.items())
        raise UserError(f"expected a file ending in one of {kinds}, got {path.name!r}: rename it")
    return FORMATS[path.suffix]


def check_packages(path: Path, dtype: str) -> None:
    """Check that the packages which write a dtype to a file are installed.

    Raises:
        UserError: one is missing, or the suffix names no kind of file.
    """
    kind = known_format(path)
    require(kind.packages_for(dtype), kind.extra)


def check_dtype(path: Path, dtype: str) -> None:
    """Refuse a dtype that a file cannot hold.

    Raises:
        UserError: naming those that it can; or the suffix names no kind of file.
    """
    kind = known_format(path)
    if dtype not in kind.dtypes:
        raise UserError(f"expected a dtype of {', '.join(kind.dtypes)} for {kind.name}, got {dtype!r}: choose another")


def check_opset(opset: int | None) -> None:
    """Refuse a version of ONNX's operators that cannot be written.

    Raises:
        UserError: naming those that can.
    """
    if opset is not None and opset not in OPSETS:
        raise UserError(f"expected an opset from {OPSETS[0]} to {OPSETS[-1]}, got {opset}: leave it out")


def check_request(path: Path, dtype: str, calibration: Sequence[Batch] | None, opset: int | None) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        UserError: an unknown suffix, dtype or opset, calibration that is missing or that the dtype does not use, or a
            package that is not installed.
    """
    kind = known_format(path)
    check_dtype(path, dtype)
    if opset is not None and path.suffix != ".onnx":
        raise UserError(f"expected an opset for .onnx alone, got {opset} for {path.suffix}: leave it out")
    check_opset(opset)
    if calibration is not None and (dtype != "int8" or not len(calibration)):
        raise UserError(
            f"expected calibration of at least one batch, for int8 alone, got {len(calibration)} batches for {dtype}: "
            "leave it out"
        )
    if dtype == "int8" and kind.calibrated and calibration is None:
        raise UserError(f"int8 for {kind.name} needs examples for the ranges of activations: give calibration batches")
    check_packages(path, dtype)


def check_exportable(model: PreTrainedModel) -> None:
    """Refuse a model that is no function of tokens and a mask, both `(batch, tokens)`.

    Raises:
        UserError: an encoder-decoder, a decoder, or a model with inputs of other shapes.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(
            f"an encoder-decoder ({model.config.model_type}) is exported as two files in a folder: give a name without "
            "an ending, or call export_seq2seq"
        )
    check_rows_of_tokens(model)
    if any(vars(module).get("is_causal") or vars(module).get("causal") for module in model.modules()):
        raise UserError(
            f"expected {EXPORTABLE}, got {type(model).__name__}, whose attention is causal: run it in PyTorch, or save "
            "a uniform one as a stock model"
        )


def check_model(model: PreTrainedModel, path: Path, dtype: str) -> None:
    """Refuse a model of which no file of this kind can be made, before any work is done.

    Raises:
        UserError: as `check_exportable`; or the weights are more than a file of ONNX holds.
    """
    check_exportable(model)
    if path.suffix == ".onnx":
        onnx_limit.check_weights(model.modules(), dtype)


def is_exportable(model: PreTrainedModel) -> bool:
    """Whether `check_exportable` accepts a model."""
    try:
        check_exportable(model)
    except UserError:
        return False
    return True


def check_rows_of_tokens(model: PreTrainedModel) -> None:
    """Refuse a model whose inputs are not rows of tokens.

    Raises:
        UserError: it reads several choices a row, or no tokens.
    """
    name = type(model).__name__
    if model.main_input_name not in ("input_ids", PIXELS) or name.endswith("ForMultipleChoice"):
        raise UserError(f"expected {EXPORTABLE}, got {name}, which reads other inputs: run it in PyTorch")


@torch.inference_mode(mode=False)
@torch.no_grad()
def write(
    model: PreTrainedModel,
    path: Path,
    dtype: str = "fp32",
    *,
    calibration: Sequence[Batch] | None = None,
    opset: int | None = None,
    inputs: Sequence[str] | None = None,
) -> ExportFacts:
    """Write a model to a file whose suffix names the format; batch and length stay free. See `export.export`."""
    check_request(path, dtype, calibration, opset)
    check_model(model, path, dtype)
    graph = graph_of(model, before_quantisation(dtype))
    signature = graph.signature(tokenizer_inputs(model, inputs))
    facts = facts_for(model, signature, path, dtype, calibration or (), opset)
    if path.suffix != ".pt2":
        write_traced(graph, signature, path, facts, calibration or ())
        return facts
    with silence():
        pt2_format.write(graph, signature, path, facts)
    return facts


def write_traced(
    graph: nn.Module,
    signature: Signature,
    path: Path,
    facts: ExportFacts,
    calibration: Sequence[Batch] = (),
    *,
    fold: bool = True,
) -> None:
    """Write a graph to a file of ONNX or OpenVINO, in the dtype of the facts and with the facts in it.

    Args:
        fold: as of `onnx_format.trace`.
    """
    arrays = [as_arrays(batch, facts.inputs) for batch in calibration]
    writer = onnx_format.write if path.suffix == ".onnx" else openvino_format.write
    with silence(), TemporaryDirectory(dir=path.parent) as folder:
        traced = Path(folder) / "traced.onnx"
        onnx_format.trace(graph, traced, signature, facts.opset or OPSETS[0], fold=fold)
        writer(traced, path, facts, arrays)


def facts_for(
    model: PreTrainedModel,
    signature: Signature,
    path: Path,
    dtype: str,
    calibration: Sequence[Batch] = (),
    opset: int | None = None,
) -> ExportFacts:
    """The description of a file that is made of a model; `opset` is for ONNX alone, where None takes the oldest."""
    packages = ("torch", "transformers", *known_format(path).packages_for(dtype))
    return ExportFacts(
        format=path.suffix.removeprefix("."),
        dtype=dtype,
        opset=(opset or OPSETS[0]) if path.suffix == ".onnx" else None,
        inputs=tuple(signature.inputs),
        outputs=signature.outputs,
        source=weights_hash(model),
        model_class=type(model).__name__,
        calibration=sum(map(rows_of, calibration)),
        versions={name: metadata.version(name) for name in packages},
        image=image_shape(model),
        vocabulary=getattr(model.config, "vocab_size", None),
        positions=positions(model) if image_shape(model) is None else None,
    )


def read_facts(path: Path) -> ExportFacts:
    """The facts that an exported file holds about itself.

    Raises:
        UserError: the file is missing or damaged, was not written by secateur, or by a later version of it, or its
            package is not installed.
    """
    kind = known_format(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a file written by secateur export")
    require(kind.packages, kind.extra)
    read = {".onnx": onnx_format.facts_of, ".xml": openvino_format.facts_of, ".pt2": pt2_format.facts_of}[path.suffix]
    with as_user_error(f"{path} cannot be read", "give a file written by secateur export"):
        text = read(path)
    if not text:
        raise UserError(f"{path} was not written by secateur export: give a file that was")
    return ExportFacts.from_json(text, path)


def check_made_from(path: Path, model: PreTrainedModel) -> None:
    """Refuse a file that was made from other weights than a model's.

    Raises:
        UserError: it was; or its facts cannot be read.
    """
    made_from, here = read_facts(path).source, weights_hash(model)
    if made_from != here:
        raise UserError(f"{path} was made from other weights ({made_from}) than these ({here}): export this model")


def files_of(path: Path) -> list[Path]:
    """The files that an export consists of: an IR has its weights in a second one."""
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]
