"""What exporters, quantisers and compilers print about their own internals, and a user can do nothing about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

from torch.jit import TracerWarning

FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, TracerWarning)
"""Categories of warnings to those who write the library, not to those who call it.

The tracer warns that a graph may hold for the traced shape alone: every export is compared with its source on several.
"""
COPIED = "To copy construct from a tensor"
"""PyTorch's, where a model of transformers makes a tensor of a size, which is a tensor while it is traced."""
ADVICE = ("pre-processing before quantization", "Bias of Gemm node")
"""Words of ONNX Runtime's advice, on the root logger: on its pre-processing, which fuses operators, as the exporter of
PyTorch has done; and on a bias that equals another tensor, which that exporter stores once: it stays in fp32."""


@contextmanager
def silence() -> Iterator[None]:
    """Suppress warnings for developers, `ADVICE`, and stdout, on which quantisers draw progress bars.

    All other warnings and log records pass.
    """
    root = logging.getLogger()
    root.addFilter(_is_no_advice)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            for category in FOR_DEVELOPERS:
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", COPIED, UserWarning)
            yield
    finally:
        root.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in ADVICE)
