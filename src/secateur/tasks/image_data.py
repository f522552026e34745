"""The data of image classification: a column of images and one of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image, LargeList, List, Value

from secateur.structure.encoded_rows import DIGEST
from secateur.surgery.image_reader import opened
from secateur.system.errors import UserError
from secateur.tasks.classification_data import LABELS, is_missing, labelled
from secateur.tasks.columns import find_column, is_text, shared_columns
from secateur.tasks.image_files import IMAGE, is_of_images
from secateur.tasks.label_texts import are_lists
from secateur.tasks.origin import Splits, origin_of

COLUMNS = (IMAGE, "img", "picture", "photo")
"""Usual names of the column of images, tried in order."""
CLASSES = ("fine_label", "coarse_label")
"""Further usual names of that of classes, after those of texts."""


def unopened(split: Dataset) -> Dataset:
    """The split with images as bytes or paths: the library `datasets` would open each when it is looked at."""
    for name, feature in split.features.items():
        if isinstance(feature, Image):
            split = split.cast_column(name, Image(decode=False))
    return split


def prepare(splits: DatasetDict, image: str | None, label: str | None, asked: Sequence[str] | None = None) -> Splits:
    """The splits with the columns of images, of their digests and of classes by index, in this order.

    Args:
        splits: as read, with images that are not opened.
        image, label: the columns; by default found by their usual names.
        asked: the classes in the order that the user states.

    Raises:
        UserError: a column is missing or holds something else, labels are no classes, a row has no image or no class,
            or an image cannot be read; the message names its file.
    """
    shared, origin = shared_columns(splits), origin_of(splits)
    column = find_column("image", shared, image, COLUMNS)
    target = find_column("label", shared, label, (*LABELS, *CLASSES))
    _check_labels(splits, target, asked)
    digested = {}
    for key, split in splits.items():
        _check_columns(origin.name(key), split, column, target, asked or ())
        digests = [_digest(one, f"row {number} of the {key} split") for number, one in enumerate(split[column])]
        own = split.select_columns([column, target]).add_column(DIGEST, digests)
        digested[key] = own.select_columns([column, DIGEST, target])
    return Splits(labelled(DatasetDict(digested), target, asked, False), origin)


def _check_columns(name: str, split: Dataset, image: str, label: str, asked: Sequence[str]) -> None:
    feature = split.features[image]
    if not is_of_images(feature):
        held = feature.dtype if isinstance(feature, Value) else "records"
        raise UserError(
            f"column {image!r} of the {name} split holds {held}, not images: give a folder with a folder of images for "
            "each class, or name another column (--task-option image=NAME)"
        )
    missing = [row for row, value in enumerate(split[label]) if is_missing(value, asked)]
    if missing:
        raise UserError(
            f"row {missing[0]} of the {name} split, counted from 0, has no label (a class below 0 is none unless "
            "--labels names it): fill or remove it"
        )


def _check_labels(splits: DatasetDict, label: str, asked: Sequence[str] | None) -> None:
    """Refuse what is no class: lists of labels, and decimals that the user does not name as classes."""
    features = [split.features[label] for split in splits.values()]
    texts = all(map(is_text, features))
    if any(isinstance(feature, List | LargeList) for feature in features) or (texts and are_lists(splits, label)):
        held = "lists"
    elif any(isinstance(feature, Value) and "float" in feature.dtype for feature in features) and not asked:
        held = "decimals"
    else:
        return
    raise UserError(
        f"the labels in {label!r} are {held}, and an image has one class: name another column by --label (data.label)"
        + (", or the classes by --labels (data.labels)" if held == "decimals" else "")
    )


def _digest(source: Mapping[str, Any] | None, name: str) -> str:
    """40 hex digits of the bytes of an image, which is opened to see that it is one."""
    if source is None or (source["bytes"] is None and not source["path"]):
        raise UserError(f"{name}, counted from 0, has no image: fill or remove it")
    opened(source if source["path"] else {**source, "path": name})
    data = source["bytes"] if source["bytes"] is not None else Path(source["path"]).read_bytes()
    return sha256(data).hexdigest()[:40]
