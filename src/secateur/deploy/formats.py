"""A model as a file that other runtimes open, as ONNX, OpenVINO's IR or torch.export's, in fp32, bf16, fp16 or int8.

What a file is (`Facts`) stands in the file itself, not beside it: a file is copied alone, and nothing can then say
something else of it. Nothing is checked here; `export` compares what is written with its source.

ONNX is written by tracing (`torch.onnx.export(dynamo=False)`): as exact as the newer exporter, as fast to run, and
five times quicker to write. OpenVINO's IR is converted from it, because its own reading of a PyTorch model loses
the names of the inputs, and of a bf16 one the values (logits 1.3 off, at 2026.4).
"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from inspect import signature
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.plan import fingerprint
from secateur.system.errors import UserError, as_user_error

Batch = Mapping[str, Tensor]

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEY = "secateur"
OPSETS = range(17, 21)  # LayerNormalization begins with 17; the tracing exporter ends at 20


@dataclass(frozen=True)
class Format:
    """A kind of file: the dtypes that it can hold, the packages that write it, and the extra that brings them."""

    name: str
    dtypes: tuple[str, ...]
    packages: tuple[str, ...] = ()
    extra: str = ""


FORMATS = {
    ".onnx": Format("ONNX", ("fp32", "fp16", "int8"), ("onnx", "onnxruntime"), "onnx"),
    ".xml": Format("OpenVINO IR", ("fp32", "fp16", "int8"), ("onnx", "openvino"), "openvino"),
    ".pt2": Format("torch.export", ("fp32", "bf16", "fp16")),
}


@dataclass(frozen=True)
class Facts:
    """What an exported file is.

    Attributes:
        format: the kind of file, by its suffix: "onnx", "xml" or "pt2".
        dtype: of its weights: "fp32", "bf16", "fp16" or "int8".
        opset: version of ONNX's operators; None in another format.
        inputs: names of the inputs, each `(batch, tokens)` of int64.
        outputs: names of the outputs, in order; float32.
        source: hash of the weights that it was made from, `source_of`.
        model_class: of the model that it was made from.
        calibration: examples that the ranges of int8 activations were taken from; 0 if they are taken from each batch.
        versions: of the packages that made it.
    """

    format: str
    dtype: str
    opset: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: str
    model_class: str
    calibration: int
    versions: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Facts:
        values = json.loads(text)
        return cls(**values | {name: tuple(values[name]) for name in ("inputs", "outputs")})


def frozen(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """A copy in evaluation mode, in every module, and in that dtype."""
    twin: Any = copy.deepcopy(model)
    return twin.to(TORCH_DTYPES[dtype]).eval().requires_grad_(False)


class Graph(nn.Module):
    """A model as a function of arrays, its outputs as float32: what every exporter and compiler traces.

    The mask `(batch, tokens)` of 0 and 1 becomes `(batch, 1, 1, tokens)` to add to the scores, which models pass on as
    it is: transformers' own making of masks reads their values, and none of it is left to trace.
    """

    def __init__(self, model: PreTrainedModel, dtype: str = "fp32") -> None:
        super().__init__()
        # A copy: the exporter puts modules into the mode of the outermost, so that a model would come back in training
        # mode, with dropout, and then differ from its export.
        self.model = frozen(model, dtype)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        dtype = self.model.dtype
        mask = (1 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=mask, return_dict=True, **types)
        return tuple(value.float() for value in found.values() if isinstance(value, Tensor))


def source_of(model: PreTrainedModel) -> str:
    """`plan.fingerprint` of the weights in fp32: the same whatever dtype, fp16 or fp32, a checkpoint is loaded in."""
    return fingerprint(frozen(model, "fp32"))


def input_names(model: PreTrainedModel) -> tuple[str, ...]:
    """The inputs of a text encoder; token types only where it knows more than one."""
    typed = "token_type_ids" in signature(model.forward).parameters
    several = getattr(model.config, "type_vocab_size", 0) > 1
    return ("input_ids", "attention_mask", *(("token_type_ids",) if typed and several else ()))


def as_arrays(batch: Mapping[str, Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named inputs as int64 arrays; without a mask it is all ones, without token types they are zeros.

    Raises:
        UserError: there are no ids, or there is something that the model does not take.
    """
    if "input_ids" not in batch or (unknown := sorted(set(batch) - set(names))):
        came = unknown[0] if "input_ids" in batch else "no input_ids"
        raise UserError(f"expected the inputs {', '.join(names)}, got {came}: give these alone")
    ids = np.asarray(batch["input_ids"])
    filled = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: np.ascontiguousarray(batch.get(name, filled[name]), dtype=np.int64) for name in names}


