"""OpenVINO on the CPU.

The precision of arithmetic is always set: by itself OpenVINO chooses bf16 on a processor that has it, also for a model
in fp32. bf16 runs from the file of fp32; fp16 has weights of fp16 and arithmetic of fp32.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np

from secateur.deploy.graph import only
from secateur.deploy.runtime import Arrays, Run, Runtime
from secateur.deploy.runtimes import register
from secateur.system.errors import UserError


@register("openvino")
class OpenVino(Runtime):
    """IR files on the CPU. Operations that int8 leaves unquantised, such as norms, run in bf16 where that exists."""

    suffix = ".xml"
    stored = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}
    packages = ("openvino",)
    extra = "openvino"
    folder = "openvino"

    def check(self, dtype: str) -> None:
        super().check(dtype)
        if dtype == "bf16" and not _has_bf16():
            raise UserError("this processor has no bf16, and OpenVINO would run fp32 in its place: choose fp32 or int8")

    def version(self, dtype: str) -> str:
        version = f"openvino {metadata.version('openvino')}"
        return f"{version}, {_precision(dtype)} beside int8" if dtype == "int8" else version

    def open(self, path: Path, dtype: str, threads: int, inputs: tuple[str, ...]) -> Run:
        import openvino

        hints = {
            "INFERENCE_PRECISION_HINT": _precision(dtype),
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(path, "CPU", hints)
        outputs = [compiled.output(index) for index in range(len(compiled.outputs))]
        names = {name for port in compiled.inputs for name in port.names}

        def run(arrays: Arrays) -> list[np.ndarray]:
            results = compiled(only(names, arrays))
            return [results[output] for output in outputs]

        return run


def _has_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _precision(dtype: str) -> str:
    """Precision of what is not quantised, which takes most of an int8 model's time: the faster one that exists."""
    return "bf16" if dtype == "bf16" or (dtype == "int8" and _has_bf16()) else "f32"
