"""The description of an exported file, which is stored in the file itself so that copies of the file keep it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.deploy.graph import example_images
from secateur.structure.images import PIXELS, ImageShape
from secateur.system.errors import as_user_error
from secateur.system.file_format import FileFormat

KEY = "secateur"
"""The key of the facts in a file's own metadata."""
FORMAT = FileFormat(2)
"""Version 1 has no `vocabulary` and no `positions`."""
TEXTS = ("format", "dtype", "source", "model_class")
SIZES = ("vocabulary", "positions")
TYPES: dict[str, Any] = {**dict.fromkeys(TEXTS, str), "opset": int | None, "calibration": int, "versions": dict}
"""Types of the facts other than names."""


@dataclass(frozen=True)
class ExportFacts:
    """The description of an exported file.

    Attributes:
        format: the kind of file, by its suffix: "onnx", "xml" or "pt2".
        dtype: of its weights: "fp32", "bf16", "fp16" or "int8".
        opset: version of ONNX's operators; None in another format.
        inputs: names of the inputs, each `(batch, tokens)` of int64; or images, `(batch, *image)` of float32.
        outputs: names of the outputs, in order; float32.
        source: hash of the weights that it was made from, `graph.weights_hash`.
        model_class: class of the model that it was made from.
        calibration: number of examples that gave the ranges of int8 activations; 0 if each batch gives its own.
        versions: of the packages that made it.
        image: channels, height and width of the images that it reads; None if it reads no images.
        vocabulary: number of pieces, below which its ids lie; None if it reads images, or does not record it.
        positions: the longest sequence that it reads, in tokens; None if it has no limit, or does not record it.
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
    image: ImageShape | None = None
    vocabulary: int | None = None
    positions: int | None = None

    def to_json(self) -> str:
        values = asdict(self)
        optional = {name for name in ("image", *SIZES) if values[name] is None}
        return json.dumps(FORMAT.stamped({name: one for name, one in values.items() if name not in optional}))

    def example(self, batch: int = 1, tokens: int = 2) -> dict[str, np.ndarray]:
        """Inputs that the file takes: tokens that are all 0, or random images, which become as many as they do."""
        if self.image is not None:
            return {PIXELS: example_images(self.image, batch)}
        return {"input_ids": np.zeros((batch, tokens), dtype=np.int64)}

    @classmethod
    def from_json(cls, text: str, path: Path) -> ExportFacts:
        """The facts that `to_json` wrote.

        Args:
            path: of the file that holds them, for an error.

        Raises:
            UserError: the text is damaged, has a value of another type, names no inputs or outputs, or has a later
                version.
        """
        damaged = f"{path} holds damaged facts about itself", "export the model again"
        with as_user_error(*damaged):
            values = json.loads(text)
        values = FORMAT.current(values, path)
        with as_user_error(*damaged):
            _check_types(values)
            image = None if values.get("image") is None else _image(values["image"])
            names = {name: _names(name, values[name]) for name in ("inputs", "outputs")}
            return cls(**values | names | {"image": image})


def _check_types(values: Mapping[str, Any]) -> None:
    for key, kind in TYPES.items():
        if not isinstance(values[key], kind):
            raise ValueError(f"{key} must not be {values[key]!r}")
    for key in SIZES:
        size = values.get(key)
        if size is not None and not (type(size) is int and size > 0):
            raise ValueError(f"{key} must not be {size!r}")


def _names(key: str, names: object) -> tuple[str, ...]:
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{key} must be a list of names")
    return tuple(names)


def _image(shape: object) -> ImageShape:
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)):
        raise ValueError("image must be a list of channels, height and width")
    channels, height, width = shape
    return channels, height, width
