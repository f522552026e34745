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
    family = ARCHITECTURES.all().get(model_type)
    return family is not None and any(isinstance(row, Patches) for row in family.stem)


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
    if image_shape(model) is None:
        return None
    named = model.named_parameters()
    return next((int(own.shape[1]) for name, own in named if name.endswith("position_embeddings")), None)
