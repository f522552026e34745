"""What reads images for a model, in the place that a tokenizer has for texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedModel

from secateur.structure.images import PIXELS, image_shape
from secateur.system.errors import UserError, as_user_error, reason_of
from secateur.system.packages import require

if TYPE_CHECKING:
    from PIL.Image import Image

Source = Mapping[str, Any]
"""An image that is not opened: its `bytes`, or None for those of a file, and the `path` of that file or its name."""


class ImageReader:
    """Opens images, converts them to RGB, and makes a model's input of them by the image processor saved with it.

    What code does with any tokenizer is done with it too: it is saved, and its settings are kept.

    Attributes:
        processor: of transformers; it resizes and normalises.
    """

    model_input_names: ClassVar[list[str]] = [PIXELS]
    model_max_length: ClassVar[int] = 2**30
    is_fast: ClassVar[bool] = False

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @classmethod
    def open(cls, name: str | Path) -> ImageReader:
        """The reader of a model folder, or of a model on the hub.

        Raises:
            UserError: it has no image processor that loads.
            MissingPackage: Pillow is not installed.
        """
        require(("PIL",), "images")
        advice = "save one with the model, which writes preprocessor_config.json"
        with as_user_error(f"{name} has no image processor that loads", advice):
            return cls(AutoImageProcessor.from_pretrained(str(name), trust_remote_code=False))

    def __call__(self, images: Sequence[Source]) -> Tensor:
        """`(images, channels, height, width)` of float32.

        Raises:
            UserError: an image cannot be opened; the message names its file.
        """
        pixels = self.processor(images=[opened(one) for one in images], return_tensors="pt")[PIXELS]
        return torch.as_tensor(pixels, dtype=torch.float32)

    def check(self, model: PreTrainedModel, name: str) -> None:
        """Refuse a model that reads images of another shape than this reader makes.

        Raises:
            UserError: it does.
        """
        from PIL import Image

        made, shape = self.processor(images=[Image.new("RGB", (40, 30))], return_tensors="pt")[PIXELS].shape[1:], None
        if tuple(made) != (shape := image_shape(model)):
            raise UserError(
                f"{name} reads images of {_shown(shape)}, and its image processor makes {_shown(made)}: set the "
                "size in its preprocessor_config.json"
            )

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the image processor."""
        self.processor.save_pretrained(folder)


def opened(source: Source) -> Image:
    """An image in RGB, whatever its mode; transparency is left out.

    Raises:
        UserError: it is no image, or damaged; the message names its file.
        MissingPackage: Pillow is not installed.
    """
    require(("PIL",), "images")
    from PIL import Image

    data = source["bytes"]
    try:
        with Image.open(source["path"] if data is None else BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = source.get("path") or "an image of the data"
        raise UserError(f"{name} cannot be read as an image ({reason_of(error)}): repair or remove it") from error


def _shown(shape: Any) -> str:
    channels, height, width = shape or (0, 0, 0)
    return f"{channels} channels of {height} x {width}"
