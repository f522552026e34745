"""ONNX files (.onnx), in fp32, fp16 or, by ONNX Runtime's quantisation, int8.

They are written by tracing (`torch.onnx.export(dynamo=False)`): as exact as the newer exporter, as fast to run, and
five times faster to write.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from secateur.deploy.export_facts import KEY, ExportFacts
from secateur.deploy.graph import Signature, only
from secateur.deploy.onnx_limit import check_traced

if TYPE_CHECKING:
    import onnx

OPSETS = range(17, 21)
"""LayerNormalization begins with 17; the tracing exporter ends at 20."""
PRODUCTS = ("MatMul", "Gemm")


def trace(graph: nn.Module, path: Path, signature: Signature, opset: int, *, fold: bool = True) -> None:
    """Write the graph as ONNX without facts; the free axes of its signature stay free.

    Args:
        fold: whether what depends on weights alone is computed here: transposed weights, which quantisation needs. A
            table that is looked up and multiplied is then stored twice. Runtimes fold what they need when they open it.
    """
    torch.onnx.export(
        graph,
        tuple(signature.inputs.values()),
        str(path),
        dynamo=False,
        do_constant_folding=fold,
        opset_version=opset,
        input_names=list(signature.inputs),
        output_names=list(signature.outputs),
        dynamic_axes=signature.free,
    )
    _add_inputs(path, signature)


def _add_inputs(path: Path, signature: Signature) -> None:
    """Add the inputs that the tracer left out because the model does not use them, such as a mask without attention."""
    import onnx

    model = onnx.load(path, load_external_data=False)  # which stays in its files, where there is some
    own = {port.name: port for port in model.graph.input}
    if own.keys() >= signature.inputs.keys():
        return
    ports = [own.get(name) or _port(name, signature) for name in signature.inputs]
    del model.graph.input[:]
    model.graph.input.extend(ports)
    onnx.save(model, path)


def _port(name: str, signature: Signature) -> onnx.ValueInfoProto:
    """An input of a graph, with the type of its example and its free axes."""
    import onnx

    example, free = signature.inputs[name], signature.free.get(name, {})
    shape = [free.get(axis, size) for axis, size in enumerate(example.shape)]
    kind = onnx.TensorProto.FLOAT if example.is_floating_point() else onnx.TensorProto.INT64
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def write(traced: Path, path: Path, facts: ExportFacts, calibration: list[dict[str, np.ndarray]]) -> None:
    """Write a traced graph in the dtype of the facts, with the facts in it; int8 overwrites `traced`.

    Raises:
        UserError: it is more than a file holds.
    """
    import onnx

    check_traced(traced, facts.dtype)
    if facts.dtype == "int8":
        _quantise(traced, calibration)
    model = onnx.load(traced)
    onnx.helper.set_model_props(model, {KEY: facts.to_json()})
    onnx.save(model, path)


def facts_of(path: Path) -> str:
    """The facts in a file, as JSON; "" if it has none."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}.get(KEY, "")


def _quantise(path: Path, calibration: list[dict[str, np.ndarray]]) -> None:
    """Quantise weights to int8, with a scale per output channel.

    Activations have the ranges found on `calibration`, or those of each batch if it is empty. The products of two
    activations (scores and contexts of attention) stay in fp32, as does everything that is no product, and the results
    of products: those of a feed-forward network have outliers, such as 85 where others are below 1, beside which one
    range has few steps for the others (Bondarenko et al., EMNLP 2021; RESULTS.md: 17 points of MPNet-base).

    Weights that are multiplied take 7 of the 8 bits, -64 to 64, with which the file is right on every processor. One
    with AVX2 or AVX-512 but without VNNI adds two products of an unsigned 8-bit activation and a weight in 16 signed
    bits, and cuts larger sums off: 2 x 255 x 127 does not fit, 2 x 255 x 64 = 32,640 does. Tables whose rows are only
    looked up take all 8 bits. (oneDNN, "Nuances of int8 computations"; ONNX Runtime, pull request 12088.)
    """
    import onnx
    from onnxruntime import quantization as ort

    model = onnx.load(path)
    model.graph.ClearField("value_info")  # the tracer's shapes contradict those that ONNX Runtime infers, which fails
    names = {port.name for port in model.graph.input}
    shared = {"per_channel": True, "weight_type": ort.QuantType.QInt8, "reduce_range": True}
    if not calibration:
        ort.quantize_dynamic(model, path, **shared)
        return
    ort.quantize_static(
        model,
        path,
        _Reader([only(names, batch) for batch in calibration]),
        quant_format=ort.QuantFormat.QDQ,
        activation_type=ort.QuantType.QUInt8,
        op_types_to_quantize=[*PRODUCTS, "Gather"],
        extra_options={
            "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": [*PRODUCTS],
            "TensorQuantOverrides": _whole_range(model),
        },
        **shared,
    )


def _whole_range(model: onnx.ModelProto) -> dict[str, list[dict[str, bool]]]:
    """ONNX Runtime's options for the float tables that are only looked up; dynamic quantisation needs none."""
    import onnx

    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    others = {name for node in model.graph.node for name in node.input[1 if node.op_type == "Gather" else 0 :]}
    tables = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return {name: [{"reduce_range": False}] for name in sorted(tables & looked_up - others)}


class _Reader:
    """Calibration batches in the form that ONNX Runtime expects."""

    def __init__(self, batches: list[dict[str, np.ndarray]]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)
