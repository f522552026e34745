"""ONNX Runtime on the CPU. It has no bf16: its CPU kernels have none."""

from __future__ import annotations

from pathlib import Path

from secateur.deploy.graph import only
from secateur.deploy.runtime import Run, Runtime
from secateur.deploy.runtimes import register


@register("onnxruntime")
class OnnxRuntime(Runtime):
    """ONNX files on the CPU. Without calibration, int8 takes the ranges of activations from each batch."""

    suffix = ".onnx"
    stored = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
    packages = ("onnxruntime",)
    extra = "onnx"
    folder = "onnx"

    def open(self, path: Path, dtype: str, threads: int, inputs: tuple[str, ...]) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # fatal ones alone: an error is raised too
        options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads would slow other runtimes
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = {port.name for port in session.get_inputs()}
        return lambda arrays: session.run(None, only(names, arrays))