def only(names: set[str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs that a file has: exporters drop one of no use, such as the mask of a model without attention."""
    return {name: array for name, array in inputs.items() if name in names}


def require(packages: Sequence[str], extra: str) -> None:
    """Refuse to go on without packages that an extra of ours brings.

    Raises:
        UserError: with the line for pip.
    """
    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        raise UserError(f"{' and '.join(absent)} is not installed: run pip install 'secateur[{extra}]'")


def known_format(path: Path) -> Format:
    """The kind of file that a path's suffix names.

    Raises:
        UserError: it names none.
    """
    if path.suffix not in FORMATS:
        kinds = ", ".join(f"{suffix} ({kind.name})" for suffix, kind in FORMATS.items())
        raise UserError(f"expected a file ending in one of {kinds}, got {path.name!r}: rename it")
    return FORMATS[path.suffix]


def check_request(path: Path, dtype: str, calibration: Sequence[Batch] | None, opset: int | None) -> None:
    """Refuse what cannot be written, before any work is done.

    Raises:
        UserError: the suffix, the dtype or the opset is none that there is, calibration lacks or is of no use, or a
            package is not installed.
    """
    kind = known_format(path)
    if dtype not in kind.dtypes:
        raise UserError(f"expected a dtype of {', '.join(kind.dtypes)} for {kind.name}, got {dtype!r}: choose another")
    if opset is not None and (path.suffix != ".onnx" or opset not in OPSETS):
        raise UserError(
            f"expected an opset from {OPSETS[0]} to {OPSETS[-1]}, for .onnx alone, got {opset}: leave it out"
        )
    if calibration is not None and (dtype != "int8" or not len(calibration)):
        raise UserError(f"calibration has {len(calibration)} batches for {dtype}: give int8 one or more, others none")
    if dtype == "int8" and path.suffix == ".xml" and calibration is None:
        raise UserError("int8 for OpenVINO takes the ranges of activations from examples: give calibration batches")
    require((*kind.packages, *_quantisers(path, dtype)), kind.extra)


def _quantisers(path: Path, dtype: str) -> tuple[str, ...]:
    return ("nncf",) if (path.suffix, dtype) == (".xml", "int8") else ()


@torch.inference_mode(mode=False)
@torch.no_grad()
def write(
    model: PreTrainedModel,
    path: Path,
    dtype: str = "fp32",
    *,
    calibration: Sequence[Batch] | None = None,
    opset: int | None = None,
) -> Facts:
    """Write a model to a file whose suffix names the format; batch and length stay free. See `export.export`."""
    check_request(path, dtype, calibration, opset)
    if model.config.is_encoder_decoder:
        raise UserError(
            f"export of an encoder-decoder ({model.config.model_type}) is not supported: save the compact model and "
            "run it in PyTorch"
        )
    names = input_names(model)
    graph = Graph(model, "fp32" if dtype == "int8" else dtype)
    example = _example(names)
    packages = ("torch", "transformers", *known_format(path).packages, *_quantisers(path, dtype))
    opset = (opset or OPSETS[0]) if path.suffix != ".pt2" else None
    facts = Facts(
        format=path.suffix.removeprefix("."),
        dtype=dtype,
        opset=opset if path.suffix == ".onnx" else None,
        inputs=names,
        outputs=_output_names(graph, example),
        source=source_of(model),
        model_class=type(model).__name__,
        calibration=sum(len(batch["input_ids"]) for batch in calibration or ()),
        versions={name: metadata.version(name) for name in packages},
    )
    arrays = [as_arrays(batch, names) for batch in calibration or ()]
    with silence():
        if path.suffix == ".pt2":
            _write_pt2(graph, example, path, facts)
        else:
            with TemporaryDirectory(dir=path.parent) as nowhere:
                plain = Path(nowhere) / "plain.onnx"
                _trace(graph, example, plain, facts, opset or OPSETS[0])
                (_write_onnx if path.suffix == ".onnx" else _write_xml)(plain, path, facts, arrays)
    return facts


def read_facts(path: Path) -> Facts:
    """What an exported file says of itself.

    Raises:
        UserError: the file is not there, is damaged, was not written by secateur, or its package is not installed.
    """
    kind = known_format(path)
    if not path.is_file():
        raise UserError(f"{path} is not there: give a file written by secateur export")
    require(kind.packages, kind.extra)
    read = {".onnx": _facts_of_onnx, ".xml": _facts_of_xml, ".pt2": _facts_of_pt2}[path.suffix]
    with as_user_error(f"{path} cannot be read", "give a file written by secateur export"):
        text = read(path)
    if not text:
        raise UserError(f"{path} does not say what it is: give a file written by secateur export")
    with as_user_error(f"{path} says wrongly what it is", "export the model again"):
        return Facts.from_json(text)


def files_of(path: Path) -> list[Path]:
    """The files that an export is made of: an IR keeps its weights beside it."""
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]


# One writer and one reader of facts a format


def _write_pt2(graph: Graph, example: tuple[Tensor, ...], path: Path, facts: Facts) -> None:
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(graph, example, dynamic_shapes=(free,) * len(example))
    torch.export.save(program, path, extra_files={KEY: facts.to_json()})


def _facts_of_pt2(path: Path) -> str:
    with ZipFile(path) as archive:  # opening it as a program takes seconds
        name = next((name for name in archive.namelist() if name.endswith(f"/extra/{KEY}")), None)
        return archive.read(name).decode() if name else ""


def _trace(graph: Graph, example: tuple[Tensor, ...], path: Path, facts: Facts, opset: int) -> None:
    """The graph as plain ONNX, batch and length free."""
    torch.onnx.export(
        graph,
        example,
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=list(facts.inputs),
        output_names=list(facts.outputs),
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in facts.inputs},
    )


def _write_onnx(plain: Path, path: Path, facts: Facts, calibration: list[dict[str, np.ndarray]]) -> None:
    import onnx

    if facts.dtype == "int8":
        _quantize_onnx(plain, calibration)
    model = onnx.load(plain)
    onnx.helper.set_model_props(model, {KEY: facts.to_json()})
    onnx.save(model, path)


def _quantize_onnx(plain: Path, calibration: list[dict[str, np.ndarray]]) -> None:
    """Weights to int8, a scale per output channel; activations by ranges of `calibration`, or of each batch if empty.

    The products of two activations (scores and contexts of attention) stay in fp32, as does all that is no product.
    """
    import onnx
    from onnxruntime import quantization as ort

    model = onnx.load(plain)
    model.graph.ClearField("value_info")  # the tracer's shapes are not those that ORT infers, and it then gives up
    taken = {port.name for port in model.graph.input}
    shared = {"per_channel": True, "weight_type": ort.QuantType.QInt8}
    if not calibration:
        ort.quantize_dynamic(model, plain, **shared)
        return
    ort.quantize_static(
        model,
        plain,
        _Reader([only(taken, batch) for batch in calibration]),
        quant_format=ort.QuantFormat.QDQ,
        activation_type=ort.QuantType.QUInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        extra_options={"MatMulConstBOnly": True},
        **shared,
    )


class _Reader:
    """Calibration batches as ONNX Runtime asks for them."""

    def __init__(self, batches: list[dict[str, np.ndarray]]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def _facts_of_onnx(path: Path) -> str:
    import onnx

    model = onnx.load(path, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}.get(KEY, "")


def _write_xml(plain: Path, path: Path, facts: Facts, calibration: list[dict[str, np.ndarray]]) -> None:
    import openvino

    model = openvino.Core().read_model(plain)  # `convert_model` would report the use to its makers, without asking
    if facts.dtype == "int8":
        os.environ.setdefault("NNCF_CI", "1")  # and so would this, at its import
        import nncf

        taken = {name for port in model.inputs for name in port.names}
        given = nncf.Dataset([only(taken, batch) for batch in calibration])
        kind = nncf.ModelType.TRANSFORMER
        model = nncf.quantize(model, given, subset_size=len(calibration), model_type=kind)
    model.set_rt_info(facts.to_json(), KEY)
    openvino.save_model(model, path, compress_to_fp16=facts.dtype == "fp16")


def _facts_of_xml(path: Path) -> str:
    import openvino

    model = openvino.Core().read_model(path)
    return model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else ""


# What is traced


def _example(names: Sequence[str]) -> tuple[Tensor, ...]:
    """Inputs `(2, 9)`; no size is 1 or meets another, and one row is padded, so that nothing is taken for constant."""
    ids = torch.arange(18).reshape(2, 9) % 5
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return tuple({"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}[name] for name in names)


def _output_names(graph: Graph, example: tuple[Tensor, ...]) -> tuple[str, ...]:
    with torch.inference_mode():
        found = graph.model(*example[:1], return_dict=True)
    return tuple(name for name, value in found.items() if isinstance(value, Tensor))


@contextmanager
def silence() -> Iterator[None]:
    """Exporters, quantisers and compilers warn of their own past and future, and draw bars on stdout."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
