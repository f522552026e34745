"""The description of an exported file, which is stored in the file itself so that copies of the file keep it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

KEY = "secateur"
"""The key of the facts in a file's own metadata."""


@dataclass(frozen=True)
class ExportFacts:
    """The description of an exported file.

    Attributes:
        format: the kind of file, by its suffix: "onnx", "xml" or "pt2".
        dtype: of its weights: "fp32", "bf16", "fp16" or "int8".
        opset: version of ONNX's operators; None in another format.
        inputs: names of the inputs, each `(batch, tokens)` of int64.
        outputs: names of the outputs, in order; float32.
        source: hash of the weights that it was made from, `graph.weights_hash`.
        model_class: class of the model that it was made from.
        calibration: number of examples that gave the ranges of int8 activations; 0 if each batch gives its own.
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
    def from_json(cls, text: str) -> ExportFacts:
        """The facts that `to_json` wrote.

        Raises:
            ValueError, TypeError, LookupError: the text is damaged, or names no inputs or outputs.
        """
        values = json.loads(text)
        for name in ("inputs", "outputs"):
            if not (isinstance(values[name], list) and values[name] and all(isinstance(n, str) for n in values[name])):
                raise ValueError(f"{name} must be a list of names")
        return cls(**values | {name: tuple(values[name]) for name in ("inputs", "outputs")})
