"""Classification of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from transformers import AutoModelForImageClassification

from secateur.structure.encoded_rows import DIGEST, EXAMPLE
from secateur.surgery.image_reader import ImageReader
from secateur.system.errors import UserError
from secateur.tasks import predictors, register
from secateur.tasks.classification import Classification, choose_metric
from secateur.tasks.classification_data import LABELS, check_classes
from secateur.tasks.image_data import CLASSES, prepare, unopened
from secateur.tasks.image_files import image_parts
from secateur.tasks.predictors import Predictor
from secateur.tasks.splits import TRAIN, VALIDATION, read_splits


class ImageCollator:
    """Opens the images of rows and makes a batch of them; what else a row has is stacked.

    Attributes:
        pad_to_multiple_of: of no use here, because images have one size.
    """

    pad_to_multiple_of: int | None = None

    def __init__(self, reader: ImageReader, column: str) -> None:
        self.reader, self.column = reader, column

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        left_out = {self.column, DIGEST, EXAMPLE, "length"}
        numbers = {name: torch.tensor([row[name] for row in features]) for name in features[0].keys() - left_out}
        return {"pixel_values": self.reader([row[self.column] for row in features]), **numbers}


def holds_images(data: Path) -> bool:
    """Whether this is a folder of images by class."""
    return data.is_dir() and bool(image_parts(data, (*TRAIN, *VALIDATION)))


@register("images")
@dataclass(frozen=True, eq=False, repr=False)
class Images(Classification):
    """One class for an image. Images are opened and resized by the model's own image processor, without augmentation.

    Attributes:
        columns: that of images, which are not opened, and that of their digests.
    """

    model_class: ClassVar[Any] = AutoModelForImageClassification
    predictor: ClassVar[Predictor | None] = predictors.IMAGES
    recognises: ClassVar[Callable[[Path], bool] | None] = staticmethod(holds_images)
    augmentable: ClassVar[bool] = False
    lengths: ClassVar[bool] = False

    @classmethod
    def from_data(  # type: ignore[override]  # images have no texts and no scores
        cls,
        data: str,
        *,
        image: str | None = None,
        label: str | None = None,
        labels: Sequence[str] | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
        validation: str | None = None,
    ) -> Images:
        """Read `data`, and look at every image.

        Args:
            data: a folder with a folder of images for each class, in folders for splits or without them, or data with
                a column of images, as the library `datasets` has it.
            image: the column of images; by default found by its usual name.
            label: the column of classes; by default found by its usual name.
            labels: the classes in the order of the model's outputs; by default the order of the data.
            metric: the main score; by default accuracy.
            seed: chooses the rows of a validation split that the data lacks, and those that `rows` keeps.
            rows: how many training rows to keep; all by default.
            validation: the split to score; by default that of `read_splits`.

        Raises:
            UserError: the data cannot be read, or an image, which is named; a column is missing or has gaps; there is
                only one class; validation has a class that training lacks; the metric is unknown; `rows` < 1.
        """
        candidates = (label,) if label else (*LABELS, *CLASSES)
        prepared = partial(prepare, image=image, label=label, asked=labels)
        splits = read_splits(data, validation=validation, label=candidates, each=unopened, prepare=prepared, seed=seed)
        *columns, label = splits["train"].column_names
        check_classes(splits, label)
        names = tuple(splits["train"].features[label].names)
        return cls(splits, tuple(columns), label, names, choose_metric(metric, names)).with_first_rows(rows, seed)

    def described(self) -> dict[str, str]:
        own = super().described()
        return {"images": self.columns[0], "labels": own["labels"]}

    def texts_with_class(self, split: str) -> tuple[list[str], list[int]] | None:
        return None

    def encode(self, split: Dataset, tokenizer: Any, max_length: int = 128) -> Dataset:
        """One of `splits`, or rows of one: images that are not opened, their digests, `labels` and a length of 1.

        Args:
            split: rows with `columns` and `label`.
            tokenizer: the model's `ImageReader`.
            max_length: of no use here.
        """
        self.collator(tokenizer)
        return split.rename_column(self.label, "labels").add_column("length", [1] * len(split))

    def collator(self, tokenizer: Any) -> Any:
        """Opens the images of rows, and makes a batch of them.

        Raises:
            UserError: the model reads texts.
        """
        if not isinstance(tokenizer, ImageReader):
            raise UserError(f"the task {self.name!r} needs a model that reads images: give one such as a ViT")
        return ImageCollator(tokenizer, self.columns[0])
