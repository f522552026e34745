"""Models that read images: their input, the shape of an image, and the number of tokens that it becomes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from secateur.structure.architecture import Patches
from secateur.structure.architectures import ARCHITECTURES

PIXELS = "pixel_values"
"""The input of a model that reads images, `(batch, channels, height, width)`."""

ImageShape = tuple[int, int, int]
"""Channels, height and width."""


def is_image_family(model_type: str) -> bool:
    """Whether a family is registered whose models read images."""
    return _patches(model_type) is not None


def _patches(model_type: str) -> Patches | None:
    """The row of a family's table that embeds images; None if the family is not registered, or reads something else."""
    family = ARCHITECTURES.all().get(model_type)
    rows = () if family is None else family.stem
    return next((row for row in rows if isinstance(row, Patches)), None)


def image_shape(model: PreTrainedModel) -> ImageShape | None:
    """The shape of the images that a model reads; None for a model that reads something else."""
    if getattr(model, "main_input_name", None) != PIXELS:
        return None
    config: Any = model.config
    size = config.image_size
    height, width = size if isinstance(size, Iterable) else (size, size)
    return int(config.num_channels), int(height), int(width)


def image_tokens(model: PreTrainedModel) -> int | None:
    """The tokens of an image, its patches and single tokens: all positions; None for a model that reads no images."""
    patches = None if image_shape(model) is None else _patches(model.config.model_type)
    if patches is None:
        return None
    return int(model.base_model.get_parameter(f"{patches.path}.{patches.positions}").shape[1])
