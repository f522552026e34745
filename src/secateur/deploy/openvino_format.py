"""OpenVINO's IR (.xml, with its weights in a .bin), in fp32, fp16 or, by NNCF's quantisation, int8.

An IR is converted from ONNX: OpenVINO's own reading of a PyTorch model loses the names of the inputs, and reads wrong
values of a bf16 one (logits 1.3 off, at 2026.4).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.deploy.export_facts import KEY, ExportFacts
from secateur.deploy.graph import only

if TYPE_CHECKING:
    import openvino


def write(traced: Path, path: Path, facts: ExportFacts, calibration: list[dict[str, np.ndarray]]) -> None:
    """Write a traced ONNX graph as an IR in the dtype of the facts, with the facts in it."""
    import openvino

    model = openvino.Core().read_model(traced)  # `convert_model` would send telemetry
    if facts.dtype == "int8":
        model = _quantised(model, calibration) if calibration else _in_8_bits(model)
    model.set_rt_info(facts.to_json(), KEY)
    openvino.save_model(model, path, compress_to_fp16=facts.dtype == "fp16")


def _quantised(model: openvino.Model, calibration: list[dict[str, np.ndarray]]) -> openvino.Model:
    """The model with weights in int8, a scale per output channel, and activations in the ranges found on `calibration`.

    Weights that are multiplied take 7 of the 8 bits (NNCF's `OverflowFix`): with 8 a processor without VNNI cuts sums
    of products off, as `onnx_format` describes, and the file computes something else there. Tables keep all 8 bits.
    """
    nncf = _nncf()
    names = {name for port in model.inputs for name in port.names}
    small: openvino.Model = nncf.quantize(
        model,
        nncf.Dataset([only(names, batch) for batch in calibration]),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )
    return small


def _in_8_bits(model: openvino.Model) -> openvino.Model:
    """The model with weights in int8, a scale and a zero point per output channel, and all arithmetic as before."""
    nncf = _nncf()
    small: openvino.Model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    return small


def _nncf() -> Any:
    """The package that quantises, without telemetry and without the tables that it logs."""
    os.environ.setdefault("NNCF_CI", "1")  # at its import it would send telemetry
    import nncf

    nncf.set_log_level(logging.WARNING)
    return nncf


def facts_of(path: Path) -> str:
    """The facts in a file, as JSON; "" if it has none."""
    import openvino

    model = openvino.Core().read_model(path)
    return model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else ""
