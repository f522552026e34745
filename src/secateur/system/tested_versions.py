"""The versions of the libraries that the tests run with: those of constraints.txt, which a test compares."""

from __future__ import annotations

TESTED = {
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "nncf": "3.4.0",
    "numpy": "2.4.6",
    "onnx": "1.23.2",
    "onnxruntime": "1.31.1",
    "openvino": "2026.4.1",
    "optuna": "5.0.0",
    "safetensors": "0.8.0",
    "sentence-transformers": "6.2.0",
    "tokenizers": "0.23.3",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}
"""Name of the distribution -> version. The ranges that are allowed are those of the package's metadata."""
