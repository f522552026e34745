"""Files and folders that stand for a class, such as train/pos/*.txt or pos.txt: recognised, to be refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.system.errors import UserError
from secateur.tasks.columns import listed
from secateur.tasks.data_files import FORMS, READERS, form


def check_no_classes(folder: Path, splits: Sequence[str]) -> None:
    """Refuse a folder, or folders of splits in it, whose files of text lie by class.

    Args:
        folder: without a file that has the name of a split.
        splits: the usual names of splits.

    Raises:
        UserError: inner folders with files of text, or several such files, are named after something else than splits.
    """
    for place in [path for path in _folders(folder) if path.name in splits] or [folder]:
        names = _classes(place, splits)
        if len(names) > 1:
            raise UserError(
                f"{place} has its texts in {listed(names)}, which may be classes and are not read: give for each split "
                f"one file with a column of texts and one of labels, as {FORMS}"
            )


def _classes(place: Path, splits: Sequence[str]) -> list[str]:
    """The folders or files of text in a folder, if these are all that it has to read and none is of a split."""
    folders, texts = _folders(place), _of_classes(place, splits)
    if _forms(place) - {".txt"} or (texts == [] and _forms(place)):
        return []
    inner = [path.name for path in folders if path.name not in splits and _of_classes(path, splits)]
    if len(inner) > 1:
        return [f"{name}/" for name in inner]
    return [] if folders else texts


def _of_classes(folder: Path, splits: Sequence[str]) -> list[str]:
    """The files of text in a folder, if it has no other files to read and none of these is named after a split."""
    names = [path.name for path in _files(folder) if form(path) == ".txt"]
    of_splits = any(name.partition(".")[0] in splits for name in names)
    return [] if of_splits or _forms(folder) != {".txt"} else names


def _forms(folder: Path) -> set[str]:
    """The forms of the files in a folder that can be read."""
    return {form(path) for path in _files(folder)} & READERS.keys()


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()]


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
