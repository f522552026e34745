"""Folders of images: a folder for each class, in a folder for each split or without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value

from secateur.tasks.data_files import READERS, form

IMAGE, LABEL = "image", "label"
"""The columns of images and of the names of their folders."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FILE = {"bytes": Value("binary"), "path": Value("string")}
"""The feature of an image that is not opened, as the library `datasets` has it: its bytes, or the path of its file."""


def is_of_images(feature: Any) -> bool:
    """Whether a feature of `datasets` is of images, opened or not."""
    return isinstance(feature, Image) or feature == FILE


def image_parts(folder: Path, splits: Sequence[str]) -> dict[str, Callable[[], Dataset]]:
    """The splits of a folder of images by name; none if it holds files of rows, or no classes of images.

    Args:
        folder: with a folder for each class (`cat/1.png`), or for each split with such folders (`train/cat/1.png`).
        splits: the usual names of splits.
    """
    if any(path.is_file() and form(path) in READERS for path in folder.iterdir()):
        return {}
    of_classes = {place.name: partial(read_classes, place) for place in _folders(folder) if _classes(place)}
    if of_classes.keys() & {*splits}:
        return dict(of_classes)
    classes = [place for place in _classes(folder) if place.name not in splits]
    return {splits[0]: partial(read_classes, folder)} if classes else {}


def read_classes(folder: Path) -> Dataset:
    """The images of a split, class by class: the path of each, and the name of its folder."""
    rows = [(path, place.name) for place in _classes(folder) for path in _images(place)]
    files = [{"bytes": None, "path": str(path)} for path, _ in rows]
    features = Features({IMAGE: FILE, LABEL: Value("string")})
    return Dataset.from_dict({IMAGE: files, LABEL: [name for _, name in rows]}, features=features)


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _classes(folder: Path) -> list[Path]:
    return [place for place in _folders(folder) if _images(place)]


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in SUFFIXES]
